// SPDX-License-Identifier: Apache-2.0
#include "io/xsk.hpp"

#include <linux/if_link.h>
#include <linux/if_xdp.h>
#include <sys/socket.h>
#include <vtap/abi.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>

#include "io/bpf.hpp"

namespace vtap::io {
namespace {

using namespace std::chrono_literals;
constexpr auto kBusyPatience = 2s;
constexpr auto kBusyPause = 10ms;
constexpr int kXdpMaxTxSkbBudget = 9;  // XDP_MAX_TX_SKB_BUDGET, newer than Debian 12's headers

/// Lets one sendto move so many descriptors in copy mode. A kernel that lacks the option (before
/// 6.17) moves 32 and refuses this, as one that has it does for more than the ring holds.
bool set_tx_budget(int fd, std::uint32_t descriptors) noexcept {
  return setsockopt(fd, SOL_XDP, kXdpMaxTxSkbBudget, &descriptors, sizeof(descriptors)) == 0;
}

bool granted_zero_copy(int fd) noexcept {
  xdp_options options{};
  socklen_t size = sizeof(options);
  return getsockopt(fd, SOL_XDP, XDP_OPTIONS, &options, &size) == 0 &&
         (options.flags & XDP_OPTIONS_ZEROCOPY) != 0;
}

}  // namespace

XskSocket::~XskSocket() {
  if (socket_ != nullptr) xsk_socket__delete(socket_);
  if (umem_ != nullptr) xsk_umem__delete(umem_);
}

Result<std::unique_ptr<XskSocket>> XskSocket::open_once(const XskSpec& spec,
                                                        pipeline::UmemView umem, bool zero_copy,
                                                        int& error) {
  const std::string name = spec.port + " queue " + std::to_string(spec.queue);
  std::unique_ptr<XskSocket> opened(new XskSocket);
  opened->spec_ = spec;
  // Every socket wants a fill and a completion ring, also one that never receives or sends.
  const std::uint32_t least = 64;
  const xsk_umem_config umem_config{.fill_size = std::max(spec.rx_size, least),
                                    .comp_size = std::max(spec.tx_size, least),
                                    .frame_size = umem.frame_size,
                                    .frame_headroom = 0,
                                    .flags = 0};
  error = xsk_umem__create(&opened->umem_, umem.base, std::uint64_t{umem.frames} * umem.frame_size,
                           &opened->fill, &opened->completion, &umem_config);
  if (error != 0) return bpf_error("registering the UMEM for " + name, error);
  xsk_socket_config socket_config{};
  socket_config.rx_size = spec.rx_size;
  socket_config.tx_size = spec.tx_size;
  socket_config.libxdp_flags = XSK_LIBXDP_FLAGS__INHIBIT_PROG_LOAD;
  socket_config.bind_flags =
      static_cast<__u16>(XDP_USE_NEED_WAKEUP | (zero_copy ? XDP_ZEROCOPY : XDP_COPY));
  error = xsk_socket__create(&opened->socket_, spec.port.c_str(), spec.queue, opened->umem_,
                             spec.rx_size != 0 ? &opened->rx : nullptr,
                             spec.tx_size != 0 ? &opened->tx : nullptr, &socket_config);
  if (error != 0) return bpf_error("opening an AF_XDP socket on " + name, error);
  opened->zero_copy_ = granted_zero_copy(opened->fd());
  const std::uint32_t budget = std::min(spec.tx_size, kTxBudget);
  if (budget > kOldTxBudget && set_tx_budget(opened->fd(), budget)) opened->tx_budget_ = budget;
  // In copy mode what is sent becomes an skb with this mark.
  constexpr std::uint32_t kMark = VTAP_MARK << VTAP_MARK_SHIFT;
  if (spec.marks_copies &&
      setsockopt(opened->fd(), SOL_SOCKET, SO_MARK, &kMark, sizeof(kMark)) != 0) {
    error = -errno;
    return bpf_error("marking what is sent on " + name, error);
  }
  return opened;
}

Result<std::unique_ptr<XskSocket>> XskSocket::open(const XskSpec& spec, pipeline::UmemView umem) {
  const auto give_up = std::chrono::steady_clock::now() + kBusyPatience;
  bool zero_copy = true;
  while (true) {
    int error = 0;
    auto opened = open_once(spec, umem, zero_copy, error);
    if (opened) return opened;
    if (error == -EBUSY && std::chrono::steady_clock::now() < give_up) {
      std::this_thread::sleep_for(kBusyPause);
    } else if (zero_copy && error != -EPERM) {
      zero_copy = false;
    } else {
      return opened;
    }
  }
}

bool registers_as_umem(pipeline::UmemView memory) noexcept {
  xsk_umem* umem = nullptr;
  xsk_ring_prod fill{};
  xsk_ring_cons completion{};
  const xsk_umem_config config{.fill_size = 64,
                               .comp_size = 64,
                               .frame_size = memory.frame_size,
                               .frame_headroom = 0,
                               .flags = 0};
  const int error =
      xsk_umem__create(&umem, memory.base, std::uint64_t{memory.frames} * memory.frame_size, &fill,
                       &completion, &config);
  if (error == 0) xsk_umem__delete(umem);
  return error != -EFAULT && error != -EINVAL && error != -EOPNOTSUPP;
}

}  // namespace vtap::io
