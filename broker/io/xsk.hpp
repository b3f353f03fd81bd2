// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <xdp/xsk.h>

#include <cstdint>
#include <memory>
#include <string>

#include "pipeline/frame_pool.hpp"
#include "vtap/result.hpp"

namespace vtap::io {

/// What an AF_XDP socket is to be. Ring sizes are powers of two, in descriptors; 0: no such ring.
struct XskSpec {
  std::string port;
  std::uint32_t queue = 0;
  std::uint32_t rx_size = 0;
  std::uint32_t tx_size = 0;
  bool marks_copies = false;  ///< what it sends are copies, which taps are to know by their mark
};

/// One AF_XDP socket on one queue, with its own registration of the UMEM, so that zero-copy and
/// copy devices can serve the same memory. (https://docs.kernel.org/networking/af_xdp.html)
class XskSocket {
 public:
  /// Asks for zero-copy and takes copy mode where the driver refuses. A queue that was closed a
  /// moment ago is often still busy: retried for up to two seconds.
  static Result<std::unique_ptr<XskSocket>> open(const XskSpec& spec, pipeline::UmemView umem);

  XskSocket(const XskSocket&) = delete;
  XskSocket& operator=(const XskSocket&) = delete;
  ~XskSocket();

  [[nodiscard]] int fd() const noexcept { return xsk_socket__fd(socket_); }
  [[nodiscard]] bool zero_copy() const noexcept { return zero_copy_; }
  /// Descriptors that one sendto moves at most in copy mode.
  [[nodiscard]] std::uint32_t tx_budget() const noexcept { return tx_budget_; }
  /// What it is without being asked for more, and what is asked for: a few bursts, so that no
  /// monitor holds up the others for long.
  static constexpr std::uint32_t kOldTxBudget = 32;
  static constexpr std::uint32_t kTxBudget = 256;
  [[nodiscard]] const XskSpec& spec() const noexcept { return spec_; }

  xsk_ring_cons rx{};
  xsk_ring_prod tx{};
  xsk_ring_prod fill{};
  xsk_ring_cons completion{};

 private:
  XskSocket() = default;
  static Result<std::unique_ptr<XskSocket>> open_once(const XskSpec& spec, pipeline::UmemView umem,
                                                      bool zero_copy, int& error);

  XskSpec spec_;
  xsk_umem* umem_ = nullptr;
  xsk_socket* socket_ = nullptr;
  bool zero_copy_ = false;
  std::uint32_t tx_budget_ = kOldTxBudget;
};

/// Whether the kernel takes this memory as UMEM: tried. True also where it could not be tried (no
/// privilege, no memory), as then the first socket says what is missing.
bool registers_as_umem(pipeline::UmemView memory) noexcept;

}  // namespace vtap::io
