// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "control/fd.hpp"
#include "vtap/result.hpp"

namespace vtap::control {

/// A listening TCP socket, non-blocking, close-on-exec.
class TcpListener {
 public:
  /// `address` is numeric, IPv4 or IPv6; port 0 is any free one. Errors name both: usage for an
  /// address that is none, unsupported for a missing privilege, else runtime.
  static Result<TcpListener> open(const std::string& address, std::uint16_t port);

  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  [[nodiscard]] std::uint16_t port() const noexcept { return port_; }
  /// Whether only this host reaches it.
  [[nodiscard]] bool is_loopback() const noexcept { return loopback_; }

 private:
  TcpListener(Fd fd, std::uint16_t port, bool loopback)
      : fd_(std::move(fd)), port_(port), loopback_(loopback) {}

  Fd fd_;
  std::uint16_t port_;
  bool loopback_;
};

}  // namespace vtap::control
