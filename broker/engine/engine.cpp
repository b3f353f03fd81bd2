// SPDX-License-Identifier: Apache-2.0
#include "engine/engine.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "engine/grace.hpp"

namespace vtap::engine {
namespace {

using namespace std::chrono_literals;

constexpr auto kRetirePatience = 50ms;  ///< for a moment without an original under way
constexpr auto kDrainPatience = 1s;

}  // namespace

Engine::Engine(config::Broker broker, host::StateDir state, io::TeeMemory memory,
               io::RedirectErrors errors, host::LinkWatch watch)
    : broker_(std::move(broker)),
      state_(std::move(state)),
      memory_(std::move(memory)),
      errors_(std::move(errors)),
      watch_(std::move(watch)),
      epoch_ns_(worker::monotonic_ns()),
      targets_used_(worker::kMaxTargets, false) {}

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
  auto errors = io::RedirectErrors::attach();
  if (!errors) return errors.error();
  std::unique_ptr<Engine> engine(new Engine(plan.config.broker, std::move(state),
                                            std::move(*memory), std::move(*errors),
                                            std::move(*watch)));
  engine->at_worker_start_ = std::move(at_worker_start);
  if (auto done = engine->start_workers(resolved.worker_cpus); !done) return done.error();
  if (auto done = engine->apply(std::move(plan), std::move(resolved)); !done) return done.error();
  return engine;
}

Engine::~Engine() { stop(); }

/// They have nothing to do yet.
Result<void> Engine::start_workers(const std::vector<std::uint32_t>& cpus) {
  const auto count = static_cast<std::uint32_t>(cpus.size());
  const std::uint32_t frames = broker_.frames / count;
  // On its way to another worker, or waiting there, may be whatever a worker has.
  crossing_ = std::make_unique<worker::Crossing>(count, count > 1 ? frames : 0);
  for (std::uint32_t i = 0; i < count; ++i) {
    worker::WorkerSpec spec;
    spec.index = i;
    spec.cpu = cpus[i];
    spec.frames = frames;
    spec.first_frame = pipeline::FrameNumber{i * frames};
    for (std::uint32_t cpu = i; cpu < memory_.cpus(); cpu += count) {
      spec.tee_rings.push_back(&memory_.cpu(cpu));
      spec.tee_rings.back()->lead = i;
    }
    spec.copies = memory_.copies();
    spec.poll = broker_.poll;
    spec.stale_ns = kStaleNs;
    spec.at_thread_start = at_worker_start_;
    auto worker = worker::Worker::create(std::move(spec), memory_.umem(), *crossing_);
    if (!worker) return worker.error();
    workers_.push_back(std::move(*worker));
  }
  for (std::uint32_t cpu = 0; cpu < memory_.cpus(); ++cpu) {
    const int bell = workers_[cpu % count]->doorbell().fd();
    if (auto done = memory_.set_doorbell(cpu, bell); !done) return done;
  }
  std::vector<worker::Worker*> peers;
  for (const auto& worker : workers_) peers.push_back(worker.get());
  for (const auto& worker : workers_) worker->set_peers(peers);
  for (const auto& worker : workers_) {
    if (auto done = worker->start(epoch_ns_); !done) return done;
  }
  return {};
}

void Engine::on_worker(std::uint32_t worker,
                       const std::function<void(worker::Worker&)>& task) const {
  worker::Worker& its = *workers_[worker];
  its.call([&] { task(its); });
}

bool Engine::ready() const {
  const std::lock_guard lock(ports_mutex_);
  return std::ranges::all_of(taps_, [](const auto& port) { return port->carries; }) &&
         std::ranges::all_of(monitors_, [](const auto& monitor) { return monitor->up(); });
}

void Engine::disengage() {
  for (const auto& port : taps_) {
    if (auto done = port->disengage(); !done) spdlog::warn("{}", done.error().message);
  }
  wait_for_programs();
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
  if (running) {
    for (const auto& worker : workers_) {
      worker->call([&] { worker->take_plain_path(kRetirePatience); });
    }
  }
  disengage();
  if (running) drain();
  for (const auto& worker : workers_) worker->stop();
  for (const auto& capture : captures_) capture->end();
}

}  // namespace vtap::engine
