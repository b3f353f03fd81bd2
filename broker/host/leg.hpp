// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "vtap/fd.hpp"
#include "vtap/result.hpp"

namespace vtap::host {

/// The leg: a tap (tun) device without offloads, to which packets are cloned that only the kernel
/// can cut and complete. What it would transmit, a socket filter program sees frame by frame, and
/// nobody else: no queue, no peer, nothing that reads. It goes away with this object or the
/// process.
class Leg {
 public:
  /// A device of a fresh name ("vtapleg0", ...), down. Errors: unsupported: no /dev/net/tun, or no
  /// right to make a device.
  static Result<Leg> create();

  /// `filter_fd`: a BPF_PROG_TYPE_SOCKET_FILTER program that returns 0, "drop", for every frame.
  /// From then on the device is up.
  Result<void> start(int filter_fd);

  [[nodiscard]] int ifindex() const noexcept { return ifindex_; }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }

 private:
  Leg(UniqueFd fd, std::string name, int ifindex)
      : fd_(std::move(fd)), name_(std::move(name)), ifindex_(ifindex) {}

  UniqueFd fd_;  ///< the device lives as long
  std::string name_;
  int ifindex_;
};

}  // namespace vtap::host
