// SPDX-License-Identifier: Apache-2.0
#include "engine/monitor_port.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <thread>

namespace vtap::engine {
namespace {

/// A zero-copy device may still read frames for a moment after its socket was closed.
constexpr auto kZeroCopyQuarantine = std::chrono::milliseconds(200);
/// Descriptors of a TX ring; how many of them are in use, the sink's limit says.
constexpr std::uint32_t kRing = 4096;

}  // namespace

MonitorPort::MonitorPort(const host::StateDir& state, Identity identity,
                         std::vector<worker::Worker*> queues, pipeline::UmemView umem,
                         io::RedirectErrors& errors)
    : state_(state),
      identity_(std::move(identity)),
      owners_(std::move(queues)),
      umem_(umem),
      errors_(errors) {}

Result<void> MonitorPort::serve(Makers makers) {
  makers_.broker |= makers.broker;
  const bool more_set_up = makers.at_tc && !makers_.at_tc;
  makers_.at_tc |= makers.at_tc;
  for (std::size_t i = 0; i < makers.kernel.size(); ++i) {
    makers_.kernel.push_back(makers.kernel[i]);
    makers_.index.push_back(makers.index[i]);
    told_.push_back({});
  }
  if (port_ && more_set_up) {
    if (auto done = port_->set_up(spec()); !done) return done;
  }
  if (!up_) return {};
  if (makers_.broker && sockets_.empty()) {
    if (auto done = open_sockets(); !done) return done;
  }
  if (makers.kernel.empty()) return {};
  auto link = host::find_link(ifindex());
  return link ? tell_programs(*link) : link.error();
}

void MonitorPort::serve_only(Makers makers) {
  std::vector<vtap_monitor_link> told;
  for (const io::CloneMaps* kernel : makers.kernel) {
    const auto known = std::ranges::find(makers_.kernel, kernel);
    const auto place = static_cast<std::size_t>(known - makers_.kernel.begin());
    told.push_back(known == makers_.kernel.end() ? vtap_monitor_link{} : told_[place]);
  }
  makers_ = std::move(makers);
  told_ = std::move(told);
  if (!makers_.broker) close_sockets();
}

Result<void> MonitorPort::bring_up(const host::Link& link) {
  if (up()) return {};
  if (!program_ || ifindex() != link.ifindex) {  // also where a claim failed half way
    if (port_) forget();
    if (auto done = claim(link); !done) return done;
  }
  if (!link.ready()) return {};
  if (makers_.broker) {
    if (auto done = open_sockets(); !done) return done;
  }
  if (!makers_.kernel.empty()) {
    // Some drivers take redirected frames only once they have a program.
    host::Link now = link;
    now.xdp_features = host::xdp_features(link.ifindex);
    if (auto done = tell_programs(now); !done) return done;
  }
  up_ = true;
  return {};
}

Result<void> MonitorPort::tell_programs(const host::Link& link) {
  return tell({.ifindex = static_cast<__u32>(link.ifindex),
               .has_queue = link.has_queue ? 1U : 0U,
               .longest = host::longest_redirected(link)});
}

Result<void> MonitorPort::tell(vtap_monitor_link now) {
  for (std::size_t i = 0; i < told_.size(); ++i) {
    vtap_monitor_link& told = told_[i];
    if (now.ifindex == told.ifindex && now.has_queue == told.has_queue &&
        now.longest == told.longest) {
      continue;
    }
    if (auto done = makers_.kernel[i]->set_monitor(makers_.index[i], now); !done) return done;
    told = now;
  }
  return {};
}

void MonitorPort::follow(const host::Link& link) {
  if (auto done = tell_programs(link); !done && is_news(done.error().message)) {
    spdlog::warn("{}", done.error().message);
  }
}

host::PortSpec MonitorPort::spec() const {
  host::PortSpec spec{.name = identity_.port, .role = host::Role::monitor};
  spec.owner = identity_.owner;
  spec.skb_output = makers_.at_tc;
  return spec;
}

Result<void> MonitorPort::claim(const host::Link& link) {
  const host::Hook hook = host::has_native_xdp(link) ? host::Hook::xdp : host::Hook::tc;
  auto program = io::MonitorProgram::load();
  if (!program) return program.error();
  const bool ours_before = host::carries_ours(link);
  host::PortSpec wanted = spec();
  wanted.hook = hook;
  auto port = host::Port::open(state_, wanted);
  if (!port) return port.error();
  for (const std::string& warning : port->warnings()) spdlog::warn("{}", warning);
  // Kept from here on, whatever fails: a rollback has to restore it.
  ours_before_ = ours_before;
  port_.emplace(std::move(*port));
  if (hook == host::Hook::xdp) {
    auto attached = port_->attach_xdp(program->fd(io::ProgramHook::xdp));
    if (!attached) return attached.error();
  } else {
    auto attached = port_->attach_tc(host::Direction::ingress, program->fd(io::ProgramHook::tc));
    if (!attached) return attached.error();
  }
  program_.emplace(std::move(*program));
  if (auto done = errors_.add_monitor(link.ifindex, identity_.number); !done) return done;
  drops_before_ = link.counters.tx_dropped;
  return {};
}

Result<void> MonitorPort::open_sockets() {
  std::vector<std::unique_ptr<io::XskSocket>> opened;
  for (std::uint32_t number = 0; number < owners_.size(); ++number) {
    auto socket = io::XskSocket::open(
        {.port = identity_.port, .queue = number, .tx_size = kRing, .marks_copies = true}, umem_);
    if (!socket) return socket.error();
    spdlog::info("monitor port {} queue {}: tx {}", identity_.port, number,
                 (*socket)->zero_copy() ? "zero-copy" : "copy");
    opened.push_back(std::move(*socket));
  }
  sockets_ = std::move(opened);
  for (std::uint32_t i = 0; i < owners_.size(); ++i) {
    owners_[i]->call([&, i] { owners_[i]->sink(target())->connect(sockets_[i].get()); });
  }
  return {};
}

void MonitorPort::take_down() {
  if (!std::exchange(up_, false)) return;
  if (auto done = tell({}); !done) spdlog::warn("{}", done.error().message);
  close_sockets();
}

/// And takes the frames back that they hold.
void MonitorPort::close_sockets() {
  if (sockets_.empty()) return;
  bool zero_copy = false;
  for (worker::Worker* owner : owners_) {
    owner->call([&] {
      owner->sink(target())->reclaim();
      owner->sink(target())->disconnect();
    });
  }
  for (const auto& socket : sockets_) zero_copy |= socket->zero_copy();
  sockets_.clear();
  if (zero_copy) std::this_thread::sleep_for(kZeroCopyQuarantine);
  for (worker::Worker* owner : owners_) owner->call([&] { owner->abandon(target()); });
}

void MonitorPort::forget() {
  take_down();
  if (port_) errors_.remove_monitor(ifindex());
  drops_of_others_ = device_drops();
  drops_before_ = 0;
  port_.reset();
  program_.reset();
}

std::uint64_t MonitorPort::device_drops() const {
  if (!port_) return drops_seen_;
  const auto counters = host::link_counters(port_->link().ifindex);
  if (counters && counters.value().tx_dropped >= drops_before_) {
    drops_seen_ =
        std::max(drops_seen_, drops_of_others_ + counters.value().tx_dropped - drops_before_);
  }
  return drops_seen_;
}

}  // namespace vtap::engine
