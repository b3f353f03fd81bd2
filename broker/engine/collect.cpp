// SPDX-License-Identifier: Apache-2.0
// Counters of the kernel, the devices and the workers, put together as DESIGN 7.3 has them.
#include <algorithm>
#include <numeric>
#include <set>

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
  out.state = port.carries ? "up" : "down";
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
    const TapPort* const output = port_numbered(port.place().output_index);
    const std::uint64_t dropped = output != nullptr ? output->device_drops() : 0;
    const std::uint64_t tx_failed = std::max<std::uint64_t>(failed.tx_failed, dropped) +
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
  const config::Tap& config = now_->config().taps[tap];
  const ResolvedTap& how = now_->resolved.taps[tap];
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

/// The plans that count: there are two during a reload.
std::vector<const Generation*> Engine::generations() const {
  std::vector<const Generation*> generations;
  if (before_) generations.push_back(before_.get());
  generations.push_back(now_.get());
  return generations;
}

/// What a policy did under one plan.
PolicyTotals Engine::policy_totals(const Generation& plan, std::uint32_t number) const {
  const config::Policy& config = plan.config().policies[number];
  PolicyTotals out;
  const auto pair_of = [&](std::size_t place) -> PairTotals& {
    return out.monitors[plan.config().monitors[config.monitors[place]].name];
  };
  for (const auto& pipeline : plan.pipelines) {
    const pipeline::PolicyCounters& counters = pipeline->policy_counters()[number];
    out.matched_frames += counters.matched_frames.read();
    out.matched_bytes += counters.matched_bytes.read();
    out.sample += counters.dropped_sample.read();
    out.meter += counters.dropped_meter.read();
    out.once += counters.dropped_once.read();
    out.head += counters.dropped_head.read();
    out.green += counters.green_frames.read();
    out.yellow += counters.yellow_frames.read();
    out.red += counters.red_frames.read();
    for (std::size_t i = 0; i < config.monitors.size(); ++i) {
      const pipeline::PolicyMonitorCounters& pair = counters.monitors[i];
      pair_of(i) += {.sent_frames = pair.sent_frames.read(),
                     .sent_bytes = pair.sent_bytes.read(),
                     .already_sent = pair.already_sent.read()};
    }
  }
  if (plan.plan.tables.placements[number] != plan::Placement::kernel) return out;
  const vtap_placed_counters counters = plan.clones.policy(number);
  out += {.matched_frames = counters.matched_frames,
          .matched_bytes = counters.matched_bytes,
          .sample = counters.dropped_sample,
          .meter = counters.dropped_meter,
          .green = counters.green,
          .yellow = counters.yellow,
          .red = counters.red,
          .monitors = {}};
  for (std::uint32_t i = 0; i < config.monitors.size(); ++i) {
    const vtap_pair_counters pair = plan.clones.pair(number, i);
    pair_of(i) += {.sent_frames = pair.sent_frames,
                   .sent_bytes = pair.sent_bytes,
                   .already_sent = pair.already_sent};
  }
  return out;
}

/// What became of a monitor's copies under one plan, before its rings.
MonitorTotals Engine::monitor_totals(const Generation& plan, std::uint32_t number) const {
  MonitorTotals out;
  for (const auto& pipeline : plan.pipelines) {
    const pipeline::MonitorCounters& counters = pipeline->monitor_counters()[number];
    out.ring_full += counters.ring_full.read();
    out.queue_full += counters.queue_full.read();
    out.down += counters.down.read();
  }
  if (!plan.in_kernel(number)) return out;
  out.in_kernel = true;
  const vtap_clone_counters clones = plan.clones.monitor(number);
  std::ranges::copy(clones.frames, out.lost_frames.begin());
  std::ranges::copy(clones.bytes, out.lost_bytes.begin());
  for (std::uint32_t policy = 0; policy < plan.config().policies.size(); ++policy) {
    if (plan.plan.tables.placements[policy] != plan::Placement::kernel) continue;
    const auto& monitors = plan.config().policies[policy].monitors;
    const auto place = std::ranges::find(monitors, number);
    if (place == monitors.end()) continue;
    const vtap_pair_counters pair =
        plan.clones.pair(policy, static_cast<std::uint32_t>(place - monitors.begin()));
    out.cloned_frames += pair.sent_frames;
    out.cloned_bytes += pair.sent_bytes;
  }
  return out;
}

