// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

#include "vtap/result.hpp"

namespace vtap::ctl {

/// Where brokers put their control sockets unless told otherwise (DESIGN 7.1).
inline constexpr const char* kSocketDirectory = "/run/vtap";

/// The socket to use when none is named: the only *.sock in `directory`, else vtap.sock there.
/// An error when there are several and none of them is vtap.sock.
Result<std::string> default_socket(const std::filesystem::path& directory);

/// Asks the broker behind one control socket. Every call connects anew, so a client outlives a
/// restart of its broker. Errors name the socket and what the user can do.
class Client {
 public:
  explicit Client(std::string socket) : socket_(std::move(socket)) {}

  /// The broker's JSON of DESIGN 7.3, byte for byte.
  [[nodiscard]] Result<std::string> stats() const;

  /// Waits until the new plan carries traffic, or was refused.
  [[nodiscard]] Result<void> reload() const;

 private:
  enum class Method { get, post };
  [[nodiscard]] Result<std::string> request(Method method, const std::string& path) const;
  [[nodiscard]] Result<std::string> exchange(Method method, const std::string& path) const;

  std::string socket_;
};

}  // namespace vtap::ctl
