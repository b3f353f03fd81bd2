// SPDX-License-Identifier: Apache-2.0
// libpcap's interpreter of classic BPF.
#include <pcap/pcap.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "bench/policies/contestant.hpp"
#include "vtap/fd.hpp"

namespace vtap::bench {
namespace {

constexpr std::uint32_t kEvaluationsToCheck = 4'000'000;

constexpr rlim_t kCompilerMemory = rlim_t{4} << 30;

using Program = std::vector<bpf_insn>;

std::string text_of(std::uint32_t address) {
  std::string text;
  for (int shift = 24; shift >= 0; shift -= 8)
    text += std::to_string(address >> shift & 0xff) + (shift == 0 ? "" : ".");
  return text;
}

std::string text_of(Prefix prefix) {
  if (prefix.length == 32) return "host " + text_of(prefix.address);
  return "net " + text_of(prefix.address) + "/" + std::to_string(prefix.length);
}

std::string text_of(Ports ports) {
  if (ports.first == ports.last) return "port " + std::to_string(ports.first);
  return "portrange " + std::to_string(ports.first) + "-" + std::to_string(ports.last);
}

struct Compiled {
  Program program;
  std::string error;  ///< empty: there is a program
};

Compiled compile(const std::string& expression, bool optimise) {
  const std::unique_ptr<pcap_t, decltype(&pcap_close)> dead(pcap_open_dead(DLT_EN10MB, 65535),
                                                            &pcap_close);
  bpf_program code{};
  if (pcap_compile(dead.get(), &code, expression.c_str(), optimise ? 1 : 0, PCAP_NETMASK_UNKNOWN) !=
      0)
    return {{}, pcap_geterr(dead.get())};
  Compiled result;
  result.program.assign(code.bf_insns, code.bf_insns + code.bf_len);
  pcap_freecode(&code);
  return result;
}

bool takes(const Program& program, const std::uint8_t* frame) {
  return bpf_filter(program.data(), frame, Traffic::kLength, Traffic::kLength) != 0;
}

void write_all(int fd, const void* bytes, std::size_t n) {
  const auto* at = static_cast<const std::uint8_t*>(bytes);
  while (n > 0) {
    const ssize_t done = ::write(fd, at, n);
    if (done <= 0) ::_exit(1);
    at += done;
    n -= static_cast<std::size_t>(done);
  }
}

/// All that comes out of a pipe; nothing when the time is up first.
std::optional<std::vector<std::uint8_t>> read_all(int fd, double limit_seconds) {
  const Stopwatch clock;
  std::vector<std::uint8_t> all;
  std::array<std::uint8_t, 65536> part{};
  for (;;) {
    const double left = limit_seconds - clock.seconds();
    pollfd wait{.fd = fd, .events = POLLIN, .revents = 0};
    if (left <= 0 || ::poll(&wait, 1, static_cast<int>(left * 1e3) + 1) <= 0) return {};
    const ssize_t n = ::read(fd, part.data(), part.size());
    if (n <= 0) return all;
    all.insert(all.end(), part.begin(), part.begin() + n);
  }
}

/// In a process of its own, as libpcap cannot be stopped and may want any amount of memory.
Compiled compile_within(const std::string& expression, bool optimise, double limit_seconds) {
  int ends[2];
  if (::pipe(ends) != 0) return {{}, std::strerror(errno)};
  const UniqueFd from(ends[0]);
  UniqueFd to(ends[1]);
  const pid_t child = ::fork();
  if (child < 0) return {{}, std::strerror(errno)};
  if (child == 0) {
    const rlimit memory{kCompilerMemory, kCompilerMemory};
    ::setrlimit(RLIMIT_DATA, &memory);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const Compiled done = compile(expression, optimise);
    const auto error = static_cast<std::uint32_t>(done.error.size());
    write_all(to.get(), &error, sizeof(error));
    write_all(to.get(), done.error.data(), error);
    write_all(to.get(), done.program.data(), done.program.size() * sizeof(bpf_insn));
    ::_exit(0);
  }
  to = UniqueFd();
  const auto bytes = read_all(from.get(), limit_seconds);
  if (!bytes) ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  if (!bytes)
    return {{}, "not compiled within " + std::to_string(static_cast<int>(limit_seconds)) + " s"};

  std::uint32_t error = 0;
  if (bytes->size() < sizeof(error)) return {{}, "libpcap's compiler crashed"};
  std::memcpy(&error, bytes->data(), sizeof(error));
  const auto* const behind = bytes->data() + sizeof(error);
  if (error != 0) return {{}, {reinterpret_cast<const char*>(behind), error}};
  Compiled result;
  result.program.resize((bytes->size() - sizeof(error)) / sizeof(bpf_insn));
  std::memcpy(result.program.data(), behind, result.program.size() * sizeof(bpf_insn));
  return result;
}

/// So many frames that checking them is a matter of seconds.
std::uint32_t frames_to_check(std::size_t policies) {
  return std::max(64U, kEvaluationsToCheck / static_cast<std::uint32_t>(policies));
}

class LoopContestant final : public Contestant {
 public:
  explicit LoopContestant(std::vector<Program> programs) : programs_(std::move(programs)) {}

