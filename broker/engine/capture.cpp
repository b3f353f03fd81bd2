// SPDX-License-Identifier: Apache-2.0
// Live captures: which pipelines record for them, from plan to plan (docs/decisions/0024).
#include "engine/capture.hpp"

#include <algorithm>

#include "engine/engine.hpp"

namespace vtap::engine {
namespace {

constexpr const char* kNoCopies =
    "the kernel makes its copies, and the broker does not see them; set offload = \"never\" to "
    "capture them";

template <typename Named>
std::optional<std::uint32_t> number_of(const std::vector<Named>& all, const std::string& name) {
  const auto found = std::ranges::find(all, name, &Named::name);
  if (found == all.end()) return std::nullopt;
  return static_cast<std::uint32_t>(found - all.begin());
}

std::vector<std::string> ports_of(const plan::Plan& plan, std::optional<std::uint32_t> only) {
  std::vector<std::string> names(VTAP_MAX_PORTS);
  std::size_t port = 0;
  for (std::uint32_t tap = 0; tap < plan.config.taps.size(); ++tap) {
    for (const std::string& name : plan.config.taps[tap].ports) {
      const std::uint8_t number = plan.port_number(port++);
      if (only.value_or(tap) == tap) names[number] = name;
    }
  }
  return names;
}

}  // namespace

Capture::Capture(CaptureSpec its_spec, std::size_t workers)
    : spec_(std::move(its_spec)), limit_(spec_.frames_per_s, spec_.bytes_per_s) {
  for (std::size_t i = 0; i < workers; ++i) {
    recorders_.push_back(std::make_unique<pipeline::Recorder>(spec_.most, limit_));
  }
}

std::vector<std::string> Capture::ports() const {
  const std::lock_guard lock(mutex_);
  return ports_;
}

void Capture::set_ports(std::vector<std::string> ports) {
  const std::lock_guard lock(mutex_);
  ports_ = std::move(ports);
}

/// What the spec means in a plan, or why it means nothing there.
Result<pipeline::Recording> Engine::recording_of(const Generation& plan, const CaptureSpec& spec) {
  const config::Config& config = plan.config();
  const auto& placed = plan.plan.tables.placements;
  const auto in_kernel = [&](std::size_t policy) {
    return policy < placed.size() && placed[policy] == plan::Placement::kernel;
  };
  pipeline::Recording out;
  if (spec.policy) {
    out.policy = number_of(config.policies, *spec.policy);
    if (!out.policy) return Error{"there is no policy " + *spec.policy, ErrorKind::usage};
    if (in_kernel(*out.policy)) {
      return Error{"policy " + *spec.policy + ": " + kNoCopies, ErrorKind::usage};
    }
  }
  if (spec.tap) {
    out.tap = number_of(config.taps, *spec.tap);
    if (!out.tap) return Error{"there is no tap " + *spec.tap, ErrorKind::usage};
  }
  bool any = false;
  for (std::size_t policy = 0; policy < config.policies.size(); ++policy) {
    const auto& taps = config.policies[policy].taps;
    const bool from = !out.tap || std::ranges::find(taps, *out.tap) != taps.end();
    any |= from && !in_kernel(policy);
  }
  if (any) return out;
  return Error{
      std::string("no policy's copies can be captured here: there is none, or ") + kNoCopies,
      ErrorKind::usage};
}

Result<std::shared_ptr<Capture>> Engine::capture(CaptureSpec spec) {
  if (captures_.size() >= pipeline::Pipeline::kRecordings) {
    return Error{"two captures are running, which is all there can be; end one of them",
                 ErrorKind::conflict};
  }
  auto recording = recording_of(*now_, spec);
  if (!recording) return recording.error();
  auto capture = std::make_shared<Capture>(std::move(spec), workers_.size());
  capture->set_ports(ports_of(now_->plan, recording->tap));
  captures_.push_back(capture);
  for (std::uint32_t i = 0; i < workers_.size(); ++i) {
    recording->recorder = capture->recorders()[i].get();
    on_worker(i, [&](worker::Worker&) { now_->pipelines[i]->record(*recording); });
  }
  return capture;
}

void Engine::end_capture(const Capture& capture) {
  const auto found = std::ranges::find(captures_, &capture, &std::shared_ptr<Capture>::get);
  if (found == captures_.end()) return;
  for (std::uint32_t i = 0; i < workers_.size() && !stopped_; ++i) {
    on_worker(
        i, [&](worker::Worker&) { now_->pipelines[i]->stop_recording(*capture.recorders()[i]); });
  }
  captures_.erase(found);
}

/// Captures go on in the next plan, before the first copy of it comes.
void Engine::record_in(Generation& next) {
  for (const auto& capture : captures_) {
    auto recording = recording_of(next, capture->spec());
    if (!recording) continue;
    capture->set_ports(ports_of(next.plan, recording->tap));
    for (std::uint32_t i = 0; i < workers_.size(); ++i) {
      recording->recorder = capture->recorders()[i].get();
      next.pipelines[i]->record(*recording);
    }
  }
}

/// The plan before is gone, and with it what some were of.
void Engine::end_gone_captures() {
  for (const auto& capture : captures_) {
    if (!recording_of(*now_, capture->spec())) capture->end();
  }
}

}  // namespace vtap::engine