/// What workers took for a target and then dropped.
MonitorTotals Engine::refused_totals(std::uint32_t target) const {
  MonitorTotals out;
  for (const auto& worker : workers_) {
    const pipeline::MonitorCounters& refused = worker->refused(target);
    out.ring_full += refused.ring_full.read();
    out.queue_full += refused.queue_full.read();
    out.down += refused.down.read();
  }
  return out;
}

MonitorTotals Engine::queue_totals(const worker::Worker& owner, std::uint32_t target) const {
  MonitorTotals out = refused_totals(target);
  if (const worker::MonitorQueue* queue = owner.queue(target)) {
    out.queue_full += queue->dropped().read();
  }
  return out;
}

/// What became of copies in its rings, in the queue before these, and behind.
MonitorTotals Engine::ring_totals(const MonitorPort& monitor) const {
  MonitorTotals out = refused_totals(monitor.target());
  if (monitor.queue) out += queue_totals(*monitor.owners().front(), monitor.queue->target);
  for (const worker::Worker* owner : monitor.owners()) {
    const io::XskSink* const sink = owner->sink(monitor.target());
    out.sent_frames += sink->sent_frames().read();
    out.sent_bytes += sink->sent_bytes().read();
  }
  // The kernel completes a frame also when the device then drops it: only the device tells. Some
  // do not count what XDP redirects to them.
  out.device = std::max(monitor.device_drops(), errors_.refused_copies(monitor.number()));
  return out;
}

stats::Policy Engine::policy_snapshot(std::uint32_t policy) const {
  const config::Policy& config = now_->config().policies[policy];
  PolicyTotals totals;
  if (const auto past = past_.policies.find(config.name); past != past_.policies.end()) {
    totals = past->second;
  }
  for (const Generation* plan : generations()) {
    const auto& policies = plan->config().policies;
    const auto its = std::ranges::find(policies, config.name, &config::Policy::name);
    if (its == policies.end()) continue;
    totals += policy_totals(*plan, static_cast<std::uint32_t>(its - policies.begin()));
  }
  stats::Policy out;
  out.name = config.name;
  out.placement =
      now_->plan.tables.placements[policy] == plan::Placement::kernel ? "kernel" : "broker";
  out.matched_frames = totals.matched_frames;
  out.matched_bytes = totals.matched_bytes;
  out.dropped = {{"sample", totals.sample},
                 {"meter", totals.meter},
                 {"once", totals.once},
                 {"head", totals.head}};
  out.metered = {totals.green, totals.yellow, totals.red};
  for (const std::uint32_t monitor : config.monitors) {
    const std::string& name = now_->config().monitors[monitor].name;
    const PairTotals& pair = totals.monitors[name];
    out.monitors.push_back({.name = name,
                            .sent_frames = pair.sent_frames,
                            .sent_bytes = pair.sent_bytes,
                            .already_sent = pair.already_sent,
                            .before_joining = pair.before_joining});
  }
  return out;
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
  MonitorTotals totals = ring_totals(port);
  for (const MonitorPort* leaving : leaving_) {
    if (leaving->name() == port.name()) totals += ring_totals(*leaving);
  }
  for (const Leftover& leftover : leftovers_) {
    if (leftover.monitor != port.name()) continue;
    totals += queue_totals(*leftover.owner, leftover.target);
  }
  if (const auto past = past_.monitors.find(port.name()); past != past_.monitors.end()) {
    totals += past->second;
  }
  for (const Generation* plan : generations()) {
    const auto& monitors = plan->config().monitors;
    const auto its = std::ranges::find(monitors, port.name(), &config::Monitor::name);
    if (its == monitors.end()) continue;
    totals += monitor_totals(*plan, static_cast<std::uint32_t>(its - monitors.begin()));
  }
  const auto sum_of = [](const auto& reasons) {
    return std::accumulate(std::begin(reasons), std::end(reasons), std::uint64_t{0});
  };
  stats::Monitor out;
  out.name = port.name();
  out.port = port.port();
  out.state = port.up() ? "up" : "down";
  out.tx_frames =
      minus(totals.sent_frames + totals.cloned_frames, sum_of(totals.lost_frames) + totals.device);
  out.tx_bytes = minus(totals.sent_bytes + totals.cloned_bytes, sum_of(totals.lost_bytes));
  if (port.queue) {
    out.waiting_frames = port.owners().front()->queue(port.queue->target)->last_waiting();
  }
  const auto& lost = totals.lost_frames;
  out.dropped = {{"ring_full", totals.ring_full},
                 {"queue_full", totals.queue_full},
                 {"down", totals.down + lost[VTAP_LOST_DOWN]},
                 {"device", totals.device}};
  if (totals.in_kernel) {
    out.dropped.insert(out.dropped.end(), {{"clone_failed", lost[VTAP_LOST_FAILED]},
                                           {"too_long", lost[VTAP_LOST_TOO_LONG]},
                                           {"too_long_to_clone", lost[VTAP_LOST_NOT_CLONED]},
                                           {"no_xmit", lost[VTAP_LOST_NO_XMIT]},
                                           {"no_broadcast", lost[VTAP_LOST_NO_BROADCAST]}});
  }
  std::vector<const pipeline::LatencyHistogram*> latencies;
  for (const worker::Worker* owner : port.owners()) {
    latencies.push_back(&owner->sink(port.target())->latency());
  }
  out.latency = latency_of(latencies);
  out.removed_policies_frames = totals.removed_frames;
  out.removed_policies_bytes = totals.removed_bytes;
  out.arrived_frames = port.arrived();
  for (const auto& socket : port.sockets()) {
    out.queues.push_back({socket->spec().queue, "tx", socket->zero_copy()});
  }
  return out;
}

