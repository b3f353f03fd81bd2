// SPDX-License-Identifier: Apache-2.0
#include "worker/worker.hpp"

#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <future>
#include <string>
#include <system_error>

#include "io/bpf.hpp"
#include "vtap/thread.hpp"

namespace vtap::worker {
namespace {

constexpr std::uint64_t kMillisecond = 1'000'000;
/// Adaptive polling spins this long without work before it sleeps.
constexpr std::uint64_t kSpin = 50'000;
/// No sleep is longer: heartbeats and late completions need a round now and then.
constexpr std::uint64_t kLongestSleep = 100 * kMillisecond;
/// A shorter sleep costs more than it saves.
constexpr std::chrono::nanoseconds kShortestSleep = std::chrono::microseconds(20);
constexpr int kEvents = 16;
constexpr std::int64_t kSecond = 1'000'000'000;

/// By how much this process's time namespace shifts CLOCK_MONOTONIC, ns. BPF programs read the
/// clock without that. The kernel tells of the namespace for children, which is another one only
/// after an unshare that no exec followed. (time_namespaces(7))
std::int64_t time_namespace_shift() {
  std::error_code error;
  const auto ours = std::filesystem::read_symlink("/proc/self/ns/time", error);
  if (error || ours != std::filesystem::read_symlink("/proc/self/ns/time_for_children", error)) {
    return 0;
  }
  std::ifstream file("/proc/self/timens_offsets");
  std::string clock;
  std::int64_t seconds = 0;
  std::int64_t nanoseconds = 0;
  while (file >> clock >> seconds >> nanoseconds) {
    if (clock == "monotonic") return seconds * kSecond + nanoseconds;
  }
  return 0;
}

}  // namespace

std::uint64_t monotonic_ns() noexcept {
  static const std::int64_t shift = time_namespace_shift();
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec * kSecond + now.tv_nsec - shift);
}

Result<std::unique_ptr<Worker>> Worker::create(WorkerSpec spec, pipeline::UmemView umem,
                                               Crossing& crossing) {
  auto doorbell = io::Doorbell::create();
  if (!doorbell) return doorbell.error();
  UniqueFd event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!event || !epoll) return io::bpf_error("creating a worker's epoll", -errno);
  std::unique_ptr<Worker> worker(new Worker(std::move(spec), umem, crossing, std::move(*doorbell),
                                            std::move(event), std::move(epoll)));
  for (const int fd : {worker->doorbell_.fd(), worker->event_.get()}) {
    if (auto done = worker->watch(fd); !done) return done.error();
  }
  return worker;
}

Worker::Worker(WorkerSpec spec, pipeline::UmemView umem, Crossing& crossing, io::Doorbell doorbell,
               UniqueFd event, UniqueFd epoll)
    : spec_(std::move(spec)),
      umem_(umem),
      crossing_(crossing),
      doorbell_(std::move(doorbell)),
      event_(std::move(event)),
      epoll_(std::move(epoll)),
      pool_(spec_.first_frame, spec_.frames),
      tee_(spec_.tee_rings, umem, spec_.copies, pool_, spec_.tee_frames),
      lent_(crossing.workers()) {}

Worker::~Worker() { stop(); }

void OriginalCounters::reset() noexcept {
  for (pipeline::Counter* counter : {&taken, &refused, &stale, &late_refused, &late_stale}) {
    counter->reset();
  }
}

Result<void> Worker::watch(int fd) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = fd;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0) return {};
  return io::bpf_error("watching a worker's rings", -errno);
}

void Worker::make_room(std::uint32_t target, Target what) {
  if (target >= targets_.size()) {
    targets_.resize(target + 1);
    own_.resize(target + 1);
    queues_.resize(target + 1);
    crossing_sinks_.resize(target + 1);
  }
  targets_[target] = what;
}

io::XskSink& Worker::own_sink(std::uint32_t target, Target what, std::uint32_t limit) {
  make_room(target, what);
  io::FrameReturn* home = this;
  if (what.input_port) home = &originals_home_;
  own_[target] = std::make_unique<io::XskSink>(umem_, *home, limit);
  if (!what.input_port) own_[target]->time_copies(burst_.timed, now_ns_);
  return *own_[target];
}

void Worker::own_queue(std::uint32_t target, std::uint32_t ring,
                       const pipeline::Scheduler::Spec& schedule,
                       std::optional<std::uint32_t> ahead) {
  make_room(target, {});
  queues_[target] =
      std::make_unique<MonitorQueue>(schedule, *own_[ring], umem_, *this, burst_.timed, now_ns_);
  if (ahead) queues_[target]->follow(queues_[*ahead].get());
  scheduled_.push_back(queues_[target].get());
}

