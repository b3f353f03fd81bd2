// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstddef>

namespace vtap::control {

/// What one step of a transfer on a non-blocking socket came to.
struct Moved {
  ssize_t bytes = -1;  ///< 0: the other end is done; -1: none
  short wait_for = 0;  ///< of no bytes: POLLIN or POLLOUT before the next try, 0 for a failure
};

/// How the bytes of a connection are carried: as they are, or by TLS. Never waits.
class Transport {
 public:
  Transport() = default;
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;
  virtual ~Transport() = default;

  virtual Moved read(char* to, std::size_t size) = 0;
  virtual Moved write(const char* from, std::size_t size) = 0;
  /// Whether there is something to read, whatever poll() says of the socket.
  [[nodiscard]] virtual bool has_input() const = 0;
  /// Tells the other end that nothing more will be written, as far as that needs no waiting.
  virtual void end() = 0;
};

}  // namespace vtap::control
