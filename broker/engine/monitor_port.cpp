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

}  // namespace

MonitorPort::MonitorPort(const host::StateDir& state, std::string owner, std::string port,
                         std::uint32_t target, std::vector<worker::Worker*> queues,
                         std::uint32_t ring_size, pipeline::UmemView umem,
                         std::optional<Kernel> kernel)
    : state_(state),
      owner_(std::move(owner)),
      name_(std::move(port)),
      target_(target),
      owners_(std::move(queues)),
      ring_size_(ring_size),
      umem_(umem),
      kernel_(kernel) {}

Result<void> MonitorPort::bring_up(const host::Link& link) {
  if (up()) return {};
  if (ifindex() != link.ifindex) {
    if (port_) forget();
    if (auto done = claim(link); !done) return done;
  }
  if (!link.ready()) return {};
  if (kernel_) {
    // Some drivers take redirected frames only once they have a program.
    host::Link now = link;
    now.xdp_features = host::xdp_features(link.ifindex);
    auto told = tell_programs(now);
    up_ = told.ok();
    return told;
  }
  auto carries = open_sockets(link);
  up_ = carries.ok();
  return carries;
}

Result<void> MonitorPort::tell_programs(const host::Link& link) {
  const vtap_monitor_link now{.ifindex = static_cast<__u32>(link.ifindex),
                              .has_queue = link.has_queue ? 1U : 0U,
                              .longest = host::longest_redirected(link)};
  if (now.ifindex == told_.ifindex && now.has_queue == told_.has_queue &&
      now.longest == told_.longest) {
    return {};
  }
  if (auto done = kernel_->clones.set_monitor(target_, now); !done) return done;
  told_ = now;
  return {};
}

void MonitorPort::follow(const host::Link& link) {
  if (!kernel_) return;
  if (auto done = tell_programs(link); !done && is_news(done.error().message)) {
    spdlog::warn("{}", done.error().message);
  }
}

Result<void> MonitorPort::claim(const host::Link& link) {
  const host::Hook hook = host::has_native_xdp(link) ? host::Hook::xdp : host::Hook::tc;
  auto program = io::MonitorProgram::load();
  if (!program) return program.error();
  const bool ours_before = host::carries_ours(link);
  host::PortSpec spec{.name = name_, .role = host::Role::monitor, .hook = hook};
  spec.owner = owner_;
  spec.skb_output = kernel_ && kernel_->at_tc;
  auto port = host::Port::open(state_, spec);
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
  if (kernel_) {
    if (auto done = kernel_->errors.add_monitor(link.ifindex, target_); !done) return done;
  }
  drops_before_ = link.counters.tx_dropped;
  return {};
}

Result<void> MonitorPort::open_sockets(const host::Link& link) {
  std::vector<std::unique_ptr<io::XskSocket>> opened;
  for (std::uint32_t queue = 0; queue < owners_.size(); ++queue) {
    auto socket = io::XskSocket::open(
        {.port = link.name, .queue = queue, .tx_size = ring_size_, .marks_copies = true}, umem_);
    if (!socket) return socket.error();
    spdlog::info("monitor port {} queue {}: tx {}", name_, queue,
                 (*socket)->zero_copy() ? "zero-copy" : "copy");
    opened.push_back(std::move(*socket));
  }
  sockets_ = std::move(opened);
  for (std::uint32_t i = 0; i < owners_.size(); ++i) {
    owners_[i]->call([&, i] { owners_[i]->sink(target_)->connect(sockets_[i].get()); });
  }
  return {};
}

void MonitorPort::take_down() {
  if (!std::exchange(up_, false)) return;
  if (kernel_) {
    told_ = {};
    if (auto done = kernel_->clones.set_monitor(target_, {}); !done)
      spdlog::warn("{}", done.error().message);
    return;
  }
  bool zero_copy = false;
  for (worker::Worker* owner : owners_) {
    owner->call([&] {
      owner->sink(target_)->reclaim();
      owner->sink(target_)->disconnect();
    });
  }
  for (const auto& socket : sockets_) zero_copy |= socket->zero_copy();
  sockets_.clear();
  if (zero_copy) std::this_thread::sleep_for(kZeroCopyQuarantine);
  for (worker::Worker* owner : owners_) owner->call([&] { owner->abandon(target_); });
}

void MonitorPort::forget() {
  take_down();
  if (kernel_ && port_) kernel_->errors.remove_monitor(ifindex());
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
