// SPDX-License-Identifier: Apache-2.0
#include "io/xsk_ports.hpp"

#include <linux/if_xdp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cassert>

namespace vtap::io {
namespace {

constexpr std::uint32_t kReclaimBatch = 256;

}  // namespace

XskSink::XskSink(pipeline::UmemView umem, FrameReturn& home, std::uint32_t limit)
    : umem_(umem), home_(home), limit_(limit), held_length_(umem.frames, 0) {}

pipeline::Sink::Posted XskSink::post(std::span<const pipeline::TxDescriptor> frames) noexcept {
  if (socket_ == nullptr) return {0, Refusal::down};
  const auto wanted = static_cast<std::uint32_t>(frames.size());
  const std::uint32_t allowed = std::min(wanted, limit_ - std::min(limit_, held_));
  const std::uint32_t room = xsk_prod_nb_free(&socket_->tx, allowed);
  const std::uint32_t count = std::min(allowed, room);
  const Posted posted{count, count == allowed ? Refusal::queue_full : Refusal::ring_full};
  std::uint32_t slot = 0;
  if (count == 0 || xsk_ring_prod__reserve(&socket_->tx, count, &slot) != count) {
    return {0, posted.refusal};
  }
  for (const pipeline::TxDescriptor& frame : frames.first(count)) {
    xdp_desc* desc = xsk_ring_prod__tx_desc(&socket_->tx, slot++);
    desc->addr = static_cast<std::uint64_t>(frame.address);
    desc->len = frame.length;
    desc->options = 0;
    held_length_[static_cast<std::uint32_t>(umem_.number(frame.address))] =
        static_cast<std::uint16_t>(frame.length);
  }
  xsk_ring_prod__submit(&socket_->tx, count);
  held_ += count;
  if (timed_ != nullptr && timed_->since_ns != 0) start_timing(frames.first(count));
  return posted;
}

void XskSink::start_timing(std::span<const pipeline::TxDescriptor> posted) noexcept {
  if (in_flight_.since_ns != 0) return;
  const auto is_it = [&](const auto& frame) { return timed_->is(frame.address); };
  if (std::ranges::any_of(posted, is_it)) in_flight_ = *timed_;
}

/// Behind every call of forget() for what was sent: if the timed frame is held no more, it was.
void XskSink::end_timing() noexcept {
  const auto frame = static_cast<std::uint32_t>(umem_.number(in_flight_.address));
  if (held_length_[frame] != 0) return;
  latency_.observe(*now_ - std::min(*now_, in_flight_.since_ns));
  in_flight_ = {};
}

std::uint32_t XskSink::unsent() const noexcept {
  const std::uint32_t taken =
      std::atomic_ref(*socket_->tx.consumer).load(std::memory_order_acquire);
  return *socket_->tx.producer - taken;
}

bool XskSink::kick() noexcept {
  if (socket_ == nullptr || unsent() == 0) return false;
  if (xsk_ring_prod__needs_wakeup(&socket_->tx) == 0) return false;
  // An error means "not now" (EAGAIN, EBUSY, ENOBUFS) or a link that is down, which the link watch
  // tells; either way the frames stay in the ring.
  return sendto(socket_->fd(), nullptr, 0, MSG_DONTWAIT, nullptr, 0) >= 0;
}

std::uint32_t XskSink::forget(pipeline::FrameNumber frame) noexcept {
  const std::uint32_t length =
      std::exchange(held_length_[static_cast<std::uint32_t>(frame)], std::uint16_t{0});
  assert(length != 0 && held_ > 0);
  --held_;
  home_.give_back(frame);
  return length;
}

std::uint32_t XskSink::reclaim() noexcept {
  if (socket_ == nullptr || held_ == 0) return 0;
  std::uint32_t slot = 0;
  const std::uint32_t count = xsk_ring_cons__peek(&socket_->completion, kReclaimBatch, &slot);
  if (count == 0) return 0;
  std::uint32_t sent = 0;
  std::uint64_t bytes = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint64_t address = *xsk_ring_cons__comp_addr(&socket_->completion, slot + i);
    if (address >= nowhere()) continue;  // see retract()
    bytes += forget(umem_.number(pipeline::FrameAddress{address}));
    ++sent;
  }
  xsk_ring_cons__release(&socket_->completion, count);
  sent_frames_.add(sent);
  sent_bytes_.add(bytes);
  if (in_flight_.since_ns != 0) end_timing();
  return sent;
}

