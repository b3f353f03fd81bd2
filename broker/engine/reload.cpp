// SPDX-License-Identifier: Apache-2.0
// From one plan to the next (docs/decisions/0023).
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "engine/engine.hpp"
#include "engine/grace.hpp"

namespace vtap::engine {
namespace {

using namespace std::chrono_literals;

constexpr auto kRetirePatience = 50ms;
constexpr auto kDrainPatience = 1s;
constexpr auto kLook = 200us;  ///< between two looks at what drains
/// A zero-copy device may still write frames for a moment after its socket was closed.
constexpr auto kZeroCopyQuarantine = 200ms;

/// Sets a device back as it was found. Null: it is not ours any more.
void restore(host::Port* port) {
  if (port == nullptr) return;
  if (auto done = port->restore(); !done) spdlog::warn("{}", done.error().message);
}

/// Waits until `done`, but not for ever.
template <typename Done>
bool eventually(Done&& done) {
  const auto give_up = std::chrono::steady_clock::now() + kDrainPatience;
  while (!done()) {
    if (std::chrono::steady_clock::now() > give_up) return false;
    std::this_thread::sleep_for(kLook);
  }
  return true;
}

/// What a broker is made of, and only a restart can change.
Result<void> check_kept(const config::Broker& now, const config::Broker& next) {
  std::string keys;
  const auto check = [&](bool same, const char* key) {
    if (!same) keys += (keys.empty() ? "" : ", ") + std::string(key);
  };
  check(now.name == next.name, "name");
  check(now.worker_count == next.worker_count && now.worker_cpus == next.worker_cpus, "workers");
  check(now.frames == next.frames, "umem.frames");
  check(now.frame_size == next.frame_size, "umem.frame_size");
  check(now.poll == next.poll, "poll");
  check(now.control == next.control, "control");
  check(now.metrics == next.metrics, "metrics");
  check(now.api == next.api, "api, api_token_file, api_cert, api_key");
  check(now.log_format == next.log_format, "log.format");
  if (keys.empty()) return {};
  return Error{
      "[broker] " + keys + ": a reload cannot change this; restart the broker, or set it back",
      ErrorKind::usage};
}

}  // namespace

Result<void> Engine::reload(plan::Plan plan, Resolved resolved) {
  if (auto same = check_kept(now_->config().broker, plan.config.broker); !same) return same;
  return apply(std::move(plan), std::move(resolved));
}

Result<void> Engine::apply(plan::Plan plan, Resolved resolved) {
  if (auto done = number_ports(plan); !done) return done;
  auto next = Generation::load(std::move(plan), std::move(resolved), memory_, now_.get());
  if (!next) return next.error();
  Transition transition;
  transition.next = std::move(*next);
  if (auto done = prepare(transition); !done) {
    undo(transition);
    return done;
  }
  commit(transition);
  return {};
}

/// Ports that stay keep their numbers, and so their counters.
Result<void> Engine::number_ports(plan::Plan& plan) const {
  std::vector<bool> used(VTAP_MAX_PORTS, false);
  for (const auto& port : taps_) used[port->place().index] = true;
  for (const config::Tap& tap : plan.config.taps) {
    for (const std::string& name : tap.ports) {
      const auto known =
          std::ranges::find_if(taps_, [&](const auto& port) { return port->link().name == name; });
      if (known != taps_.end()) {
        plan.port_numbers.push_back((*known)->place().index);
        continue;
      }
      const auto free = std::ranges::find(used, false);
      if (free == used.end()) {
        return Error{"there are " + std::to_string(VTAP_MAX_PORTS) +
                         " tap ports at most, those of the plan before among them; take away and "
                         "add in two steps",
                     ErrorKind::usage};
      }
      *free = true;
      plan.port_numbers.push_back(static_cast<std::uint8_t>(free - used.begin()));
    }
  }
  return {};
}

std::vector<Engine::Want> Engine::wants_of(const Generation& plan) {
  std::vector<Want> wants;
  for (std::uint32_t tap = 0; tap < plan.resolved.taps.size(); ++tap) {
    const ResolvedTap& how = plan.resolved.taps[tap];
    const std::size_t first = wants.size();
    for (std::size_t i = 0; i < how.links.size(); ++i) {
      Want want;
      want.link = how.links[i];
      want.place.tap = tap;
      want.place.index = plan.plan.port_number(first + i);
      if (plan.config().taps[tap].mode == config::Mode::inline_pair) {
        want.place.output = how.links[1 - i];
        want.place.output_index = plan.plan.port_number(first + 1 - i);
      }
      wants.push_back(std::move(want));
    }
  }
  return wants;
}

/// A tap stays if all of its ports can.
void Engine::find_staying(Transition& transition) const {
  const auto& wants = transition.wants;
  transition.staying.assign(wants.size(), nullptr);
  std::vector<bool> fits(transition.next->config().taps.size(), true);
  for (std::size_t i = 0; i < wants.size(); ++i) {
    const auto known = std::ranges::find_if(
        taps_, [&](const auto& port) { return port->link().name == wants[i].link.name; });
    if (known != taps_.end() && (*known)->fits(*transition.next, wants[i].place, wants[i].link)) {
      transition.staying[i] = known->get();
    } else {
      fits[wants[i].place.tap] = false;
    }
  }
  for (std::size_t i = 0; i < wants.size(); ++i) {
    if (!fits[wants[i].place.tap]) transition.staying[i] = nullptr;
  }
}

bool Engine::in_use(const std::string& port) const {
  return std::ranges::any_of(taps_, [&](const auto& tap) { return tap->link().name == port; }) ||
         std::ranges::any_of(monitors_,
                             [&](const auto& monitor) { return monitor->port() == port; });
}

/// All that can fail, and that the plan which runs does not notice.
Result<void> Engine::prepare(Transition& transition) {
  const std::lock_guard lock(ports_mutex_);
  transition.wants = wants_of(*transition.next);
  transition.shares = Shares::of(transition.next->config(), transition.next->resolved,
                                 static_cast<std::uint32_t>(workers_.size()));
  transition.ports.resize(transition.wants.size());
  find_staying(transition);
  if (auto done = prepare_taps(transition); !done) return done;
  if (auto done = prepare_monitors(transition); !done) return done;
  // Last: an earlier broker may have left wires, and what fails after this might cut them.
  for (std::uint32_t tap = 0; tap < transition.next->config().taps.size(); ++tap) {
    if (auto done = attach_tap(transition, tap); !done) return done;
  }
  return {};
}

/// Until commit(): what is in use for something else, and a wire that a plan before has left. With
/// another stub that would be cut, and stay so if the reload fails.
bool Engine::has_to_wait(const std::string& port) const {
  return in_use(port) || left_.contains(port);
}

Result<void> Engine::prepare_taps(Transition& transition) {
  const Generation& next = *transition.next;
  std::vector<bool> later(next.config().taps.size(), false);
  for (std::size_t i = 0; i < transition.wants.size(); ++i) {
    const Want& want = transition.wants[i];
    if (TapPort* const port = transition.staying[i]) {
      later[want.place.tap] = true;
      if (auto done = port->prepare(next, want.place, memory_); !done) return done;
      continue;
    }
    later[want.place.tap] = later[want.place.tap] || has_to_wait(want.link.name);
    if (in_use(want.link.name)) continue;
    memory_.reset_counters(want.place.index);
    errors_.reset_port(want.place.index);
    for (std::uint32_t worker = 0; worker < workers_.size(); ++worker) {
      on_worker(worker, [&](auto& its) { its.reset_originals(want.place.index); });
    }
  }
  for (std::uint32_t tap = 0; tap < later.size(); ++tap) {
    if (later[tap]) continue;
    if (auto done = open_tap(transition, tap); !done) return done;
  }
  return {};
}

MonitorPort::Makers Engine::makers_of(Generation& plan, std::uint32_t monitor) const {
  MonitorPort::Makers makers;
  makers.broker = !plan.in_kernel(monitor);
  if (makers.broker) return makers;
  makers.at_tc = plan.resolved.cloned_at_tc(plan.config(), monitor);
  makers.kernel = {&plan.clones};
  makers.index = {monitor};
  return makers;
}

Result<void> Engine::prepare_monitors(Transition& transition) {
  Generation& next = *transition.next;
  const auto& monitors = next.config().monitors;
  transition.monitors.assign(monitors.size(), nullptr);
  transition.new_monitors.resize(monitors.size());
  transition.new_queues.resize(monitors.size());
  next.targets.assign(monitors.size(), 0);
  const auto known_as = [&](const config::Monitor& monitor) {
    return std::ranges::find_if(monitors_, [&](const auto& known) {
      return known->name() == monitor.name && known->port() == monitor.port;
    });
  };
  const auto fresh = static_cast<std::size_t>(std::ranges::count_if(
      monitors, [&](const auto& monitor) { return known_as(monitor) == monitors_.end(); }));
  if (fresh + monitors_.size() > VTAP_MAX_MONITORS) {
    return Error{"there are " + std::to_string(VTAP_MAX_MONITORS) +
                     " monitors at most, those of the plan before among them; take away and add "
                     "in two steps",
                 ErrorKind::usage};
  }
  for (std::uint32_t i = 0; i < monitors.size(); ++i) {
    const auto known = known_as(monitors[i]);
    if (known != monitors_.end()) {
      transition.monitors[i] = known->get();
      if (auto done = (*known)->serve(makers_of(next, i)); !done) return done;
    } else if (!has_to_wait(monitors[i].port)) {
      auto opened = open_monitor(transition, i, true);
      if (!opened) return opened.error();
      transition.monitors[i] = opened->get();
      transition.new_monitors[i] = std::move(*opened);
    }
    if (transition.monitors[i] == nullptr) continue;
    if (auto done = prepare_queue(transition, i); !done) return done;
  }
  return {};
}

/// Copies of the next plan have a queue of their own, if they are scheduled in another way.
Result<void> Engine::prepare_queue(Transition& transition, std::uint32_t number) {
  const MonitorPort& monitor = *transition.monitors[number];
  std::uint32_t& target = transition.next->targets[number];
  const auto& schedule = transition.shares.monitors[number].schedule;
  target = monitor.target();
  if (!schedule) return {};
  if (monitor.queue && monitor.queue->schedule == *schedule) {
    target = monitor.queue->target;
    return {};
  }
  auto fresh = new_target();
  if (!fresh) return fresh.error();
  target = *fresh;
  std::optional<std::uint32_t> ahead;
  if (monitor.queue) ahead = monitor.queue->target;
  const std::uint32_t owner = monitor.owners().front()->spec().index;
  for (std::uint32_t i = 0; i < workers_.size(); ++i) {
    on_worker(i, [&](worker::Worker& worker) {
      if (i == owner) {
        worker.own_queue(target, monitor.target(), *schedule, ahead);
      } else {
        worker.cross_to(target, {}, owner);
      }
    });
  }
  transition.new_queues[number] = MonitorPort::Queue{target, *schedule};
  return {};
}

void Engine::undo(Transition& transition) {
  const std::lock_guard lock(ports_mutex_);
  for (const auto& queue : transition.new_queues) {
    if (queue) free_target(queue->target);
  }
  for (std::uint32_t i = 0; i < transition.monitors.size(); ++i) {
    MonitorPort* const monitor = transition.monitors[i];
    if (monitor == nullptr) continue;
    if (transition.new_monitors[i]) {
      close_monitor(*monitor);
      continue;
    }
    const auto now =
        std::ranges::find_if(monitors_, [&](const auto& known) { return known.get() == monitor; });
    monitor->serve_only(makers_of(*now_, static_cast<std::uint32_t>(now - monitors_.begin())));
  }
  for (TapPort* port : transition.staying) {
    if (port != nullptr) port->settle();
  }
  std::vector<TapPort*> opened;
  for (const auto& port : transition.ports) {
    if (port) opened.push_back(port.get());
  }
  retire_ports(opened);
  for (TapPort* port : opened) {
    // What an earlier broker left, stays.
    if (!port->ours_before()) restore(port->host_port());
  }
}

void Engine::commit(Transition& transition) {
  retire(transition);
  {
    // One step for those who read counters: on the way, the ports are those of neither plan.
    const std::lock_guard lock(ports_mutex_);
    let_go(transition);
    open_the_rest(transition);
    adopt(transition);
    switch_over(transition);
  }
  finish(transition);
}

/// Ports whose time is over become wires, or pass.
void Engine::retire(const Transition& transition) {
  bool any = false;
  for (const auto& port : taps_) {
    if (transition.keeps(*port)) continue;
    any = true;
    if (port->capture() == config::Capture::redirect) {
      for (std::uint32_t i = 0; i < workers_.size(); ++i) {
        on_worker(i, [&](worker::Worker& worker) {
          worker.take_plain_path(kRetirePatience, port->place().index);
        });
      }
    }
    if (auto done = port->disengage(); !done) spdlog::warn("{}", done.error().message);
  }
  if (any) wait_for_programs();
}

/// Their devices are free for others from here on.
void Engine::let_go(Transition& transition) {
  const auto& monitors = transition.monitors;
  const auto wanted = [&](const std::string& device) {
    const auto& config = transition.next->config().monitors;
    for (std::size_t i = 0; i < config.size(); ++i) {
      if (monitors[i] == nullptr && config[i].port == device) return true;
    }
    return std::ranges::any_of(transition.wants,
                               [&](const Want& want) { return want.link.name == device; });
  };
  std::vector<TapPort*> going;
  for (auto& port : taps_) {
    if (transition.keeps(*port)) continue;
    going.push_back(port.get());
    transition.gone.push_back(std::move(port));
  }
  retire_ports(going);
  std::erase(taps_, nullptr);
  for (auto& port : transition.gone) {
    const std::string& name = port->link().name;
    const bool becomes_monitor =
        std::ranges::any_of(transition.next->config().monitors,
                            [&](const config::Monitor& monitor) { return monitor.port == name; });
    if (becomes_monitor || (!wanted(name) && port->mode() != config::Mode::inline_pair)) {
      restore(port->host_port());
    } else if (!wanted(name)) {
      left_.insert(name);
      spdlog::info(
          "port {} stays a wire, as nothing else might connect what is behind it; to take that "
          "away: vtapctl detach {}",
          name, name);
    }
    port->close();
  }
  // A monitor's rings stay until no plan uses them; its device, too, if nobody else wants it.
  for (auto& monitor : monitors_) {
    if (std::ranges::find(monitors, monitor.get()) != monitors.end()) continue;
    if (wanted(monitor->port())) give_up(*monitor);
    transition.gone_monitors.push_back(std::move(monitor));
  }
  std::erase(monitors_, nullptr);
}

/// Takes everything of ours off its device.
void Engine::give_up(MonitorPort& monitor) {
  monitor.take_down();
  restore(monitor.host_port());
  monitor.forget();
}

/// Takes the sockets of redirect ports away, once nothing comes in by them. All together: what one
/// port of a pair receives leaves by a socket of the other.
void Engine::retire_ports(const std::vector<TapPort*>& ports) {
  std::vector<TapPort*> redirect;
  for (TapPort* port : ports) {
    errors_.remove_port(port->link().ifindex);
    if (!port->sockets.empty()) redirect.push_back(port);
    for (std::uint32_t queue = 0; queue < port->sockets.size(); ++queue) {
      port->programs().clear_socket(queue);
    }
  }
  if (!redirect.empty()) close_sockets(redirect);
  for (TapPort* port : ports) {
    if (port->exit_target) free_target(*std::exchange(port->exit_target, std::nullopt));
  }
}

void Engine::close_sockets(const std::vector<TapPort*>& ports) {
  const auto each = [&](const std::function<void(worker::Worker&, TapPort&)>& task) {
    for (std::uint32_t i = 0; i < workers_.size(); ++i) {
      on_worker(i, [&](worker::Worker& worker) {
        for (TapPort* port : ports) task(worker, *port);
      });
    }
  };
  const auto exit_of = [](const worker::Worker& worker, const TapPort& port) -> io::XskSink* {
    return port.exit_target ? worker.sink(*port.exit_target) : nullptr;
  };
  wait_for_programs();
  eventually([&] {
    bool drained = true;
    each([&](worker::Worker& worker, TapPort& port) {
      drained &= worker.drained(port.place().index);
    });
    return drained;
  });
  each([](worker::Worker& worker, TapPort& port) { worker.stop_sources(port.place().index); });
  each([&](worker::Worker& worker, TapPort& port) {
    io::XskSink* const sink = exit_of(worker, port);
    if (sink == nullptr) return;
    sink->reclaim();
    sink->disconnect();
  });
  bool zero_copy = false;
  for (TapPort* port : ports) {
    for (const auto& socket : port->sockets) zero_copy |= socket->zero_copy();
    port->sockets.clear();
  }
  if (zero_copy) std::this_thread::sleep_for(kZeroCopyQuarantine);
  each([&](worker::Worker& worker, TapPort& port) {
    worker.remove_sources(port.place().index);
    if (exit_of(worker, port) != nullptr) worker.abandon(*port.exit_target);
  });
}

/// What had to wait for a device that was in use.
void Engine::open_the_rest(Transition& transition) {
  const Generation& next = *transition.next;
  for (std::uint32_t tap = 0; tap < next.config().taps.size(); ++tap) {
    bool there = true;
    for (std::size_t i = 0; i < transition.wants.size(); ++i) {
      if (transition.wants[i].place.tap != tap) continue;
      there &= transition.staying[i] != nullptr || transition.ports[i] != nullptr;
    }
    if (there) continue;
    auto done = open_tap(transition, tap);
    if (done) done = attach_tap(transition, tap);
    if (!done) {
      spdlog::error("tap {} cannot be taken up: {}", next.config().taps[tap].name,
                    done.error().message);
    }
  }
  for (auto& port : transition.gone) {
    for (const auto& fresh : transition.ports) {
      if (!fresh || fresh->link().name != port->link().name) continue;
      fresh->take_over_counters(*port, memory_.counters(fresh->place().index).forwarded);
    }
  }
  for (std::uint32_t i = 0; i < next.config().monitors.size(); ++i) {
    if (transition.monitors[i] != nullptr) continue;
    auto opened = open_monitor(transition, i, false);
    if (!opened) {
      spdlog::error("monitor {} cannot be taken up: {}", next.config().monitors[i].name,
                    opened.error().message);
      continue;
    }
    transition.monitors[i] = opened->get();
    transition.new_monitors[i] = std::move(*opened);
    if (auto done = prepare_queue(transition, i); !done) {
      spdlog::error("{}", done.error().message);
    }
  }
}

/// The workers get ready for copies of the next plan.
void Engine::adopt(Transition& transition) {
  Generation& next = *transition.next;
  share_out(transition);
  for (const Want& want : transition.wants) {
    if (auto done = set_output(next, want.place); !done) spdlog::warn("{}", done.error().message);
  }
  for (std::uint32_t i = 0; i < workers_.size(); ++i) {
    next.pipelines.push_back(workers_[i]->make_pipeline(next.shared, next.targets));
  }
  record_in(next);
  for (std::uint32_t i = 0; i < workers_.size(); ++i) {
    on_worker(i, [&](worker::Worker& worker) { worker.adopt(next.number(), *next.pipelines[i]); });
  }
}

void Engine::share_out(Transition& transition) {
  const Shares& shares = transition.shares;
  for (std::uint32_t i = 0; i < workers_.size(); ++i) {
    on_worker(i, [&](worker::Worker& worker) {
      if (shares.tee != 0) {
        worker.tee().set_budget(shares.tee);
        worker.tee().refill();
      }
      for (std::uint32_t monitor = 0; monitor < transition.monitors.size(); ++monitor) {
        if (transition.monitors[monitor] == nullptr) continue;
        io::XskSink* const ring = worker.sink(transition.monitors[monitor]->target());
        if (ring != nullptr) ring->set_limit(shares.monitors[monitor].ring);
      }
    });
  }
}

/// The moment of the reload: slot by slot, packet by packet.
void Engine::switch_over(Transition& transition) {
  // A device has one queue of frames that XDP sends to it, and that one program, the first frame's:
  // two plans that cut must not meet in it (docs/decisions/0021).
  const bool apart = now_ && (now_->cuts() || transition.next->cuts());
  if (apart) {
    for (TapPort* port : transition.staying) {
      if (port != nullptr) static_cast<void>(port->disengage());
    }
    wait_for_programs();
  }
  for (std::size_t i = 0; i < transition.wants.size(); ++i) {
    TapPort* const fresh = transition.ports[i].get();
    TapPort* const port = fresh != nullptr ? fresh : transition.staying[i];
    if (port == nullptr) continue;
    // Some drivers take redirected frames only once they have a program: so they are asked now.
    if (const auto& output = transition.wants[i].place.output) {
      if (auto link = host::find_link(output->ifindex)) {
        follow_output(*transition.next, *port, *link);
      }
    }
  }
  for (std::size_t i = 0; i < transition.wants.size(); ++i) {
    Result<void> done;
    if (transition.ports[i]) {
      done = transition.ports[i]->engage();
    } else if (transition.staying[i] != nullptr) {
      done = transition.staying[i]->switch_over();
    }
    if (!done) spdlog::error("{}", done.error().message);
  }
  put_in_place(transition);
}

void Engine::put_in_place(Transition& transition) {
  std::vector<std::unique_ptr<TapPort>> taps;
  for (std::size_t i = 0; i < transition.wants.size(); ++i) {
    if (transition.ports[i]) {
      taps.push_back(std::move(transition.ports[i]));
      left_.erase(taps.back()->link().name);
      continue;
    }
    const auto own = [&](auto& list, const auto& is) -> std::unique_ptr<TapPort>* {
      const auto found = std::ranges::find_if(list, is);
      return found == list.end() ? nullptr : &*found;
    };
    TapPort* const stays = transition.staying[i];
    auto* known = own(taps_, [&](const auto& port) { return stays && port.get() == stays; });
    // One that could not be taken up: closed, to be tried again.
    if (known == nullptr) {
      known = own(transition.gone, [&](const auto& port) {
        return port && port->link().name == transition.wants[i].link.name;
      });
    }
    if (known != nullptr) {
      (*known)->move_to(transition.wants[i].place);
      taps.push_back(std::move(*known));
    }
  }
  std::vector<std::unique_ptr<MonitorPort>> monitors;
  for (std::size_t i = 0; i < transition.monitors.size(); ++i) {
    if (transition.new_monitors[i]) {
      monitors.push_back(std::move(transition.new_monitors[i]));
    } else {
      const auto known = std::ranges::find_if(monitors_, [&](const auto& monitor) {
        return monitor && monitor.get() == transition.monitors[i];
      });
      monitors.push_back(known == monitors_.end() ? nullptr : std::move(*known));
    }
  }
  taps_ = std::move(taps);
  monitors_ = std::move(monitors);
  for (const auto& monitor : transition.gone_monitors) leaving_.push_back(monitor.get());
  before_ = std::move(now_);
  now_ = std::move(transition.next);
}

/// Brings the plan before to its end: what it selected is sent, its counters go on, the rest goes.
void Engine::finish(Transition& transition) {
  if (before_) {
    wait_for_programs();
    drain_before();
  }
  const std::lock_guard lock(ports_mutex_);
  for (const auto& port : taps_) port->settle();
  for (std::size_t i = 0; i < monitors_.size(); ++i) {
    MonitorPort& monitor = *monitors_[i];
    const bool changed = transition.new_queues[i].has_value();
    const bool scheduled = transition.shares.monitors[i].schedule.has_value();
    if (monitor.queue && (changed || !scheduled)) {
      sweep(&monitor.name());
      leftovers_.push_back({monitor.name(), monitor.queue->target, monitor.owners().front()});
      monitor.queue.reset();
    }
    if (changed) monitor.queue = transition.new_queues[i];
  }
  if (before_) {
    fold(*before_, *now_);
    for (std::uint32_t i = 0; i < workers_.size(); ++i) {
      on_worker(i, [&](worker::Worker& worker) { worker.forget(before_->number()); });
    }
  }
  end_gone_captures();
  for (std::uint32_t i = 0; i < monitors_.size(); ++i) {
    monitors_[i]->serve_only(makers_of(*now_, i));
  }
  for (const auto& monitor : transition.gone_monitors) {
    give_up(*monitor);
    if (monitor->queue) {
      drop_queue({monitor->name(), monitor->queue->target, monitor->owners().front()});
      monitor->queue.reset();
    }
    sweep(&monitor->name());
    fold_rings(*monitor);
    free_target(monitor->target());
  }
  leaving_.clear();
  before_.reset();
  if (transition.shares.tee == 0) {
    for (std::uint32_t i = 0; i < workers_.size(); ++i) {
      on_worker(i, [](worker::Worker& worker) {
        worker.tee().set_budget(0);
        worker.tee().recall();
      });
    }
  }
}

/// Waits until the workers have taken all copies that programs of the plan before have made.
void Engine::drain_before() {
  std::vector<io::TeeSource::Mark> marks(workers_.size());
  for (std::uint32_t i = 0; i < workers_.size(); ++i) {
    on_worker(i, [&](worker::Worker& worker) { marks[i] = worker.tee().mark(); });
  }
  const bool drained = eventually([&] {
    bool past = true;
    for (std::uint32_t i = 0; i < workers_.size(); ++i) {
      on_worker(i, [&](worker::Worker& worker) { past &= worker.tee().is_past(marks[i]); });
    }
    return past;
  });
  if (!drained) spdlog::warn("copies of the plan before are late; they are judged by the new one");
}

/// Takes queues away whose plan is gone: when they are empty; those of `forced`, a monitor, at
/// once.
void Engine::sweep(const std::string* forced) {
  std::vector<Leftover> rest;
  for (const Leftover& leftover : leftovers_) {
    bool empty = false;
    leftover.owner->call([&] { empty = leftover.owner->queue(leftover.target)->waiting() == 0; });
    if (empty || (forced != nullptr && leftover.monitor == *forced)) {
      drop_queue(leftover);
    } else {
      rest.push_back(leftover);
    }
  }
  leftovers_ = std::move(rest);
}

/// What waits is dropped, and counts as it would in a queue that is too long.
void Engine::drop_queue(const Leftover& leftover) {
  const worker::MonitorQueue* const queue = leftover.owner->queue(leftover.target);
  MonitorTotals& past = past_.monitors[leftover.monitor];
  leftover.owner->call([&] { leftover.owner->drop_waiting(leftover.target); });
  past.queue_full += queue->dropped().read();
  for (const auto& worker : workers_) {
    past.queue_full += worker->refused(leftover.target).down.read() +
                       worker->refused(leftover.target).queue_full.read() +
                       worker->refused(leftover.target).ring_full.read();
  }
  free_target(leftover.target);
}

/// The counters of a monitor's rings go on, if it has moved to another port. Behind drop_queue(),
/// which counts on its own.
void Engine::fold_rings(const MonitorPort& monitor) {
  const auto& monitors = now_->config().monitors;
  if (std::ranges::find(monitors, monitor.name(), &config::Monitor::name) == monitors.end()) {
    past_.monitors.erase(monitor.name());
    return;
  }
  past_.monitors[monitor.name()] += ring_totals(monitor);
}

}  // namespace vtap::engine