  void check(const Traffic& traffic) override {
    const std::uint32_t stride = stride_for(traffic, frames_to_check(programs_.size()));
    for (std::uint32_t i = 0; i < traffic.size(); i += stride) {
      Answer answer;
      for (std::uint32_t policy = 0; policy < programs_.size(); ++policy) {
        if (takes(programs_[policy], traffic.frame(i))) answer.add(policy);
      }
      if (!(answer == traffic.answer(i)))
        disagree("libpcap", traffic, i, std::to_string(answer.count) + " expressions");
    }
  }

  double measure(const Traffic& traffic, double seconds) override {
    return walk_.run(traffic, seconds, [&](std::uint32_t first, std::uint32_t n) {
      std::uint64_t taken = 0;
      for (std::uint32_t i = first; i < first + n; ++i) {
        for (const Program& program : programs_) taken += takes(program, traffic.frame(i)) ? 1 : 0;
      }
      taken_ = taken;
    });
  }

 private:
  std::vector<Program> programs_;
  Walk walk_{1, false};
  volatile std::uint64_t taken_ = 0;
};

class AnyContestant final : public Contestant {
 public:
  AnyContestant(Program program, std::size_t policies)
      : program_(std::move(program)), policies_(policies) {}

  void check(const Traffic& traffic) override {
    const std::uint32_t stride = stride_for(traffic, frames_to_check(policies_));
    for (std::uint32_t i = 0; i < traffic.size(); i += stride) {
      const bool taken = takes(program_, traffic.frame(i));
      if (taken != (traffic.answer(i).count != 0))
        disagree("libpcap, all in one", traffic, i, taken ? "a match" : "no match");
    }
  }

  double measure(const Traffic& traffic, double seconds) override {
    return walk_.run(traffic, seconds, [&](std::uint32_t first, std::uint32_t n) {
      std::uint64_t taken = 0;
      for (std::uint32_t i = first; i < first + n; ++i)
        taken += takes(program_, traffic.frame(i)) ? 1 : 0;
      taken_ = taken;
    });
  }

 private:
  Program program_;
  std::size_t policies_;
  Walk walk_{4, false};
  volatile std::uint64_t taken_ = 0;
};

}  // namespace

std::string expression_of(const Rule& rule) {
  std::string all;
  const auto add = [&](const std::string& primitive) {
    if (!all.empty()) all += " and ";
    all += primitive;
  };
  if (rule.host) add("ip " + text_of(*rule.host));
  if (rule.src.length != 0) add("ip src " + text_of(rule.src));
  if (rule.dst.length != 0) add("ip dst " + text_of(rule.dst));
  if (rule.proto != 0) add("ip proto " + std::to_string(rule.proto));
  const std::string proto = rule.proto == 6 ? "tcp " : rule.proto == 17 ? "udp " : "";
  if (!rule.sport.any()) add(proto + "src " + text_of(rule.sport));
  if (!rule.dport.any()) add(proto + "dst " + text_of(rule.dport));
  return all;
}

Entrant make_pcap_loop(std::span<const Rule> rules) {
  std::vector<Program> programs;
  const Stopwatch clock;
  for (const Rule& rule : rules) {
    auto compiled = compile(expression_of(rule), true);
    if (!compiled.error.empty()) return refusal(compiled.error);
    programs.push_back(std::move(compiled.program));
  }
  Entrant entrant;
  entrant.load["libpcap each ms"] = clock.ms();
  entrant.contestant = std::make_unique<LoopContestant>(std::move(programs));
  return entrant;
}

Entrant make_pcap_any(std::span<const Rule> rules, double limit_seconds) {
  std::string joined;
  for (const Rule& rule : rules)
    joined += (joined.empty() ? "(" : " or (") + expression_of(rule) + ")";

  Entrant entrant;
  std::string why;
  for (const bool optimise : {true, false}) {
    const Stopwatch clock;
    auto compiled = compile_within(joined, optimise, limit_seconds);
    if (!compiled.error.empty()) {
      why = compiled.error;
      entrant.note = "joined expression not optimised: " + why;
      continue;
    }
    entrant.load["libpcap joined ms"] = clock.ms();
    entrant.contestant = std::make_unique<AnyContestant>(std::move(compiled.program), rules.size());
    return entrant;
  }
  return refusal(why);
}

}  // namespace vtap::bench
