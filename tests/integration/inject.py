# SPDX-License-Identifier: Apache-2.0
"""System calls made by somebody else's thread: what an intruder who runs code there could do.

ptrace(2) stops the thread in the call that it waits in, has it make another one, and lets it go on as
if nothing had been. The product is the one that is shipped, without a hook."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SUPPORTED = platform.machine() == "x86_64"

_POKE_DATA = 5
_CONTINUE, _SINGLE_STEP, _GET_REGISTERS, _SET_REGISTERS, _ATTACH, _DETACH = 7, 9, 12, 13, 16, 17
_WALL = 0x40000000  # wait for threads, too
_SYSCALL = b"\x0f\x05"
_OLD_SYSCALL = b"\xcd\x80"  # int 0x80: the table of 32-bit programs

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class _Registers(ctypes.Structure):
    """struct user_regs_struct of x86-64."""
    _fields_ = [(name, ctypes.c_ulonglong) for name in (
        "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss "
        "fs_base gs_base ds es fs gs").split()]


def _ptrace(request: int, thread: int, data: ctypes.Structure | int | None = None,
            address: int | None = None) -> None:
    if isinstance(data, ctypes.Structure):
        data = ctypes.cast(ctypes.byref(data), ctypes.c_void_p)
    if _libc.ptrace(request, thread, address, data) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), f"ptrace request {request}")


class Puppet:
    """A thread stopped in a system call."""

    def __init__(self, process: int, thread: int) -> None:
        self._memory = Path("/proc", str(process), "mem")
        self._thread = thread

    def call(self, number: int, *arguments: int | bytes) -> int:
        """What the call returns: a negative errno, or its result. Bytes are put on the stack."""
        registers = self._registers()
        registers.orig_rax = (1 << 64) - 1  # nothing to start again
        registers.rax = number
        registers.rip -= len(_SYSCALL)
        spare = registers.rsp - 4096
        for register, value in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), arguments):
            if isinstance(value, bytes):
                self._write(spare, value)
                value, spare = spare, spare - 512
            setattr(registers, register, value & ((1 << 64) - 1))
        saved = self._registers()
        _ptrace(_SET_REGISTERS, self._thread, registers)
        self._step()
        result = ctypes.c_longlong(self._registers().rax).value
        _ptrace(_SET_REGISTERS, self._thread, saved)
        return result

    def old_call(self, number: int) -> None:
        """By the table of 32-bit programs. Returns when the thread has ended of it."""
        registers = self._registers()
        registers.orig_rax = (1 << 64) - 1
        registers.rax = number
        registers.rip -= len(_OLD_SYSCALL)
        self._write(registers.rip, _OLD_SYSCALL)
        _ptrace(_SET_REGISTERS, self._thread, registers)
        signal_to_pass = 0
        while True:
            _libc.ptrace(_CONTINUE, self._thread, None, signal_to_pass)
            _, status = os.waitpid(self._thread, _WALL)
            if not os.WIFSTOPPED(status):
                return  # and the process may be waited for
            signal_to_pass = os.WSTOPSIG(status)

    def in_a_call(self) -> bool:
        registers = self._registers()
        with self._memory.open("rb", buffering=0) as memory:
            memory.seek(registers.rip - len(_SYSCALL))
            return memory.read(len(_SYSCALL)) == _SYSCALL and registers.orig_rax < 1 << 32

    def _registers(self) -> _Registers:
        registers = _Registers()
        _ptrace(_GET_REGISTERS, self._thread, registers)
        return registers

    def _step(self) -> None:
        _ptrace(_SINGLE_STEP, self._thread)
        _, status = os.waitpid(self._thread, _WALL)
        assert os.WIFSTOPPED(status), f"the thread ended: status {status:#x}"

    def _write(self, address: int, data: bytes) -> None:
        """By ptrace: kernels may let /proc/PID/mem write only where the process itself could."""
        for at in range(0, len(data), 8):
            word = data[at:at + 8]
            with self._memory.open("rb", buffering=0) as memory:
                memory.seek(address + at)
                word += memory.read(8)[len(word):]
            _ptrace(_POKE_DATA, self._thread, int.from_bytes(word, "little"), address + at)


@contextmanager
def taken_over(process: int, thread: int, patience: float = 3.0) -> Iterator[Puppet]:
    """Stops a thread while it waits in a system call, and lets it go on at the end."""
    deadline = time.monotonic() + patience
    puppet = Puppet(process, thread)
    while True:
        _ptrace(_ATTACH, thread)
        os.waitpid(thread, _WALL)
        if puppet.in_a_call():
            break
        _ptrace(_DETACH, thread)
        assert time.monotonic() < deadline, "the thread never waits"
        time.sleep(0.01)
    try:
        yield puppet
    finally:
        try:
            _ptrace(_DETACH, thread)
        except OSError as error:
            if error.errno != errno.ESRCH:  # it has ended
                raise


def threads(process: int) -> dict[str, list[int]]:
    """Thread ids by name, without the number of a worker."""
    found: dict[str, list[int]] = {}
    for task in Path("/proc", str(process), "task").iterdir():
        name = (task / "comm").read_text().strip().rstrip("0123456789").rstrip("-")
        found.setdefault(name, []).append(int(task.name))
    return found


def status(process: int, thread: int) -> dict[str, str]:
    text = Path("/proc", str(process), "task", str(thread), "status").read_text()
    return {key: value.strip() for key, _, value in (line.partition(":")
                                                     for line in text.splitlines())}


def bpf_map_attributes() -> bytes:
    """union bpf_attr for BPF_MAP_CREATE: an array of one word."""
    return struct.pack("=IIIII", 2, 4, 4, 1, 0) + bytes(100)


def c_string(text: str) -> bytes:
    return text.encode() + b"\0"


Call = tuple[int, Sequence[int | bytes]]
