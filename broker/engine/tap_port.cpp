// SPDX-License-Identifier: Apache-2.0
#include "engine/tap_port.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>

namespace vtap::engine {
namespace {

host::Role role_of(config::Mode mode) {
  switch (mode) {
    case config::Mode::inline_pair:
      return host::Role::tap_inline;
    case config::Mode::host:
      return host::Role::tap_host;
    case config::Mode::span:
      return host::Role::tap_span;
  }
  return host::Role::tap_host;
}

vtap_mode mode_of(config::Mode mode) {
  switch (mode) {
    case config::Mode::inline_pair:
      return VTAP_MODE_INLINE;
    case config::Mode::host:
      return VTAP_MODE_HOST;
    case config::Mode::span:
      return VTAP_MODE_SPAN;
  }
  return VTAP_MODE_HOST;
}

vtap_capture capture_of(config::Capture capture) {
  if (capture == config::Capture::redirect) return VTAP_CAPTURE_REDIRECT;
  return capture == config::Capture::clone ? VTAP_CAPTURE_CLONE : VTAP_CAPTURE_TEE;
}

/// What redirect hands to the plain path may come from a zero-copy queue.
bool goes_by_stack(const ResolvedTap& how, const TapPort::Place& place, const host::Link& link) {
  return how.capture == config::Capture::redirect && place.output &&
         host::refuses_zero_copy_frames(link, *place.output);
}

vtap_port_config constants(const plan::Plan& plan, const ResolvedTap& how,
                           const TapPort::Place& place, int leg) {
  const config::Tap& tap = plan.config.taps[place.tap];
  const auto& classes = plan.tables.taps[place.tap];
  vtap_port_config config{};
  config.port = place.index;
  config.mode = mode_of(tap.mode);
  config.capture = capture_of(how.capture);
  config.out_ifindex = place.output ? static_cast<__u32>(place.output->ifindex) : 0;
  config.unmatched_drop = tap.unmatched_drop ? 1 : 0;
  config.frame_size = plan.config.broker.frame_size;
  config.frames = plan.config.broker.frames;
  config.generation = plan.generation;
  config.match_all = classes.match_all ? 1 : 0;
  config.match_none = classes.match_none ? 1 : 0;
  config.clones = classes.clones ? 1 : 0;
  config.tap_class = classes.tap_class;
  config.leg_ifindex = static_cast<__u32>(leg);
  config.stale_ns = kStaleNs;
  config.classes = plan.tables.config;
  return config;
}

}  // namespace

Result<std::unique_ptr<TapPort>> TapPort::open(const host::StateDir& state, const plan::Plan& plan,
                                               const ResolvedTap& how, const Place& place,
                                               const host::Link& link, int leg,
                                               const io::TeeMemory& memory,
                                               const io::ClassMaps& classes,
                                               const io::CloneMaps& clones) {
  const config::Mode mode = plan.config.taps[place.tap].mode;
  const auto filters = io::filters_of(plan.config, plan.tables, place.tap);
  std::vector<Station> stations;
  const bool by_stack = goes_by_stack(how, place, link);
  const auto add = [&](host::Direction direction, host::Hook hook) -> Result<void> {
    vtap_port_config config = constants(plan, how, place, leg);
    config.by_stack = by_stack ? 1 : 0;
    if (hook == host::Hook::xdp) clones.fan().describe(place.index, config);
    config.filters = filters.empty() || config.match_all != 0 ? 0 : 1;
    auto programs =
        io::TapPrograms::load(hook == host::Hook::xdp ? io::ProgramHook::xdp : io::ProgramHook::tc,
                              config, memory, classes, clones, filters);
    if (!programs) return programs.error();
    if (programs->filters_left_out() != 0) {
      spdlog::warn(
          "port {}: the kernel does not take all filters together; {} of {} are judged by "
          "the broker alone",
          link.name, programs->filters_left_out(), filters.size());
    }
    stations.push_back({direction, hook, std::move(*programs)});
    return {};
  };
  if (how.ingress) {
    if (auto done = add(host::Direction::ingress, how.hook); !done) return done.error();
  }
  if (how.egress) {
    if (auto done = add(host::Direction::egress, host::Hook::tc); !done) return done.error();
  }
  std::optional<io::WireProgram> wire;
  if (by_stack) {
    auto program = io::WireProgram::load(constants(plan, how, place, leg));
    if (!program) return program.error();
    wire.emplace(std::move(*program));
  }
  const bool ours_before = host::carries_ours(link);
  host::PortSpec spec{.name = link.name, .role = role_of(mode), .hook = how.hook};
  spec.by_stack = by_stack;
  spec.owner = "broker " + plan.config.broker.name;
  auto port = host::Port::open(state, spec);
  if (!port) return port.error();
  for (const std::string& warning : port->warnings()) spdlog::warn("{}", warning);
  return std::unique_ptr<TapPort>(new TapPort(std::move(*port), std::move(stations),
                                              std::move(wire), place, how, mode, ours_before));
}

void TapPort::close() {
  static_cast<void>(device_drops());
  port_.reset();
}

std::uint64_t TapPort::device_drops() const {
  if (!port_) return drops_seen_;
  const auto counters = host::link_counters(link_.ifindex);
  const std::uint64_t before = link_.counters.tx_dropped;
  if (counters && counters.value().tx_dropped >= before) {
    drops_seen_ = std::max(drops_seen_, drops_of_others_ + counters.value().tx_dropped - before);
  }
  return drops_seen_;
}

void TapPort::output_is(bool there, std::uint64_t forwarded) {
  if (hook() != host::Hook::tc || there != output_gone_at_.has_value()) return;
  lost_without_output_ = lost_without_output(forwarded);
  output_gone_at_ = there ? std::nullopt : std::optional(forwarded);
}

std::uint64_t TapPort::lost_without_output(std::uint64_t forwarded) const {
  return lost_without_output_ + (output_gone_at_ ? forwarded - *output_gone_at_ : 0);
}

void TapPort::take_over_counters(const TapPort& old, std::uint64_t forwarded) {
  drops_of_others_ = drops_seen_ = old.device_drops();
  lost_without_output_ = old.lost_without_output(forwarded);
}

bool TapPort::has(host::Direction direction, host::Hook hook) const noexcept {
  return std::ranges::any_of(stations_, [&](const Station& station) {
    return station.direction == direction && station.hook == hook;
  });
}

Result<void> TapPort::attach() {
  // First: from the moment on at which the XDP program is there, it passes originals to this one.
  if (wire_) {
    auto attached = port_->attach_tc(host::Direction::ingress, wire_->fd());
    if (!attached) return attached.error();
    warn_of_filters(*attached);
  }
  for (const Station& station : stations_) {
    if (auto done = attach(station); !done) return done;
  }
  // Only now, so that a frame finds one of the two.
  if (!has(host::Direction::ingress, host::Hook::xdp)) {
    if (auto old = port_->detach_xdp(); !old) return old.error();
  }
  for (const auto direction : {host::Direction::ingress, host::Direction::egress}) {
    if (has(direction, host::Hook::tc)) continue;
    if (direction == host::Direction::ingress && wire_) continue;
    if (auto old = port_->detach_tc(direction); !old) return old.error();
  }
  return {};
}

void TapPort::warn_of_filters(const host::TcAttachment& attached) const {
  for (const host::TcFilter& filter : attached.ahead) {
    const std::string who = filter.kind == "tcx" ? "the tcx program " + filter.program
                                                 : "a " + filter.kind + " filter at priority " +
                                                       std::to_string(filter.priority);
    spdlog::warn("port {}: {} sees packets before the tap and may keep them from it", link().name,
                 who);
  }
}

Result<void> TapPort::attach(const Station& station) {
  if (station.hook == host::Hook::tc) {
    auto attached = port_->attach_tc(station.direction, station.programs.stub_fd());
    if (!attached) return attached.error();
    warn_of_filters(*attached);
    return {};
  }
  auto attached = port_->attach_xdp(station.programs.stub_fd(), mode_ == config::Mode::span);
  if (!attached) return attached.error();
  if (*attached == host::XdpMode::generic) {
    spdlog::warn(
        "port {}: the driver has no native XDP; generic XDP is slow and sees frames "
        "without the tag and checksum that the kernel keeps beside them",
        link().name);
  }
  if (*attached != host::XdpMode::generic && host::natural_hook(link()) == host::Hook::tc) {
    spdlog::warn(
        "port {} ({}): XDP sees frames without the tag and checksum that the kernel keeps beside "
        "them; turn tx offloads off where they are made, or write hook = \"tc\" and capture = "
        "\"tee\"",
        link().name, link().driver);
  }
  return {};
}

Result<void> TapPort::engage() {
  for (Station& station : stations_) {
    if (auto done = station.programs.engage(); !done) return done;
  }
  return {};
}

Result<void> TapPort::disengage() {
  Result<void> result;
  for (Station& station : stations_) {
    if (auto done = station.programs.disengage(); !done) result = done;
  }
  return result;
}

void TapPort::warn_of_output() const {
  if (hook() == host::Hook::tc || !place_.output) return;
  const auto features = host::xdp_features(place_.output->ifindex);
  if (!features || (*features & host::xdp_act::ndo_xmit) != 0) return;
  spdlog::warn(
      "port {} takes no frames that XDP redirects: originals to it are lost (and counted as "
      "not_passed.tx_failed) until it does. The peer of a veth must have GRO on (ethtool -K PEER "
      "gro on) or an XDP program; or write hook = \"tc\" and capture = \"tee\"",
      place_.output->name);
}

}  // namespace vtap::engine
