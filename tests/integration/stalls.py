# SPDX-License-Identifier: Apache-2.0
"""How long the machine stood still: a virtual CPU can lose its physical one for half a second, and
then a broker has hung as far as anybody can tell. On every CPU a process sleeps and looks how late
it wakes up."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
import time

_NAP_S = 0.01
_PR_SET_PDEATHSIG = 1
_CELL = struct.Struct("q")


class Watch:
    """The longest stall of any CPU since the last reset. End it with close()."""

    def __init__(self) -> None:
        cpus = sorted(os.sched_getaffinity(0))
        self._cells = mmap.mmap(-1, _CELL.size * len(cpus))
        self._pids = [self._watch(number, cpu) for number, cpu in enumerate(cpus)]

    def _watch(self, number: int, cpu: int) -> int:
        parent = os.getpid()
        if pid := os.fork():
            return pid
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.sched_setaffinity(0, {cpu})
            while os.getppid() == parent:
                before = time.monotonic_ns()
                time.sleep(_NAP_S)
                late = time.monotonic_ns() - before - int(_NAP_S * 1e9)
                if late > self._cell(number):
                    _CELL.pack_into(self._cells, number * _CELL.size, late)
        finally:
            os._exit(0)

    def _cell(self, number: int) -> int:
        return _CELL.unpack_from(self._cells, number * _CELL.size)[0]

    @property
    def pids(self) -> list[int]:
        """One process for each CPU."""
        return [*self._pids]

    def longest_s(self) -> float:
        return max(self._cell(number) for number in range(len(self._pids))) / 1e9

    def reset(self) -> None:
        self._cells[:] = bytes(len(self._cells))

    def close(self) -> None:
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._pids = []
