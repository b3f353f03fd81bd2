// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <string>

#include "control/fd.hpp"
#include "vtap/result.hpp"

namespace vtap::control {

/// Connects to the Unix stream socket at `path` and hangs up at once, without ever waiting.
/// Returns 0 when somebody listens there, else the errno: ECONNREFUSED is a leftover of a dead
/// process, EAGAIN a live one with too many callers, ENAMETOOLONG a path that no socket can have.
int probe_socket(const std::string& path);

/// A listening Unix stream socket and its file, which it removes when it goes.
///
/// The file has mode 0660 from its first moment on, whatever the umask; missing directories above
/// it are made with mode 0755. A socket file that nobody answers on is replaced; one that answers,
/// and a file of another kind, are left alone and refused.
class Listener {
 public:
  /// The file gets `group` if there is such a group and this process may give it.
  /// Errors: usage for a path that no socket can have, unsupported for a missing privilege, else
  /// runtime; each names the path.
  static Result<Listener> open(const std::string& path, const std::string& group = {});

  Listener(Listener&& other) noexcept = default;
  Listener& operator=(Listener&&) = delete;
  ~Listener();

  /// The listening descriptor: non-blocking, close-on-exec.
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  /// Whether the file got the group.
  [[nodiscard]] bool has_group() const noexcept { return has_group_; }

 private:
  Listener(std::string path, Fd fd) : path_(std::move(path)), fd_(std::move(fd)) {}
  Result<void> bind_and_listen(const std::string& group);

  std::string path_;
  Fd fd_;
  bool bound_ = false;
  bool has_group_ = false;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace vtap::control
