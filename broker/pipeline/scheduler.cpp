// SPDX-License-Identifier: Apache-2.0
#include "pipeline/scheduler.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>

namespace vtap::pipeline {
namespace {

constexpr double kNsPerSecond = 1e9;
constexpr double kBurstNs = 1e6;
constexpr std::uint64_t kLateNs = 3'000'000;
/// Deficits are kept in parts of a byte, so that weights like 500 and 501 keep their ratio.
constexpr unsigned kDeficitShift = 16;
/// Backlogs are divided by weights: by a multiplication, with so many bits behind the point.
constexpr std::uint64_t kLevelScale = 1 << 20;
constexpr unsigned kStepBits = 3;  ///< eight levels an octave

double ns_per_unit(config::Rate rate) noexcept {
  const auto per_second = static_cast<double>(rate.per_second);
  return kNsPerSecond / (rate.packets ? per_second : per_second / 8);
}

std::int64_t cost(const TxDescriptor& frame) noexcept {
  return std::int64_t{frame.length} << kDeficitShift;
}

std::uint32_t lightest(const std::vector<Scheduler::Class>& classes, std::uint8_t priority) {
  std::uint32_t weight = config::kHeaviest;
  for (const Scheduler::Class& one : classes) {
    if (one.priority == priority) weight = std::min(weight, one.weight);
  }
  return weight;
}

}  // namespace

Shaper::Shaper(config::Rate rate, std::uint32_t longest) noexcept
    : by_packets_(rate.packets),
      ns_per_unit_(ns_per_unit(rate)),
      depth_ns_(std::max(kBurstNs, cost(longest))) {}

std::uint64_t Shaper::due(std::uint32_t bytes) const noexcept {
  const double ahead = paid_fraction_ + cost(bytes) - depth_ns_;
  if (ahead > 0) return paid_at_ + static_cast<std::uint64_t>(std::ceil(ahead));
  return paid_at_ - std::min(paid_at_, static_cast<std::uint64_t>(-ahead));
}

void Shaper::charge(std::uint32_t bytes, std::uint64_t now, bool was_held) noexcept {
  const std::uint64_t unpaid = was_held ? now - std::min(now, kLateNs) : now;
  if (paid_at_ < unpaid) {
    paid_at_ = unpaid;
    paid_fraction_ = 0;
  }
  const double ns = paid_fraction_ + cost(bytes);
  const double whole = std::floor(ns);
  paid_at_ += static_cast<std::uint64_t>(whole);
  paid_fraction_ = ns - whole;
}

Scheduler::Scheduler(const Spec& spec)
    : entries_(spec.capacity), classes_(spec.classes.size()), priorities_(kPriorities) {
  if (spec.rate) shaper_.emplace(*spec.rate, spec.longest);
  for (std::uint32_t i = spec.capacity; i-- > 0;) {
    entries_[i].links.next = free_;
    free_ = i;
  }
  for (Priority& priority : priorities_) priority.at_level.fill(kNone);
  std::array<std::uint32_t, kPriorities> least{};
  for (std::uint8_t i = 0; i < kPriorities; ++i) least[i] = lightest(spec.classes, i);
  for (std::size_t i = 0; i < classes_.size(); ++i) {
    const Class& given = spec.classes[i];
    classes_[i].priority = given.priority;
    classes_[i].level_factor = kLevelScale / given.weight;
    classes_[i].quantum =
        (std::int64_t{kQuantum} << kDeficitShift) * given.weight / least[given.priority];
  }
}

std::optional<TxDescriptor> Scheduler::enqueue(const TxDescriptor& frame) noexcept {
  assert(frame.traffic_class < classes_.size());
  std::optional<TxDescriptor> gone;
  if (free_ == kNone) {
    if (is_the_one_to_go(frame)) return frame;
    gone = take_newest(longest_class(lowest_priority()));
  }
  append(frame);
  return gone;
}

/// Of all that wait and this one, in a full queue.
bool Scheduler::is_the_one_to_go(const TxDescriptor& newcomer) const noexcept {
  if (waiting_ == 0) return true;  // a queue without places
  const ClassState& its = classes_[newcomer.traffic_class];
  const std::uint32_t lowest = lowest_priority();
  if (its.priority != lowest) return its.priority < lowest;
  const std::uint64_t backlog = its.backlog + newcomer.length;
  return level_of(backlog * its.level_factor) >= highest_level(priorities_[lowest]);
}

std::uint32_t Scheduler::dequeue(std::uint64_t now, std::span<TxDescriptor> room) noexcept {
  std::uint32_t count = 0;
  bool held = false;
  while (count < room.size()) {
    const std::uint32_t number = next_class();
    if (number == kNone) break;
    ClassState& its = classes_[number];
    const TxDescriptor& frame = entries_[its.head].frame;
    if (shaper_) {
      if (shaper_->due(frame.length) > now) {
        held = true;
        break;
      }
      shaper_->charge(frame.length, now, held_);
    }
    its.deficit -= cost(frame);
    room[count++] = take_oldest(number);
  }
  if (count < room.size()) held_ = held;  // else it is still making up
  return count;
}

TxDescriptor Scheduler::remove() noexcept { return take_newest(longest_class(lowest_priority())); }

std::uint64_t Scheduler::next_at() noexcept {
  const std::uint32_t number = next_class();
  if (number == kNone) return active_ == 0 ? kNever : 0;
  return shaper_ ? shaper_->due(entries_[classes_[number].head].frame.length) : 0;
}

/// The class whose oldest frame goes next. Turns pass until one can afford its frame; asked again,
/// the answer is the same until something else changes. None: nothing waits, or after so many turns
/// it is still open; the next call goes on, and the worker has time for others in between.
std::uint32_t Scheduler::next_class() noexcept {
  constexpr std::uint32_t kTurns = 4096;  // some 30 us
  if (active_ == 0) return kNone;
  Priority& priority = priorities_[std::bit_width(active_) - 1];
  for (std::uint32_t turn = 0; turn < kTurns; ++turn) {
    const ClassState& its = classes_[priority.turn];
    if (its.deficit >= cost(entries_[its.head].frame)) return priority.turn;
    priority.turn = its.turn.next;
    ClassState& next = classes_[priority.turn];
    next.deficit += next.quantum;
  }
  return kNone;
}

std::uint32_t Scheduler::lowest_priority() const noexcept {
  assert(active_ != 0);
  return static_cast<std::uint32_t>(std::countr_zero(active_));
}

std::uint32_t Scheduler::level_of(std::uint64_t weighted) noexcept {
  weighted |= 1;
  const auto octave = static_cast<std::uint32_t>(std::bit_width(weighted)) - 1;
  const std::uint64_t steps =
      octave >= kStepBits ? weighted >> (octave - kStepBits) : weighted << (kStepBits - octave);
  return (octave << kStepBits) | (static_cast<std::uint32_t>(steps) & ((1U << kStepBits) - 1));
}

/// Precondition: the priority has active classes.
std::uint32_t Scheduler::highest_level(const Priority& priority) const noexcept {
  auto word = static_cast<std::uint32_t>(priority.levels.size() - 1);
  while (priority.levels[word] == 0) --word;
  return word * 64 + static_cast<std::uint32_t>(std::bit_width(priority.levels[word])) - 1;
}

std::uint32_t Scheduler::longest_class(std::uint32_t priority) const noexcept {
  return priorities_[priority].at_level[highest_level(priorities_[priority])];
}

void Scheduler::append(const TxDescriptor& frame) noexcept {
  const std::uint32_t number = frame.traffic_class;
  ClassState& its = classes_[number];
  const std::uint32_t entry = free_;
  free_ = entries_[entry].links.next;
  entries_[entry] = {frame, {kNone, its.tail}};
  if (its.tail == kNone) {
    its.head = entry;
  } else {
    entries_[its.tail].links.next = entry;
  }
  its.tail = entry;
  its.backlog += frame.length;
  ++waiting_;
  const std::uint32_t level = level_of(its.backlog * its.level_factor);
  if (its.head == entry) {
    its.level = level;
    activate(number);
  } else {
    set_level(number, level);
  }
}

TxDescriptor Scheduler::take_oldest(std::uint32_t number) noexcept {
  ClassState& its = classes_[number];
  const std::uint32_t entry = its.head;
  its.head = entries_[entry].links.next;
  if (its.head == kNone) {
    its.tail = kNone;
  } else {
    entries_[its.head].links.previous = kNone;
  }
  took(number, entry);
  return entries_[entry].frame;
}

TxDescriptor Scheduler::take_newest(std::uint32_t number) noexcept {
  ClassState& its = classes_[number];
  const std::uint32_t entry = its.tail;
  its.tail = entries_[entry].links.previous;
  if (its.tail == kNone) {
    its.head = kNone;
  } else {
    entries_[its.tail].links.next = kNone;
  }
  took(number, entry);
  return entries_[entry].frame;
}

/// An entry has left its class: its place is free.
void Scheduler::took(std::uint32_t number, std::uint32_t entry) noexcept {
  ClassState& its = classes_[number];
  its.backlog -= entries_[entry].frame.length;
  entries_[entry].links.next = free_;
  free_ = entry;
  --waiting_;
  if (its.head == kNone) {
    deactivate(number);
  } else {
    set_level(number, level_of(its.backlog * its.level_factor));
  }
}

/// The last in the circle; alone in it, its turn begins.
void Scheduler::activate(std::uint32_t number) noexcept {
  ClassState& its = classes_[number];
  Priority& priority = priorities_[its.priority];
  active_ |= 1U << its.priority;
  link_level(number);
  if (priority.turn == kNone) {
    its.turn = {number, number};
    its.deficit = its.quantum;
    priority.turn = number;
    return;
  }
  ClassState& next = classes_[priority.turn];
  its.turn = {priority.turn, next.turn.previous};
  classes_[next.turn.previous].turn.next = number;
  next.turn.previous = number;
}

void Scheduler::deactivate(std::uint32_t number) noexcept {
  ClassState& its = classes_[number];
  Priority& priority = priorities_[its.priority];
  unlink_level(number);
  its.deficit = 0;
  if (its.turn.next == number) {
    priority.turn = kNone;
    active_ &= ~(1U << its.priority);
    return;
  }
  classes_[its.turn.previous].turn.next = its.turn.next;
  classes_[its.turn.next].turn.previous = its.turn.previous;
  if (priority.turn != number) return;
  priority.turn = its.turn.next;
  ClassState& next = classes_[priority.turn];
  next.deficit += next.quantum;
}

void Scheduler::set_level(std::uint32_t number, std::uint32_t level) noexcept {
  if (classes_[number].level == level) return;
  unlink_level(number);
  classes_[number].level = level;
  link_level(number);
}

void Scheduler::link_level(std::uint32_t number) noexcept {
  ClassState& its = classes_[number];
  Priority& priority = priorities_[its.priority];
  std::uint32_t& first = priority.at_level[its.level];
  its.peers = {first, kNone};
  if (first != kNone) classes_[first].peers.previous = number;
  first = number;
  priority.levels[its.level / 64] |= std::uint64_t{1} << (its.level % 64);
}

void Scheduler::unlink_level(std::uint32_t number) noexcept {
  const ClassState& its = classes_[number];
  Priority& priority = priorities_[its.priority];
  if (its.peers.next != kNone) classes_[its.peers.next].peers.previous = its.peers.previous;
  if (its.peers.previous != kNone) {
    classes_[its.peers.previous].peers.next = its.peers.next;
    return;
  }
  priority.at_level[its.level] = its.peers.next;
  if (its.peers.next == kNone) {
    priority.levels[its.level / 64] &= ~(std::uint64_t{1} << (its.level % 64));
  }
}

std::optional<Scheduler::Spec> schedule_of(const config::Config& config, std::uint32_t monitor) {
  Scheduler::Spec spec;
  spec.rate = config.monitors[monitor].rate;
  spec.longest = config.broker.frame_size;
  for (const config::Policy& policy : config.policies) {
    if (std::ranges::find(policy.monitors, monitor) == policy.monitors.end()) continue;
    spec.classes.push_back({policy.priority, policy.weight});
  }
  const auto differ = [&](const Scheduler::Class& one) {
    return one.priority != spec.classes[0].priority || one.weight != spec.classes[0].weight;
  };
  if (!spec.rate && std::ranges::none_of(spec.classes, differ)) return std::nullopt;
  return spec;
}

}  // namespace vtap::pipeline
