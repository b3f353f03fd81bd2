// SPDX-License-Identifier: Apache-2.0
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <sys/vfs.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <sstream>

#include "confine/capabilities.hpp"
#include "doctor/facts.hpp"

namespace vtap::doctor {
namespace {

namespace fs = std::filesystem;

constexpr std::uint32_t bpf_fs_magic = 0xcafe4a11;

std::string first_line(const fs::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

/// A line such as "CapEff:\t000001ff" of a status file.
std::uint64_t mask_of(const fs::path& status, const std::string& key) {
  std::ifstream in(status);
  for (std::string line; std::getline(in, line);) {
    if (line.compare(0, key.size() + 1, key + ":") != 0) continue;
    const auto at = line.find_first_not_of(" \t", key.size() + 1);
    std::uint64_t mask = 0;
    if (at != std::string::npos) {
      std::from_chars(line.data() + at, line.data() + line.size(), mask, 16);
    }
    return mask;
  }
  return 0;
}

bool contains(const std::vector<std::uint32_t>& list, std::uint32_t value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

/// Some process has this name. Other users' processes show it as well.
bool runs(const fs::path& proc, const std::string& name) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(proc, error)) {
    const std::string pid = entry.path().filename();
    if (pid.empty() || pid.find_first_not_of("0123456789") != std::string::npos) continue;
    if (first_line(entry.path() / "comm") == name) return true;
  }
  return false;
}

Cpu gather_cpu(std::uint32_t number, const fs::path& cpus) {
  const fs::path own = cpus / ("cpu" + std::to_string(number));
  return {.number = number,
          .governor = first_line(own / "cpufreq/scaling_governor"),
          .siblings = cpu_list(first_line(own / "topology/thread_siblings_list")),
          .isolated = contains(cpu_list(first_line(cpus / "isolated")), number),
          .tickless = contains(cpu_list(first_line(cpus / "nohz_full")), number)};
}

std::string kernel_name() {
  utsname name{};
  if (::uname(&name) != 0) return "unknown";
  return std::string(name.release) + " " + name.machine;
}

}  // namespace

std::vector<std::uint32_t> cpu_list(const std::string& text) {
  std::vector<std::uint32_t> cpus;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    std::uint32_t first = 0;
    const char* const end = part.data() + part.size();
    const auto [behind, error] = std::from_chars(part.data(), end, first);
    if (error != std::errc()) continue;
    std::uint32_t last = first;
    if (behind != end && *behind == '-') std::from_chars(behind + 1, end, last);
    for (std::uint32_t cpu = first; cpu <= last && cpu < 65536; ++cpu) cpus.push_back(cpu);
  }
  return cpus;
}

Privileges gather_privileges(const fs::path& root) {
  const fs::path status = root / "proc/thread-self/status";
  const std::uint64_t effective = mask_of(status, "CapEff");
  const std::uint64_t bounding = mask_of(status, "CapBnd");
  Privileges found;
  const std::uint64_t missing = confine::kNeededCapabilities & ~effective;
  found.missing = confine::names_of(missing);
  found.out_of_reach = confine::names_of(missing & ~bounding);
  // Looking up who attached a program is nothing that probes do.
  found.may_probe = (missing & ~confine::kLookupCapabilities) == 0;
  found.may_lock = (effective & confine::capability(CAP_IPC_LOCK)) != 0;
  found.may_raise = (effective & confine::capability(CAP_SYS_RESOURCE)) != 0;
  rlimit limit{};
  ::getrlimit(RLIMIT_MEMLOCK, &limit);
  found.memlock = limit.rlim_cur;
  found.memlock_most = limit.rlim_max;
  std::error_code error;
  found.executable = fs::read_symlink(root / "proc/self/exe", error);
  return found;
}

Machine gather_machine(const std::vector<std::uint32_t>& workers, const fs::path& root) {
  Machine machine;
  machine.kernel = kernel_name();
  machine.realtime = first_line(root / "sys/kernel/realtime") == "1";
  struct statfs system {};
  machine.bpffs = ::statfs((root / "sys/fs/bpf").c_str(), &system) == 0 &&
                  static_cast<std::uint32_t>(system.f_type) == bpf_fs_magic;
  std::error_code error;
  machine.tun = fs::exists(root / "dev/net/tun", error);
  machine.irqbalance = runs(root / "proc", "irqbalance");
  machine.privileges = gather_privileges(root);
  machine.probed = machine.privileges.may_probe;
  if (machine.probed) {
    static const std::vector<Probe> probes = probe_kernel();  // the kernel stays the same
    machine.probes = probes;
  }
  for (const std::uint32_t cpu : workers) {
    machine.workers.push_back(gather_cpu(cpu, root / "sys/devices/system/cpu"));
  }
  return machine;
}

}  // namespace vtap::doctor
