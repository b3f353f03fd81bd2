// SPDX-License-Identifier: Apache-2.0
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sched.h>
#include <sys/time.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstring>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>

#include "attach.hpp"
#include "commands.hpp"
#include "gen_config.h"
// Needs the types of gen_config.h.
#include "gen.skel.h"

namespace vtap::gen {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint32_t batch = 64;  // frames per bulk that the kernel hands to the port

constexpr auto unlimited = std::numeric_limits<std::uint64_t>::max();

// Set by the signals that end a run. The kernel looks for a pending signal after every batch and
// ends the run with EINTR, so one run can be as long as it likes.
std::atomic<bool> stopped{false};
static_assert(std::atomic<bool>::is_always_lock_free);

void on_stop_signal(int /*signal*/) { stopped = true; }

void catch_stop_signals() {
  struct sigaction action {};
  action.sa_handler = on_stop_signal;  // no SA_RESTART
  for (const int signal : {SIGINT, SIGTERM, SIGALRM}) sigaction(signal, &action, nullptr);
}

void stop_after(double seconds) {
  itimerval timer{};
  timer.it_value.tv_sec = static_cast<time_t>(seconds);
  timer.it_value.tv_usec =
      static_cast<suseconds_t>((seconds - std::floor(seconds)) * 1e6) + (seconds < 1e-6 ? 1 : 0);
  timer.it_interval.tv_usec = 100'000;  // again, should the first one come just before a run starts
  setitimer(ITIMER_REAL, &timer, nullptr);
}

Result<void> pin_to(unsigned cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof set, &set) < 0)
    return Error{"--cpu " + std::to_string(cpu) + ": " + std::strerror(errno), ErrorKind::usage};
  return {};
}

gen_config program_config(const GenerateOptions& options, const Frame& frame) {
  gen_config config{};
  config.header_words = (frame.header_len + 7) / 8;
  std::memcpy(config.header, frame.bytes.data(), config.header_words * sizeof config.header[0]);
  config.flows = options.flows;
  config.flows_per_address = options.flows_per_address;
  config.address_shift = static_cast<std::uint32_t>(std::countr_zero(options.flows_per_address));
  config.off_address = frame.off_address;
  config.off_port = frame.off_port;
  config.off_ip_csum = frame.off_ip_csum;
  config.off_l4_csum = frame.off_l4_csum;
  config.udp = options.frame.proto == Proto::udp;
  if (options.stamp) config.off_stamp = frame.off_payload;
  if (options.rate) {
    config.spacing = static_cast<std::uint64_t>(std::ldexp(1e9 / *options.rate, GEN_SPACING_SHIFT));
    config.limit = unlimited;
    if (options.count) config.limit = *options.count;
    if (options.seconds) {
      config.limit = std::max<std::uint64_t>(
          static_cast<std::uint64_t>(std::llround(*options.seconds * *options.rate)), 1);
    }
  }
  return config;
}

/// Runs the program `turns` times, fewer if a signal comes: as many frames, if it is not paced.
Result<void> run(int program, const Frame& frame, std::uint32_t turns) {
  bpf_test_run_opts options{};
  options.sz = sizeof options;
  options.data_in = frame.bytes.data();
  options.data_size_in = static_cast<std::uint32_t>(frame.bytes.size());
  options.repeat = static_cast<int>(turns);  // the kernel reads it as unsigned
  options.flags = BPF_F_TEST_XDP_LIVE_FRAMES;
  options.batch_size = batch;
  const int error = bpf_prog_test_run_opts(program, &options);
  if (error < 0 && error != -EINTR) return system_error("run live frames", -error);
  return {};
}

struct Sent {
  std::uint64_t frames = 0;
  double seconds = 0;  ///< 0: too few frames to tell
};

Result<Sent> read_state(int map) {
  const int cpus = libbpf_num_possible_cpus();
  if (cpus < 0) return system_error("count the CPUs", -cpus);
  std::vector<gen_state> per_cpu(static_cast<std::size_t>(cpus));
  const std::uint32_t zero = 0;
  if (const int error = bpf_map_lookup_elem(map, &zero, per_cpu.data()); error < 0)
    return system_error("read the counters", -error);
  Sent sent;
  std::uint64_t first = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t last = 0;
  for (const auto& cpu : per_cpu) {
    if (cpu.frames == 0) continue;
    sent.frames += cpu.frames;
    first = std::min<std::uint64_t>(first, cpu.first_ns);
    last = std::max<std::uint64_t>(last, cpu.last_ns);
  }
  if (sent.frames > 1000 * GEN_STAMP_EVERY) sent.seconds = static_cast<double>(last - first) / 1e9;
  return sent;
}

}  // namespace

Result<void> generate(const GenerateOptions& options) {
  auto port = find_port(options.port);
  if (!port) return port.error();
  if (options.stamp && (options.frame.proto != Proto::udp || options.frame.src.v6()))
    return Error{"--stamp is for UDP over IPv4", ErrorKind::usage};
  auto frame = build_frame(options.frame);
  if (!frame) return frame.error();
  // A paced run is paced by the state of one CPU.
  if (options.cpu || options.rate) {
    const auto cpu = options.cpu.value_or(static_cast<unsigned>(sched_getcpu()));
    if (auto pinned = pin_to(cpu); !pinned) return pinned;
  }

  Skeleton<gen_bpf, gen_bpf::destroy> bpf(gen_bpf::open());
  if (!bpf) return system_error("open the generator's program", errno);
  // The skeleton declares constants as const; they are ours to set until the object is loaded.
  const gen_config config = program_config(options, *frame);
  std::memcpy(const_cast<void*>(static_cast<const volatile void*>(&bpf->rodata->config)), &config,
              sizeof config);
  if (const int error = gen_bpf::load(bpf.get()); error < 0)
    return system_error("load the generator's program", -error);
  const std::uint32_t zero = 0;
  if (const int error =
          bpf_map_update_elem(bpf_map__fd(bpf->maps.port), &zero, &port->ifindex, BPF_ANY);
      error < 0)
    return system_error(port->name + " as the output of a redirect", -error);

  catch_stop_signals();
  std::uint32_t turns = std::numeric_limits<std::uint32_t>::max();
  if (options.count && !options.rate) turns = *options.count;
  if (options.seconds) stop_after(*options.seconds);
  // A paced program stops sending by itself; the clock ends its run a little later, as it starts
  // late, too.
  if (options.rate && config.limit != unlimited)
    stop_after(static_cast<double>(config.limit) / *options.rate + 0.05);
  const int program = bpf_program__fd(bpf->progs.generate);
  const auto start = Clock::now();
  while (!stopped) {
    if (auto done = run(program, *frame, turns); !done) return done;
    if (options.count && !options.rate) break;
  }
  const std::chrono::duration<double> elapsed = Clock::now() - start;

  auto sent = read_state(bpf_map__fd(bpf->maps.state));
  if (!sent) return sent.error();
  // The program's own times, as starting and ending a run takes a while; unless there are too few.
  const double seconds = sent->seconds > 0 ? sent->seconds : elapsed.count();
  const double mpps = static_cast<double>(sent->frames) / seconds / 1e6;
  if (options.json) {
    std::cout << nlohmann::json{{"port", port->name},
                                {"size", frame->bytes.size()},
                                {"frames", sent->frames},
                                {"seconds", seconds},
                                {"mpps", mpps}}
              << std::endl;
  } else {
    std::cout << port->name << ": " << sent->frames << " frames of " << frame->bytes.size()
              << " bytes in " << seconds << " s, " << mpps << " Mpps" << std::endl;
  }
  return {};
}

}  // namespace vtap::gen
