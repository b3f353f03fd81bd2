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

vtap_port_config constants(const Generation& generation, const TapPort::Place& place) {
  const plan::Plan& plan = generation.plan;
  const config::Tap& tap = plan.config.taps[place.tap];
  const auto& classes = plan.tables.taps[place.tap];
  vtap_port_config config{};
  config.port = place.index;
  config.mode = mode_of(tap.mode);
  config.capture = capture_of(generation.resolved.taps[place.tap].capture);
  config.out_ifindex = place.output ? static_cast<__u32>(place.output->ifindex) : 0;
  config.unmatched_drop = tap.unmatched_drop ? 1 : 0;
  config.frame_size = plan.config.broker.frame_size;
  config.frames = plan.config.broker.frames;
  config.generation = plan.generation;
  config.match_all = classes.match_all ? 1 : 0;
  config.match_none = classes.match_none ? 1 : 0;
  config.clones = classes.clones ? 1 : 0;
  config.tap_class = classes.tap_class;
  config.leg_ifindex = generation.leg ? static_cast<__u32>(generation.leg->ifindex()) : 0;
  config.stale_ns = kStaleNs;
  config.classes = plan.tables.config;
  return config;
}

/// A program's constants, and the filters that it is to judge.
struct ProgramSpec {
  vtap_port_config config;
  std::vector<io::PortFilter> filters;
};

ProgramSpec program_of(const Generation& plan, const TapPort::Place& place, host::Hook hook,
                       bool by_stack) {
  ProgramSpec spec{constants(plan, place),
                   io::filters_of(plan.config(), plan.plan.tables, place.tap)};
  spec.config.by_stack = by_stack ? 1 : 0;
  if (hook == host::Hook::xdp) plan.clones.fan().describe(place.index, spec.config);
  spec.config.filters = spec.filters.empty() || spec.config.match_all != 0 ? 0 : 1;
  return spec;
}

void warn_of_left_out(const std::string& port, const io::TapPrograms& programs,
                      const ProgramSpec& spec) {
  if (programs.filters_left_out() == 0) return;
  spdlog::warn(
      "port {}: the kernel does not take all filters together; {} of {} are judged by the broker "
      "alone",
      port, programs.filters_left_out(), spec.filters.size());
}

}  // namespace

Result<std::unique_ptr<TapPort>> TapPort::open(const host::StateDir& state, const Generation& plan,
                                               const Place& place, const host::Link& link,
                                               const io::TeeMemory& memory) {
  const ResolvedTap& how = plan.resolved.taps[place.tap];
  const config::Mode mode = plan.config().taps[place.tap].mode;
  std::vector<Station> stations;
  const bool by_stack = goes_by_stack(how, place, link);
  const auto add = [&](host::Direction direction, host::Hook hook) -> Result<void> {
    const ProgramSpec spec = program_of(plan, place, hook, by_stack);
    auto programs =
        io::TapPrograms::load(hook == host::Hook::xdp ? io::ProgramHook::xdp : io::ProgramHook::tc,
                              spec.config, memory, plan.classes, plan.clones, spec.filters);
    if (!programs) return programs.error();
    warn_of_left_out(link.name, *programs, spec);
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
    auto program = io::WireProgram::load(constants(plan, place));
    if (!program) return program.error();
    wire.emplace(std::move(*program));
  }
  const bool ours_before = host::carries_ours(link);
  host::PortSpec spec{.name = link.name, .role = role_of(mode), .hook = how.hook};
  spec.by_stack = by_stack;
  spec.owner = "broker " + plan.config().broker.name;
  auto port = host::Port::open(state, spec);
  if (!port) return port.error();
  for (const std::string& warning : port->warnings()) spdlog::warn("{}", warning);
  return std::unique_ptr<TapPort>(new TapPort(std::move(*port), std::move(stations),
                                              std::move(wire), place, how, mode, ours_before));
}

bool TapPort::fits(const Generation& plan, const Place& place, const host::Link& link) const {
  const ResolvedTap& how = plan.resolved.taps[place.tap];
  const auto output = [](const Place& of) { return of.output ? of.output->ifindex : 0; };
  // Sockets stand between the plans of redirect.
  const auto redirects = [](config::Capture capture) {
    return capture == config::Capture::redirect;
  };
  const std::size_t stations = (how.ingress ? 1U : 0U) + (how.egress ? 1U : 0U);
  return is_open() && link.ifindex == link_.ifindex && stations == stations_.size() &&
         plan.config().taps[place.tap].mode == mode_ && output(place) == output(place_) &&
         place.output_index == place_.output_index &&
         redirects(how.capture) == redirects(capture_) &&
         has(host::Direction::ingress, how.hook) == how.ingress &&
         has(host::Direction::egress, host::Hook::tc) == how.egress &&
         goes_by_stack(how, place, link) == wire_.has_value() &&
         (!redirects(how.capture) || link.rx_queues == link_.rx_queues);
}

Result<void> TapPort::prepare(const Generation& plan, const Place& place,
                              const io::TeeMemory& memory) {
  for (Station& station : stations_) {
    const ProgramSpec spec = program_of(plan, place, station.hook, wire_.has_value());
    auto done =
        station.programs.prepare(spec.config, memory, plan.classes, plan.clones, spec.filters);
    if (!done) return done;
  }
  next_place_ = place;
  next_capture_ = plan.resolved.taps[place.tap].capture;
  return {};
}

Result<void> TapPort::switch_over() {
  for (Station& station : stations_) {
    if (auto done = station.programs.switch_over(); !done) return done;
  }
  place_ = next_place_;
  capture_ = next_capture_;
  return {};
}

void TapPort::settle() {
  for (Station& station : stations_) {
    if (auto done = station.programs.settle(); !done) spdlog::warn("{}", done.error().message);
  }
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
