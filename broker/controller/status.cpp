// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <ctime>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "controller/controller.hpp"

namespace vtap::controller {
namespace {

using Json = nlohmann::ordered_json;

/// RFC 3339, UTC.
std::string time_text(std::chrono::system_clock::time_point time) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text.data();
}

Json taps_json(const stats::Snapshot& snapshot, const engine::Generation& plan) {
  Json taps = Json::array();
  for (std::size_t i = 0; i < snapshot.taps.size(); ++i) {
    const stats::Tap& tap = snapshot.taps[i];
    Json ports = Json::array();
    for (const stats::TapPort& port : tap.ports) {
      ports.push_back({{"name", port.name}, {"state", port.state}});
    }
    taps.push_back({{"name", tap.name},
                    {"mode", tap.mode},
                    {"capture", tap.capture},
                    {"hook", tap.hook},
                    {"why", plan.resolved.taps[i].why},
                    {"ports", ports}});
  }
  return taps;
}

Json monitors_json(const stats::Snapshot& snapshot) {
  Json monitors = Json::array();
  for (const stats::Monitor& monitor : snapshot.monitors) {
    Json queues = Json::array();
    for (const stats::QueueInfo& queue : monitor.queues) {
      queues.push_back({{"queue", queue.queue}, {"zero_copy", queue.zero_copy}});
    }
    monitors.push_back({{"name", monitor.name},
                        {"port", monitor.port},
                        {"state", monitor.state},
                        {"queues", queues}});
  }
  return monitors;
}

Json policies_json(const engine::Generation& plan) {
  Json policies = Json::array();
  const config::Config& config = plan.config();
  for (std::size_t i = 0; i < config.policies.size(); ++i) {
    const config::Policy& policy = config.policies[i];
    Json taps = Json::array();
    Json monitors = Json::array();
    for (const std::uint32_t tap : policy.taps) taps.push_back(config.taps[tap].name);
    for (const std::uint32_t monitor : policy.monitors) {
      monitors.push_back(config.monitors[monitor].name);
    }
    const engine::ResolvedPolicy& how = plan.resolved.policies[i];
    policies.push_back(
        {{"name", policy.name},
         {"placement", how.placement == plan::Placement::kernel ? "kernel" : "broker"},
         {"why", how.why},
         {"taps", taps},
         {"monitors", monitors}});
  }
  return policies;
}

}  // namespace

std::string Controller::status_json(const std::string& version) {
  constexpr std::chrono::seconds kFresh{1};
  if (!engine_) throw std::runtime_error("the broker has not started");
  // Somebody may have turned or mended a setting since the config was loaded.
  if (std::chrono::steady_clock::now() - examined_at_ >= kFresh) examine();
  const stats::Snapshot snapshot = engine_->snapshot();
  const engine::Generation& plan = engine_->plan();
  Json out;
  out["name"] = snapshot.name;
  out["version"] = version;
  out["generation"] = snapshot.generation;
  out["uptime_s"] = snapshot.uptime_s;
  {
    const std::lock_guard lock(mutex_);
    out["config"] = {
        {"file", file_}, {"loaded_at", time_text(loaded_at_)}, {"persisted", text_ == file_text_}};
    if (last_reload_) {
      out["last_reload"] = {{"ok", last_reload_->ok}, {"at", time_text(last_reload_->at)}};
      if (!last_reload_->ok) out["last_reload"]["error"] = last_reload_->error;
    }
  }
  out["ready"] = engine_->ready();
  out["taps"] = taps_json(snapshot, plan);
  out["monitors"] = monitors_json(snapshot);
  out["policies"] = policies_json(plan);
  out["left_wires"] = engine_->left_wires();
  out["findings"] = Json::parse(doctor::to_json(findings_)).at("findings");
  return out.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace vtap::controller
