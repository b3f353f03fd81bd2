// SPDX-License-Identifier: Apache-2.0
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <cerrno>
#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>

#include "attach.hpp"
#include "commands.hpp"
#include "signals.hpp"
#include "sink.skel.h"
#include "sink_counters.h"

namespace vtap::gen {
namespace {

using Clock = std::chrono::steady_clock;

Result<sink_counters> read_counters(int map) {
  const int cpus = libbpf_num_possible_cpus();
  if (cpus < 0) return system_error("count the CPUs", -cpus);
  std::vector<sink_counters> per_cpu(static_cast<std::size_t>(cpus));
  const std::uint32_t zero = 0;
  if (const int error = bpf_map_lookup_elem(map, &zero, per_cpu.data()); error < 0)
    return system_error("read the counters", -error);
  sink_counters total{};
  for (const auto& cpu : per_cpu) {
    total.frames += cpu.frames;
    total.bytes += cpu.bytes;
  }
  return total;
}

/// Prints what came since `start`.
Result<void> report(int map, const std::string& port, Clock::time_point start, bool json) {
  auto total = read_counters(map);
  if (!total) return total.error();
  const std::chrono::duration<double> elapsed = Clock::now() - start;
  if (json) {
    std::cout << nlohmann::json{{"port", port},
                                {"frames", std::uint64_t{total->frames}},
                                {"bytes", std::uint64_t{total->bytes}},
                                {"seconds", elapsed.count()}}
              << std::endl;
  } else {
    std::cout << port << ": " << total->frames << " frames, " << total->bytes << " bytes in "
              << elapsed.count() << " s" << std::endl;
  }
  return {};
}

}  // namespace

Result<void> sink(const SinkOptions& options) {
  auto port = find_port(options.port);
  if (!port) return port.error();
  Skeleton<sink_bpf, sink_bpf::destroy> bpf(sink_bpf::open_and_load());
  if (!bpf) return system_error("load the sink's program", errno);
  const int map = bpf_map__fd(bpf->maps.counters);

  const StopSignals stop;
  const auto start = Clock::now();
  {
    auto link = XdpLink::open(bpf->progs.sink, *port);
    if (!link) return link.error();
    std::cerr << "ready" << std::endl;
    stop.wait(options.seconds, [&] {
      if (auto done = report(map, port->name, start, options.json); !done)
        std::cerr << "vtap-gen: " << done.error().message << std::endl;
    });
  }
  return report(map, port->name, start, options.json);
}

}  // namespace vtap::gen
