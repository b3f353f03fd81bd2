// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "vtap/result.hpp"

namespace vtap::metrics {

/// Makes the text of one scrape. Runs on the server's threads, two at once: must be thread-safe.
/// What it throws becomes a 503.
using Text = std::function<std::string()>;

/// What Prometheus scrapes: HTTP/1.1 over TCP, one request per connection.
///
///     GET /metrics   200 and the text format of metrics/exposition.hpp
///
/// Everything else is refused in a line of text: 404, 405, and 413 for a request with a body. There
/// is no authentication: whoever reaches the address reads the counters. Two threads, so a third
/// client waits in the kernel's backlog; one that stalls is cut off after 2 s each way, and one
/// that says more than kMaxRequest is hung up on. SIGPIPE is ignored in the whole process from the
/// first server on (cpp-httplib's constructor).
class MetricsServer {
 public:
  static constexpr int kThreads = 2;
  static constexpr std::size_t kMaxRequest = 16384;  ///< bytes

  /// `at_thread_start`: first on each of the server's threads. `host`: an IPv4 or IPv6 address, not
  /// a name. Port 0: any, see port(). The threads keep all signals blocked and inherit the CPU
  /// affinity of the caller. Errors: the address is taken or not this machine's (runtime), or needs
  /// a privilege (unsupported).
  static Result<std::unique_ptr<MetricsServer>> open(const std::string& host, std::uint16_t port,
                                                     Text text,
                                                     std::function<void()> at_thread_start = {});

  MetricsServer(const MetricsServer&) = delete;
  MetricsServer& operator=(const MetricsServer&) = delete;
  ~MetricsServer();  ///< stops

  /// Answers the requests already read and joins the threads: takes as long as a running Text, plus
  /// 2 s at most. May be called twice.
  void stop();

  [[nodiscard]] std::uint16_t port() const noexcept;

 private:
  class Impl;
  explicit MetricsServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace vtap::metrics
