// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "vtap/result.hpp"

/// Landlock: what of the file system a thread may still use (landlock(7)). Internal to this folder.
namespace vtap::confine {

/// Version of the kernel's Landlock; 0: it has none, or none that was turned on at its start.
int landlock_version() noexcept;

struct FileRules {
  bool read = true;                   ///< anywhere
  std::vector<std::string> writable;  ///< files, and directories with all below; missing: left out
  bool network = true;                ///< TCP bind and connect, where Landlock knows them (6.7)
};

/// Takes everything else from the calling thread and all threads that it will start, for ever. No
/// Landlock: does nothing. Needs no_new_privs. Errors: runtime.
Result<void> restrict_files(const FileRules& rules);

}  // namespace vtap::confine
