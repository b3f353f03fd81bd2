// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <initializer_list>
#include <nlohmann/json.hpp>

#include "stats/snapshot.hpp"

/// The keys and their order are an interface (DESIGN 7.3): what is not in it stands at the end of
/// its object, so that a reader of the documented part never meets a surprise.
namespace vtap::stats {
namespace {

using Json = nlohmann::ordered_json;

/// All counted reasons in one object: the documented ones first, present even when the snapshot
/// lacks them, then the others in the snapshot's order. A reason given twice is added up.
Json reasons_json(std::initializer_list<const char*> documented, const Reasons& counted) {
  Json out = Json::object();
  for (const char* reason : documented) out[reason] = std::uint64_t{0};
  for (const auto& [reason, frames] : counted) {
    Json& slot = out[reason];
    slot = slot.is_null() ? frames : slot.get<std::uint64_t>() + frames;
  }
  return out;
}

/// JSON knows no NaN: a ratio of nothing is nothing.
double finite(double value) { return std::isfinite(value) ? value : 0.0; }

template <typename Item, typename ToJson>
Json array_json(const std::vector<Item>& items, ToJson to_json_item) {
  Json out = Json::array();
  for (const Item& item : items) out.push_back(to_json_item(item));
  return out;
}

Json queue_json(const QueueInfo& queue) {
  return {{"queue", queue.queue}, {"direction", queue.direction}, {"zero_copy", queue.zero_copy}};
}

Json port_json(const TapPort& port) {
  Json out;
  out["name"] = port.name;
  out["rx_frames"] = port.rx_frames;
  out["rx_bytes"] = port.rx_bytes;
  out["passed_frames"] = port.passed_frames;
  out["consumed_frames"] = port.consumed_frames;
  out["matched_frames"] = port.matched_frames;
  out["copied_frames"] = port.copied_frames;
  out["missed"] = reasons_json({"no_free_frame", "ring_full", "too_long"}, port.missed);
  out["not_passed"] = reasons_json(
      {"tx_failed", "too_long", "rx_ring_full", "no_free_frame", "stale"}, port.not_passed);
  out["hook"] = port.hook;
  out["state"] = port.state;
  out["own_copies_frames"] = port.own_copies_frames;
  out["queues"] = array_json(port.queues, queue_json);
  return out;
}

Json tap_json(const Tap& tap) {
  Json out;
  out["name"] = tap.name;
  out["mode"] = tap.mode;
  out["capture"] = tap.capture;
  out["hook"] = tap.hook;
  out["ports"] = array_json(tap.ports, port_json);
  return out;
}

Json policy_monitor_json(const PolicyMonitor& monitor) {
  Json out;
  out["name"] = monitor.name;
  out["sent_frames"] = monitor.sent_frames;
  out["sent_bytes"] = monitor.sent_bytes;
  out["already_sent"] = monitor.already_sent;
  if (monitor.before_joining != 0) out["before_joining"] = monitor.before_joining;
  return out;
}

Json policy_json(const Policy& policy) {
  Json out;
  out["name"] = policy.name;
  out["placement"] = policy.placement;
  out["matched_frames"] = policy.matched_frames;
  out["matched_bytes"] = policy.matched_bytes;
  out["dropped"] = reasons_json({"sample", "meter"}, policy.dropped);
  out["monitors"] = array_json(policy.monitors, policy_monitor_json);
  out["metered"] = {{"green_frames", policy.metered.green_frames},
                    {"yellow_frames", policy.metered.yellow_frames},
                    {"red_frames", policy.metered.red_frames}};
  return out;
}

Json latency_json(const Latency& latency) {
  const auto bucket_json = [](const Latency::Bucket& bucket) -> Json {
    return {{"le_ns", bucket.le_ns}, {"count", bucket.count}};
  };
  return {{"count", latency.count},
          {"sum_ns", latency.sum_ns},
          {"buckets", array_json(latency.buckets, bucket_json)}};
}

Json monitor_json(const Monitor& monitor) {
  Json out;
  out["name"] = monitor.name;
  out["state"] = monitor.state;
  out["tx_frames"] = monitor.tx_frames;
  out["tx_bytes"] = monitor.tx_bytes;
  out["dropped"] = reasons_json({"ring_full", "queue_full", "down"}, monitor.dropped);
  out["port"] = monitor.port;
  out["arrived_frames"] = monitor.arrived_frames;
  out["queues"] = array_json(monitor.queues, queue_json);
  out["waiting_frames"] = monitor.waiting_frames;
  out["removed_policies"] = {{"sent_frames", monitor.removed_policies_frames},
                             {"sent_bytes", monitor.removed_policies_bytes}};
  out["latency"] = latency_json(monitor.latency);
  return out;
}

Json worker_json(const Worker& worker) {
  Json out;
  out["cpu"] = worker.cpu;
  out["bursts"] = worker.bursts;
  out["frames"] = worker.frames;
  out["wakeups"] = worker.wakeups;
  out["idle_ratio"] = finite(worker.idle_ratio);
  out["teed_bytes"] = worker.teed_bytes;
  out["copied_bytes"] = worker.copied_bytes;
  out["last_round_age_s"] = finite(worker.last_round_age_s);
  return out;
}

Json umem_json(const Umem& umem) {
  return {{"frames", umem.frames}, {"frame_size", umem.frame_size}, {"free", umem.free}};
}

}  // namespace

std::string to_json(const Snapshot& snapshot, int indent) {
  Json out;
  out["name"] = snapshot.name;
  out["plan"] = {{"generation", snapshot.generation}};
  out["uptime_s"] = finite(snapshot.uptime_s);
  out["taps"] = array_json(snapshot.taps, tap_json);
  out["policies"] = array_json(snapshot.policies, policy_json);
  out["monitors"] = array_json(snapshot.monitors, monitor_json);
  out["workers"] = array_json(snapshot.workers, worker_json);
  out["umem"] = umem_json(snapshot.umem);
  // An interface name may hold any bytes; those that are not UTF-8 must not cost the whole answer.
  return out.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace vtap::stats