/// The counters of a plan that is gone go on under the names that are still there. What a policy
/// sent to a monitor stays with the monitor, if the policy or the pair is no more.
void Engine::fold(const Generation& gone, const Generation& next) {
  const auto& monitors = next.config().monitors;
  const auto monitor_stays = [&](const std::string& name) {
    return std::ranges::find(monitors, name, &config::Monitor::name) != monitors.end();
  };
  for (std::uint32_t i = 0; i < gone.config().policies.size(); ++i) {
    past_.policies[gone.config().policies[i].name] += policy_totals(gone, i);
  }
  for (std::uint32_t i = 0; i < gone.config().monitors.size(); ++i) {
    past_.monitors[gone.config().monitors[i].name] += monitor_totals(gone, i);
  }
  const auto forget_pair = [&](const std::string& monitor, const PairTotals& pair) {
    if (!monitor_stays(monitor)) return;
    past_.monitors[monitor].removed_frames += pair.sent_frames;
    past_.monitors[monitor].removed_bytes += pair.sent_bytes;
  };
  for (auto past = past_.policies.begin(); past != past_.policies.end();) {
    const auto& policies = next.config().policies;
    const auto its = std::ranges::find(policies, past->first, &config::Policy::name);
    std::set<std::string> has;
    if (its != policies.end()) {
      for (const std::uint32_t monitor : its->monitors) has.insert(monitors[monitor].name);
    }
    auto& pairs = past->second.monitors;
    for (auto pair = pairs.begin(); pair != pairs.end();) {
      if (has.contains(pair->first)) {
        ++pair;
        continue;
      }
      forget_pair(pair->first, pair->second);
      pair = pairs.erase(pair);
    }
    for (const std::string& name : has) {
      if (!pairs.contains(name)) pairs[name].before_joining = past->second.let_through();
    }
    past = its == policies.end() ? past_.policies.erase(past) : std::next(past);
  }
  std::erase_if(past_.monitors, [&](const auto& past) { return !monitor_stays(past.first); });
}

std::vector<std::uint64_t> Engine::worker_rounds() const {
  std::vector<std::uint64_t> rounds;
  for (const auto& worker : workers_) rounds.push_back(worker->counters().rounds.read());
  return rounds;
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
  out.name = broker_.name;
  out.generation = now_->number();
  out.uptime_s = static_cast<double>(worker::monotonic_ns() - epoch_ns_) / 1e9;
  for (std::uint32_t i = 0; i < now_->config().taps.size(); ++i)
    out.taps.push_back(tap_snapshot(i));
  for (std::uint32_t i = 0; i < now_->config().policies.size(); ++i) {
    out.policies.push_back(policy_snapshot(i));
  }
  for (std::uint32_t i = 0; i < now_->config().monitors.size(); ++i) {
    out.monitors.push_back(monitor_snapshot(i));
  }
  out.workers = worker_snapshots();
  out.umem = {.frames = broker_.frames, .frame_size = broker_.frame_size, .free = 0};
  for (const auto& worker : workers_) out.umem.free += worker->free_frames();
  return out;
}

}  // namespace vtap::engine
