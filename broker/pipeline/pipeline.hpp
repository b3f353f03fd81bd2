// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "pipeline/burst.hpp"
#include "pipeline/counters.hpp"
#include "pipeline/flow.hpp"
#include "pipeline/frame_pool.hpp"
#include "pipeline/meter.hpp"
#include "pipeline/once.hpp"
#include "pipeline/recorder.hpp"
#include "pipeline/sample.hpp"
#include "plan/classifier.hpp"
#include "plan/line_vector.hpp"
#include "plan/plan.hpp"

namespace vtap::pipeline {

/// What the workers have in common: the plan, made for classification, and the state of samples and
/// meters. Read-only but for the latter.
class SharedPlan {
 public:
  explicit SharedPlan(const plan::Plan& plan);
  /// As above; samplers, meters and flows of policies that are as they were in `before` go on from
  /// where they are, also while that plan still runs.
  SharedPlan(const plan::Plan& plan, const SharedPlan* before);

  struct Target {
    std::uint32_t monitor = 0;        ///< index into the config's monitors
    std::uint32_t traffic_class = 0;  ///< counts the policies of this monitor, see schedule_of()
  };
  /// One cache line, as each burst may meet others of thousands.
  struct alignas(64) Policy {
    std::unique_ptr<filter::Filter> filter;  ///< null: every frame
    Once* once = nullptr;              ///< null: a packet may be taken at every port it crosses
    Sampler* sampler = nullptr;        ///< null: every frame
    FlowCounts* flows = nullptr;       ///< null: neither head nor slice_after
    Marker* marker = nullptr;          ///< null: no limit
    std::uint32_t head = ~0U;          ///< packets of a flow
    std::uint32_t slice = ~0U;         ///< bytes
    std::uint32_t slice_after = 0;     ///< packets of a flow
    std::uint32_t exceed_slice = ~0U;  ///< bytes of frames above the meter's rate
    std::uint32_t first_target = 0;    ///< of targets()
    std::uint32_t target_count = 0;
  };

  [[nodiscard]] const plan::Classifier& classifier() const noexcept { return classifier_; }
  [[nodiscard]] std::span<const Policy> policies() const noexcept { return policies_; }
  /// Of all policies, in file order; a target's index counts the pairs of policy and monitor.
  [[nodiscard]] std::span<const Target> targets() const noexcept { return targets_; }
  [[nodiscard]] std::uint32_t words() const noexcept { return words_; }
  [[nodiscard]] bool reads_keys() const noexcept { return reads_keys_; }
  /// Null: no policy looks at flows.
  [[nodiscard]] Fragments* fragments() const noexcept { return fragments_.get(); }
  /// What of a hit the kernel does not serve.
  [[nodiscard]] plan::Hit ours(plan::Hit hit) const noexcept {
    if (!not_ours_.empty()) hit.bits &= ~not_ours_[hit.word];
    return hit;
  }
  /// The monitor's sink wants to know the class of each frame.
  [[nodiscard]] bool scheduled(std::uint32_t monitor) const noexcept {
    return (scheduled_ >> monitor & 1) != 0;
  }
  [[nodiscard]] std::uint32_t tap_of_port(std::uint8_t port) const noexcept {
    return tap_of_port_[port];
  }

 private:
  /// What a policy remembers of frames, beyond the plan.
  struct Memory {
    std::shared_ptr<Once> once;
    std::shared_ptr<Sampler> sampler;
    std::shared_ptr<FlowCounts> flows;
    std::shared_ptr<Marker> marker;
  };
  void remember(std::size_t policy, const SharedPlan* before);

  const config::Config& config_;
  plan::Classifier classifier_;
  std::vector<Policy> policies_;
  std::vector<Memory> memories_;  ///< by policy
  std::vector<Target> targets_;
  std::array<std::uint32_t, VTAP_MAX_PORTS> tap_of_port_{};
  std::vector<std::uint64_t> not_ours_;  ///< empty: all are ours
  std::uint64_t scheduled_ = 0;          ///< bits of monitors
  std::uint32_t words_;
  bool reads_keys_;
  std::shared_ptr<Fragments> fragments_;
};

struct PolicyMonitorCounters {
  Counter sent_frames, sent_bytes, already_sent;
};
/// The first line is what most frames count.
struct alignas(64) PolicyCounters {
  Counter matched_frames, matched_bytes;
  Counter dropped_once, dropped_sample, dropped_head, dropped_meter;
  Counter green_frames, yellow_frames, red_frames;  ///< of the meter
  std::span<const PolicyMonitorCounters> monitors;  ///< in the order of the policy's list
};
struct MonitorCounters {
  Counter ring_full, queue_full, down;
  void count(Sink::Refusal why, std::uint32_t frames) noexcept;
  void reset() noexcept;
};

/// The stages between a source and the monitors, for one worker: parse, classify, meter, edit, fan
/// out. Knows nothing of sockets; the sinks are given. Allocates here and never again. What it
/// writes for a frame is on cache lines of its own, but for the state of samplers, meters and
/// flows, which workers share by design.
class alignas(64) Pipeline {
 public:
  /// `monitors`: by index of the config's monitors; they and `pool` outlive the pipeline.
  Pipeline(const SharedPlan& plan, UmemView umem, FramePool& pool, std::span<Sink* const> monitors);

  /// Posts the originals of an inline redirect, before anything else is done with them. Returns how
  /// many were taken; the others are lost.
  static std::uint32_t forward(const Burst& burst, FramePool& pool, UmemView umem,
                               Sink& output) noexcept;