void Worker::cross_to(std::uint32_t target, Target what, std::uint32_t owner) {
  make_room(target, what);
  crossing_sinks_[target] = std::make_unique<CrossingSink>(
      crossing_.forward(spec_.index, owner), target, lent_[owner], crossing_.lendable(), now_ns_,
      burst_.timed, what.input_port.has_value());
}

void Worker::remove_target(std::uint32_t target) {
  if (target >= targets_.size()) return;
  if (const MonitorQueue* const queue = queues_[target].get()) {
    std::erase(scheduled_, queue);
    io::XskSink& ring = queues_[target]->ring();
    ring.time_copies(burst_.timed, now_ns_);
    for (MonitorQueue* other : scheduled_) {
      other->stop_following(queue);
      if (other->feeds(ring)) other->time_ring(now_ns_);
    }
  }
  queues_[target].reset();
  own_[target].reset();
  crossing_sinks_[target].reset();
  targets_[target] = {};
  refused_[target].reset();
}

void Worker::add_source(io::XskSocket& socket, std::uint8_t port,
                        std::optional<std::uint32_t> output, std::uint64_t* heartbeat) {
  sources_.push_back({io::XskSource(socket, port, umem_, pool_), output, heartbeat});
}

void Worker::stop_sources(std::uint8_t port) {
  std::vector<Source> rest;
  for (Source& source : sources_) {
    (source.source.port() == port ? stopped_ : rest).push_back(std::move(source));
  }
  sources_.swap(rest);
}

/// Closed sockets have left the epoll by themselves.
void Worker::remove_sources(std::uint8_t port) {
  std::vector<Source> rest;
  for (Source& source : stopped_) {
    if (source.source.port() == port) {
      source.source.abandon();
    } else {
      rest.push_back(std::move(source));
    }
  }
  stopped_.swap(rest);
}

std::unique_ptr<pipeline::Pipeline> Worker::make_pipeline(const pipeline::SharedPlan& plan,
                                                          std::span<const std::uint32_t> targets) {
  std::vector<pipeline::Sink*> sinks;
  for (const std::uint32_t target : targets) sinks.push_back(&sink_of(target));
  return std::make_unique<pipeline::Pipeline>(plan, umem_, pool_, sinks);
}

void Worker::reset_originals(std::uint8_t port) noexcept { originals_[port].reset(); }

void Worker::adopt(std::uint32_t generation, pipeline::Pipeline& pipeline) {
  plans_.push_back({generation, &pipeline});
}

void Worker::forget(std::uint32_t generation) noexcept {
  std::erase_if(plans_, [&](const Running& plan) { return plan.generation == generation; });
}

/// Of a plan that is no more, which cannot be: the newest.
pipeline::Pipeline& Worker::pipeline_of(std::uint32_t generation) noexcept {
  for (const Running& plan : plans_) {
    if (plan.generation == generation) return *plan.pipeline;
  }
  return *plans_.back().pipeline;
}

io::XskSink* Worker::sink(std::uint32_t target) const noexcept {
  return target < own_.size() ? own_[target].get() : nullptr;
}

pipeline::Sink& Worker::sink_of(std::uint32_t target) noexcept {
  if (queues_[target]) return *queues_[target];
  if (own_[target]) return *own_[target];
  return *crossing_sinks_[target];
}

Result<void> Worker::start(std::uint64_t epoch_ns) {
  epoch_ns_ = epoch_ns;
  now_ns_ = monotonic_ns();
  beat();
  auto thread = start_thread([this] {
    // Its own name: for another's the C library writes to a file, which a confined process may not.
    const std::string name = "vtap-worker-" + std::to_string(spec_.index);
    pthread_setname_np(pthread_self(), name.c_str());
    spec_.at_thread_start();
    run();
  });
  if (!thread) return thread.error();
  thread_ = std::move(*thread);
  if (spec_.cpu) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(*spec_.cpu, &cpus);
    const int error = pthread_setaffinity_np(thread_.native_handle(), sizeof(cpus), &cpus);
    if (error != 0) {
      return io::bpf_error("pinning a worker to CPU " + std::to_string(*spec_.cpu), -error);
    }
  }
  return {};
}

void Worker::stop() {
  if (!thread_.joinable()) return;
  stop_.store(true);
  wake();
  thread_.join();
}

/// Pairs with sleep(): every access to the flag is an exchange, so that either the sleeper comes
/// later and sees all that was done before this call, or it is found asleep.
void Worker::wake() noexcept {
  if (!sleeping_.exchange(false)) return;
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(event_.get(), &one, sizeof(one));
}

