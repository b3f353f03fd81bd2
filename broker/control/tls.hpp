// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "control/transport.hpp"
#include "vtap/result.hpp"

struct ssl_ctx_st;

namespace vtap::control {

/// A certificate and its key, for connections of clients. TLS 1.2 and 1.3.
class Tls {
 public:
  /// PEM files; `certificate` may hold the chain behind its own. The key must not be readable to
  /// everybody. Errors: usage, with the file.
  static Result<Tls> open(const std::string& certificate, const std::string& key);

  /// The server's end on `socket`, non-blocking, which outlives it. The handshake comes with the
  /// first read, so that it has the same deadline.
  [[nodiscard]] std::unique_ptr<Transport> accept(int socket) const;

 private:
  struct Free {
    void operator()(ssl_ctx_st* context) const noexcept;
  };
  explicit Tls(std::unique_ptr<ssl_ctx_st, Free> context) : context_(std::move(context)) {}

  std::unique_ptr<ssl_ctx_st, Free> context_;
};

}  // namespace vtap::control
