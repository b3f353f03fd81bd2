// SPDX-License-Identifier: Apache-2.0
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <cerrno>
#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>

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

/// The least latency that a bucket stands for, ns.
std::uint64_t bucket_begin(std::uint32_t bucket) {
  if (bucket < SINK_STEPS) return bucket;
  const std::uint32_t power = bucket / SINK_STEPS - 1;
  return std::uint64_t{SINK_STEPS + bucket % SINK_STEPS} << power;
}

/// The buckets that are not empty: [least ns, frames] each.
Result<nlohmann::json> read_latencies(int map) {
  const int cpus = libbpf_num_possible_cpus();
  if (cpus < 0) return system_error("count the CPUs", -cpus);
  std::vector<std::uint64_t> per_cpu(static_cast<std::size_t>(cpus));
  auto histogram = nlohmann::json::array();
  for (std::uint32_t bucket = 0; bucket < SINK_BUCKETS; ++bucket) {
    if (const int error = bpf_map_lookup_elem(map, &bucket, per_cpu.data()); error < 0)
      return system_error("read the latencies", -error);
    const auto frames = std::accumulate(per_cpu.begin(), per_cpu.end(), std::uint64_t{0});
    if (frames != 0) histogram.push_back({bucket_begin(bucket), frames});
  }
  return histogram;
}

/// Prints what came since `start`.
Result<void> report(const sink_bpf& bpf, const std::string& port, Clock::time_point start,
                    const SinkOptions& options) {
  auto total = read_counters(bpf_map__fd(bpf.maps.counters));
  if (!total) return total.error();
  const std::chrono::duration<double> elapsed = Clock::now() - start;
  if (options.json) {
    nlohmann::json line{{"port", port},
                        {"frames", std::uint64_t{total->frames}},
                        {"bytes", std::uint64_t{total->bytes}},
                        {"seconds", elapsed.count()}};
    if (options.latency) {
      auto latencies = read_latencies(bpf_map__fd(bpf.maps.latencies));
      if (!latencies) return latencies.error();
      line["latency_ns"] = std::move(latencies).value();
    }
    std::cout << line << std::endl;
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
  if (options.latency && !options.json)
    return Error{"--latency is printed as JSON only: add --json", ErrorKind::usage};
  Skeleton<sink_bpf, sink_bpf::destroy> bpf(sink_bpf::open());
  if (!bpf) return system_error("open the sink's program", errno);
  bpf->rodata->latency = options.latency ? 1 : 0;
  if (const int error = sink_bpf::load(bpf.get()); error < 0)
    return system_error("load the sink's program", -error);

  const StopSignals stop;
  const auto start = Clock::now();
  {
    auto link = XdpLink::open(bpf->progs.sink, *port);
    if (!link) return link.error();
    std::cerr << "ready" << std::endl;
    stop.wait(options.seconds, [&] {
      if (auto done = report(*bpf, port->name, start, options); !done)
        std::cerr << "vtap-gen: " << done.error().message << std::endl;
    });
  }
  return report(*bpf, port->name, start, options);
}

}  // namespace vtap::gen
