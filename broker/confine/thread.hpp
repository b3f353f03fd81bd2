// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "vtap/result.hpp"

namespace vtap::confine {

/// What a thread is there for. docs/security.md has what each may still do, and why.
enum class Role {
  worker,  ///< moves frames between memory and rings that are open
  server,  ///< answers requests on sockets that are open
};

/// Takes from the calling thread, and from it alone, all that its role does not need, for ever:
/// every capability, all system calls but a short list, and where the kernel has Landlock the file
/// system (a server may write below `run_directories`, though it has no call left to open a file
/// there) and TCP of its own. Sets no_new_privs. Call it first on the new thread. Errors: runtime;
/// unsupported without seccomp filters.
Result<void> confine_this_thread(Role role, const std::vector<std::string>& run_directories = {});

}  // namespace vtap::confine
