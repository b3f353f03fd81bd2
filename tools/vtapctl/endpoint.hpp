// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "vtap/result.hpp"

namespace vtap::ctl {

/// Where brokers put their control sockets unless told otherwise (DESIGN 7.1).
inline constexpr const char* kSocketDirectory = "/run/vtap";

/// The socket to use when none is named: the only *.sock in `directory` that is not of a dead
/// broker, else vtap.sock there. An error when there are several and none of them is vtap.sock.
Result<std::string> default_socket(const std::filesystem::path& directory);

/// http(s)://HOST[:PORT][/]: no path, no user, no query.
struct Url {
  bool tls = false;
  std::string host;  ///< without the brackets of an IPv6 address
  int port = 0;      ///< 80 or 443 where the text names none

  /// The text again, with its port.
  [[nodiscard]] std::string text() const;

  /// 127.0.0.0/8, ::1 or localhost: what is sent there does not leave this machine.
  [[nodiscard]] bool is_local() const;
};

/// Errors are of kind usage.
Result<Url> parse_url(const std::string& text);

/// What the command line and the environment say about where the broker is; empty: nothing.
struct Target {
  std::string socket;
  std::string url;
  std::string token_file;
  std::string ca_file;
};

/// What `target` leaves open the environment may say: VTAP_URL, and VTAP_TOKEN_FILE for a URL.
Target with_environment(Target target,
                        const std::function<std::string(const char* name)>& variable);

/// Where one broker is asked, and what lets us in.
struct Endpoint {
  std::string socket;      ///< a Unix socket, unless there is a
  std::optional<Url> url;  ///< TCP address
  std::string token;       ///< of the TCP address; may be empty
  std::string ca_file;     ///< PEM: who may have signed its certificate; empty: the system's

  /// As messages name it.
  [[nodiscard]] std::string name() const { return url ? url->text() : socket; }
};

/// Reads the token file; where `target` names neither socket nor URL, looks for a socket in
/// `directory`. Refuses to send a token to another machine without TLS. Errors of kind usage for
/// what the command line has wrong.
Result<Endpoint> endpoint_of(const Target& target, const std::filesystem::path& directory);

}  // namespace vtap::ctl
