# SPDX-License-Identifier: Apache-2.0
"""What takes part in a bench: how it is set up, and what it needs of the machine."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bench

from bed import testbed

# libxdp, which Open vSwitch and DPDK use, makes this directory and leaves it.
LIBXDP_PINS = Path("/sys/fs/bpf/xdp")

# Puts the tap into the bed; yields its process, or None where the kernel does all of it.
Start = Callable[[testbed.Bed, bench.Tools, Path],
                 contextlib.AbstractContextManager[bench.Process | None]]


class Skip(Exception):
    """Why a contestant cannot take part on this machine: said aloud, and in the report."""


class Kind(enum.Enum):
    untapped = "untapped"  # what a tap is measured against
    vtap = "vtap-broker"
    peer = "peer"  # a tap that somebody else's tools make
    extra = "for information"


@dataclasses.dataclass(frozen=True)
class Contestant:
    name: str
    what: str
    kind: Kind
    start: Start
    monitors: int = 1  # that get copies; 0: it only forwards
    on_receiver: bool = False  # the testbed: tap on the receiver, else tap between
    packages: tuple[tuple[str, str], ...] = ()  # programs, and the Debian packages they are in

    def bed(self, queues: int = 1) -> testbed.Bed:
        make = testbed.OnReceiver if self.on_receiver else testbed.Between
        return make(max(self.monitors, 1), queues)

    def missing(self, tools: bench.Tools) -> str | None:
        """What is not there, or None."""
        if self.kind is Kind.vtap and not tools.broker.exists():
            return "vtap-broker is not built; see --build-dir"
        for program, package in self.packages:
            if not shutil.which(program):
                return f"no {program}: apt-get install {package} (tools/setup.sh --bench)"
        return None


def without_paths(text: str, directory: Path) -> str:
    """What a contestant says, without the scratch directory it was said about."""
    return re.sub(rf"{re.escape(str(directory))}/?", "", text)


@contextlib.contextmanager
def running(bed: testbed.Bed, role: str, argv: list[str], directory: Path, cpu: int | None = None,
            until: Callable[[bench.Process], bool] | None = None, seconds: float = bench.READY_S
            ) -> Iterator[bench.Process]:
    """A process of the contestant's, from when it is ready (`until`, else its word) to its end."""
    had_pins = LIBXDP_PINS.exists()
    process = bed.start(role, argv, directory, cpu)
    try:
        if until is None:
            process.wait_ready()
        else:
            wait_until(process, until, seconds)
        yield process
    finally:
        process.stop()
        if not had_pins:
            with contextlib.suppress(OSError):  # not made, or somebody else's by now
                LIBXDP_PINS.rmdir()


def wait_until(process: bench.Process, condition: Callable[[bench.Process], bool],
               seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition(process):
        if not process.alive():
            raise bench.BenchError(f"{process.name} ended: {process.tail()}")
        if time.monotonic() > deadline:
            raise bench.BenchError(f"{process.name} not ready in {seconds:.0f} s: "
                                   f"{process.tail()}")
        time.sleep(0.02)


def environment(**variables: str) -> list[str]:
    """Words in front of a command that set variables of its environment."""
    return [shutil.which("env") or "env", *(f"{name}={value}"
                                            for name, value in variables.items())]


def cpus_of(process: bench.Process) -> set[int]:
    """The CPUs on which its threads may run."""
    return {cpu for task in Path(f"/proc/{process.pid}/task").iterdir()
            for cpu in os.sched_getaffinity(int(task.name))}
