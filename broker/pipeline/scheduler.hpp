// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "config/config.hpp"
#include "pipeline/burst.hpp"

namespace vtap::pipeline {

/// What a rate lets go, as a leaky bucket (GCRA, ITU-T I.371): keeps the time at which all that
/// went is paid for. Short bursts pass: up to a millisecond of the rate, or one longest frame.
/// A worker that wakes up late keeps the rate: what the rate alone has held back since is made up
/// for, up to three milliseconds of it.
class Shaper {
 public:
  /// `longest`: bytes of a frame at most.
  Shaper(config::Rate rate, std::uint32_t longest) noexcept;

  /// When a frame may go that has so many bytes, ns; in the past: now.
  [[nodiscard]] std::uint64_t due(std::uint32_t bytes) const noexcept;
  /// It went at `now`, ns; `was_held`: the rate had something wait until now. Precondition:
  /// due(bytes) <= now.
  void charge(std::uint32_t bytes, std::uint64_t now, bool was_held) noexcept;

 private:
  [[nodiscard]] double cost(std::uint32_t bytes) const noexcept {
    return by_packets_ ? ns_per_unit_ : ns_per_unit_ * bytes;
  }

  bool by_packets_;
  double ns_per_unit_;
  double depth_ns_;
  std::uint64_t paid_at_ = 0;  ///< ns
  double paid_fraction_ = 0;   ///< of a ns, on top of it
};

/// The copies that wait for one monitor: which goes next, and which one has to give way when there
/// are too many. Knows no sockets; allocates at construction and never again.
///
/// A class is a policy's part of the monitor's traffic. Higher priorities are served first,
/// strictly. Classes of one priority share by weight, in bytes: deficit round robin (Shreedhar and
/// Varghese, 1995). Within a class frames keep their order.
///
/// When all places are taken, the lowest priority that waits loses a frame: the newest of the class
/// whose backlog is the largest for its weight (to within an eighth of an octave). That keeps what
/// waits in the ratio of the weights, whatever the ratio in which it arrives.
///
/// Not thread-safe: of one worker. enqueue() takes constant time, whatever the number of classes
/// and frames. A turn may be too short for a frame: over time, dequeue() passes
/// at most longest / kQuantum turns for each frame.
class Scheduler {
 public:
  struct Class {
    std::uint8_t priority = 0;  ///< 0..config::kHighestPriority
    std::uint32_t weight = 1;   ///< 1..config::kHeaviest
    bool operator==(const Class&) const = default;
  };
  struct Spec {
    std::vector<Class> classes;
    std::optional<config::Rate> rate;
    std::uint32_t capacity = 1;  ///< frames that wait at most
    std::uint32_t longest = 0;   ///< bytes of a frame at most
    bool operator==(const Spec&) const = default;
  };
  static constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();
  /// Bytes that the lightest class of a priority may send in a turn. A class has to have its turn's
  /// bytes waiting to get its share, and turns grow with the weights; so this is small.
  static constexpr std::uint32_t kQuantum = 128;

  explicit Scheduler(const Spec& spec);

  /// Takes a frame in. Returns the frame that has no place any more, if there is one: perhaps this
  /// very one.
  std::optional<TxDescriptor> enqueue(const TxDescriptor& frame) noexcept;

  /// Takes out what may go at `now` (ns), in order, as much as there is room for. Returns how many.
  std::uint32_t dequeue(std::uint64_t now, std::span<TxDescriptor> room) noexcept;

  /// Takes out any frame, for a queue that is given up. Precondition: waiting() > 0.
  TxDescriptor remove() noexcept;

  /// When the next frame may go, ns; kNever: none waits.
  std::uint64_t next_at() noexcept;

  [[nodiscard]] std::uint32_t waiting() const noexcept { return waiting_; }

 private:
  static constexpr std::uint32_t kNone = ~0U;
  static constexpr std::uint32_t kPriorities = config::kHighestPriority + 1;
  /// Backlogs for their weight, by logarithm: eight steps an octave.
  static constexpr std::uint32_t kLevels = 8 * 64;

  /// Doubly linked, through indexes.
  struct Links {
    std::uint32_t next = kNone;
    std::uint32_t previous = kNone;
  };
  struct Entry {
    TxDescriptor frame;
    Links links;  ///< in the class, or (next only) in the free list
  };
  struct ClassState {
    std::uint32_t head = kNone, tail = kNone;  ///< entries, oldest first
    std::uint32_t level = 0;                   ///< of its backlog
    std::uint8_t priority = 0;
    std::uint64_t backlog = 0;       ///< bytes
    std::uint64_t level_factor = 0;  ///< backlog for its weight, per byte
    std::int64_t quantum = 0;        ///< in 2^-kDeficitShift bytes
    std::int64_t deficit = 0;        ///< likewise; zero while nothing waits
    Links turn;                      ///< in the circle of active classes of its priority
    Links peers;                     ///< in the list of its level
  };
  struct Priority {
    std::uint32_t turn = kNone;                        ///< the class whose turn it is
    std::array<std::uint64_t, kLevels / 64> levels{};  ///< bits of those that have classes
    std::array<std::uint32_t, kLevels> at_level;       ///< the first class of each
  };

  [[nodiscard]] static std::uint32_t level_of(std::uint64_t weighted) noexcept;
  [[nodiscard]] std::uint32_t highest_level(const Priority& priority) const noexcept;
  [[nodiscard]] std::uint32_t lowest_priority() const noexcept;
  [[nodiscard]] bool is_the_one_to_go(const TxDescriptor& newcomer) const noexcept;
  [[nodiscard]] std::uint32_t longest_class(std::uint32_t priority) const noexcept;

  void append(const TxDescriptor& frame) noexcept;
  TxDescriptor take_oldest(std::uint32_t number) noexcept;
  TxDescriptor take_newest(std::uint32_t number) noexcept;
  void took(std::uint32_t number, std::uint32_t entry) noexcept;
  void activate(std::uint32_t number) noexcept;
  void deactivate(std::uint32_t number) noexcept;
  void set_level(std::uint32_t number, std::uint32_t level) noexcept;
  void link_level(std::uint32_t number) noexcept;
  void unlink_level(std::uint32_t number) noexcept;
  std::uint32_t next_class() noexcept;

  std::optional<Shaper> shaper_;
  std::vector<Entry> entries_;
  std::uint32_t free_ = kNone;  ///< first free entry
  std::uint32_t waiting_ = 0;
  std::vector<ClassState> classes_;
  std::vector<Priority> priorities_;
  std::uint32_t active_ = 0;  ///< bits of priorities with frames
  bool held_ = false;         ///< the last dequeue() ended for the rate's sake
};

/// How a monitor's copies are to be scheduled; the capacity is left to the caller. Nothing
/// where there is nothing to schedule: it has no rate, and all of its policies are equals. Classes
/// are in the order of SharedPlan::Target::traffic_class.
std::optional<Scheduler::Spec> schedule_of(const config::Config& config, std::uint32_t monitor);

}  // namespace vtap::pipeline
