# SPDX-License-Identifier: Apache-2.0
"""Where CPU time goes, by the kernel's ticks (/proc/stat).

Not by /proc/PID/stat: where the kernel counts by ticks, it spreads all of a task's time over user
and system in the ratio of their ticks, and the task's time includes softirqs that ran on its back.
AF_XDP transmission does so for half of a worker's time, which would then pass for user time.
Contestants with a process are alone on their CPU, so that the ticks of this CPU are theirs.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds that a CPU, or all of them, were busy."""
    user: float = 0.0
    system: float = 0.0
    softirq: float = 0.0  # and hard ones

    @property
    def all(self) -> float:
        return self.user + self.system + self.softirq

    def __add__(self, other: "Times") -> "Times":
        return Times(self.user + other.user, self.system + other.system,
                     self.softirq + other.softirq)

    def __sub__(self, other: "Times") -> "Times":
        return Times(self.user - other.user, self.system - other.system,
                     self.softirq - other.softirq)


def parse(text: str) -> dict[int, Times]:
    """CPU: its times since the boot."""
    cpus = {}
    for number, line in re.findall(r"^cpu(\d+) (.*)$", text, re.MULTILINE):
        user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, line.split())
        cpus[int(number)] = Times((user + nice) / TICKS, system / TICKS, (irq + softirq) / TICKS)
    return cpus


def now() -> dict[int, Times]:
    return parse(Path("/proc/stat").read_text())


def between(before: dict[int, Times], after: dict[int, Times]) -> dict[int, Times]:
    return {cpu: after[cpu] - times for cpu, times in before.items() if cpu in after}
