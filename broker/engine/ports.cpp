// SPDX-License-Identifier: Apache-2.0
// Ports of taps and monitors: taken up, followed while devices come and go, given up.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <bit>

#include "engine/engine.hpp"

namespace vtap::engine {

constexpr std::uint32_t kLargestRing = 4096;  ///< descriptors of a TX ring

Result<std::uint32_t> Engine::new_target() {
  const auto free = std::ranges::find(targets_used_, false);
  if (free == targets_used_.end()) {
    return Error{
        "the broker has no room for another monitor while copies for those of plans "
        "before still wait; try again in a moment"};
  }
  *free = true;
  return static_cast<std::uint32_t>(free - targets_used_.begin());
}

void Engine::free_target(std::uint32_t target) {
  for (std::uint32_t i = 0; i < workers_.size(); ++i) {
    on_worker(i, [&](worker::Worker& worker) { worker.remove_target(target); });
  }
  targets_used_[target] = false;
}

/// Null: it could not be taken up.
const TapPort* Engine::port_numbered(std::uint8_t number) const {
  const auto found =
      std::ranges::find_if(taps_, [&](const auto& port) { return port->place().index == number; });
  return found == taps_.end() ? nullptr : found->get();
}

/// Claims the ports of a tap and attaches their stubs, which are wires.
Result<void> Engine::open_tap(Transition& transition, std::uint32_t tap) {
  std::vector<TapPort*> opened;
  for (std::size_t i = 0; i < transition.wants.size(); ++i) {
    const Want& want = transition.wants[i];
    if (want.place.tap != tap) continue;
    auto port = TapPort::open(state_, *transition.next, want.place, want.link, memory_);
    if (!port) return port.error();
    opened.push_back(port->get());
    transition.ports[i] = std::move(*port);
  }
  for (TapPort* port : opened) {
    if (auto done = open_sockets(*port, transition.shares); !done) return done;
  }
  for (TapPort* port : opened) {
    if (auto done = connect_sockets(*port, opened); !done) return done;
  }
  return {};
}

/// The ports of a tap that is open.
Result<void> Engine::attach_tap(const Transition& transition, std::uint32_t tap_number) {
  std::vector<TapPort*> tap;
  for (const auto& port : transition.ports) {
    if (port && port->place().tap == tap_number) tap.push_back(port.get());
  }
  for (TapPort* port : tap) {
    if (auto done = port->attach(); !done) return done;
    if (auto done = errors_.add_port(port->link().ifindex, port->place().index); !done) {
      return done;
    }
    for (std::uint32_t queue = 0; queue < port->sockets.size(); ++queue) {
      if (auto done = port->programs().set_socket(queue, port->sockets[queue]->fd()); !done) {
        return done;
      }
    }
  }
  for (const TapPort* port : tap) port->warn_of_output();
  return {};
}

/// AF_XDP sockets of the redirect ports: one per RX queue, on the worker that the queue's number
/// picks. Originals leave by the sockets of the other port.
Result<void> Engine::open_sockets(TapPort& port, const Shares& shares) {
  if (port.capture() != config::Capture::redirect) return {};
  if (port.place().output) {
    auto target = new_target();
    if (!target) return target.error();
    port.exit_target = *target;
  }
  const std::uint32_t queues = port.link().rx_queues;
  if (queues > VTAP_MAX_QUEUES) {
    return Error{"port " + port.link().name + " has " + std::to_string(queues) +
                     " RX queues, redirect serves at most " + std::to_string(VTAP_MAX_QUEUES) +
                     "; reduce them (ethtool -L) or use capture = \"tee\"",
                 ErrorKind::usage};
  }
  const std::uint32_t tx_ring = port.exit_target ? ring_size(shares.target, kLargestRing) : 0;
  for (std::uint32_t queue = 0; queue < queues; ++queue) {
    auto socket = io::XskSocket::open(
        {.port = port.link().name, .queue = queue, .rx_size = shares.rx_ring, .tx_size = tx_ring},
        memory_.umem());
    if (!socket) return socket.error();
    spdlog::info("tap port {} queue {}: {} {}", port.link().name, queue,
                 port.exit_target ? "rx+tx" : "rx", (*socket)->zero_copy() ? "zero-copy" : "copy");
    port.sockets.push_back(std::move(*socket));
  }
  if (!port.exit_target) return {};
  const auto workers = static_cast<std::uint32_t>(workers_.size());
  const auto owners = std::min<std::uint32_t>(workers, queues);
  const worker::Target what{.input_port = port.place().output_index};
  for (std::uint32_t i = 0; i < workers; ++i) {
    on_worker(i, [&](worker::Worker& worker) {
      if (i < owners) {
        worker.own_sink(*port.exit_target, what, shares.target).connect(port.sockets[i].get());
      } else {
        worker.cross_to(*port.exit_target, what, i % owners);
      }
    });
  }
  return {};
}

/// To the workers, once both ports of a pair have their sockets.
Result<void> Engine::connect_sockets(TapPort& port, const std::vector<TapPort*>& tap) {
  std::optional<std::uint32_t> output;
  for (const TapPort* other : tap) {
    if (port.place().output && other->place().index == port.place().output_index) {
      output = other->exit_target;
    }
  }
  for (std::uint32_t queue = 0; queue < port.sockets.size(); ++queue) {
    const std::uint32_t number = queue % static_cast<std::uint32_t>(workers_.size());
    if (auto done = workers_[number]->watch(port.sockets[queue]->fd()); !done) return done;
    on_worker(number, [&](worker::Worker& worker) {
      worker.add_source(*port.sockets[queue], port.place().index, output,
                        port.programs().heartbeat(queue));
    });
  }
  return {};
}

/// Gives a monitor's TX queues to workers. A scheduled monitor has one owner, so that its rate and
/// its priorities hold over all workers. If its port does not carry yet, it is served when it does.
Result<std::unique_ptr<MonitorPort>> Engine::open_monitor(Transition& transition,
                                                          std::uint32_t monitor, bool must) {
  const config::Monitor& config = transition.next->config().monitors[monitor];
  const Shares::Monitor& share = transition.shares.monitors[monitor];
  const auto workers = static_cast<std::uint32_t>(workers_.size());
  std::uint64_t numbers = 0;
  const auto take = [&](const auto& list) {
    for (const auto& other : list) {
      if (other) numbers |= std::uint64_t{1} << other->number();
    }
  };
  take(monitors_);
  take(transition.new_monitors);
  take(transition.gone_monitors);
  const auto number = static_cast<std::uint32_t>(std::countr_one(numbers));
  auto target = new_target();
  if (!target) return target.error();
  errors_.reset_monitor(number);
  std::vector<worker::Worker*> owners;
  for (std::uint32_t i = 0; i < workers; ++i) {
    const std::uint32_t owner = share.schedule ? number % workers : i % share.owners;
    if (owner == i) owners.push_back(workers_[i].get());
    on_worker(i, [&](worker::Worker& worker) {
      if (owner == i) {
        worker.own_sink(*target, {}, share.ring);
      } else {
        worker.cross_to(*target, {}, owner);
      }
    });
  }
  auto port = std::make_unique<MonitorPort>(state_,
                                            MonitorPort::Identity{.name = config.name,
                                                                  .port = config.port,
                                                                  .owner = "broker " + broker_.name,
                                                                  .number = number,
                                                                  .target = *target},
                                            std::move(owners), memory_.umem(), errors_);
  auto served = port->serve(makers_of(*transition.next, monitor));
  if (served) served = port->bring_up(transition.next->resolved.monitors[monitor].link);
  if (!served && !must) {
    port->is_news(served.error().message);
    spdlog::warn("monitor port {} cannot be used, trying again: {}", config.port,
                 served.error().message);
  }
  if (served || !must) return port;
  close_monitor(*port);
  return served.error();
}

/// Takes everything of ours off its port, but for what an earlier broker left, and its rings.
void Engine::close_monitor(MonitorPort& monitor) {
  monitor.take_down();
  if (host::Port* const port = monitor.host_port(); port != nullptr && !monitor.ours_before()) {
    if (auto done = port->restore(); !done) spdlog::warn("{}", done.error().message);
  }
  free_target(monitor.target());
}

/// Where originals of an inline port go that are broadcast.
Result<void> Engine::set_output(Generation& plan, const TapPort::Place& place) {
  if (!place.output) return {};
  return plan.clones.fan().set_output(place.index, place.output->ifindex);
}

/// What a broadcast may send to the port's output from now on.
void Engine::follow_output(Generation& plan, const TapPort& port, const host::Link& output) {
  const auto done =
      plan.clones.fan().set_output_longest(port.place().index, host::longest_redirected(output));
  if (!done) spdlog::warn("{}", done.error().message);
}

Result<std::vector<std::string>> Engine::detach(const std::string& port) {
  if (in_use(port)) {
    return Error{"port " + port + " is in use; take its tap or monitor out of the config first",
                 ErrorKind::usage};
  }
  auto undone = host::detach_port(state_, port);
  if (undone) left_.erase(port);
  return undone;
}

void Engine::follow_links() {
  if (auto news = watch_.drain(); !news) spdlog::warn("{}", news.error().message);
  auto links = host::links();
  if (!links) return spdlog::warn("{}", links.error().message);
  const std::lock_guard lock(ports_mutex_);
  for (std::uint32_t tap = 0; tap < now_->resolved.taps.size(); ++tap) retake(tap, *links);
  for (const auto& port : taps_) follow_tap(*port, *links);
  for (const auto& monitor : monitors_) follow_monitor(*monitor, *links);
  sweep();
}

/// Ports that were deleted and made again have new indexes and nothing of ours on them: they are
/// taken anew, with counters that go on. Both of a pair are, as each sends to the other.
void Engine::retake(std::uint32_t tap, const std::vector<host::Link>& links) {
  ResolvedTap& how = now_->resolved.taps[tap];
  if (how.capture == config::Capture::redirect) return;
  std::vector<std::size_t> lost;
  bool all_there = true;
  std::vector<host::Link> now = how.links;
  for (std::size_t i = 0; i < taps_.size(); ++i) {
    if (taps_[i]->place().tap != tap) continue;
    const host::Link& old = taps_[i]->link();
    const auto link = std::ranges::find(links, old.name, &host::Link::name);
    const auto known = std::ranges::find(now, old.name, &host::Link::name);
    if (link == links.end()) {
      all_there = false;
    } else if (link->ifindex != old.ifindex || !taps_[i]->is_open()) {
      *known = *link;
      lost.push_back(i);
    }
  }
  const bool pair = now_->config().taps[tap].mode == config::Mode::inline_pair;
  if (lost.empty() || (pair && !all_there)) return;
  how.links = now;
  if (pair) {
    const std::uint8_t other = taps_[lost.front()]->place().output_index;
    const auto found =
        std::ranges::find_if(taps_, [&](const auto& port) { return port->place().index == other; });
    if (found == taps_.end()) return;
    lost = {lost.front(), static_cast<std::size_t>(found - taps_.begin())};
  }
  for (const std::size_t i : lost) taps_[i]->close();
  for (const std::size_t i : lost) {
    if (auto done = retake_port(i); !done) {
      if (taps_[i]->is_news(done.error().message)) {
        spdlog::warn("tap port {} cannot be taken up again, trying again: {}",
                     taps_[i]->link().name, done.error().message);
      }
      return;
    }
  }
}

Result<void> Engine::retake_port(std::size_t order) {
  std::unique_ptr<TapPort>& old = taps_[order];
  const ResolvedTap& how = now_->resolved.taps[old->place().tap];
  const auto link_of = [&](const std::string& name) -> const host::Link& {
    return *std::ranges::find(how.links, name, &host::Link::name);
  };
  TapPort::Place place = old->place();
  if (place.output) place.output = link_of(place.output->name);
  auto port = TapPort::open(state_, *now_, place, link_of(old->link().name), memory_);
  if (!port) return port.error();
  if (auto done = set_output(*now_, place); !done) return done;
  if (auto done = (*port)->attach(); !done) return done;
  errors_.remove_port(old->link().ifindex);
  if (auto done = errors_.add_port((*port)->link().ifindex, place.index); !done) return done;
  if (auto done = (*port)->engage(); !done) return done;
  (*port)->take_over_counters(*old, memory_.counters(place.index).forwarded);
  old = std::move(*port);
  spdlog::info("tap port {} is taken up again", old->link().name);
  return {};
}

void Engine::follow_tap(TapPort& port, const std::vector<host::Link>& links) {
  if (const auto& output = port.place().output) {
    const auto there = std::ranges::find(links, output->ifindex, &host::Link::ifindex);
    port.output_is(there != links.end(), memory_.counters(port.place().index).forwarded);
    follow_output(*now_, port, there != links.end() ? *there : host::Link{});
  }
  const auto link = std::ranges::find(links, port.link().ifindex, &host::Link::ifindex);
  const bool carries = link != links.end() && link->ready();
  if (std::exchange(port.carries, carries) == carries) return;
  const std::string state = carries               ? "up"
                            : link != links.end() ? "down"
                            : port.capture() == config::Capture::redirect
                                ? "gone; restart the broker when it is back"
                                : "gone";
  spdlog::warn("tap port {} is {}", port.link().name, state);
}

void Engine::follow_monitor(MonitorPort& monitor, const std::vector<host::Link>& links) {
  const auto link = std::ranges::find(links, monitor.port(), &host::Link::name);
  const bool same = link != links.end() && link->ifindex == monitor.ifindex();
  const bool was_up = monitor.up();
  if (!same) {
    monitor.forget();
  } else if (!link->ready()) {
    monitor.take_down();
  }
  if (was_up && !monitor.up()) spdlog::warn("monitor port {} is down", monitor.port());
  if (monitor.up()) monitor.follow(*link);
  if (link == links.end() || !link->ready() || monitor.up()) return;
  if (auto done = monitor.bring_up(*link); !done) {
    if (monitor.is_news(done.error().message)) {
      spdlog::warn("monitor port {} cannot be used, trying again: {}", monitor.port(),
                   done.error().message);
    }
    return;
  }
  monitor.is_news("");
  spdlog::info("monitor port {} is up", monitor.port());
}

}  // namespace vtap::engine
