// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "vtap/result.hpp"

/// Which system calls a thread may still make (seccomp(2)). Internal to this folder.
namespace vtap::confine {

enum class Calls {
  control,  ///< all but those that no part of the broker makes: execve, ptrace, mount and so on
  worker,   ///< a list: what the packet path needs
  server,   ///< a list: what answering requests needs
  opener,   ///< a list: bpf(BPF_PROG_GET_FD_BY_ID), and waiting for the next request
};

/// From now on every other call of this thread fails with EPERM, and the kernel logs it where it
/// logs such things (seccomp(2), SECCOMP_FILTER_FLAG_LOG). Threads started from here on inherit it.
/// A call by way of another architecture's table ends the process. Needs no_new_privs. Errors:
/// unsupported where the kernel has no seccomp filters.
Result<void> allow_only(Calls calls);

}  // namespace vtap::confine
