// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <httplib.h>

#include <cstddef>

#include "control/api.hpp"
#include "control/connection.hpp"
#include "control/secret.hpp"

namespace vtap::control {

/// HTTP/1.1 in front of an Api, one request per connection. cpp-httplib parses and formats; its
/// sockets, threads, routes and body reader are not used. One thread uses one of these.
class Http : private httplib::Server {
 public:
  /// Bytes of a request's body.
  static constexpr std::size_t kMaxBody = std::size_t{4} << 20;

  /// `api` and `token` outlive it. Without a token, every client is served.
  Http(Api& api, const Token* token);

  /// Reads one request and answers it.
  void serve(Connection& connection);

 private:
  /// Time of a client to take what there is of a stream.
  static constexpr std::chrono::milliseconds kStreamPatience{10'000};
  /// Between two looks at what there is.
  static constexpr std::chrono::milliseconds kStreamPause{20};

  Reply answer(const httplib::Request& request);
  /// Writes the whole response of a stream.
  void send(Stream& stream, const char* type);
  bool write(const std::string& bytes);
  /// The body, or why there is none to be had.
  std::variant<std::string, Reply> read_body(const httplib::Request& request, bool wanted);

  Api& api_;
  const Token* token_;
  Connection* connection_ = nullptr;  // while it is served
  bool unread_ = false;               // whether its request has a body that was not read
};

}  // namespace vtap::control
