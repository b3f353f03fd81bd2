// SPDX-License-Identifier: Apache-2.0
#include "engine/engine.hpp"

#include <sched.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <numeric>
#include <thread>

namespace vtap::engine {
namespace {

using namespace std::chrono_literals;

constexpr std::uint32_t kLargestRing = 4096;  ///< descriptors of a TX ring
constexpr std::uint32_t kLargestRxRing = 2048;
constexpr std::uint32_t kSmallestRing = 64;
/// A program that was called before the slot changed is done by then.
constexpr auto kGrace = 20ms;
constexpr auto kRetirePatience = 50ms;  ///< for a moment without an original under way
constexpr auto kDrainPatience = 1s;

std::uint32_t ring_size(std::uint32_t frames, std::uint32_t largest) {
  return std::bit_floor(std::clamp(frames, kSmallestRing, largest));
}

}  // namespace

Engine::Engine(plan::Plan plan, Resolved resolved, host::StateDir state, io::TeeMemory memory,
               io::ClassMaps classes, io::CloneMaps clones, io::RedirectErrors errors,
               host::LinkWatch watch)
    : plan_(std::move(plan)),
      resolved_(std::move(resolved)),
      state_(std::move(state)),
      memory_(std::move(memory)),
      classes_(std::move(classes)),
      clones_(std::move(clones)),
      errors_(std::move(errors)),
      watch_(std::move(watch)),
      shared_(plan_),
      epoch_ns_(worker::monotonic_ns()) {}

Result<std::unique_ptr<Engine>> Engine::start(plan::Plan plan, Resolved resolved,
                                              host::StateDir state,
                                              std::function<void()> at_worker_start) {
  auto watch = host::LinkWatch::open();
  if (!watch) return watch.error();
  auto memory = io::TeeMemory::create(plan.config.broker.frames, plan.config.broker.frame_size);
  if (!memory) return memory.error();
  if (memory->umem().base != memory->copies().base) {
    spdlog::warn(
        "this kernel does not register BPF array memory as UMEM: each copy is copied once "
        "more, from the array into AF_XDP's memory");
  }
  auto classes = io::ClassMaps::load(plan.tables);
  if (!classes) return classes.error();
  std::vector<std::uint32_t> tap_of_port;
  for (std::uint32_t tap = 0; tap < resolved.taps.size(); ++tap) {
    tap_of_port.insert(tap_of_port.end(), resolved.taps[tap].links.size(), tap);
  }
  auto clones = io::CloneMaps::load(plan.config, plan.tables, resolved.fan, tap_of_port);
  if (!clones) return clones.error();
  auto errors = io::RedirectErrors::attach();
  if (!errors) return errors.error();
  std::unique_ptr<Engine> engine(
      new Engine(std::move(plan), std::move(resolved), std::move(state), std::move(*memory),
                 std::move(*classes), std::move(*clones), std::move(*errors), std::move(*watch)));
  engine->at_worker_start_ = std::move(at_worker_start);
  if (auto opened = engine->open(); !opened) {
    engine->roll_back();
    return opened.error();
  }
  return engine;
}

Engine::~Engine() { stop(); }

Result<void> Engine::open() {
  if (auto done = open_leg(); !done) return done;
  if (auto done = open_tap_ports(); !done) return done;
  if (auto done = create_workers(); !done) return done;
  if (auto done = open_tap_sockets(); !done) return done;
  if (auto done = start_workers(); !done) return done;
  if (auto done = open_monitors(); !done) return done;
  return engage();
}

/// Before the taps' programs, which have to know the device. Without it super-packets are missed;
/// only a tap that clones everything cannot do without.
Result<void> Engine::open_leg() {
  const auto at_tc = [](const ResolvedTap& how) { return how.at_tc(); };
  if (std::ranges::none_of(resolved_.taps, at_tc)) return {};
  auto leg = start_leg();
  if (leg) {
    leg_.emplace(std::move(*leg));
    return {};
  }
  const auto clones = [](const ResolvedTap& how) { return how.capture == config::Capture::clone; };
  if (std::ranges::any_of(resolved_.taps, clones)) {
    return Error{"capture = \"clone\" needs a tun device: " + leg.error().message,
                 leg.error().kind};
  }
  spdlog::warn("super-packets (GSO, GRO) will be missed, as nothing can cut them: {}",
               leg.error().message);
  return {};
}

/// A device of ours with the program that looks at what it cuts, for the policies of the broker.
Result<host::Leg> Engine::start_leg() const {
  std::vector<vtap_leg_port> ports;
  for (std::size_t tap = 0; tap < resolved_.taps.size(); ++tap) {
    const auto& classes = plan_.tables.taps[tap];
    ports.insert(ports.end(), resolved_.taps[tap].links.size(),
                 {.tap_class = classes.broker_class, .match_all = classes.match_all ? 1U : 0U});
  }
  vtap_port_config config{};
  config.frame_size = plan_.config.broker.frame_size;
  config.frames = plan_.config.broker.frames;
  config.generation = plan_.generation;
  config.classes = plan_.tables.config;
  auto program = io::LegProgram::load(config, ports, memory_, classes_);
  if (!program) return program.error();
  auto leg = host::Leg::create();
  if (!leg) return leg.error();
  if (auto done = leg->start(program->fd()); !done) return done.error();
  return leg;
}

Result<void> Engine::open_tap_ports() {
  for (std::uint32_t tap = 0; tap < resolved_.taps.size(); ++tap) {
    const ResolvedTap& how = resolved_.taps[tap];
    const bool pair = plan_.config.taps[tap].mode == config::Mode::inline_pair;
    for (std::size_t i = 0; i < how.links.size(); ++i) {
      TapPort::Place place;
      place.tap = tap;
      place.index = static_cast<std::uint8_t>(taps_.size());
      if (pair) {
        place.output = how.links[1 - i];
        place.output_index = static_cast<std::uint8_t>(i == 0 ? place.index + 1 : place.index - 1);
      }
      auto port = TapPort::open(state_, plan_, how, place, how.links[i], leg_ ? leg_->ifindex() : 0,
                                memory_, classes_, clones_);
      if (!port) return port.error();
      if (auto done = set_output(place); !done) return done;
      carries_.push_back(how.links[i].ready());
      taps_.push_back(std::move(*port));
    }
  }
  return {};
}

/// Where originals of an inline port go that are broadcast.
Result<void> Engine::set_output(const TapPort::Place& place) {
  if (!place.output) return {};
  return clones_.fan().set_output(place.index, place.output->ifindex);
}

/// Who may hold how many frames, so that no monitor, however dead, can hold them all: half of a
/// worker's frames are for what waits to be received, half for what waits to be sent.
void Engine::share_frames() {
  const auto workers = static_cast<std::uint32_t>(workers_.capacity());
  const std::uint32_t mine = plan_.config.broker.frames / workers;
  std::uint32_t queues = 0;
  bool tee = false;
  for (const auto& port : taps_) {
    if (port->capture() == config::Capture::redirect) {
      queues += std::min<std::uint32_t>(port->link().rx_queues, VTAP_MAX_QUEUES);
    } else {
      tee = true;
    }
  }
  const std::uint32_t receiving = mine / 2;
  shares_.tee = !tee ? 0 : queues == 0 ? receiving : receiving / 2;
  const std::uint32_t queues_here = (queues + workers - 1) / workers;
  if (queues_here != 0) {
    shares_.rx_ring = ring_size((receiving - shares_.tee) / queues_here, kLargestRxRing);
  }
  const auto targets = std::max<std::uint32_t>(static_cast<std::uint32_t>(targets_.size()), 1);
  shares_.target = std::max(mine / 2 / targets, 1U);
}

/// Of each worker's frames, the monitors may hold so many as share_frames() left for them: what
/// their queues ask for, or less in proportion where that is too much.
void Engine::share_queues() {
  const auto& monitors = plan_.config.monitors;
  std::vector<std::uint64_t> wanted;
  for (std::uint32_t i = 0; i < monitors.size(); ++i) {
    MonitorShare share;
    share.schedule = pipeline::schedule_of(plan_.config, i);
    if (!share.schedule) {
      share.owners = std::min<std::uint32_t>(static_cast<std::uint32_t>(workers_.capacity()),
                                             resolved_.monitors[i].link.tx_queues);
    }
    const bool holds_none = resolved_.in_kernel(plan_.config, i);
    wanted.push_back(holds_none       ? 1U
                     : share.schedule ? monitors[i].queue + worker::MonitorQueue::kInRing
                                      : std::max(monitors[i].queue / share.owners, 1U));
    monitor_shares_.push_back(std::move(share));
  }
  const std::uint64_t sum = std::accumulate(wanted.begin(), wanted.end(), std::uint64_t{0});
  const std::uint64_t budget = std::uint64_t{shares_.target} * monitors.size();
  for (std::uint32_t i = 0; i < monitors.size(); ++i) {
    MonitorShare& share = monitor_shares_[i];
    const auto frames = static_cast<std::uint32_t>(
        sum <= budget ? wanted[i] : std::max<std::uint64_t>(wanted[i] * budget / sum, 1));
    share.ring = frames;
    if (!share.schedule) continue;
    share.ring = std::bit_floor(std::clamp(frames / 2, 1U, worker::MonitorQueue::kInRing));
    share.schedule->capacity = std::clamp(frames - share.ring, 1U, monitors[i].queue);
    if (share.schedule->capacity == monitors[i].queue) continue;
    spdlog::warn(
        "monitor {}: its queue has {} frames, not {}, as half of the memory is for what "
        "arrives; make queues smaller or umem.frames larger",
        monitors[i].name, share.schedule->capacity, monitors[i].queue);
  }
}

Result<void> Engine::create_workers() {
  const auto count = static_cast<std::uint32_t>(resolved_.worker_cpus.size());
  workers_.reserve(count);
  for (std::uint32_t i = 0; i < plan_.config.monitors.size(); ++i)
    targets_.push_back({.monitor = i});
  for (const auto& port : taps_) {
    if (port->capture() != config::Capture::redirect || !port->place().output) continue;
    port->exit_target = static_cast<std::uint32_t>(targets_.size());
    targets_.push_back({.monitor = std::nullopt, .input_port = port->place().output_index});
  }
  share_frames();
  share_queues();
  std::uint32_t waiting = 0;
  for (const MonitorShare& share : monitor_shares_) {
    if (share.schedule) waiting += share.schedule->capacity + share.ring;
  }
  crossing_ = std::make_unique<worker::Crossing>(count, waiting);
  for (std::uint32_t i = 0; i < count; ++i) {
    worker::WorkerSpec spec;
    spec.index = i;
    spec.cpu = resolved_.worker_cpus[i];
    spec.frames = plan_.config.broker.frames / count;
    spec.first_frame = pipeline::FrameNumber{i * spec.frames};
    for (std::uint32_t cpu = i; shares_.tee != 0 && cpu < memory_.cpus(); cpu += count) {
      spec.tee_rings.push_back(&memory_.cpu(cpu));
      spec.tee_rings.back()->lead = i;
    }
    spec.tee_frames = shares_.tee;
    spec.copies = memory_.copies();
    spec.poll = plan_.config.broker.poll;
    spec.stale_ns = kStaleNs;
    spec.at_thread_start = at_worker_start_;
    auto worker =
        worker::Worker::create(std::move(spec), memory_.umem(), shared_, targets_, *crossing_);
    if (!worker) return worker.error();
    workers_.push_back(std::move(*worker));
  }
  for (std::uint32_t cpu = 0; cpu < memory_.cpus(); ++cpu) {
    const int bell = workers_[cpu % count]->doorbell().fd();
    if (auto done = memory_.set_doorbell(cpu, bell); !done) return done;
  }
  return {};
}

/// AF_XDP sockets of the redirect ports: one per RX queue, on the worker that the queue's number
/// picks. Originals leave by the sockets of the other port.
Result<void> Engine::open_tap_sockets() {
  const auto workers = static_cast<std::uint32_t>(workers_.size());
  for (const auto& port : taps_) {
    if (port->capture() != config::Capture::redirect) continue;
    const std::uint32_t queues = port->link().rx_queues;
    if (queues > VTAP_MAX_QUEUES) {
      return Error{"port " + port->link().name + " has " + std::to_string(queues) +
                       " RX queues, redirect serves at most " + std::to_string(VTAP_MAX_QUEUES) +
                       "; reduce them (ethtool -L) or use capture = \"tee\"",
                   ErrorKind::usage};
    }
    const std::uint32_t tx_ring = port->exit_target ? ring_size(shares_.target, kLargestRing) : 0;
    for (std::uint32_t queue = 0; queue < queues; ++queue) {
      auto socket = io::XskSocket::open({.port = port->link().name,
                                         .queue = queue,
                                         .rx_size = shares_.rx_ring,
                                         .tx_size = tx_ring},
                                        memory_.umem());
      if (!socket) return socket.error();
      spdlog::info("tap port {} queue {}: {} {}", port->link().name, queue,
                   port->exit_target ? "rx+tx" : "rx",
                   (*socket)->zero_copy() ? "zero-copy" : "copy");
      port->sockets.push_back(std::move(*socket));
    }
  }
  for (const auto& port : taps_) {
    for (std::uint32_t queue = 0; queue < port->sockets.size(); ++queue) {
      std::optional<std::uint32_t> output;
      if (port->place().output) output = taps_[port->place().output_index]->exit_target;
      workers_[queue % workers]->add_source(*port->sockets[queue], port->place().index, output,
                                            port->programs().heartbeat(queue));
    }
    if (!port->exit_target) continue;
    const auto owners =
        std::min<std::uint32_t>(workers, static_cast<std::uint32_t>(port->sockets.size()));
    for (std::uint32_t i = 0; i < workers; ++i) {
      if (i < owners) {
        workers_[i]->own_sink(*port->exit_target, shares_.target).connect(port->sockets[i].get());
      } else {
        workers_[i]->cross_to(*port->exit_target, i % owners);
      }
    }
  }
  return {};
}

/// Gives a monitor's TX queues to workers; returns them. A scheduled monitor has one owner, so that
/// its rate and its priorities hold over all workers.
std::vector<worker::Worker*> Engine::assign_monitor(std::uint32_t monitor) {
  const MonitorShare& share = monitor_shares_[monitor];
  const auto workers = static_cast<std::uint32_t>(workers_.size());
  std::vector<worker::Worker*> owning;
  for (std::uint32_t i = 0; i < workers; ++i) {
    const std::uint32_t owner = share.schedule ? monitor % workers : i % share.owners;
    if (owner != i) {
      workers_[i]->cross_to(monitor, owner);
      continue;
    }
    owning.push_back(workers_[i].get());
    if (share.schedule) {
      workers_[i]->own_queue(monitor, *share.schedule, share.ring);
    } else {
      workers_[i]->own_sink(monitor, share.ring);
    }
  }
  return owning;
}

Result<void> Engine::start_workers() {
  const std::string owner = "broker " + plan_.config.broker.name;
  for (std::uint32_t monitor = 0; monitor < plan_.config.monitors.size(); ++monitor) {
    monitors_.push_back(std::make_unique<MonitorPort>(
        state_, owner, plan_.config.monitors[monitor].port, monitor, assign_monitor(monitor),
        ring_size(monitor_shares_[monitor].ring, kLargestRing), memory_.umem(),
        resolved_.in_kernel(plan_.config, monitor)
            ? std::optional(MonitorPort::Kernel{clones_, errors_,
                                                resolved_.cloned_at_tc(plan_.config, monitor)})
            : std::nullopt));
  }
  std::vector<worker::Worker*> peers;
  for (const auto& worker : workers_) peers.push_back(worker.get());
  for (const auto& worker : workers_) worker->set_peers(peers);
  for (const auto& worker : workers_) {
    if (auto done = worker->start(epoch_ns_); !done) return done;
  }
  return {};
}

/// A monitor whose port does not carry yet is served when it does.
Result<void> Engine::open_monitors() {
  for (std::uint32_t i = 0; i < monitors_.size(); ++i) {
    const host::Link& link = resolved_.monitors[i].link;
    if (auto done = monitors_[i]->bring_up(link); !done) return done;
  }
  return {};
}

Result<void> Engine::engage() {
  for (const auto& port : taps_) {
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
  for (const auto& port : taps_) {
    port->warn_of_output();
    // Some drivers take redirected frames only once they have a program.
    if (const auto& output = port->place().output) {
      if (auto link = host::find_link(output->ifindex)) follow_output(*port, *link);
    }
  }
  for (const auto& port : taps_) {
    if (auto done = port->engage(); !done) return done;
  }
  return {};
}

/// Ports that carried nothing of ours before are left as they were found. The others keep the stub
/// of the broker that died before: their wire must not be cut.
void Engine::roll_back() {
  stop();
  const auto undo = [](host::Port* port, bool ours_before) {
    if (port == nullptr || ours_before) return;
    if (auto done = port->restore(); !done) spdlog::warn("{}", done.error().message);
  };
  for (const auto& port : taps_) undo(port->host_port(), port->ours_before());
  for (const auto& monitor : monitors_) undo(monitor->host_port(), monitor->ours_before());
}

bool Engine::ready() const {
  const std::lock_guard lock(ports_mutex_);
  return std::ranges::all_of(carries_, std::identity{}) &&
         std::ranges::all_of(monitors_, [](const auto& monitor) { return monitor->up(); });
}

void Engine::follow_links() {
  if (auto news = watch_.drain(); !news) spdlog::warn("{}", news.error().message);
  auto links = host::links();
  if (!links) return spdlog::warn("{}", links.error().message);
  const std::lock_guard lock(ports_mutex_);
  for (std::uint32_t tap = 0; tap < resolved_.taps.size(); ++tap) retake(tap, *links);
  for (const auto& port : taps_) follow_tap(*port, *links);
  for (const auto& monitor : monitors_) follow_monitor(*monitor, *links);
}

/// Ports that were deleted and made again have new indexes and nothing of ours on them: they are
/// taken anew, with counters that go on. Both of a pair are, as each sends to the other.
void Engine::retake(std::uint32_t tap, const std::vector<host::Link>& links) {
  ResolvedTap& how = resolved_.taps[tap];
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
  const bool pair = plan_.config.taps[tap].mode == config::Mode::inline_pair;
  if (lost.empty() || (pair && !all_there)) return;
  how.links = now;
  if (pair) {
    const std::size_t other = taps_[lost.front()]->place().output_index;
    lost = {lost.front(), other};
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

Result<void> Engine::retake_port(std::size_t number) {
  std::unique_ptr<TapPort>& old = taps_[number];
  const ResolvedTap& how = resolved_.taps[old->place().tap];
  const auto link_of = [&](const std::string& name) -> const host::Link& {
    return *std::ranges::find(how.links, name, &host::Link::name);
  };
  TapPort::Place place = old->place();
  if (place.output) place.output = link_of(place.output->name);
  auto port = TapPort::open(state_, plan_, how, place, link_of(old->link().name),
                            leg_ ? leg_->ifindex() : 0, memory_, classes_, clones_);
  if (!port) return port.error();
  if (auto done = set_output(place); !done) return done;
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
    follow_output(port, there != links.end() ? *there : host::Link{});
  }
  const auto link = std::ranges::find(links, port.link().ifindex, &host::Link::ifindex);
  const bool carries = link != links.end() && link->ready();
  if (carries == carries_[port.place().index]) return;
  carries_[port.place().index] = carries;
  const std::string state = carries               ? "up"
                            : link != links.end() ? "down"
                            : port.capture() == config::Capture::redirect
                                ? "gone; restart the broker when it is back"
                                : "gone";
  spdlog::warn("tap port {} is {}", port.link().name, state);
}

/// What a broadcast may send to the port's output from now on.
void Engine::follow_output(const TapPort& port, const host::Link& output) {
  const auto done =
      clones_.fan().set_output_longest(port.place().index, host::longest_redirected(output));
  if (!done) spdlog::warn("{}", done.error().message);
}

void Engine::follow_monitor(MonitorPort& monitor, const std::vector<host::Link>& links) {
  const auto link = std::ranges::find(links, monitor.name(), &host::Link::name);
  const bool same = link != links.end() && link->ifindex == monitor.ifindex();
  const bool was_up = monitor.up();
  if (!same) {
    monitor.forget();
  } else if (!link->ready()) {
    monitor.take_down();
  }
  if (was_up && !monitor.up()) spdlog::warn("monitor port {} is down", monitor.name());
  if (monitor.up()) monitor.follow(*link);
  if (link == links.end() || !link->ready() || monitor.up()) return;
  if (auto done = monitor.bring_up(*link); !done) {
    if (monitor.is_news(done.error().message)) {
      spdlog::warn("monitor port {} cannot be used, trying again: {}", monitor.name(),
                   done.error().message);
    }
    return;
  }
  monitor.is_news("");
  spdlog::info("monitor port {} is up", monitor.name());
}

void Engine::retire() {
  for (const auto& worker : workers_) {
    worker->call([&] { worker->retire(kRetirePatience); });
  }
}

void Engine::disengage() {
  for (const auto& port : taps_) {
    if (auto done = port->disengage(); !done) spdlog::warn("{}", done.error().message);
  }
  std::this_thread::sleep_for(kGrace);
  for (const auto& port : taps_) {
    for (std::uint32_t queue = 0; queue < port->sockets.size(); ++queue) {
      port->programs().clear_socket(queue);
    }
  }
}

/// Waits until what was received has been sent, but not for ever: a monitor may be stuck, or slow.
/// What waits for it then is lost.
void Engine::drain() {
  const auto give_up = std::chrono::steady_clock::now() + kDrainPatience;
  bool drained = false;
  while (!drained && std::chrono::steady_clock::now() < give_up) {
    std::this_thread::sleep_for(1ms);
    drained = std::ranges::all_of(workers_, [](const auto& worker) {
      bool idle = false;
      worker->call([&] { idle = worker->drained(); });
      return idle;
    });
  }
  for (const auto& worker : workers_) {
    worker->call([&] { worker->drop_waiting(); });
  }
}

void Engine::stop() {
  if (std::exchange(stopped_, true)) return;
  const bool running = !workers_.empty() && std::ranges::all_of(workers_, &worker::Worker::running);
  if (running) retire();
  disengage();
  if (running) drain();
  for (const auto& worker : workers_) worker->stop();
}

}  // namespace vtap::engine
