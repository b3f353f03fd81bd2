// SPDX-License-Identifier: Apache-2.0
#include "pipeline/pipeline.hpp"

#include <vtap/parse.h>

#include <algorithm>
#include <bit>

#include "pipeline/scheduler.hpp"
#include "pipeline/usual_frame.hpp"

namespace vtap::pipeline {
namespace {

static_assert(Burst::kCapacity == plan::kBurst);

constexpr std::size_t kCacheLine = 64;
/// Policies whose lines are fetched before it is their turn.
constexpr std::size_t kAhead = 8;

bool counts_flows(const config::Policy& policy) {
  return policy.head.has_value() || policy.slice_after != 0;
}

bool looks_at_flows(const config::Policy& policy) {
  return counts_flows(policy) || (policy.sample && policy.sample->flows) ||
         (policy.meter && policy.meter->per == config::Per::flow);
}

bool looks_at_keys(const config::Policy& policy) {
  return looks_at_flows(policy) || (policy.meter && policy.meter->per != config::Per::policy);
}

SharedPlan::Policy make_policy(const config::Policy& config) {
  SharedPlan::Policy policy;
  if (config.filter) policy.filter = std::make_unique<filter::Filter>(*config.filter);
  if (config.head) policy.head = *config.head;
  if (config.meter && config.meter->exceed_slice != 0) {
    policy.exceed_slice = config.meter->exceed_slice;
  }
  policy.slice = config.slice.value_or(~0U);
  policy.slice_after = config.slice_after;
  policy.target_count = static_cast<std::uint32_t>(config.monitors.size());
  return policy;
}

/// Whether all that it does with a frame is to send it, perhaps sliced.
bool only_sends(const SharedPlan::Policy& policy) {
  return !policy.filter && !policy.once && !policy.sampler && !policy.flows && !policy.marker;
}

/// Whether the top bits of a flat plan are those of the policies in file order: of those that the
/// broker serves, and that only send.
bool in_file_order(const SharedPlan& plan) {
  if (plan.words() > VTAP_FLAT_WORDS) return false;
  std::uint32_t last = 0;
  for (std::uint32_t word = 0; word < plan.words(); ++word) {
    for (std::uint32_t bit = 0; bit < 64; ++bit) {
      bool sorted = true;
      plan.classifier().for_each_policy(
          plan.ours({0, word, std::uint64_t{1} << bit}), [&](std::uint32_t policy) {
            if (policy == plan::Classifier::kNobody || !only_sends(plan.policies()[policy])) return;
            sorted = policy >= last;
            last = policy;
          });
      if (!sorted) return false;
    }
  }
  return true;
}

std::uint64_t bytes_of(const Burst& burst, FrameSet frames) noexcept {
  std::uint64_t bytes = 0;
  for_each_frame(frames, [&](std::uint32_t i) { bytes += burst.length[i]; });
  return bytes;
}

/// Mostly of one frame or none: with many policies each has few of a burst.
std::uint64_t count(FrameSet frames) noexcept {
  if ((frames & (frames - 1)) == 0) return frames != 0 ? 1 : 0;
  return static_cast<std::uint64_t>(std::popcount(frames));
}

}  // namespace

SharedPlan::SharedPlan(const plan::Plan& plan) : SharedPlan(plan, nullptr) {}

SharedPlan::SharedPlan(const plan::Plan& plan, const SharedPlan* before)
    : config_(plan.config),
      classifier_(plan.tables),
      words_(plan.tables.config.match_words),
      reads_keys_(plan.tables.config.dims != 0 ||
                  std::ranges::any_of(plan.config.policies, looks_at_keys)) {
  if (std::ranges::any_of(plan.config.policies, looks_at_flows)) {
    if (before != nullptr) fragments_ = before->fragments_;
    if (!fragments_) fragments_ = std::make_shared<Fragments>();
  }
  memories_.resize(plan.config.policies.size());
  policies_.reserve(plan.config.policies.size());
  std::vector<std::uint32_t> classes(plan.config.monitors.size(), 0);
  for (const auto& policy : plan.config.policies) {
    policies_.push_back(make_policy(policy));
    policies_.back().first_target = static_cast<std::uint32_t>(targets_.size());
    remember(policies_.size() - 1, before);
    for (const std::uint32_t monitor : policy.monitors)
      targets_.push_back({monitor, classes[monitor]++});
  }
  for (std::uint32_t i = 0; i < plan.config.monitors.size(); ++i) {
    if (schedule_of(plan.config, i)) scheduled_ |= std::uint64_t{1} << i;
  }
  const auto& placements = plan.tables.placements;
  if (std::ranges::find(placements, plan::Placement::kernel) != placements.end()) {
    not_ours_ = classifier_.tops_of(
        [&](std::uint32_t policy) { return placements[policy] == plan::Placement::kernel; });
  }
  std::size_t port = 0;
  for (std::uint32_t tap = 0; tap < plan.config.taps.size(); ++tap) {
    for (std::size_t i = 0; i < plan.config.taps[tap].ports.size(); ++i) {
      tap_of_port_[plan.port_number(port++)] = tap;
    }
  }
}

void SharedPlan::remember(std::size_t number, const SharedPlan* before) {
  const config::Policy& config = config_.policies[number];
  Memory known;
  const config::Policy* old = nullptr;
  if (before != nullptr) {
    const auto& olds = before->config_.policies;
    const auto found = std::ranges::find(olds, config.name, &config::Policy::name);
    if (found != olds.end()) {
      old = &*found;
      known = before->memories_[static_cast<std::size_t>(found - olds.begin())];
    }
  }
  const auto take = [](auto& mine, auto& theirs, bool same, auto&& make) {
    mine = same && theirs ? theirs : make();
    return mine.get();
  };
  Memory& memory = memories_[number];
  Policy& policy = policies_[number];
  if (config.once) {
    policy.once = take(memory.once, known.once, true, [] { return std::make_shared<Once>(); });
  }
  if (config.sample) {
    policy.sampler = take(memory.sampler, known.sampler, old && old->sample == config.sample,
                          [&] { return std::make_shared<Sampler>(*config.sample); });
  }
  if (counts_flows(config)) {
    policy.flows = take(memory.flows, known.flows, old && old->flow_entries == config.flow_entries,
                        [&] { return std::make_shared<FlowCounts>(config.flow_entries); });
  }
  if (config.meter) {
    policy.marker = take(memory.marker, known.marker, old && old->meter == config.meter,
                         [&] { return std::make_shared<Marker>(*config.meter); });
  }
}

Pipeline::Pipeline(const SharedPlan& plan, UmemView umem, FramePool& pool,
                   std::span<Sink* const> monitors)
    : plan_(plan),
      umem_(umem),
      pool_(pool),
      monitors_(monitors.begin(), monitors.end()),
      touched_((plan.policies().size() + 63) / 64, 0),
      found_(plan.classifier()),
      outgoing_(monitors.size()),
      pair_counters_(plan.targets().size()),
      policy_counters_(plan.policies().size()),
      monitor_counters_(monitors.size()) {
  order_.reserve(plan.policies().size());
  lanes_.reserve(plan.policies().size());
  for (const SharedPlan::Policy& policy : plan.policies())
    lanes_.push_back(
        {0, policy.first_target, policy.target_count, policy.slice, only_sends(policy)});
  at_once_ = in_file_order(plan);
  steps_ =
      plan.classifier().tops_of([&](std::uint32_t policy) { return !lanes_[policy].only_sends; });
  for (std::size_t i = 0; i < policy_counters_.size(); ++i) {
    const SharedPlan::Policy& policy = plan.policies()[i];
    policy_counters_[i].monitors =
        std::span(pair_counters_).subspan(policy.first_target, policy.target_count);
  }
}

std::uint32_t Pipeline::forward(const Burst& burst, FramePool& pool, UmemView umem,
                                Sink& output) noexcept {
  std::array<TxDescriptor, Burst::kCapacity> frames;
  for (std::uint32_t i = 0; i < burst.size; ++i) frames[i] = {burst.address[i], burst.length[i]};
  return post(std::span(frames).first(burst.size), pool, umem, output).taken;
}

/// References first: a sink may be done with a frame before it returns.
Sink::Posted Pipeline::post(std::span<const TxDescriptor> frames, FramePool& pool, UmemView umem,
                            Sink& sink) noexcept {
  for (const TxDescriptor& frame : frames) pool.add_reference(umem.number(frame.address));
  const Sink::Posted posted = sink.post(frames);
  for (const TxDescriptor& frame : frames.subspan(posted.taken)) {
    pool.release(umem.number(frame.address));
  }
  return posted;
}

void Pipeline::process(Burst& burst, std::uint64_t now) noexcept {
  if (plan_.words() == 0) return;
  parse(burst);
  find_flows(burst, now);
  const auto hits = classify(burst);
  if (recording_count_ != 0) [[unlikely]]
    return send_and_record(hits, burst, now);
  if (only_send(hits))
    send_at_once(hits, burst);
  else
    send_by_policy(hits, burst, now);
  fan_out(burst);
}

std::span<const plan::Hit> Pipeline::classify(const Burst& burst) noexcept {
  for (std::uint32_t i = 0; i < burst.size; ++i) taps_[i] = plan_.tap_of_port(burst.port[i]);
  return plan_.classifier().classify(std::span(burst.key).first(burst.size),
                                     std::span(taps_).first(burst.size), found_);
}

// ---- bursts whose policies only send: frame by frame

bool Pipeline::only_send(std::span<const plan::Hit> hits) const noexcept {
  if (!at_once_) return false;
  std::uint64_t more = 0;
  for (const plan::Hit& hit : hits) more |= hit.bits & steps_[hit.word];
  return more == 0;
}

/// No policy has to see its frames of the burst together. The hits of a flat plan come by frame,
/// and here their bits are in file order: as they come, so they apply.
void Pipeline::send_at_once(std::span<const plan::Hit> hits, const Burst& burst) noexcept {
  const plan::Classifier& classifier = plan_.classifier();
  std::uint32_t frame = 0, last = plan::Classifier::kNobody;
  std::uint64_t taken = 0;  // monitors that have the frame
  for (const plan::Hit& hit : hits) {
    const bool next = hit.frame != frame;
    frame = hit.frame;
    taken = next ? 0 : taken;
    last = next ? plan::Classifier::kNobody : last;
    classifier.for_each_policy(plan_.ours(hit), [&](std::uint32_t policy) {
      if (policy == last) return;  // its next segment
      last = policy;
      taken = send_frame(frame, policy, taken, burst);
    });
  }
}

/// Sends a frame to the monitors of one policy but those that have it already. Returns all that
/// have it then.
std::uint64_t Pipeline::send_frame(std::uint32_t frame, std::uint32_t policy, std::uint64_t taken,
                                   const Burst& burst) noexcept {
  const Lane& lane = lanes_[policy];
  const std::uint32_t length = burst.length[frame];
  const std::uint32_t left = std::min(length, lane.slice);
  policy_counters_[policy].matched_frames.add(1);
  policy_counters_[policy].matched_bytes.add(length);
  const SharedPlan::Target* const targets = plan_.targets().data();
  for (std::uint32_t at = lane.first_target; at < lane.first_target + lane.target_count; ++at) {
    const auto [monitor, traffic_class] = targets[at];
    const std::uint32_t fresh = (taken >> monitor & 1) == 0 ? 1 : 0;
    taken |= std::uint64_t{1} << monitor;
    Outgoing& outgoing = outgoing_[monitor];
    outgoing.descriptors[outgoing.size] = {burst.address[frame], left, traffic_class};
    outgoing.size += fresh;
    outgoing_monitors_ |= std::uint64_t{1} << monitor;
    PolicyMonitorCounters& counters = pair_counters_[at];
    counters.sent_frames.add(fresh);
    counters.sent_bytes.add(fresh != 0 ? left : 0);
    counters.already_sent.add(1 - fresh);
  }
  return taken;
}

// ---- all others: policy by policy

void Pipeline::send_by_policy(std::span<const plan::Hit> hits, const Burst& burst,
                              std::uint64_t now) noexcept {
  spread(hits);
  put_in_order();
  for (std::size_t i = 0; i < order_.size(); ++i) {
    if (i + kAhead < order_.size()) fetch(order_[i + kAhead]);
    send(burst, order_[i], select(order_[i], burst, now));
  }
}

/// While a capture is on, every burst goes the long way, and what each policy sends is noted. The
/// monitors get theirs first.
void Pipeline::send_and_record(std::span<const plan::Hit> hits, const Burst& burst,
                               std::uint64_t now) noexcept {
  spread(hits);
  put_in_order();
  for (const std::uint32_t policy : order_) {
    const Selected selected = select(policy, burst, now);
    send(burst, policy, selected);
    note(policy, selected, burst);
  }
  fan_out(burst);
  for (std::uint32_t i = 0; i < recording_count_; ++i) {
    recordings_[i].recorder->keep(burst, umem_, now);
  }
}

void Pipeline::note(std::uint32_t policy, const Selected& selected, const Burst& burst) noexcept {
  for (std::uint32_t at = 0; at < recording_count_; ++at) {
    const Recording& recording = recordings_[at];
    if (recording.policy.value_or(policy) != policy) continue;
    FrameSet frames = selected.frames;
    if (recording.tap) {
      for_each_frame(selected.frames, [&](std::uint32_t i) {
        if (taps_[i] != *recording.tap) frames &= ~(FrameSet{1} << i);
      });
    }
    recording.recorder->note(
        frames, [&](std::uint32_t i) { return length_of(i, policy, selected, burst); });
  }
}

void Pipeline::stop_recording(const Recorder& recorder) noexcept {
  for (std::uint32_t at = 0; at < recording_count_;) {
    if (recordings_[at].recorder == &recorder) {
      recordings_[at] = recordings_[--recording_count_];
    } else {
      ++at;
    }
  }
}

/// Turns "policies of each frame" into "frames of each policy", which is what samples, meters and
/// counters want: one operation per burst and policy.
void Pipeline::spread(std::span<const plan::Hit> hits) noexcept {
  for (const plan::Hit& hit : hits) {
    plan_.classifier().for_each_policy(plan_.ours(hit), [&](std::uint32_t policy) {
      lanes_[policy].frames |= FrameSet{1} << hit.frame;
      touched_[policy / 64] |= std::uint64_t{1} << (policy % 64);
    });
  }
}

void Pipeline::put_in_order() noexcept {
  order_.clear();
  for (std::size_t word = 0; word < touched_.size(); ++word) {
    for_each_frame(std::exchange(touched_[word], 0), [&](std::uint32_t bit) {
      order_.push_back(static_cast<std::uint32_t>(word * 64) + bit);
    });
  }
}

/// What select() and send() will read and write of a policy.
void Pipeline::fetch(std::uint32_t policy) const noexcept {
  const Lane& lane = lanes_[policy];
  if (!lane.only_sends) __builtin_prefetch(&plan_.policies()[policy]);
  __builtin_prefetch(&policy_counters_[policy], 1);
  __builtin_prefetch(&plan_.targets()[lane.first_target]);
  __builtin_prefetch(&pair_counters_[lane.first_target], 1);
}

void Pipeline::parse(Burst& burst) const noexcept {
  if (!plan_.reads_keys()) return;
  for (std::uint32_t i = 0; i < burst.size; ++i) {
    // Another CPU wrote them. Two lines hold the headers of most, where there are two.
    const std::uint8_t* const frame = umem_.at(burst.address[i]);
    __builtin_prefetch(frame);
    __builtin_prefetch(frame + std::min<std::size_t>(burst.length[i] - 1, kCacheLine));
  }
  FrameSet odd = 0;
  for (std::uint32_t i = 0; i < burst.size; ++i) {
    const bool usual = parse_usual(umem_.at(burst.address[i]), burst.length[i], burst.key[i]);
    odd |= FrameSet{usual ? 0U : 1U} << i;
  }
  for_each_frame(odd, [&](std::uint32_t i) {
    const std::uint32_t length = burst.length[i];
    vtap_parse(umem_.at(burst.address[i]), std::min<std::uint32_t>(length, VTAP_WINDOW), length,
               &burst.key[i]);
  });
}

/// Of all frames, as the first fragment of a packet may be of no interest to the policies of the
/// others.
void Pipeline::find_flows(Burst& burst, std::uint64_t now) const noexcept {
  Fragments* const fragments = plan_.fragments();
  if (fragments == nullptr) return;
  for (std::uint32_t i = 0; i < burst.size; ++i) {
    burst.transport[i] = fragments->transport(burst.key[i], now);
  }
}

FrameSet Pipeline::passed_by(const filter::Filter& filter, FrameSet frames,
                             const Burst& burst) const noexcept {
  FrameSet passed = 0;
  for_each_frame(frames, [&](std::uint32_t i) {
    if (filter.matches({umem_.at(burst.address[i]), burst.length[i]})) passed |= FrameSet{1} << i;
  });
  return passed;
}

Pipeline::Selected Pipeline::select(std::uint32_t policy, const Burst& burst,
                                    std::uint64_t now) noexcept {
  Lane& lane = lanes_[policy];
  PolicyCounters& counters = policy_counters_[policy];
  FrameSet frames = std::exchange(lane.frames, 0);
  if (!lane.only_sends) {
    const filter::Filter* const filter = plan_.policies()[policy].filter.get();
    if (filter != nullptr) frames = passed_by(*filter, frames, burst);
  }
  counters.matched_frames.add(count(frames));
  counters.matched_bytes.add(bytes_of(burst, frames));
  Selected selected{.frames = frames};
  if (!lane.only_sends)
    reduce(policy, selected, burst, now);
  else if (lane.slice != ~0U)
    selected.sliced = frames;
  return selected;
}

/// The steps between the match and the monitors.
void Pipeline::reduce(std::uint32_t policy, Selected& selected, const Burst& burst,
                      std::uint64_t now) noexcept {
  const SharedPlan::Policy& rules = plan_.policies()[policy];
  PolicyCounters& counters = policy_counters_[policy];
  FrameSet& frames = selected.frames;
  if (rules.once) {
    const FrameSet fresh = rules.once->fresh(frames, burst, umem_, now);
    counters.dropped_once.add(count(frames & ~fresh));
    frames = fresh;
  }
  if (rules.sampler) {
    const FrameSet chosen = rules.sampler->chosen(frames, burst);
    counters.dropped_sample.add(count(frames & ~chosen));
    frames = chosen;
  }
  selected.sliced = frames;
  if (rules.flows) count_flows(policy, selected, burst, now);
  if (rules.marker) meter(policy, selected, burst, now);
}

/// The first packets of each flow: which go on, and which stay whole.
void Pipeline::count_flows(std::uint32_t policy, Selected& selected, const Burst& burst,
                           std::uint64_t now) noexcept {
  const SharedPlan::Policy& rules = plan_.policies()[policy];
  FlowCounts::Numbers before;
  rules.flows->count(selected.frames, burst, now, before);
  FrameSet heads = 0;
  for_each_frame(selected.frames, [&](std::uint32_t i) {
    if (before[i] < rules.head) heads |= FrameSet{1} << i;
    if (before[i] < rules.slice_after) selected.sliced &= ~(FrameSet{1} << i);
  });
  policy_counters_[policy].dropped_head.add(count(selected.frames & ~heads));
  selected.frames = heads;
}

void Pipeline::meter(std::uint32_t policy, Selected& selected, const Burst& burst,
                     std::uint64_t now) noexcept {
  const Marker::Marked marked = plan_.policies()[policy].marker->mark(selected.frames, burst, now);
  PolicyCounters& counters = policy_counters_[policy];
  counters.green_frames.add(count(marked.green));
  counters.yellow_frames.add(count(marked.yellow));
  counters.red_frames.add(count(marked.red));
  counters.dropped_meter.add(count(selected.frames & ~marked.passed));
  selected.frames = marked.passed;
  selected.exceeding = marked.cut;
}

/// Bytes that a policy leaves of a frame.
std::uint32_t Pipeline::length_of(std::uint32_t frame, std::uint32_t policy,
                                  const Selected& selected, const Burst& burst) const noexcept {
  const SharedPlan::Policy& rules = plan_.policies()[policy];
  std::uint32_t length = burst.length[frame];
  if ((selected.sliced >> frame & 1) != 0) length = std::min(length, rules.slice);
  if ((selected.exceeding >> frame & 1) != 0) length = std::min(length, rules.exceed_slice);
  return length;
}

/// Notes which frames a policy sends to its monitors; a monitor that has a frame already, by an
/// earlier policy, keeps that one.
void Pipeline::send(const Burst& burst, std::uint32_t policy, const Selected& selected) noexcept {
  const FrameSet frames = selected.frames;
  if (frames == 0) return;
  const Lane& lane = lanes_[policy];
  for (std::uint32_t at = lane.first_target; at < lane.first_target + lane.target_count; ++at) {
    const SharedPlan::Target& target = plan_.targets()[at];
    Outgoing& outgoing = outgoing_[target.monitor];
    PolicyMonitorCounters& counters = pair_counters_[at];
    const FrameSet fresh = frames & ~outgoing.frames;
    std::uint64_t bytes = 0;
    for_each_frame(fresh, [&](std::uint32_t i) {
      outgoing.length[i] = length_of(i, policy, selected, burst);
      bytes += outgoing.length[i];
    });
    if (plan_.scheduled(target.monitor)) {
      for_each_frame(fresh,
                     [&](std::uint32_t i) { outgoing.traffic_class[i] = target.traffic_class; });
    }
    outgoing.frames |= fresh;
    outgoing_monitors_ |= std::uint64_t{1} << target.monitor;
    counters.sent_frames.add(count(fresh));
    counters.sent_bytes.add(bytes);
    counters.already_sent.add(count(frames & ~fresh));
  }
}

/// One frame, many rings: each monitor that takes it holds a reference. What a monitor refuses is
/// dropped here, for that monitor alone, and counted.
void Pipeline::fan_out(const Burst& burst) noexcept {
  for_each_frame(std::exchange(outgoing_monitors_, 0), [&](std::uint32_t monitor) {
    Outgoing& outgoing = outgoing_[monitor];
    if (outgoing.frames != 0) describe(outgoing, burst, plan_.scheduled(monitor));
    const std::uint32_t size = std::exchange(outgoing.size, 0);
    const Sink::Posted posted =
        post(std::span(outgoing.descriptors).first(size), pool_, umem_, *monitors_[monitor]);
    if (posted.taken < size) monitor_counters_[monitor].count(posted.refusal, size - posted.taken);
  });
}

/// The descriptors of frames that were noted policy by policy.
void Pipeline::describe(Outgoing& outgoing, const Burst& burst, bool scheduled) const noexcept {
  for_each_frame(std::exchange(outgoing.frames, 0), [&](std::uint32_t i) {
    outgoing.descriptors[outgoing.size++] = {burst.address[i], outgoing.length[i],
                                             scheduled ? outgoing.traffic_class[i] : 0};
  });
}

void MonitorCounters::count(Sink::Refusal why, std::uint32_t frames) noexcept {
  switch (why) {
    case Sink::Refusal::ring_full:
      return ring_full.add(frames);
    case Sink::Refusal::queue_full:
      return queue_full.add(frames);
    case Sink::Refusal::down:
      return down.add(frames);
  }
}

void MonitorCounters::reset() noexcept {
  for (Counter* counter : {&ring_full, &queue_full, &down}) counter->reset();
}

}  // namespace vtap::pipeline
