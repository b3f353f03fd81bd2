// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vtap/abi.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "io/bpf.hpp"
#include "pipeline/burst.hpp"
#include "pipeline/counters.hpp"
#include "pipeline/frame_pool.hpp"
#include "vtap/fd.hpp"
#include "vtap/result.hpp"

namespace vtap::io {

/// The memory that kernel and broker share: the UMEM (a mmapable BPF array, one element a frame),
/// the per-CPU rings, and the table of doorbells. Lives as long as the broker.
class TeeMemory {
 public:
  /// Where AF_XDP's frames are. `probed`: in the array, if the kernel registers that as UMEM.
  enum class Placement { probed, separate };
  static Result<TeeMemory> create(std::uint32_t frames, std::uint32_t frame_size,
                                  Placement placement = Placement::probed);

  /// What sockets register and the pipeline works on.
  [[nodiscard]] pipeline::UmemView umem() const noexcept {
    return {separate_ ? separate_->base() : umem_.base(), frame_size_, frames_};
  }
  /// Where the programs put copies: the same memory, but for kernels that do not register it. There
  /// frames have the same numbers, and TeeSource copies the bytes over.
  [[nodiscard]] pipeline::UmemView copies() const noexcept {
    return {umem_.base(), frame_size_, frames_};
  }
  [[nodiscard]] std::uint32_t cpus() const noexcept { return cpus_; }
  [[nodiscard]] vtap_cpu& cpu(std::uint32_t number) const noexcept {
    return reinterpret_cast<vtap_cpu*>(rings_.base())[number];
  }
  [[nodiscard]] int umem_fd() const noexcept { return umem_fd_.get(); }
  [[nodiscard]] int cpus_fd() const noexcept { return cpus_fd_.get(); }
  [[nodiscard]] int doorbells_fd() const noexcept { return doorbells_fd_.get(); }

  /// Lets the programs of that CPU ring this ring buffer.
  Result<void> set_doorbell(std::uint32_t cpu, int ring_buffer_fd) const;

  /// A tap port's counters, summed over all CPUs.
  [[nodiscard]] vtap_port_counters counters(std::uint32_t port) const noexcept;
  /// Precondition: no program counts for the port.
  void reset_counters(std::uint32_t port) const noexcept;

 private:
  TeeMemory(UniqueFd umem_fd, UniqueFd cpus_fd, UniqueFd doorbells_fd, Mapping umem, Mapping rings,
            std::uint32_t frames, std::uint32_t frame_size, std::uint32_t cpus)
      : umem_fd_(std::move(umem_fd)),
        cpus_fd_(std::move(cpus_fd)),
        doorbells_fd_(std::move(doorbells_fd)),
        umem_(std::move(umem)),
        rings_(std::move(rings)),
        frames_(frames),
        frame_size_(frame_size),
        cpus_(cpus) {}

  UniqueFd umem_fd_, cpus_fd_, doorbells_fd_;
  Mapping umem_, rings_;
  std::optional<Mapping> separate_;
  std::uint32_t frames_, frame_size_, cpus_;
};

/// A BPF ring buffer whose records say nothing but "wake up". Readable (epoll) until emptied.
class Doorbell {
 public:
  static Result<Doorbell> create();
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  /// Takes all records.
  void silence() noexcept;

 private:
  struct Free {
    void operator()(ring_buffer* buffer) const noexcept;
  };
  Doorbell(UniqueFd fd, std::unique_ptr<ring_buffer, Free> buffer)
      : fd_(std::move(fd)), buffer_(std::move(buffer)) {}
  UniqueFd fd_;
  std::unique_ptr<ring_buffer, Free> buffer_;
};

/// The tee rings of some CPUs, as one worker serves them: takes the copies, gives free frames. The
/// frames that lie in a CPU's free ring are the pool's, with one reference each.
class TeeSource {
 public:
  /// `rings`: of the CPUs to serve, the lead first; no program uses them yet. They, `umem` and
  /// `pool` outlive the source. `budget`: frames that the rings may hold together.
  TeeSource(const std::vector<vtap_cpu*>& rings, pipeline::UmemView umem, pipeline::FramePool& pool,
            std::uint32_t budget)
      : TeeSource(rings, umem, umem, pool, budget) {}
  /// The same, with copies that are not made in the UMEM (TeeMemory::copies()).
  TeeSource(const std::vector<vtap_cpu*>& rings, pipeline::UmemView umem, pipeline::UmemView copies,
            pipeline::FramePool& pool, std::uint32_t budget);

