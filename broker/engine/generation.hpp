// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "engine/resolve.hpp"
#include "host/leg.hpp"
#include "io/programs.hpp"
#include "io/tee.hpp"
#include "pipeline/pipeline.hpp"
#include "plan/plan.hpp"

namespace vtap::engine {

/// One plan while it runs: what the kernel and the workers have of it. During a reload there are
/// two, and each packet belongs to one (docs/decisions/0023).
struct Generation {
  /// Fills the kernel's tables; nothing uses them yet. `plan.port_numbers` is set. `before`: the
  /// one that runs; what policies that stay remember goes on.
  static Result<std::unique_ptr<Generation>> load(plan::Plan plan, Resolved resolved,
                                                  const io::TeeMemory& memory,
                                                  const Generation* before);

  [[nodiscard]] std::uint32_t number() const noexcept { return plan.generation; }
  [[nodiscard]] const config::Config& config() const noexcept { return plan.config; }
  [[nodiscard]] bool in_kernel(std::uint32_t monitor) const {
    return resolved.in_kernel(plan.config, monitor);
  }
  /// Some program of it cuts copies at XDP.
  [[nodiscard]] bool cuts() const noexcept { return !resolved.fan.sliced.empty(); }

  plan::Plan plan;
  Resolved resolved;
  io::ClassMaps classes;
  io::CloneMaps clones;
  std::optional<host::Leg> leg;
  pipeline::SharedPlan shared;
  std::vector<std::uint32_t> targets;  ///< by monitor: the sink of its copies in every worker
  std::vector<std::unique_ptr<pipeline::Pipeline>> pipelines;  ///< by worker

 private:
  Generation(plan::Plan its_plan, Resolved its_resolved, io::ClassMaps its_classes,
             io::CloneMaps its_clones, const Generation* before);
  Result<void> open_leg(const io::TeeMemory& memory);
  [[nodiscard]] Result<host::Leg> start_leg(const io::TeeMemory& memory) const;
};

}  // namespace vtap::engine
