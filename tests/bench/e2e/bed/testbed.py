# SPDX-License-Identifier: Apache-2.0
"""The two published testbeds, in namespaces on veth.

Tap between (`Between`): the tap is a wire with a monitor.

    gen          tap                  rcv
    g0 ========= a     b ============ r0     originals are counted at r0 (XDP)
                       m ============ m0     copies at m0 (XDP, namespace mon)
                       m2 =========== m02    ... and at up to three more

Tap on the receiver (`OnReceiver`): the tap sits on the port of the host that the traffic is for;
the host's own stack takes the originals up to a UDP socket. There is no b.

    gen          tap (the receiver)
    g0 ========= a -> stack
                 m ================== m0
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import bench

# What the generator sends by default, and the receiver must answer to.
RECEIVER_MAC = "02:00:00:00:00:02"
RECEIVER_ADDRESS = "10.1.0.2"
RECEIVER_PORT = 53
MONITORS = 4  # at most

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_SO_ATTACH_FILTER = 26


def monitor_port(number: int) -> str:
    """The tap's end of a monitor; numbers from 0."""
    return f"m{number + 1}" if number else "m"


def monitor_end(number: int) -> str:
    return f"m0{number + 1}" if number else "m0"


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread, and what it opens or starts, are in that namespace."""
    def enter(fd: int) -> None:
        if _libc.setns(fd, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter(there)
            yield
        finally:
            enter(home)
            os.close(there)
    finally:
        os.close(home)


Reading = tuple[int, float]  # frames so far, seconds of whatever clock the counter has


class Bed(bench.Lab):
    """A lab with up to four monitors and so many queues on every port."""

    def __init__(self, monitors: int = 1, queues: int = 1) -> None:
        self.monitors, self._queues = monitors, queues
        self.switch_port: str | None = None  # set by a switch that stands between port and stack
        super().__init__()
        try:
            for number in range(1, monitors):
                self._pair("tap", monitor_port(number), "mon", monitor_end(number))
            self.input_napi_on()
        except BaseException:
            self.close()
            raise

    def _pair(self, role: str, port: str, peer_role: str, peer: str) -> None:
        queues = ["numtxqueues", str(self._queues), "numrxqueues", str(self._queues)]
        # With "name": without it, `ip link` reads a port named "a" or "b" as a keyword.
        bench.run("ip", "-n", self.name[role], "link", "add", "name", port, *queues, "type",
                  "veth", "peer", "name", peer, *queues, "netns", self.name[peer_role])
        for where, name in ((role, port), (peer_role, peer)):
            bench.run("ip", "-n", self.name[where], "link", "set", "dev", name, "up")

    def monitor_ports(self) -> list[str]:
        return [monitor_port(number) for number in range(self.monitors)]

    def far_ends_napi_on(self) -> None:
        """Where no sink is: what is redirected to a veth arrives only if its peer has a NAPI."""
        self.run("rcv", "ethtool", "-K", "r0", "gro", "on")
        for number in range(self.monitors):
            self.run("mon", "ethtool", "-K", monitor_end(number), "gro", "on")

    def socket(self, role: str, *kind: int) -> socket.socket:
        with inside(self.name[role]):
            return socket.socket(*kind)

    def settle(self) -> None:
        """Called once the tap stands."""

    def open_counters(self, tools: bench.Tools, directory: Path) -> list["Counter"]:
        """One for the originals, then one for each monitor."""
        ends = [monitor_end(number) for number in range(self.monitors)]
        return [self._originals(tools, directory),
                *(SinkCounter(self, tools, directory, "mon", end) for end in ends)]

    def _originals(self, tools: bench.Tools, directory: Path) -> "Counter":
        return SinkCounter(self, tools, directory, "rcv", "r0")


Between = Bed


class OnReceiver(Bed):
    """The receiver's stack drops the datagrams in the filter of the socket that they are for."""

    def __init__(self, monitors: int = 1, queues: int = 1) -> None:
        super().__init__(monitors, queues)
        bench.run("ip", "-n", self.name["tap"], "link", "set", "dev", "lo", "up")
        self.run("tap", "ip", "link", "set", "dev", "a", "address", RECEIVER_MAC)
        self._address("a")

    def _address(self, port: str) -> None:
        self.run("tap", "ip", "address", "add", f"{RECEIVER_ADDRESS}/8", "dev", port)

    def stack_behind(self, port: str) -> None:
        """A switch has taken port a; the stack is behind a port of the switch, with the
        receiver's MAC."""
        self.run("tap", "ip", "address", "flush", "dev", "a")
        self.run("tap", "ip", "link", "set", "dev", "a", "address", "02:00:00:00:00:aa")
        self.run("tap", "ip", "link", "set", "dev", port, "up")
        self._address(port)

    def _originals(self, tools: bench.Tools, directory: Path) -> "Counter":
        return StackCounter(self)


class Counter:
    """Frames that arrived at an end, from its start on."""

    def ask(self) -> None:
        """Lets the counter take its figure now; `answer` gives it."""

    def answer(self) -> Reading:
        raise NotImplementedError

    def stop(self) -> None:
        pass


class SinkCounter(Counter):
    def __init__(self, bed: Bed, tools: bench.Tools, directory: Path, role: str,
                 port: str) -> None:
        self._sink = bench.Sink(bed, tools, directory, role, port)

    def ask(self) -> None:
        self._sink.ask()

    def answer(self) -> Reading:
        return self._sink.answer()

    def stop(self) -> None:
        self._sink.stop()


class StackCounter(Counter):
    """Datagrams that came to a socket of the receiver. Its filter drops them there (counted as
    InErrors), so that no reader takes a CPU."""

    def __init__(self, bed: Bed) -> None:
        with inside(bed.name["tap"]):
            self._snmp: IO[str] = open("/proc/thread-self/net/snmp")
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        program = struct.pack("=HBBI", 0x06, 0, 0, 0)  # return 0: drop
        memory = ctypes.create_string_buffer(program)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER,
                                struct.pack("@HP", 1, ctypes.addressof(memory)))
        self._socket.bind((RECEIVER_ADDRESS, RECEIVER_PORT))
        self._now: Reading = (0, 0.0)

    def ask(self) -> None:
        self._snmp.seek(0)
        text = self._snmp.read()
        now = time.monotonic()
        self._now = (udp_arrived(text), now)

    def answer(self) -> Reading:
        return self._now

    def stop(self) -> None:
        self._snmp.close()
        self._socket.close()


def udp_arrived(snmp: str) -> int:
    """Datagrams that reached UDP, from the text of /proc/net/snmp."""
    names, values = re.findall(r"^Udp: (.*)$", snmp, re.MULTILINE)
    udp = dict(zip(names.split(), map(int, values.split()), strict=True))
    return udp["InDatagrams"] + udp["InErrors"] + udp["NoPorts"]


def read_all(counters: list[Counter]) -> list[Reading]:
    for counter in counters:
        counter.ask()
    return [counter.answer() for counter in counters]


MakeBed = Callable[[], Bed]
