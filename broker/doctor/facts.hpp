// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "config/config.hpp"
#include "doctor/doctor.hpp"
#include "engine/resolve.hpp"
#include "host/far_end.hpp"
#include "host/foreign.hpp"
#include "host/link.hpp"
#include "host/offload.hpp"
#include "host/port.hpp"

/// What checks judge. Plain data: gathered from the machine, or built by a test.
namespace vtap::doctor {

/// Something that the kernel was asked to do.
struct Probe {
  std::string what;
  bool works = true;
  bool needed = true;  ///< the broker cannot do without
  std::string why;     ///< what it is for
};

struct Privileges {
  std::vector<std::string> missing;             ///< capabilities, by name
  std::vector<std::string> out_of_reach;        ///< of these: not in the bounding set either
  bool may_probe = true;                        ///< the kernel, by loading small BPF objects
  bool may_lock = true;                         ///< CAP_IPC_LOCK: no limit on locked memory
  bool may_raise = true;                        ///< CAP_SYS_RESOURCE
  std::uint64_t memlock = 0, memlock_most = 0;  ///< RLIMIT_MEMLOCK, bytes; ~0: unlimited
  std::string executable;                       ///< path of this program
};

struct Cpu {
  std::uint32_t number = 0;
  std::string governor;                 ///< empty: the kernel does not scale this CPU
  std::vector<std::uint32_t> siblings;  ///< hardware threads of its core, itself among them
  bool isolated = false;                ///< isolcpus=
  bool tickless = false;                ///< nohz_full=
};

struct Machine {
  std::string kernel;  ///< release and machine, for people
  bool realtime = false;
  bool bpffs = true;
  bool tun = true;          ///< /dev/net/tun is there
  bool irqbalance = false;  ///< it runs
  Privileges privileges;
  bool probed = false;  ///< false: privileges were missing
  std::vector<Probe> probes;
  std::vector<Cpu> workers;  ///< the CPUs that the workers have
};

/// A port that the config names.
struct PortFacts {
  std::string name;
  std::string owner;    ///< "tap wan"
  host::PortSpec spec;  ///< what a broker asks of it
  bool egress = false;  ///< a host tap that sees what leaves
  bool forced = false;  ///< XDP because the config says so
  bool redirect = false;
  std::optional<std::size_t> output;  ///< inline: index of the other port
  bool broadcast = false;             ///< a monitor to which XDP sends by itself
  bool in_use = false;                ///< a broker holds it, or a program of ours is attached
  bool held_here = false;             ///< by the broker of this process
  std::optional<host::Link> link;     ///< disengaged: there is no such device
  std::map<std::string, host::Feature> features;
  std::optional<host::FarEnd> far_end;
  std::optional<host::Rings> rings;
  std::vector<host::ForeignProgram> foreign;
  std::vector<std::string> uppers;     ///< devices on top of it
  std::string master;                  ///< name of its master
  host::DefaultRoute default_route{};  ///< by which families, if it carries one
  bool global_ipv6 = false;
  bool ipv6_on = false;

  [[nodiscard]] bool is_monitor() const noexcept { return spec.role == host::Role::monitor; }
  [[nodiscard]] bool is_tap() const noexcept { return !is_monitor(); }
  /// A monitor to which the broker sends by AF_XDP, not the kernel by itself.
  [[nodiscard]] bool uses_tx_sockets() const noexcept {
    return is_monitor() && !broadcast && !spec.skb_output;
  }
};

struct Facts {
  config::Config config;
  engine::Attempt attempt;
  Machine machine;
  std::vector<PortFacts> ports;  ///< those of the taps in the order of the config, then monitors
  std::optional<Running> running;
};

/// Asks the machine.
Facts gather(const config::Config& config, const Running* running, const Options& options);

/// The parts of it. `root`: where proc, sys and dev are.
Machine gather_machine(const std::vector<std::uint32_t>& workers,
                       const std::filesystem::path& root);
Privileges gather_privileges(const std::filesystem::path& root);
std::vector<Probe> probe_kernel();

/// "0-3,8" as the kernel writes sets of CPUs; what cannot be read is left out.
std::vector<std::uint32_t> cpu_list(const std::string& text);

}  // namespace vtap::doctor