  /// Appends copies to the burst while there is room, in the order of their making, whichever CPUs
  /// made them, and replaces the frames they came in. All are of one plan, burst.generation.
  /// `now_ns`: any clock that goes on, for what is done now and then.
  void receive(pipeline::Burst& burst, std::uint64_t now_ns) noexcept;

  /// Gives free frames to CPUs that have fewer than their share.
  void refill() noexcept;

  /// Asks the programs to ring the doorbell. False: copies are waiting already, do not sleep.
  /// Undone by wake(). A program that is publishing at this very moment may not see it (see
  /// publish() in xdp/common.bpf.h): after kSettle, look again with empty() before sleeping for
  /// long.
  bool prepare_sleep() noexcept;
  static constexpr std::chrono::nanoseconds kSettle = std::chrono::microseconds(100);

  /// No copy is waiting.
  [[nodiscard]] bool empty() const noexcept;
  void wake() noexcept;

  /// Bytes of the copies that receive() took: the tap programs copied them out of packets.
  [[nodiscard]] const pipeline::Counter& teed_bytes() const noexcept { return teed_bytes_; }
  /// Bytes that receive() copied once more. 0 where copies are made in the UMEM.
  [[nodiscard]] const pipeline::Counter& copied_bytes() const noexcept { return copied_bytes_; }

  /// Frames that lie in free rings or wait in tee rings.
  [[nodiscard]] std::uint32_t frames_out() const noexcept;

  /// How far the programs have come, by ring; and whether all copies up to there have been taken.
  using Mark = std::vector<std::uint32_t>;
  [[nodiscard]] Mark mark() const;
  [[nodiscard]] bool is_past(const Mark& mark) const noexcept;

  /// Frames that the rings may hold together from now on. What they hold beyond that goes as copies
  /// are made.
  void set_budget(std::uint32_t frames) noexcept;
  /// Takes the free frames back. Precondition: no program uses the rings, nor did since the last
  /// grace period; the budget is 0.
  void recall() noexcept;

 private:
  struct Ring {
    vtap_cpu* shared;
    std::uint32_t desc_cons = 0;
    std::uint32_t desc_seen = 0;  ///< at receive()'s first look
    std::uint32_t desc_prod = 0;  ///< at its second
    std::uint32_t free_prod = 0;
    bool active = false;     ///< has delivered: gets a deep share of frames
    bool delivered = false;  ///< since the last look at who makes copies
    [[nodiscard]] const vtap_desc& head() const noexcept {
      return shared->desc_ring[desc_cons & (VTAP_RING_SLOTS - 1)];
    }
  };
  /// Takes copies of one ring that are not younger than `until_ns`, until `most_seen` of the first
  /// look are among them. Returns how many of the first look.
  std::uint32_t take(Ring& ring, pipeline::Burst& burst, std::uint64_t until_ns,
                     std::uint32_t most_seen) noexcept;
  static bool is_of_another_plan(const Ring& ring, const pipeline::Burst& burst) noexcept;
  void settle(Ring& ring) noexcept;
  void look_for_sole_maker(std::uint64_t now_ns) noexcept;
  void refill(Ring& ring) noexcept;
  void share_out() noexcept;
  [[nodiscard]] static std::uint32_t frames_out(const Ring& ring) noexcept;

  std::vector<Ring> rings_;
  std::vector<Ring*> waiting_;  ///< rings with copies, during receive()
  pipeline::UmemView umem_, copies_;
  pipeline::FramePool& pool_;
  std::uint64_t looked_ns_ = 0;  ///< when it last looked at who makes copies
  std::uint32_t budget_;
  std::uint32_t active_share_ = 0;
  std::uint32_t idle_share_ = 0;
  pipeline::Counter teed_bytes_, copied_bytes_;
};

}  // namespace vtap::io
