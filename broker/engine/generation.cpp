// SPDX-License-Identifier: Apache-2.0
#include "engine/generation.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>

namespace vtap::engine {
namespace {

/// The tap of each port number; of numbers that are not used, one that is none.
std::vector<std::uint32_t> taps_of_ports(const plan::Plan& plan) {
  std::vector<std::uint32_t> taps;
  std::size_t order = 0;
  for (std::uint32_t tap = 0; tap < plan.config.taps.size(); ++tap) {
    for (std::size_t i = 0; i < plan.config.taps[tap].ports.size(); ++i) {
      const std::size_t number = plan.port_number(order++);
      if (taps.size() <= number) taps.resize(number + 1, io::FanMaps::kNoTap);
      taps[number] = tap;
    }
  }
  return taps;
}

}  // namespace

Generation::Generation(plan::Plan its_plan, Resolved its_resolved, io::ClassMaps its_classes,
                       io::CloneMaps its_clones, const Generation* before)
    : plan(std::move(its_plan)),
      resolved(std::move(its_resolved)),
      classes(std::move(its_classes)),
      clones(std::move(its_clones)),
      shared(plan, before != nullptr ? &before->shared : nullptr) {}

Result<std::unique_ptr<Generation>> Generation::load(plan::Plan plan, Resolved resolved,
                                                     const io::TeeMemory& memory,
                                                     const Generation* before) {
  auto classes = io::ClassMaps::load(plan.tables);
  if (!classes) return classes.error();
  auto clones = io::CloneMaps::load(plan.config, plan.tables, resolved.fan, taps_of_ports(plan));
  if (!clones) return clones.error();
  if (before != nullptr) clones->go_on_from(before->clones, before->config(), plan.config);
  std::unique_ptr<Generation> loaded(new Generation(
      std::move(plan), std::move(resolved), std::move(*classes), std::move(*clones), before));
  if (auto done = loaded->open_leg(memory); !done) return done.error();
  return loaded;
}

/// Before the taps' programs, which have to know the device. Without it super-packets are missed;
/// only a tap that clones everything cannot do without.
Result<void> Generation::open_leg(const io::TeeMemory& memory) {
  const auto at_tc = [](const ResolvedTap& how) { return how.at_tc(); };
  if (std::ranges::none_of(resolved.taps, at_tc)) return {};
  auto started = start_leg(memory);
  if (started) {
    leg.emplace(std::move(*started));
    return {};
  }
  const auto clones_all = [](const ResolvedTap& how) {
    return how.capture == config::Capture::clone;
  };
  if (std::ranges::any_of(resolved.taps, clones_all)) {
    return Error{"capture = \"clone\" needs a tun device: " + started.error().message,
                 started.error().kind};
  }
  spdlog::warn("super-packets (GSO, GRO) will be missed, as nothing can cut them: {}",
               started.error().message);
  return {};
}

/// A device of ours with the program that looks at what it cuts, for the policies of the broker.
Result<host::Leg> Generation::start_leg(const io::TeeMemory& memory) const {
  std::vector<vtap_leg_port> ports;
  for (const std::uint32_t tap : taps_of_ports(plan)) {
    if (tap == io::FanMaps::kNoTap) {
      ports.push_back({});
      continue;
    }
    const auto& its = plan.tables.taps[tap];
    ports.push_back({.tap_class = its.broker_class, .match_all = its.match_all ? 1U : 0U});
  }
  vtap_port_config config{};
  config.frame_size = plan.config.broker.frame_size;
  config.frames = plan.config.broker.frames;
  config.generation = plan.generation;
  config.classes = plan.tables.config;
  auto program = io::LegProgram::load(config, ports, memory, classes);
  if (!program) return program.error();
  auto made = host::Leg::create();
  if (!made) return made.error();
  if (auto done = made->start(program->fd()); !done) return done.error();
  return made;
}

}  // namespace vtap::engine
