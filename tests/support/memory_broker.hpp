// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <limits>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "pipeline/pipeline.hpp"
#include "support/frames.hpp"

/// The data path over memory: a UMEM, sinks and a pipeline between them, no kernel and no root.
namespace vtap::test {

/// UMEM in plain memory.
class MemoryUmem {
 public:
  explicit MemoryUmem(std::uint32_t frames, std::uint32_t frame_size = 2048)
      : bytes_(std::size_t{frames} * frame_size), frames_(frames), frame_size_(frame_size) {}

  [[nodiscard]] pipeline::UmemView view() noexcept { return {bytes_.data(), frame_size_, frames_}; }

 private:
  std::vector<std::uint8_t> bytes_;
  std::uint32_t frames_, frame_size_;
};

/// A port in memory: keeps the bytes of every copy, and the frame until complete().
class MemorySink final : public pipeline::Sink {
 public:
  static constexpr std::uint32_t kUnlimited = std::numeric_limits<std::uint32_t>::max();

  explicit MemorySink(pipeline::UmemView umem) : umem_(umem) {}

  /// From now on: holds so many frames at most, and refuses the others for this reason.
  void limit(std::uint32_t frames, Refusal refusal) noexcept {
    limit_ = frames;
    refusal_ = refusal;
  }

  Posted post(std::span<const pipeline::TxDescriptor> frames) noexcept override;

  /// Completes the oldest frames: gives back their references.
  void complete(pipeline::FramePool& pool, std::size_t frames);

  [[nodiscard]] const std::deque<pipeline::FrameNumber>& held() const noexcept { return held_; }
  /// Everything that was ever taken, in order.
  [[nodiscard]] const std::vector<Bytes>& sent() const noexcept { return sent_; }
  [[nodiscard]] std::uint32_t posts() const noexcept { return posts_; }

 private:
  pipeline::UmemView umem_;
  std::uint32_t limit_ = kUnlimited;
  Refusal refusal_ = Refusal::ring_full;
  std::uint32_t posts_ = 0;
  std::deque<pipeline::FrameNumber> held_;
  std::vector<Bytes> sent_;
};

/// A frame and the tap port it came in on.
struct Arrival {
  Bytes bytes;
  std::uint8_t port = 0;
};

/// One worker's data path for a config.
class MemoryBroker {
 public:
  explicit MemoryBroker(config::Config config, std::uint32_t frames = 256);
  /// From TOML; throws std::runtime_error with all findings if it is refused.
  static config::Config parse(std::string_view toml);

  /// Takes frames from the pool and puts these bytes into them; as many as there are free ones and
  /// room in a burst. The burst holds one reference of each.
  pipeline::Burst receive(std::span<const Arrival> arrivals);
  /// Drops the burst's own references.
  void release(const pipeline::Burst& burst);
  /// One burst through the pipeline, at `now` ns.
  void send(std::span<const Arrival> arrivals, std::uint64_t now = 0);
  void complete_all();

  pipeline::Pipeline& pipeline() noexcept { return *pipeline_; }
  pipeline::FramePool& pool() noexcept { return pool_; }
  MemoryUmem& umem() noexcept { return umem_; }
  MemorySink& sink(std::size_t monitor) { return *sinks_[monitor]; }
  [[nodiscard]] std::size_t sinks() const noexcept { return sinks_.size(); }
  [[nodiscard]] const config::Config& config() const noexcept { return plan_.config; }

 private:
  plan::Plan plan_;
  pipeline::SharedPlan shared_;
  MemoryUmem umem_;
  pipeline::FramePool pool_;
  std::vector<std::unique_ptr<MemorySink>> sinks_;
  std::unique_ptr<pipeline::Pipeline> pipeline_;
};

}  // namespace vtap::test
