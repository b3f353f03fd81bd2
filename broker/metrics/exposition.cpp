// SPDX-License-Identifier: Apache-2.0
#include "metrics/exposition.hpp"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>
#include <vector>

/// Metrics are written down as data: a table for each kind of thing that is counted.
namespace vtap::metrics {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

/// One thing that is counted, and how it is told from others of its kind.
template <typename Item>
struct Labelled {
  const Item* item;
  Labels labels;
};
template <typename Item>
using Items = std::vector<Labelled<Item>>;

/// A number that every item has.
template <typename Item>
struct Number {
  const char* name;
  const char* help;
  double (*read)(const Item&);
};

/// Frames by reason, which every item has.
template <typename Item>
struct ByReason {
  const char* name;
  const char* help;
  stats::Reasons Item::*reasons;
};

/// An interface name may hold any bytes; a label that is not UTF-8 would cost the whole scrape.
std::string utf8(const std::string& text) {
  const auto plain = [](char c) { return static_cast<signed char>(c) >= 0; };
  if (std::all_of(text.begin(), text.end(), plain)) return text;
  using Json = nlohmann::json;
  const std::string valid = Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
  return Json::parse(valid).get<std::string>();
}

double number(std::uint64_t value) { return static_cast<double>(value); }
double flag(bool value) { return value ? 1.0 : 0.0; }

Labels with(Labels labels, std::initializer_list<std::pair<const char*, std::string>> more) {
  for (const auto& [name, value] : more) labels.push_back({name, utf8(value)});
  return labels;
}

class Families {
 public:
  void add(const char* name, const char* help, MetricType type, const Labels& labels,
           double value) {
    ClientMetric metric;
    metric.label = labels;
    (type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
    family(name, help, type).metric.push_back(std::move(metric));
  }
  void gauge(const char* name, const char* help, const Labels& labels, double value) {
    add(name, help, MetricType::Gauge, labels, value);
  }
  void counter(const char* name, const char* help, const Labels& labels, double value) {
    add(name, help, MetricType::Counter, labels, value);
  }
  void histogram(const char* name, const char* help, const Labels& labels,
                 ClientMetric::Histogram value) {
    ClientMetric metric;
    metric.label = labels;
    metric.histogram = std::move(value);
    family(name, help, MetricType::Histogram).metric.push_back(std::move(metric));
  }

  template <typename Item>
  void numbers(MetricType type, std::span<const Number<Item>> numbers, const Items<Item>& items) {
    for (const Number<Item>& number : numbers) {
      for (const auto& [item, labels] : items) {
        add(number.name, number.help, type, labels, number.read(*item));
      }
    }
  }
  template <typename Item, std::size_t N>
  void counters(const Number<Item> (&table)[N], const Items<Item>& items) {
    numbers<Item>(MetricType::Counter, table, items);
  }
  template <typename Item, std::size_t N>
  void gauges(const Number<Item> (&table)[N], const Items<Item>& items) {
    numbers<Item>(MetricType::Gauge, table, items);
  }

  /// A reason given twice is added up: a series may be there once only.
  template <typename Item>
  void reasons(const ByReason<Item>& by, const Items<Item>& items) {
    for (const auto& [item, labels] : items) {
      std::map<std::string, std::uint64_t> frames;
      for (const auto& [reason, count] : item->*by.reasons) frames[reason] += count;
      for (const auto& [reason, count] : frames) {
        counter(by.name, by.help, with(labels, {{"reason", reason}}), number(count));
      }
    }
  }

  [[nodiscard]] std::string text() const {
    return prometheus::TextSerializer().Serialize(families_);
  }

 private:
  /// Samples of one family stand together, as they are added one behind the other.
  MetricFamily& family(const char* name, const char* help, MetricType type) {
    if (families_.empty() || families_.back().name != name) {
      families_.push_back({name, help, type, {}});
    }
    return families_.back();
  }

  std::vector<MetricFamily> families_;
};

void add_queues(Families& out, const char* name, const Labels& labels,
                const std::vector<stats::QueueInfo>& queues) {
  for (const stats::QueueInfo& queue : queues) {
    out.gauge(
        name, "Whether the kernel granted zero-copy for the AF_XDP socket of this queue",
        with(labels, {{"queue", std::to_string(queue.queue)}, {"direction", queue.direction}}),
        flag(queue.zero_copy));
  }
}

void add_broker(Families& out, const Labels& broker, const stats::Snapshot& snapshot,
                const Service& service) {
  out.gauge("vtap_info", "The broker", with(broker, {{"version", service.version}}), 1);
  out.gauge("vtap_uptime_seconds", "Time since the broker started", broker,
            std::isfinite(snapshot.uptime_s) ? snapshot.uptime_s : 0.0);
  out.gauge("vtap_plan_generation", "Number of the plan that runs; each reload makes the next one",
            broker, number(snapshot.generation));
  out.gauge("vtap_last_reload_success",
            "Whether the last load of the config, at the start or by a reload, succeeded", broker,
            flag(service.last_reload_ok));
  if (service.last_load_s > 0) {
    out.gauge("vtap_last_load_timestamp_seconds",
              "UNIX time of the last load of the config that succeeded", broker,
              service.last_load_s);
  }
  constexpr const char* kReloads = "vtap_reloads_total";
  constexpr const char* kReloadsHelp = "Reloads of the config, by what came of them";
  out.counter(kReloads, kReloadsHelp, with(broker, {{"result", "ok"}}), number(service.reloads_ok));
  out.counter(kReloads, kReloadsHelp, with(broker, {{"result", "failed"}}),
              number(service.reloads_failed));
  out.gauge("vtap_umem_frames", "Frames of the packet memory", broker,
            number(snapshot.umem.frames));
  out.gauge("vtap_umem_frame_size_bytes", "Size of a frame of the packet memory", broker,
            number(snapshot.umem.frame_size));
  out.gauge("vtap_umem_free_frames", "Frames that nothing holds", broker,
            number(snapshot.umem.free));
}

using stats::TapPort;
constexpr Number<TapPort> kPortCounters[] = {
    {"vtap_tap_port_rx_frames_total", "Originals that arrived",
     [](const TapPort& p) { return number(p.rx_frames); }},
    {"vtap_tap_port_rx_bytes_total", "Their bytes, without FCS",
     [](const TapPort& p) { return number(p.rx_bytes); }},
    {"vtap_tap_port_passed_frames_total", "Originals that went on",
     [](const TapPort& p) { return number(p.passed_frames); }},
    {"vtap_tap_port_consumed_frames_total", "Originals of a span tap that end here, as they should",
     [](const TapPort& p) { return number(p.consumed_frames); }},
    {"vtap_tap_port_matched_frames_total", "Originals that a policy wants",
     [](const TapPort& p) { return number(p.matched_frames); }},
    {"vtap_tap_port_copied_frames_total", "Originals of which a copy was made",
     [](const TapPort& p) { return number(p.copied_frames); }},
    {"vtap_tap_port_own_copies_frames_total", "Copies that came by: passed on, not looked at",
     [](const TapPort& p) { return number(p.own_copies_frames); }},
};
constexpr ByReason<TapPort> kMissed = {
    "vtap_tap_port_missed_frames_total",
    "Originals that a policy wants and of which no copy was made", &TapPort::missed};
constexpr ByReason<TapPort> kNotPassed = {"vtap_tap_port_not_passed_frames_total",
                                          "Originals that were lost", &TapPort::not_passed};

void add_taps(Families& out, const Labels& broker, const std::vector<stats::Tap>& taps) {
  Items<TapPort> ports;
  for (const stats::Tap& tap : taps) {
    out.gauge(
        "vtap_tap_info", "A tap and how copies are made there",
        with(broker,
             {{"tap", tap.name}, {"mode", tap.mode}, {"capture", tap.capture}, {"hook", tap.hook}}),
        1);
    const Labels of_tap = with(broker, {{"tap", tap.name}});
    for (const TapPort& port : tap.ports) {
      ports.push_back({&port, with(of_tap, {{"port", port.name}})});
    }
  }
  for (const auto& [port, labels] : ports) {
    out.gauge("vtap_tap_port_info", "A port of a tap, and where its program is",
              with(labels, {{"hook", port->hook}}), 1);
  }
  for (const auto& [port, labels] : ports) {
    out.gauge("vtap_tap_port_up", "Whether the port is there and carries", labels,
              flag(port->state == "up"));
  }
  out.counters(kPortCounters, ports);
  out.reasons(kMissed, ports);
  out.reasons(kNotPassed, ports);
  for (const auto& [port, labels] : ports) {
    add_queues(out, "vtap_tap_port_queue_zero_copy", labels, port->queues);
  }
}

using stats::Policy;
using stats::PolicyMonitor;
constexpr Number<Policy> kPolicyCounters[] = {
    {"vtap_policy_matched_frames_total", "Copies that the policy took",
     [](const Policy& p) { return number(p.matched_frames); }},
    {"vtap_policy_matched_bytes_total", "Their bytes, without FCS",
     [](const Policy& p) { return number(p.matched_bytes); }},
};
constexpr ByReason<Policy> kPolicyDropped = {"vtap_policy_dropped_frames_total",
                                             "Copies that the policy dropped, as it is to",
                                             &Policy::dropped};
constexpr Number<PolicyMonitor> kPairCounters[] = {
    {"vtap_policy_sent_frames_total", "Copies that the policy sent to the monitor",
     [](const PolicyMonitor& m) { return number(m.sent_frames); }},
    {"vtap_policy_sent_bytes_total", "Their bytes, without FCS",
     [](const PolicyMonitor& m) { return number(m.sent_bytes); }},
    {"vtap_policy_already_sent_frames_total",
     "Copies that the monitor had already, by an earlier policy",
     [](const PolicyMonitor& m) { return number(m.already_sent); }},
    {"vtap_policy_before_joining_frames_total",
     "Copies that the policy let through before it had the monitor",
     [](const PolicyMonitor& m) { return number(m.before_joining); }},
};

void add_metered(Families& out, const Labelled<Policy>& policy) {
  const stats::Metered& metered = policy.item->metered;
  const std::pair<const char*, std::uint64_t> colours[] = {{"green", metered.green_frames},
                                                           {"yellow", metered.yellow_frames},
                                                           {"red", metered.red_frames}};
  for (const auto& [colour, frames] : colours) {
    out.counter("vtap_policy_metered_frames_total", "Copies that the policy's meter judged",
                with(policy.labels, {{"colour", colour}}), number(frames));
  }
}

void add_policies(Families& out, const Labels& broker, const std::vector<Policy>& all) {
  Items<Policy> policies;
  Items<PolicyMonitor> pairs;
  for (const Policy& policy : all) {
    out.gauge("vtap_policy_info", "A policy and who serves it",
              with(broker, {{"policy", policy.name}, {"placement", policy.placement}}), 1);
    const Labels of_policy = with(broker, {{"policy", policy.name}});
    policies.push_back({&policy, of_policy});
    for (const PolicyMonitor& monitor : policy.monitors) {
      pairs.push_back({&monitor, with(of_policy, {{"monitor", monitor.name}})});
    }
  }
  out.counters(kPolicyCounters, policies);
  out.reasons(kPolicyDropped, policies);
  for (const auto& policy : policies) add_metered(out, policy);
  out.counters(kPairCounters, pairs);
}

using stats::Monitor;
constexpr Number<Monitor> kMonitorCounters[] = {
    {"vtap_monitor_tx_frames_total", "Copies that were sent",
     [](const Monitor& m) { return number(m.tx_frames); }},
    {"vtap_monitor_tx_bytes_total", "Their bytes, without FCS",
     [](const Monitor& m) { return number(m.tx_bytes); }},
    {"vtap_monitor_arrived_frames_total",
     "Frames that came in on the port, which is output only: dropped",
     [](const Monitor& m) { return number(m.arrived_frames); }},
    {"vtap_monitor_removed_policies_sent_frames_total",
     "Copies from policies that are gone, or that no longer have the monitor",
     [](const Monitor& m) { return number(m.removed_policies_frames); }},
    {"vtap_monitor_removed_policies_sent_bytes_total", "Their bytes, without FCS",
     [](const Monitor& m) { return number(m.removed_policies_bytes); }},
};
constexpr Number<Monitor> kMonitorGauges[] = {
    {"vtap_monitor_up", "Whether the port is there and carries",
     [](const Monitor& m) { return flag(m.state == "up"); }},
    {"vtap_monitor_waiting_frames", "Copies that wait for the monitor",
     [](const Monitor& m) { return number(m.waiting_frames); }},
};
constexpr ByReason<Monitor> kMonitorDropped = {"vtap_monitor_dropped_frames_total",
                                               "Copies for the monitor that were lost",
                                               &Monitor::dropped};

ClientMetric::Histogram histogram(const stats::Latency& latency) {
  constexpr double kSecond = 1e9;  // ns
  ClientMetric::Histogram out;
  out.sample_count = latency.count;
  out.sample_sum = number(latency.sum_ns) / kSecond;
  for (const auto& [le_ns, count] : latency.buckets) {
    out.bucket.push_back({count, number(le_ns) / kSecond});
  }
  return out;
}

void add_monitors(Families& out, const Labels& broker, const std::vector<Monitor>& all) {
  Items<Monitor> monitors;
  for (const Monitor& monitor : all) {
    out.gauge("vtap_monitor_info", "A monitor and its port",
              with(broker, {{"monitor", monitor.name}, {"port", monitor.port}}), 1);
    monitors.push_back({&monitor, with(broker, {{"monitor", monitor.name}})});
  }
  out.gauges(kMonitorGauges, monitors);
  out.counters(kMonitorCounters, monitors);
  out.reasons(kMonitorDropped, monitors);
  for (const auto& [monitor, labels] : monitors) {
    out.histogram("vtap_monitor_copy_latency_seconds",
                  "From the making of a copy until it was sent; of some of the copies", labels,
                  histogram(monitor->latency));
  }
  for (const auto& [monitor, labels] : monitors) {
    add_queues(out, "vtap_monitor_queue_zero_copy", labels, monitor->queues);
  }
}

using stats::Worker;
constexpr Number<Worker> kWorkerCounters[] = {
    {"vtap_worker_bursts_total", "Bursts of frames that the worker took",
     [](const Worker& w) { return number(w.bursts); }},
    {"vtap_worker_frames_total", "Frames in these",
     [](const Worker& w) { return number(w.frames); }},
    {"vtap_worker_wakeups_total", "How often the worker slept and woke up",
     [](const Worker& w) { return number(w.wakeups); }},
    {"vtap_worker_teed_bytes_total", "Bytes that the tap programs copied out of packets for it",
     [](const Worker& w) { return number(w.teed_bytes); }},
    {"vtap_worker_copied_bytes_total", "Bytes that the worker itself had to copy",
     [](const Worker& w) { return number(w.copied_bytes); }},
};
constexpr Number<Worker> kWorkerGauges[] = {
    {"vtap_worker_idle_ratio", "Share of its life that the worker spent asleep",
     [](const Worker& w) { return std::isfinite(w.idle_ratio) ? w.idle_ratio : 0.0; }},
    {"vtap_worker_last_round_age_seconds",
     "Time since the worker's last round began; more than a moment: it hangs",
     [](const Worker& w) { return w.last_round_age_s; }},
};

void add_workers(Families& out, const Labels& broker, const std::vector<Worker>& all) {
  Items<Worker> workers;
  for (const Worker& worker : all) {
    // By its number, too: workers that are not pinned have no CPU of their own.
    workers.push_back({&worker, with(broker, {{"worker", std::to_string(workers.size())},
                                              {"cpu", std::to_string(worker.cpu)}})});
  }
  out.gauges(kWorkerGauges, workers);
  out.counters(kWorkerCounters, workers);
}

}  // namespace

std::string to_prometheus(const stats::Snapshot& snapshot, const Service& service) {
  Families out;
  const Labels broker = with({}, {{"broker", snapshot.name}});
  add_broker(out, broker, snapshot, service);
  add_taps(out, broker, snapshot.taps);
  add_policies(out, broker, snapshot.policies);
  add_monitors(out, broker, snapshot.monitors);
  add_workers(out, broker, snapshot.workers);
  return out.text();
}

}  // namespace vtap::metrics