  /// Takes the copies of a burst to the monitors. `now`: ns since the broker started. Frames keep
  /// the burst's own reference; the caller drops it.
  void process(Burst& burst, std::uint64_t now) noexcept;

  /// Captures at the same time.
  static constexpr std::size_t kRecordings = 2;
  /// From now on these copies are recorded, too. The worker's thread, or while no burst is on its
  /// way. Precondition: fewer than kRecordings are.
  void record(const Recording& recording) noexcept { recordings_[recording_count_++] = recording; }
  /// No more by that recorder, which may go then.
  void stop_recording(const Recorder& recorder) noexcept;

  [[nodiscard]] std::span<const PolicyCounters> policy_counters() const noexcept {
    return policy_counters_;
  }
  [[nodiscard]] std::span<const MonitorCounters> monitor_counters() const noexcept {
    return monitor_counters_;
  }

 private:
  /// What goes to one monitor out of the burst at hand.
  struct alignas(64) Outgoing {
    FrameSet frames = 0;     ///< noted policy by policy
    std::uint32_t size = 0;  ///< of descriptors
    std::array<std::uint32_t, Burst::kCapacity> length{};
    std::array<std::uint32_t, Burst::kCapacity> traffic_class{};  ///< if it is scheduled
    /// One more, as each is written before it is known whether it counts.
    std::array<TxDescriptor, Burst::kCapacity + 1> descriptors{};
  };

  /// What most bursts need of a policy: small, so that thousands stay in the CPU's own cache.
  struct Lane {
    FrameSet frames;  ///< of the burst at hand; none between bursts
    std::uint32_t first_target, target_count;
    std::uint32_t slice;
    bool only_sends;  ///< no step but the slice stands between the match and the monitors
  };

  static Sink::Posted post(std::span<const TxDescriptor> frames, FramePool& pool, UmemView umem,
                           Sink& sink) noexcept;

  /// What a policy's steps left of its frames.
  struct Selected {
    FrameSet frames = 0;
    FrameSet sliced = 0;     ///< are cut to the policy's slice
    FrameSet exceeding = 0;  ///< are cut to the meter's exceed_slice
  };

  void parse(Burst& burst) const noexcept;
  void find_flows(Burst& burst, std::uint64_t now) const noexcept;
  [[nodiscard]] std::span<const plan::Hit> classify(const Burst& burst) noexcept;
  [[nodiscard]] bool only_send(std::span<const plan::Hit> hits) const noexcept;
  void send_at_once(std::span<const plan::Hit> hits, const Burst& burst) noexcept;
  std::uint64_t send_frame(std::uint32_t frame, std::uint32_t policy, std::uint64_t taken,
                           const Burst& burst) noexcept;
  void send_by_policy(std::span<const plan::Hit> hits, const Burst& burst,
                      std::uint64_t now) noexcept;
  void send_and_record(std::span<const plan::Hit> hits, const Burst& burst,
                       std::uint64_t now) noexcept;
  void note(std::uint32_t policy, const Selected& selected, const Burst& burst) noexcept;
  void spread(std::span<const plan::Hit> hits) noexcept;
  void put_in_order() noexcept;
  void fetch(std::uint32_t policy) const noexcept;
  [[nodiscard]] FrameSet passed_by(const filter::Filter& filter, FrameSet frames,
                                   const Burst& burst) const noexcept;
  [[nodiscard]] Selected select(std::uint32_t policy, const Burst& burst,
                                std::uint64_t now) noexcept;
  void reduce(std::uint32_t policy, Selected& selected, const Burst& burst,
              std::uint64_t now) noexcept;
  void count_flows(std::uint32_t policy, Selected& selected, const Burst& burst,
                   std::uint64_t now) noexcept;
  void meter(std::uint32_t policy, Selected& selected, const Burst& burst,
             std::uint64_t now) noexcept;
  [[nodiscard]] std::uint32_t length_of(std::uint32_t frame, std::uint32_t policy,
                                        const Selected& selected,
                                        const Burst& burst) const noexcept;
  void send(const Burst& burst, std::uint32_t policy, const Selected& selected) noexcept;
  void fan_out(const Burst& burst) noexcept;
  void describe(Outgoing& outgoing, const Burst& burst, bool scheduled) const noexcept;

  const SharedPlan& plan_;
  UmemView umem_;
  FramePool& pool_;
  std::vector<Sink*> monitors_;
  std::vector<std::uint64_t> steps_;  ///< top bits of policies that do more than send
  bool at_once_ = false;              ///< bursts may go the short way
  std::uint32_t recording_count_ = 0;
  plan::LineVector<Lane> lanes_;             ///< by policy
  plan::LineVector<std::uint32_t> order_;    ///< policies with frames, in file order
  plan::LineVector<std::uint64_t> touched_;  ///< bits of policies with frames; zero between bursts
  plan::Classifier::Scratch found_;
  std::array<std::uint32_t, Burst::kCapacity> taps_{};     ///< by frame
  std::vector<Outgoing> outgoing_;                         ///< by monitor
  std::uint64_t outgoing_monitors_ = 0;                    ///< bits of monitors with frames
  plan::LineVector<PolicyMonitorCounters> pair_counters_;  ///< by target
  std::vector<PolicyCounters> policy_counters_;
  plan::LineVector<MonitorCounters> monitor_counters_;
  std::array<Recording, kRecordings> recordings_{};
};

}  // namespace vtap::pipeline