std::uint64_t XskSink::nowhere() const noexcept {
  return std::uint64_t{umem_.frames} * umem_.frame_size;
}

std::uint32_t XskSink::retract() noexcept {
  if (socket_ == nullptr || socket_->zero_copy()) return 0;
  in_flight_ = {};  // it may be among them
  // An address outside the UMEM: the kernel sends nothing. Some just skip the descriptor, others
  // (6.18) hand it back as completed.
  const std::uint32_t first = *socket_->tx.producer - unsent();
  std::uint32_t count = 0;
  for (std::uint32_t slot = first; slot != *socket_->tx.producer; ++slot) {
    xdp_desc* desc = xsk_ring_prod__tx_desc(&socket_->tx, slot);
    if (desc->addr == nowhere()) continue;  // retracted before, and not yet skipped
    forget(umem_.number(pipeline::FrameAddress{desc->addr}));
    desc->addr = nowhere();
    desc->len = 1;
    ++count;
  }
  return count;
}

std::uint32_t XskSink::abandon() noexcept {
  std::uint32_t count = 0;
  in_flight_ = {};
  for (std::uint32_t frame = 0; held_ != 0 && frame < held_length_.size(); ++frame) {
    if (held_length_[frame] == 0) continue;
    forget(pipeline::FrameNumber{frame});
    ++count;
  }
  return count;
}

XskSource::XskSource(XskSocket& socket, std::uint8_t port, pipeline::UmemView umem,
                     pipeline::FramePool& pool)
    : socket_(socket), port_(port), umem_(umem), pool_(pool), given_(umem.frames, false) {
  refill();
}

void XskSource::receive(pipeline::Burst& burst) noexcept {
  std::uint32_t slot = 0;
  const std::uint32_t room = pipeline::Burst::kCapacity - burst.size;
  const std::uint32_t count = xsk_ring_cons__peek(&socket_.rx, room, &slot);
  for (std::uint32_t i = 0; i < count; ++i) {
    const xdp_desc* desc = xsk_ring_cons__rx_desc(&socket_.rx, slot + i);
    const pipeline::FrameAddress address{desc->addr};
    burst.push(address, desc->len, port_);
    given_[static_cast<std::uint32_t>(umem_.number(address))] = false;
  }
  if (count != 0) xsk_ring_cons__release(&socket_.rx, count);
  out_ -= count;
  refill();
}

bool XskSource::empty() const noexcept { return xsk_cons_nb_avail(&socket_.rx, 1) == 0; }

void XskSource::refill() noexcept {
  const std::uint32_t depth = socket_.spec().rx_size;
  const std::uint32_t wanted = std::min(depth - std::min(depth, out_), pool_.available());
  std::uint32_t slot = 0;
  if (wanted != 0 && xsk_ring_prod__reserve(&socket_.fill, wanted, &slot) == wanted) {
    for (std::uint32_t i = 0; i < wanted; ++i) {
      const pipeline::FrameNumber frame = pool_.take();
      given_[static_cast<std::uint32_t>(frame)] = true;
      *xsk_ring_prod__fill_addr(&socket_.fill, slot + i) =
          static_cast<std::uint64_t>(umem_.start(frame));
    }
    xsk_ring_prod__submit(&socket_.fill, wanted);
    out_ += wanted;
  }
  if (xsk_ring_prod__needs_wakeup(&socket_.fill) != 0) {
    recvfrom(socket_.fd(), nullptr, 0, MSG_DONTWAIT, nullptr, nullptr);
  }
}

void XskSource::abandon() noexcept {
  for (std::uint32_t frame = 0; out_ != 0 && frame < given_.size(); ++frame) {
    if (!given_[frame]) continue;
    given_[frame] = false;
    pool_.release(pipeline::FrameNumber{frame});
    --out_;
  }
}

}  // namespace vtap::io