void Worker::call(std::function<void()> task) {
  std::promise<void> done;
  {
    const std::lock_guard lock(tasks_mutex_);
    tasks_.emplace_back([&] {
      task();
      done.set_value();
    });
    has_tasks_.store(true);
  }
  wake();
  done.get_future().wait();
}

void Worker::run_tasks() noexcept {
  if (!has_tasks_.load(std::memory_order_relaxed)) return;
  std::vector<std::function<void()>> tasks;
  {
    const std::lock_guard lock(tasks_mutex_);
    tasks.swap(tasks_);
    has_tasks_.store(false);
  }
  for (auto& task : tasks) task();
}

void Worker::run() noexcept {
  std::uint64_t busy_at = monotonic_ns();
  while (!stop_.load(std::memory_order_relaxed)) {
    run_tasks();
    const std::uint64_t now = monotonic_ns();
    if (run_once(now)) {
      busy_at = now;
    } else if (spec_.poll == config::Poll::interrupt ||
               (spec_.poll == config::Poll::adaptive && now - busy_at > kSpin)) {
      sleep(now - busy_at);
    }
  }
}

bool Worker::run_once(std::uint64_t now_ns) noexcept {
  if (!sources_.empty() && now_ns - now_ns_ > spec_.stale_ns) drop_stale();
  now_ns_ = now_ns;
  counters_.rounds.add(1);
  beat();
  bool moved = reclaim();
  moved |= take_crossing();
  for (Source& source : sources_) moved |= serve(source);
  moved |= serve_tee();
  moved |= serve_queues();
  flush();
  return moved;
}

/// Tells the programs that this worker takes its frames. After drop_stale(): the programs resume
/// only when nothing old is left.
void Worker::beat() noexcept {
  for (Source& source : sources_) {
    if (source.heartbeat != nullptr) {
      const std::uint64_t beat = source.plain ? 0 : now_ns_;
      std::atomic_ref(*source.heartbeat).store(beat, std::memory_order_relaxed);
    }
  }
}

void Worker::take_plain_path(std::chrono::nanoseconds patience,
                             std::optional<std::uint8_t> port) noexcept {
  const std::uint64_t give_up = monotonic_ns() + static_cast<std::uint64_t>(patience.count());
  do {
    run_once(monotonic_ns());
    reclaim();
  } while (originals_under_way(port) && monotonic_ns() < give_up);
  for (Source& source : sources_) source.plain |= !port || source.source.port() == *port;
  beat();
}

bool Worker::drained(std::uint8_t port) const noexcept {
  for (const Source& source : sources_) {
    if (source.source.port() == port && !source.source.empty()) return false;
  }
  return !originals_under_way(port);
}

/// Lent ones are not told apart by their ports.
bool Worker::originals_under_way(std::optional<std::uint8_t> port) const noexcept {
  for (const Source& source : sources_) {
    if (port && source.source.port() != *port) continue;
    if (source.output && !source.source.empty()) return true;
  }
  for (std::size_t i = 0; i < own_.size(); ++i) {
    const auto& from = targets_[i].input_port;
    if (own_[i] && from && (!port || *from == *port) && own_[i]->held() != 0) return true;
  }
  return std::ranges::any_of(lent_, [](const Lent& lent) { return lent.originals != 0; });
}

bool Worker::reclaim() noexcept {
  bool moved = false;
  for (const auto& sink : own_) {
    if (sink) moved |= sink->reclaim() != 0;
  }
  for (std::uint32_t user = 0; user < crossing_.workers(); ++user) {
    if (user == spec_.index) continue;
    crossing_.home(user, spec_.index).consume_all([&](const Returned& returned) {
      --lent_[user].frames;
      if (returned.original) --lent_[user].originals;
      pool_.release(returned.frame);
      moved = true;
    });
  }
  return moved;
}

void Worker::give_back(pipeline::FrameNumber frame) noexcept { give_back(frame, false); }

void Worker::give_back(pipeline::FrameNumber frame, bool original) noexcept {
  if (pool_.owns(frame)) return pool_.release(frame);
  const std::uint32_t owner = static_cast<std::uint32_t>(frame) / spec_.frames;
  // Cannot fail: a worker lends no more frames than the queue home holds (CrossingSink).
  crossing_.home(spec_.index, owner).push({frame, original});
}

