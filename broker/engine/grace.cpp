// SPDX-License-Identifier: Apache-2.0
#include "engine/grace.hpp"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <thread>

namespace vtap::engine {

/// BPF programs run in RCU read-side sections, and the global barrier waits for all of these, where
/// the kernel has it (not with nohz_full). Frames that were redirected are flushed by the end of
/// their section, too.
void wait_for_programs() {
  constexpr auto kGrace = std::chrono::milliseconds(20);
  if (syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) == 0) return;
  std::this_thread::sleep_for(kGrace);
}

}  // namespace vtap::engine
