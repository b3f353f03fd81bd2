// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "control/handlers.hpp"
#include "vtap/result.hpp"

namespace vtap::control {

/// The API on TCP: a token always, and TLS where `certificate` is given.
struct TcpEndpoint {
  std::string address;           ///< numeric, IPv4 or IPv6
  std::uint16_t port = 0;        ///< 0: any free one
  std::string token_file;        ///< see Token
  std::string certificate = {};  ///< PEM; with a key, or neither
  std::string key = {};
};

/// Where clients find the API.
struct Endpoints {
  std::string path;            ///< of the Unix socket
  std::string group = "vtap";  ///< that the socket file gets, if there is such a group
  std::optional<TcpEndpoint> tcp = {};
};

/// The broker's API: HTTP/1.1 over a Unix stream socket, and over TCP where that is asked for; one
/// request per connection. docs/openapi.json has the requests, docs/api.md how to use them.
///
/// Every failure is {"error":"..."}. Whatever clients do, the broker's own threads do not wait for
/// them; a client that stalls is cut off after 2 s each way. Clients on TCP cannot keep those of
/// the Unix socket waiting: each have threads of their own.
///
/// SIGPIPE is ignored in the whole process from the first server on (cpp-httplib's constructor).
class ControlServer {
 public:
  /// Serves at `endpoints`; for directories, modes and a socket already there see Listener. The
  /// threads keep all signals blocked and inherit the CPU affinity of the caller. Errors: usage for
  /// what the config should say otherwise, also a TCP address beyond this host without TLS.
  static Result<std::unique_ptr<ControlServer>> open(const Endpoints& endpoints, Handlers handlers);

  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;
  ~ControlServer();  ///< stops

  /// Answers the requests already read, removes the socket file and joins the threads. Takes as
  /// long as a running handler takes, plus 2 s at most. May be called twice.
  void stop();

  /// Of the Unix socket.
  [[nodiscard]] const std::string& path() const;
  /// Whether its file has the group that was asked for; else only root and the broker's own user
  /// and group reach it.
  [[nodiscard]] bool has_group() const;
  /// Of the TCP endpoint; 0 without one.
  [[nodiscard]] std::uint16_t tcp_port() const;

 private:
  class Impl;
  explicit ControlServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace vtap::control