bool Worker::take_crossing() noexcept {
  bool moved = false;
  for (std::uint32_t from = 0; from < crossing_.workers(); ++from) {
    if (from == spec_.index) continue;
    moved |= crossing_.forward(from, spec_.index).consume_all([&](const CrossingFrame& frame) {
      post_crossing(frame);
    }) != 0;
  }
  return moved;
}

/// Posts for another worker. What the ring refuses is dropped here and the frame sent home.
void Worker::post_crossing(const CrossingFrame& crossing) noexcept {
  const Target& target = targets_[crossing.target];
  const auto number = umem_.number(crossing.frame.address);
  if (target.input_port && now_ns_ > crossing.posted_ns + spec_.stale_ns) {
    originals_[*target.input_port].late_stale.add(1);
    return give_back(number, true);
  }
  burst_.timed = {crossing.frame.address, crossing.timed_ns};
  const auto posted = sink_of(crossing.target).post({&crossing.frame, 1});
  if (posted.taken == 1) return;
  if (target.input_port) {
    originals_[*target.input_port].late_refused.add(1);
  } else {
    refused_[crossing.target].count(posted.refusal, 1);
  }
  give_back(number, target.input_port.has_value());
}

/// A burst from an AF_XDP ring. The original comes first.
bool Worker::serve(Source& source) noexcept {
  burst_.size = 0;
  source.source.receive(burst_);
  if (burst_.size == 0) return false;
  // When they arrived nobody says. They are timed from the beginning of this round on.
  const bool timed = counters_.bursts.read() % VTAP_TIMED_EVERY == 0;
  burst_.timed = {burst_.address[0], timed ? now_ns_ : 0};
  if (source.output) {
    const std::uint32_t taken =
        pipeline::Pipeline::forward(burst_, pool_, umem_, sink_of(*source.output));
    originals_[source.source.port()].taken.add(taken);
    originals_[source.source.port()].refused.add(burst_.size - taken);
  }
  finish(*plans_.back().pipeline);
  return true;
}

bool Worker::serve_tee() noexcept {
  burst_.size = 0;
  tee_.receive(burst_, now_ns_);
  if (burst_.size == 0) {
    tee_.refill();
    return false;
  }
  finish(pipeline_of(burst_.generation));
  return true;
}

bool Worker::serve_queues() noexcept {
  bool moved = false;
  for (MonitorQueue* queue : scheduled_) moved |= queue->serve(now_ns_);
  return moved;
}

/// Copies to the monitors; then the burst's own references go.
void Worker::finish(pipeline::Pipeline& pipeline) noexcept {
  counters_.bursts.add(1);
  counters_.frames.add(burst_.size);
  pipeline.process(burst_, now_ns_ - epoch_ns_);
  release_burst();
}

void Worker::release_burst() noexcept {
  for (std::uint32_t i = 0; i < burst_.size; ++i) pool_.release(umem_.number(burst_.address[i]));
}

/// True: too late for what this round has received. Its originals must not be sent any more.
bool Worker::has_hung() const noexcept {
  return !sources_.empty() && monotonic_ns() - now_ns_ > spec_.stale_ns;
}

void Worker::flush() noexcept {
  for (std::size_t i = 0; i < own_.size(); ++i) {
    if (!own_[i]) continue;
    for (int kicks = 0; kicks < io::XskSink::kKicks; ++kicks) {
      // A hang may begin anywhere, also between two kicks.
      const auto& from = targets_[i].input_port;
      if (from && has_hung()) {
        originals_[*from].late_stale.add(own_[i]->retract());
        break;
      }
      if (!own_[i]->kick()) break;
    }
  }
  free_frames_.store(pool_.available(), std::memory_order_relaxed);
  last_round_ns_.store(now_ns_, std::memory_order_relaxed);
  for (std::uint32_t peer = 0; peer < peers_.size(); ++peer) {
    // Frames that were taken over may wait there for long: nobody is woken for them.
    if (lent_[peer].frames == 0 || peer == spec_.index) continue;
    if (crossing_.forward(spec_.index, peer).write_available() < Crossing::kCapacity) {
      peers_[peer]->wake();
    }
  }
}

/// After a hang: what lies in the rings is older than the moment at which the programs took the
/// plain path, so it would overtake nothing and only arrive late. Originals are dropped, and with
/// them their copies.
void Worker::drop_stale() noexcept {
  for (Source& source : sources_) {
    if (!source.output) continue;
    while (true) {
      burst_.size = 0;
      source.source.receive(burst_);
      if (burst_.size == 0) break;
      originals_[source.source.port()].stale.add(burst_.size);
      release_burst();
    }
  }
  for (std::size_t i = 0; i < own_.size(); ++i) {
    if (!own_[i] || !targets_[i].input_port) continue;
    originals_[*targets_[i].input_port].late_stale.add(own_[i]->retract());
  }
}

