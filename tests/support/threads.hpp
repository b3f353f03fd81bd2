// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sched.h>

#include <thread>

namespace vtap::test {

/// Moves the calling thread to the number-th of the CPUs that the process may use, in turn: so that
/// threads which are to meet do run at the same time, where there are CPUs for that.
inline void pin_to_cpu(unsigned number) {
  static const cpu_set_t allowed = [] {  // at the first call: later the caller may have only one
    cpu_set_t all;
    CPU_ZERO(&all);
    sched_getaffinity(0, sizeof(all), &all);
    return all;
  }();
  const auto count = static_cast<unsigned>(CPU_COUNT(&allowed));
  if (count == 0) return;
  unsigned left = number % count;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || left-- != 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof(one), &one);
    return;
  }
}

/// A thread of its own on that CPU.
template <typename Task>
std::thread thread_on(unsigned cpu, Task task) {
  return std::thread([cpu, task] {
    pin_to_cpu(cpu);
    task();
  });
}

}  // namespace vtap::test
