// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "vtap/result.hpp"

namespace vtap::control {

/// What the control socket can ask of the broker. The functions run on the server's own threads,
/// several at once: they must be thread-safe, and must not wait for the thread that calls
/// ControlServer::stop. What they throw becomes a 500.
struct Handlers {
  std::string version;                            ///< of the broker
  std::function<std::string()> stats_json;        ///< the JSON of DESIGN 7.3, on one line
  std::function<Result<void>()> reload;           ///< one at a time; empty: not supported
  std::function<void()> at_thread_start = [] {};  ///< first on each of the server's threads
};

/// The broker's control socket: HTTP/1.1 over a Unix stream socket, one request per connection.
///
///     GET  /v1/stats    200 and the JSON of DESIGN 7.3
///     GET  /v1/version  200 and {"name":"vtap-broker","version":"..."}
///     POST /v1/reload   200 and {"reloaded":true}; 422 for a bad config, 409 while another reload
///                       runs, 500 for any other failure, 501 without a handler
///
/// Every failure is {"error":"..."}: also 404, 405, and 413 for a request with a body (none of
/// these has one). Whatever clients do, the broker's own threads do not wait for them; a client
/// that stalls is cut off after 2 s each way.
///
/// SIGPIPE is ignored in the whole process from the first server on (cpp-httplib's constructor).
class ControlServer {
 public:
  /// Serves at `path`; for directories, modes and a socket already there see Listener. The threads
  /// keep all signals blocked and inherit the CPU affinity of the caller.
  static Result<std::unique_ptr<ControlServer>> open(const std::string& path, Handlers handlers);

  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;
  ~ControlServer();  ///< stops

  /// Answers the requests already read, removes the socket file and joins the threads. Takes as
  /// long as a running handler takes, plus 2 s at most. May be called twice.
  void stop();

  [[nodiscard]] const std::string& path() const;

 private:
  class Impl;
  explicit ControlServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace vtap::control
