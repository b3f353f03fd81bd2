// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "confine/program_opener.hpp"
#include "confine/thread.hpp"
#include "confine/user.hpp"
#include "vtap/result.hpp"

namespace vtap::confine {

struct ProcessSpec {
  User user;                                 ///< of choose_user()
  std::string group = {};                    ///< joined, if there is such a group
  std::string own_directory;                 ///< made if missing, and handed over to `user`
  std::vector<std::string> run_directories;  ///< made if missing; where servers may write
  std::vector<std::string>
      writable;  ///< and the control thread; files, or directories with all below
};

/// A process without root. Its main thread, the control thread, keeps what a reload needs: five
/// capabilities (NET_ADMIN, NET_RAW, BPF, PERFMON, IPC_LOCK), reading as its user may, writing to
/// what the spec names, and all system calls but those for which the broker has no use (execve,
/// ptrace, mount ...). Threads that it starts inherit that, and give up the rest with starts().
class Process {
 public:
  /// Call on the main thread, before there are others; nothing of it can be taken back. What was
  /// done is in notes(). Errors: unsupported for a missing privilege or kernel feature, else
  /// runtime.
  static Result<Process> confine(const ProcessSpec& spec);

  /// To be called first on each new thread of that role. The process ends if it fails there; it has
  /// been tried once.
  [[nodiscard]] std::function<void()> starts(Role role) const;

  [[nodiscard]] ProgramOpener& programs() const noexcept { return *programs_; }
  /// Sentences for the log.
  [[nodiscard]] const std::vector<std::string>& notes() const noexcept { return notes_; }

 private:
  Process(std::unique_ptr<ProgramOpener> programs, std::vector<std::string> run_directories)
      : programs_(std::move(programs)), run_directories_(std::move(run_directories)) {}

  std::unique_ptr<ProgramOpener> programs_;
  std::vector<std::string> run_directories_;
  std::vector<std::string> notes_;
};

}  // namespace vtap::confine
