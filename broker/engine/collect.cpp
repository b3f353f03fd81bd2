// SPDX-License-Identifier: Apache-2.0
// Counters of the kernel, the devices and the workers, put together as DESIGN 7.3 has them.
#include <algorithm>
#include <numeric>

#include "engine/engine.hpp"

namespace vtap::engine {
namespace {

std::uint64_t minus(std::uint64_t a, std::uint64_t b) { return a > b ? a - b : 0; }

const char* mode_word(config::Mode mode) {
  switch (mode) {
    case config::Mode::inline_pair:
      return "inline";
    case config::Mode::host:
      return "host";
    case config::Mode::span:
      return "span";
  }
  return "";
}

const char* hook_word(host::Hook hook) { return hook == host::Hook::xdp ? "xdp" : "tc"; }

/// Sum of one counter over all workers.
template <typename Workers, typename Read>
std::uint64_t sum(const Workers& workers, Read&& read) {
  return std::accumulate(
      workers.begin(), workers.end(), std::uint64_t{0},
      [&](std::uint64_t total, const auto& worker) { return total + read(*worker).read(); });
}

struct Originals {
  std::uint64_t taken, refused, stale, late_refused, late_stale;
};

template <typename Workers>
Originals originals_of(const Workers& workers, std::uint8_t port) {
  const auto total = [&](pipeline::Counter worker::OriginalCounters::*counter) {
    return sum(workers, [&](const worker::Worker& worker) -> const pipeline::Counter& {
      return worker.originals(port).*counter;
    });
  };
  using Counters = worker::OriginalCounters;
  return {total(&Counters::taken), total(&Counters::refused), total(&Counters::stale),
          total(&Counters::late_refused), total(&Counters::late_stale)};
}

}  // namespace

stats::TapPort Engine::port_snapshot(const TapPort& port) const {
  const std::uint8_t index = port.place().index;
  const vtap_port_counters seen = memory_.counters(index);
  const vtap_redirect_errors failed = errors_.read(index);
  const Originals originals = originals_of(workers_, index);
  const std::uint64_t lost_on_the_way =
      failed.rx_ring_full + failed.no_free_frame + failed.xsk_too_long + failed.no_socket;

  stats::TapPort out;
  out.name = port.link().name;
  out.hook = hook_word(port.hook());
  out.state = carries_[index] ? "up" : "down";
  out.rx_frames = seen.rx_frames;
  out.rx_bytes = seen.rx_bytes;
  out.matched_frames = seen.matched;
  out.consumed_frames = seen.consumed;
  out.copied_frames = minus(seen.copied, lost_on_the_way + originals.stale);
  out.missed = {{"no_free_frame", seen.no_free_frame + failed.no_free_frame},
                {"ring_full", seen.ring_full + failed.rx_ring_full},
                {"too_long", seen.too_long + failed.xsk_too_long},
                {"super_packet", seen.super_packet},
                {"leg", seen.leg_lost},
                {"copy_failed", seen.copy_failed},
                {"no_socket", seen.no_socket + failed.no_socket},
                {"stale", seen.stale_worker + originals.stale}};
  out.passed_frames = seen.passed;
  if (port.mode() == config::Mode::inline_pair) {
    // A device counts failed transmissions of all kinds, also those that XDP reports (veth does).
    const TapPort& output = *taps_[port.place().output_index];
    const std::uint64_t tx_failed =
        std::max<std::uint64_t>(failed.tx_failed, output.device_drops()) +
        port.lost_without_output(seen.forwarded);
    const std::uint64_t late = originals.late_refused + originals.late_stale;
    out.passed_frames = minus(seen.forwarded + originals.taken, tx_failed + failed.too_long + late);
    out.not_passed = {
        {"tx_failed", seen.no_output + tx_failed + originals.refused + originals.late_refused},
        {"too_long", failed.too_long},
        {"rx_ring_full", failed.rx_ring_full},
        {"no_free_frame", failed.no_free_frame + failed.xsk_too_long},
        {"stale", originals.stale + originals.late_stale},
        {"no_socket", failed.no_socket}};
  }
  out.own_copies_frames = seen.own_copies;
  for (const auto& socket : port.sockets) {
    out.queues.push_back(
        {socket->spec().queue, port.exit_target ? "rx+tx" : "rx", socket->zero_copy()});
  }
  return out;
}

stats::Tap Engine::tap_snapshot(std::uint32_t tap) const {
  const config::Tap& config = plan_.config.taps[tap];
  const ResolvedTap& how = resolved_.taps[tap];
  stats::Tap out{.name = config.name,
                 .mode = mode_word(config.mode),
                 .capture = std::string(capture_name(how.capture)),
                 .hook = hook_word(how.hook),
                 .ports = {}};
  for (const auto& port : taps_) {
    if (port->place().tap == tap) out.ports.push_back(port_snapshot(*port));
  }
  return out;
}

stats::Policy Engine::policy_snapshot(std::uint32_t policy) const {
  const config::Policy& config = plan_.config.policies[policy];
  const auto total = [&](auto&& read) {
    return sum(workers_, [&](const worker::Worker& worker) -> const pipeline::Counter& {
      return read(worker.pipeline().policy_counters()[policy]);
    });
  };
  using Counters = pipeline::PolicyCounters;
  stats::Policy out;
  out.name = config.name;
  const bool in_kernel = plan_.tables.placements[policy] == plan::Placement::kernel;
  out.placement = in_kernel ? "kernel" : "broker";
  out.matched_frames = total([](const Counters& c) -> auto& { return c.matched_frames; });
  out.matched_bytes = total([](const Counters& c) -> auto& { return c.matched_bytes; });
  out.dropped = {{"sample", total([](const Counters& c) -> auto& { return c.dropped_sample; })},
                 {"meter", total([](const Counters& c) -> auto& { return c.dropped_meter; })},
                 {"once", total([](const Counters& c) -> auto& { return c.dropped_once; })},
                 {"head", total([](const Counters& c) -> auto& { return c.dropped_head; })}};
  out.metered = {total([](const Counters& c) -> auto& { return c.green_frames; }),
                 total([](const Counters& c) -> auto& { return c.yellow_frames; }),
                 total([](const Counters& c) -> auto& { return c.red_frames; })};
  for (std::size_t i = 0; i < config.monitors.size(); ++i) {
    stats::PolicyMonitor monitor;
    monitor.name = plan_.config.monitors[config.monitors[i]].name;
    monitor.sent_frames =
        total([i](const Counters& c) -> auto& { return c.monitors[i].sent_frames; });
    monitor.sent_bytes =
        total([i](const Counters& c) -> auto& { return c.monitors[i].sent_bytes; });
    monitor.already_sent =
        total([i](const Counters& c) -> auto& { return c.monitors[i].already_sent; });
    if (in_kernel) {
      const vtap_pair_counters pair = clones_.pair(policy, static_cast<std::uint32_t>(i));
      monitor.sent_frames = pair.sent_frames;
      monitor.sent_bytes = pair.sent_bytes;
      monitor.already_sent = pair.already_sent;
    }
    out.monitors.push_back(std::move(monitor));
  }
  if (in_kernel) {
    const vtap_placed_counters counters = clones_.policy(policy);
    out.matched_frames = counters.matched_frames;
    out.matched_bytes = counters.matched_bytes;
    out.dropped = {{"sample", counters.dropped_sample},
                   {"meter", counters.dropped_meter},
                   {"once", 0},
                   {"head", 0}};
    out.metered = {counters.green, counters.yellow, counters.red};
  }
  return out;
}

/// A monitor whose policies the kernel serves: it got what they sent, but for what was refused.
void Engine::add_clones(stats::Monitor& out, std::uint32_t monitor) const {
  const vtap_clone_counters clones = clones_.monitor(monitor);
  for (std::uint32_t policy = 0; policy < plan_.config.policies.size(); ++policy) {
    if (plan_.tables.placements[policy] != plan::Placement::kernel) continue;
    const auto& monitors = plan_.config.policies[policy].monitors;
    const auto place = std::ranges::find(monitors, monitor);
    if (place == monitors.end()) continue;
    const vtap_pair_counters pair =
        clones_.pair(policy, static_cast<std::uint32_t>(place - monitors.begin()));
    out.tx_frames += pair.sent_frames;
    out.tx_bytes += pair.sent_bytes;
  }
  // A device counts what it drops, but some do not count what XDP redirects to them.
  const std::uint64_t device =
      std::max(monitors_[monitor]->device_drops(), errors_.refused_copies(monitor));
  const auto sum_of = [](const auto& reasons) {
    return std::accumulate(std::begin(reasons), std::end(reasons), std::uint64_t{0});
  };
  out.tx_frames = minus(out.tx_frames, sum_of(clones.frames) + device);
  out.tx_bytes = minus(out.tx_bytes, sum_of(clones.bytes));
  out.dropped = {{"ring_full", 0},
                 {"queue_full", 0},
                 {"down", clones.frames[VTAP_LOST_DOWN]},
                 {"device", device},
                 {"clone_failed", clones.frames[VTAP_LOST_FAILED]},
                 {"too_long", clones.frames[VTAP_LOST_TOO_LONG]},
                 {"too_long_to_clone", clones.frames[VTAP_LOST_NOT_CLONED]},
                 {"no_xmit", clones.frames[VTAP_LOST_NO_XMIT]},
                 {"no_broadcast", clones.frames[VTAP_LOST_NO_BROADCAST]}};
}

namespace {

/// Of the rings of a monitor's owners together.
stats::Latency latency_of(const std::vector<const pipeline::LatencyHistogram*>& histograms) {
  using Histogram = pipeline::LatencyHistogram;
  stats::Latency out;
  for (std::size_t bucket = 0; bucket <= Histogram::kBounds.size(); ++bucket) {
    for (const Histogram* histogram : histograms) out.count += histogram->read(bucket);
    if (bucket == Histogram::kBounds.size()) break;
    out.buckets.push_back({Histogram::kBounds[bucket], out.count});
  }
  for (const Histogram* histogram : histograms) out.sum_ns += histogram->sum_ns();
  return out;
}

}  // namespace

stats::Monitor Engine::monitor_snapshot(std::uint32_t monitor) const {
  MonitorPort& port = *monitors_[monitor];
  const auto refused = [&](pipeline::Counter pipeline::MonitorCounters::*counter) {
    return sum(workers_, [&](const worker::Worker& worker) -> const pipeline::Counter& {
      return worker.pipeline().monitor_counters()[monitor].*counter;
    });
  };
  const auto sent = [&](auto&& read) {
    return sum(port.owners(), [&](const worker::Worker& worker) -> const pipeline::Counter& {
      return read(*worker.sink(monitor));
    });
  };
  using Counters = pipeline::MonitorCounters;
  // The kernel completes a frame also when the device then drops it: only the device tells.
  const std::uint64_t device = port.device_drops();
  stats::Monitor out;
  out.name = plan_.config.monitors[monitor].name;
  out.port = port.name();
  out.state = port.up() ? "up" : "down";
  out.tx_frames =
      minus(sent([](const io::XskSink& sink) -> auto& { return sink.sent_frames(); }), device);
  out.tx_bytes = sent([](const io::XskSink& sink) -> auto& { return sink.sent_bytes(); });
  std::uint64_t gave_way = 0;
  std::vector<const pipeline::LatencyHistogram*> latencies;
  for (const worker::Worker* owner : port.owners()) {
    latencies.push_back(&owner->sink(monitor)->latency());
    const worker::MonitorQueue* queue = owner->queue(monitor);
    if (queue == nullptr) continue;
    gave_way += queue->dropped().read();
    out.waiting_frames += queue->last_waiting();
  }
  out.dropped = {{"ring_full", refused(&Counters::ring_full)},
                 {"queue_full", refused(&Counters::queue_full) + gave_way},
                 {"down", refused(&Counters::down)},
                 {"device", device}};
  if (resolved_.in_kernel(plan_.config, monitor)) add_clones(out, monitor);
  out.latency = latency_of(latencies);
  out.arrived_frames = port.arrived();
  for (const auto& socket : port.sockets()) {
    out.queues.push_back({socket->spec().queue, "tx", socket->zero_copy()});
  }
  return out;
}

std::vector<stats::Worker> Engine::worker_snapshots() const {
  const auto age = static_cast<double>(worker::monotonic_ns() - epoch_ns_);
  const auto age_s = [](std::uint64_t then) {
    return static_cast<double>(minus(worker::monotonic_ns(), then)) / 1e9;
  };
  std::vector<stats::Worker> out;
  for (const auto& worker : workers_) {
    const worker::WorkerCounters& counters = worker->counters();
    out.push_back(
        {.cpu = worker->spec().cpu.value_or(0),
         .bursts = counters.bursts.read(),
         .frames = counters.frames.read(),
         .wakeups = counters.wakeups.read(),
         .idle_ratio = std::min(1.0, static_cast<double>(counters.asleep_ns.read()) / age),
         .teed_bytes = worker->tee().teed_bytes().read(),
         .copied_bytes = worker->tee().copied_bytes().read(),
         .last_round_age_s = age_s(worker->last_round_ns())});
  }
  return out;
}

stats::Snapshot Engine::snapshot() const {
  const std::lock_guard lock(ports_mutex_);
  stats::Snapshot out;
  out.name = plan_.config.broker.name;
  out.generation = plan_.generation;
  out.uptime_s = static_cast<double>(worker::monotonic_ns() - epoch_ns_) / 1e9;
  for (std::uint32_t i = 0; i < plan_.config.taps.size(); ++i) out.taps.push_back(tap_snapshot(i));
  for (std::uint32_t i = 0; i < plan_.config.policies.size(); ++i) {
    out.policies.push_back(policy_snapshot(i));
  }
  for (std::uint32_t i = 0; i < plan_.config.monitors.size(); ++i) {
    out.monitors.push_back(monitor_snapshot(i));
  }
  out.workers = worker_snapshots();
  out.umem = {.frames = plan_.config.broker.frames,
              .frame_size = plan_.config.broker.frame_size,
              .free = 0};
  for (const auto& worker : workers_) out.umem.free += worker->free_frames();
  return out;
}

}  // namespace vtap::engine
