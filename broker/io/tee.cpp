// SPDX-License-Identifier: Apache-2.0
#include "io/tee.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>

#include "io/maps.hpp"
#include "io/xsk.hpp"
#include "pipeline/checksum.hpp"

namespace vtap::io {
namespace {

constexpr std::uint32_t kDoorbellBytes = 4096;
constexpr std::uint32_t kLeastShare = 32;
constexpr std::uint64_t kMakersNs = 10'000'000;  ///< how often the makers of copies are looked at

Result<UniqueFd> create_shared_array(const char* name, std::uint32_t value_size,
                                     std::uint32_t entries) {
  return create_map(BPF_MAP_TYPE_ARRAY, name, sizeof(std::uint32_t), value_size, entries,
                    {.flags = BPF_F_MMAPABLE});
}

Result<UniqueFd> create_doorbell() {
  return create_map(BPF_MAP_TYPE_RINGBUF, "vtap_bell", 0, 0, kDoorbellBytes);
}

Result<UniqueFd> create_doorbells(std::uint32_t cpus) {
  auto model = create_doorbell();
  if (!model) return model.error();
  constexpr std::size_t number = sizeof(std::uint32_t);
  return create_map(BPF_MAP_TYPE_ARRAY_OF_MAPS, "vtap_bells", number, number, cpus,
                    {.inner = model->get()});
}

std::uint32_t load(const std::uint32_t& word, std::memory_order order) noexcept {
  return std::atomic_ref(const_cast<std::uint32_t&>(word)).load(order);
}
std::uint32_t load_acquire(const std::uint32_t& word) noexcept {
  return load(word, std::memory_order_acquire);
}
void store_release(std::uint32_t& word, std::uint32_t value) noexcept {
  std::atomic_ref(word).store(value, std::memory_order_release);
}

/// What the kernel would have done to the frame before it left: see VTAP_DESC_CSUM_*.
void finish_checksum(const vtap_desc& desc, std::uint8_t* frame) noexcept {
  const std::span bytes(frame, desc.len);
  if ((desc.flags & VTAP_DESC_CSUM_PARTIAL) != 0) {
    pipeline::complete_checksum(bytes, desc.csum_start, desc.csum_offset);
  } else if ((desc.flags & VTAP_DESC_CSUM_UNKNOWN) != 0) {
    pipeline::complete_if_unfinished(bytes);
  }
}

}  // namespace

Result<TeeMemory> TeeMemory::create(std::uint32_t frames, std::uint32_t frame_size,
                                    Placement placement) {
  auto cpus = possible_cpus();
  if (!cpus) return cpus.error();
  auto umem_fd = create_shared_array("vtap_umem", frame_size, frames);
  if (!umem_fd) return umem_fd.error();
  auto cpus_fd = create_shared_array("vtap_cpus", sizeof(vtap_cpu), *cpus);
  if (!cpus_fd) return cpus_fd.error();
  auto doorbells_fd = create_doorbells(*cpus);
  if (!doorbells_fd) return doorbells_fd.error();
  auto umem = Mapping::open(umem_fd->get(), std::size_t{frames} * frame_size);
  if (!umem) return umem.error();
  auto rings = Mapping::open(cpus_fd->get(), sizeof(vtap_cpu) * *cpus);
  if (!rings) return rings.error();
  TeeMemory memory(std::move(*umem_fd), std::move(*cpus_fd), std::move(*doorbells_fd),
                   std::move(*umem), std::move(*rings), frames, frame_size, *cpus);
  if (placement == Placement::separate || !registers_as_umem(memory.copies())) {
    auto separate = Mapping::anonymous(std::size_t{frames} * frame_size);
    if (!separate) return separate.error();
    memory.separate_.emplace(std::move(*separate));
  }
  return memory;
}

Result<void> TeeMemory::set_doorbell(std::uint32_t cpu, int ring_buffer_fd) const {
  if (bpf_map_update_elem(doorbells_fd(), &cpu, &ring_buffer_fd, BPF_ANY) != 0) {
    return bpf_error("installing the doorbell of CPU " + std::to_string(cpu), -errno);
  }
  return {};
}

vtap_port_counters TeeMemory::counters(std::uint32_t port) const noexcept {
  constexpr std::size_t words = sizeof(vtap_port_counters) / sizeof(__u64);
  vtap_port_counters sum{};
  auto* const totals = reinterpret_cast<__u64*>(&sum);
  for (std::uint32_t i = 0; i < cpus_; ++i) {
    auto* const values = reinterpret_cast<__u64*>(&cpu(i).port[port]);
    for (std::size_t word = 0; word < words; ++word) {
      totals[word] += std::atomic_ref(values[word]).load(std::memory_order_relaxed);
    }
  }
  return sum;
}

void TeeMemory::reset_counters(std::uint32_t port) const noexcept {
  for (std::uint32_t i = 0; i < cpus_; ++i) cpu(i).port[port] = {};
}

void Doorbell::Free::operator()(ring_buffer* buffer) const noexcept { ring_buffer__free(buffer); }

Result<Doorbell> Doorbell::create() {
  auto fd = create_doorbell();
  if (!fd) return fd.error();
  std::unique_ptr<ring_buffer, Free> buffer(ring_buffer__new(
      fd->get(), [](void*, void*, std::size_t) { return 0; }, nullptr, nullptr));
  if (!buffer) return bpf_error("opening a doorbell", -errno);
  return Doorbell(std::move(*fd), std::move(buffer));
}

void Doorbell::silence() noexcept { ring_buffer__consume(buffer_.get()); }

TeeSource::TeeSource(const std::vector<vtap_cpu*>& rings, pipeline::UmemView umem,
                     pipeline::UmemView copies, pipeline::FramePool& pool, std::uint32_t budget)
    : umem_(umem), copies_(copies), pool_(pool), budget_(budget) {
  for (vtap_cpu* ring : rings) rings_.push_back({ring});
  waiting_.reserve(rings_.size());
  share_out();
  refill();
}

/// CPUs that have never delivered share half of the frames, so that a first burst finds room while
/// its worker still wakes up; the others divide the rest.
void TeeSource::share_out() noexcept {
  if (rings_.empty()) return;
  const auto count = static_cast<std::uint32_t>(rings_.size());
  const auto active = static_cast<std::uint32_t>(std::ranges::count_if(rings_, &Ring::active));
  idle_share_ = std::clamp<std::uint32_t>(budget_ / (2 * count),
                                          std::min(kLeastShare, budget_ / count), VTAP_RING_SLOTS);
  const std::uint32_t idle_total = idle_share_ * (count - active);
  const std::uint32_t rest = budget_ > idle_total ? budget_ - idle_total : 0;
  active_share_ =
      std::clamp<std::uint32_t>(rest / std::max(active, 1U), idle_share_, VTAP_RING_SLOTS);
}

void TeeSource::receive(pipeline::Burst& burst, std::uint64_t now_ns) noexcept {
  burst.timed = {};
  // Two looks at every ring. What caused a copy of the first look is in its ring at the second; so
  // in the order of their stamps, copies go as far as the last one of the first look.
  std::uint32_t seen = 0;
  for (Ring& ring : rings_) {
    ring.desc_seen = load_acquire(ring.shared->desc_prod);
    seen += ring.desc_seen - ring.desc_cons;
  }
  waiting_.clear();
  for (Ring& ring : rings_) {
    ring.desc_prod = load_acquire(ring.shared->desc_prod);
    if (ring.desc_prod != ring.desc_cons) waiting_.push_back(&ring);
  }
  std::size_t left = waiting_.size();
  while (seen > 0 && !burst.full()) {
    // The ring with the oldest copy goes first, as far as the oldest of the others.
    std::size_t first = 0;
    std::uint64_t until = std::numeric_limits<std::uint64_t>::max();
    for (std::size_t i = 1; i < left; ++i) {
      const std::uint64_t time = waiting_[i]->head().time;
      const std::uint64_t oldest = waiting_[first]->head().time;
      if (time < oldest) first = i;
      until = std::min(until, std::max(time, oldest));
    }
    Ring& ring = *waiting_[first];
    seen -= take(ring, burst, until, seen);
    if (is_of_another_plan(ring, burst)) break;
    if (ring.desc_cons == ring.desc_prod) std::swap(waiting_[first], waiting_[--left]);
  }
  for (Ring* ring : waiting_) settle(*ring);
  if (now_ns - looked_ns_ > kMakersNs) look_for_sole_maker(now_ns);
}

/// Copies of several CPUs are stamped by the clock; when one CPU alone delivers, it may stop that.
void TeeSource::look_for_sole_maker(std::uint64_t now_ns) noexcept {
  looked_ns_ = now_ns;
  if (std::ranges::count_if(rings_, &Ring::delivered) <= 1 && !rings_.empty()) {
    std::uint32_t many = VTAP_MANY_MAKERS;
    std::atomic_ref(rings_.front().shared->maker).compare_exchange_strong(many, VTAP_NO_MAKER);
  }
  for (Ring& ring : rings_) ring.delivered = false;
}

std::uint32_t TeeSource::take(Ring& ring, pipeline::Burst& burst, std::uint64_t until_ns,
                              std::uint32_t most_seen) noexcept {
  const bool in_umem = copies_.base == umem_.base;
  std::uint32_t seen = 0;
  std::uint64_t bytes = 0;
  while (ring.desc_cons != ring.desc_prod && seen < most_seen && !burst.full()) {
    const vtap_desc& desc = ring.head();
    if (desc.time > until_ns) break;
    if (burst.size == 0) burst.generation = desc.generation;
    if (desc.generation != burst.generation) break;
    const auto address = umem_.start(pipeline::FrameNumber{desc.frame});
    if (in_umem) {
      // The frame is in another core's cache; the whole burst's first lines come at once.
      __builtin_prefetch(umem_.at(address));
    } else {
      std::memcpy(umem_.at(address), copies_.at(address), desc.len);
    }
    bytes += desc.len;
    if (desc.flags != 0) {
      finish_checksum(desc, umem_.at(address));
      if ((desc.flags & VTAP_DESC_TIMED) != 0) burst.timed = {address, desc.time};
    }
    burst.push(address, desc.len, desc.port);
    // Indexes wrap.
    seen += static_cast<std::int32_t>(ring.desc_seen - ring.desc_cons) > 0 ? 1 : 0;
    ++ring.desc_cons;
  }
  teed_bytes_.add(bytes);
  if (!in_umem) copied_bytes_.add(bytes);
  return seen;
}

/// The ring's next copy: it waits for a burst of its own.
bool TeeSource::is_of_another_plan(const Ring& ring, const pipeline::Burst& burst) noexcept {
  return burst.size != 0 && ring.desc_cons != ring.desc_prod &&
         ring.head().generation != burst.generation;
}

TeeSource::Mark TeeSource::mark() const {
  Mark mark;
  for (const Ring& ring : rings_) mark.push_back(load_acquire(ring.shared->desc_prod));
  return mark;
}

bool TeeSource::is_past(const Mark& mark) const noexcept {
  for (std::size_t i = 0; i < rings_.size(); ++i) {
    if (static_cast<std::int32_t>(mark[i] - rings_[i].desc_cons) > 0) return false;
  }
  return true;
}

void TeeSource::set_budget(std::uint32_t frames) noexcept {
  budget_ = frames;
  share_out();
}

void TeeSource::recall() noexcept {
  for (Ring& ring : rings_) {
    const std::uint32_t used = load_acquire(ring.shared->free_cons);
    while (ring.free_prod != used) {
      pool_.release(
          pipeline::FrameNumber{ring.shared->free_ring[--ring.free_prod & (VTAP_RING_SLOTS - 1)]});
    }
    ring.shared->free_prod_seen = used;
    store_release(ring.shared->free_prod, used);
  }
}

/// Gives the slots back of what receive() took, and frames for it.
void TeeSource::settle(Ring& ring) noexcept {
  store_release(ring.shared->desc_cons, ring.desc_cons);
  ring.delivered = true;
  if (!ring.active) {
    ring.active = true;
    share_out();
  }
  refill(ring);
}

void TeeSource::refill() noexcept {
  for (Ring& ring : rings_) refill(ring);
}

void TeeSource::refill(Ring& ring) noexcept {
  const std::uint32_t share = ring.active ? active_share_ : idle_share_;
  // Copies that wait count too, else a ring whose worker is late would end up with all frames.
  const std::uint32_t there = frames_out(ring);
  if (there >= share) return;
  const std::uint32_t count = std::min(share - there, pool_.available());
  if (count == 0) return;
  for (std::uint32_t i = 0; i < count; ++i) {
    ring.shared->free_ring[ring.free_prod++ & (VTAP_RING_SLOTS - 1)] =
        static_cast<std::uint32_t>(pool_.take());
  }
  store_release(ring.shared->free_prod, ring.free_prod);
}

bool TeeSource::prepare_sleep() noexcept {
  // The flag is set, then the rings are read, both sequentially consistent: where programs publish
  // by an exchange, one side sees the other. Where by a store, the store may be late; not for long.
  for (Ring& ring : rings_) std::atomic_ref(ring.shared->sleeping).store(1);
  if (empty()) return true;
  wake();
  return false;
}

bool TeeSource::empty() const noexcept {
  return std::ranges::all_of(rings_, [](const Ring& ring) {
    return load(ring.shared->desc_prod, std::memory_order_seq_cst) == ring.desc_cons;
  });
}

void TeeSource::wake() noexcept {
  for (Ring& ring : rings_) std::atomic_ref(ring.shared->sleeping).store(0);
}

/// The program publishes a frame before it takes it out of the free ring: never one too few.
std::uint32_t TeeSource::frames_out(const Ring& ring) noexcept {
  const std::uint32_t free = ring.free_prod - load_acquire(ring.shared->free_cons);
  return free + (load_acquire(ring.shared->desc_prod) - ring.desc_cons);
}

std::uint32_t TeeSource::frames_out() const noexcept {
  std::uint32_t frames = 0;
  for (const Ring& ring : rings_) frames += frames_out(ring);
  return frames;
}

}  // namespace vtap::io
