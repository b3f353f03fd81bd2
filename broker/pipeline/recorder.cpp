// SPDX-License-Identifier: Apache-2.0
#include "pipeline/recorder.hpp"

#include <algorithm>
#include <ctime>
#include <utility>

namespace vtap::pipeline {
namespace {

constexpr std::uint64_t kFine = 1024;  // parts of a nanosecond
constexpr int kTries = 4;

std::uint64_t realtime_ns() noexcept {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

}  // namespace

RecordLimit::RecordLimit(std::uint64_t frames_per_s, std::uint64_t bytes_per_s) noexcept
    : frame_cost_(1'000'000'000 / frames_per_s), byte_cost_(1'000'000'000 * kFine / bytes_per_s) {}

bool RecordLimit::take(std::uint32_t bytes, std::uint64_t now) noexcept {
  const std::uint64_t cost = std::max(frame_cost_, bytes * byte_cost_ / kFine);
  std::uint64_t due = due_.load(std::memory_order_relaxed);
  for (int tries = 0; tries < kTries; ++tries) {
    const std::uint64_t next = std::max(due, now) + cost;
    if (next > now + kBurstNs) return false;
    if (due_.compare_exchange_weak(due, next, std::memory_order_relaxed)) return true;
  }
  return false;
}

bool RecordRing::push(const Record& record, const std::uint8_t* frame) noexcept {
  const std::uint64_t at = written_.load(std::memory_order_relaxed);
  // What the reader is done with may be overwritten.
  if (at + size_of(record) - read_.load(std::memory_order_acquire) > kBytes) return false;
  put(at, &record, sizeof(record));
  put(at + sizeof(record), frame, record.kept);
  written_.store(at + size_of(record), std::memory_order_release);
  return true;
}

std::optional<Record> RecordRing::pop(std::vector<std::uint8_t>& frame) {
  const std::uint64_t at = read_.load(std::memory_order_relaxed);
  if (at == written_.load(std::memory_order_acquire)) return std::nullopt;
  Record record;
  get(at, &record, sizeof(record));
  frame.resize(record.kept);
  get(at + sizeof(record), frame.data(), record.kept);
  read_.store(at + size_of(record), std::memory_order_release);
  return record;
}

/// Copies of no bytes, too, whose address may be null: memcpy() has no such thing.
void RecordRing::put(std::uint64_t at, const void* from, std::size_t size) noexcept {
  const std::size_t begin = at % kBytes;
  const std::size_t first = std::min(size, kBytes - begin);
  const auto* bytes = static_cast<const std::uint8_t*>(from);
  std::copy_n(bytes, first, bytes_.data() + begin);
  std::copy_n(bytes + first, size - first, bytes_.data());
}

void RecordRing::get(std::uint64_t at, void* to, std::size_t size) const noexcept {
  const std::size_t begin = at % kBytes;
  const std::size_t first = std::min(size, kBytes - begin);
  auto* bytes = static_cast<std::uint8_t*>(to);
  std::copy_n(bytes_.data() + begin, first, bytes);
  std::copy_n(bytes_.data(), size - first, bytes + first);
}

/// The clock is read once a burst, without a system call (vDSO).
void Recorder::keep(const Burst& burst, UmemView umem, std::uint64_t now) noexcept {
  if (noted_ == 0) return;
  Record record{.time_ns = realtime_ns()};
  for_each_frame(std::exchange(noted_, 0), [&](std::uint32_t i) {
    record.original = burst.length[i];
    record.kept = std::min(length_[i], most_);
    record.port = burst.port[i];
    if (!limit_.take(record.kept, now) || !ring_.push(record, umem.at(burst.address[i]))) {
      dropped_[burst.port[i]].add(1);
    }
  });
}

}  // namespace vtap::pipeline