bool Worker::sinks_busy() const noexcept {
  return std::ranges::any_of(
      own_, [](const auto& sink) { return sink && sink->connected() && sink->held() != 0; });
}

bool Worker::may_sleep() noexcept {
  if (!tee_.prepare_sleep()) return false;
  if (stop_.load() || has_tasks_.load()) return false;
  for (std::uint32_t from = 0; from < crossing_.workers(); ++from) {
    if (from != spec_.index && crossing_.forward(from, spec_.index).read_available() != 0) {
      return false;
    }
  }
  return true;
}

/// False: nothing happened in that time.
bool Worker::wait_for_events(std::chrono::nanoseconds timeout) noexcept {
  std::array<epoll_event, kEvents> events;
  const timespec limit{timeout.count() / kSecond, timeout.count() % kSecond};
  return epoll_pwait2(epoll_.get(), events.data(), kEvents, &limit, nullptr) > 0;
}

/// How long a sleep may last; zero: there is something to do. While sinks hold frames, completions
/// are looked for in growing intervals, the shorter if more frames wait for them; and a copy that
/// waits for its time has it.
std::chrono::nanoseconds Worker::sleep_limit(std::uint64_t idle_ns) noexcept {
  std::uint64_t limit = kLongestSleep;
  const auto has_frames = [](const Lent& lent) { return lent.frames != 0; };
  if (sinks_busy() || std::ranges::any_of(lent_, has_frames)) {
    limit = std::clamp(idle_ns, kMillisecond, kLongestSleep);
  }
  const std::uint64_t now = monotonic_ns();
  // Awake in time: a wakeup comes about as late as adaptive polling spins.
  const std::uint64_t early = spec_.poll == config::Poll::adaptive ? kSpin : 0;
  for (MonitorQueue* queue : scheduled_) {
    if (queue->blocked()) limit = std::min(limit, idle_ns / 4);
    const std::uint64_t due = queue->next_at();
    limit = std::min(limit, due > now + early ? due - now - early : 0);
  }
  return std::chrono::nanoseconds(limit);
}

/// Sleeps until a program rings, an AF_XDP ring has frames, a peer or a task wakes it, or it is
/// time for a copy that waits.
void Worker::sleep(std::uint64_t idle_ns) noexcept {
  const std::chrono::nanoseconds limit = sleep_limit(idle_ns);
  if (limit < kShortestSleep) return;
  sleeping_.exchange(true);
  if (may_sleep()) {
    const std::uint64_t before = monotonic_ns();
    const std::chrono::nanoseconds settle = std::min(limit, io::TeeSource::kSettle);
    if (!wait_for_events(settle) && tee_.empty() && limit > settle) {
      wait_for_events(limit - settle);
    }
    counters_.asleep_ns.add(monotonic_ns() - before);
    counters_.wakeups.add(1);
  }
  sleeping_.exchange(false);
  tee_.wake();
  doorbell_.silence();
  std::uint64_t ignored = 0;
  [[maybe_unused]] const ssize_t size = read(event_.get(), &ignored, sizeof(ignored));
}

bool Worker::drained() const noexcept {
  for (const MonitorQueue* queue : scheduled_) {
    if (queue->waiting() != 0) return false;
  }
  for (std::uint32_t peer = 0; peer < crossing_.workers(); ++peer) {
    if (lent_[peer].frames != 0) return false;
  }
  return !sinks_busy();
}

void Worker::abandon(std::uint32_t target) noexcept {
  std::uint32_t frames = own_[target]->abandon();
  for (MonitorQueue* queue : scheduled_) {
    if (queue->feeds(*own_[target])) frames += queue->abandon();
  }
  if (targets_[target].input_port) {
    originals_[*targets_[target].input_port].late_refused.add(frames);
  } else {
    refused_[target].count(pipeline::Sink::Refusal::down, frames);
  }
}

void Worker::drop_waiting() noexcept {
  for (std::uint32_t i = 0; i < targets_.size(); ++i) drop_waiting(i);
}

void Worker::drop_waiting(std::uint32_t target) noexcept {
  if (!queues_[target]) return;
  refused_[target].count(pipeline::Sink::Refusal::down, queues_[target]->abandon());
}

std::uint32_t Worker::frames_out() const noexcept {
  std::uint32_t frames = tee_.frames_out();
  for (const Source& source : sources_) frames += source.source.frames_out();
  return frames;
}

}  // namespace vtap::worker
