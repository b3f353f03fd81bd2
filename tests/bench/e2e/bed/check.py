# SPDX-License-Identifier: Apache-2.0
"""Before anything is timed: whether originals and copies are, byte for byte, what was sent."""

from __future__ import annotations

import random
import socket
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import bench

from bed import testbed
from bed.contestant import Contestant

EACH = 12  # frames of each size
PAUSE_EVERY = 8  # frames, so that no ring runs over
ARRIVE_S = 5.0
LATE_S = 0.3  # for what comes twice, or was never sent
_SOL_PACKET, _PACKET_IGNORE_OUTGOING, _SO_RCVBUFFORCE, _ETH_P_ALL = 263, 23, 33, 3


def ones_complement(data: bytes) -> int:
    """RFC 1071."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frame(number: int, size: int, noise: random.Random) -> bytes:
    """UDP over IPv4 from a host that every contestant taps, numbered, checksums complete."""
    source, target = f"10.0.0.{1 + number % bench.TRAFFIC_HOSTS}", testbed.RECEIVER_ADDRESS
    payload = struct.pack("!I", number) + noise.randbytes(size - 14 - 20 - 8 - 4)
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    udp = struct.pack("!HHHH", 1024 + number, testbed.RECEIVER_PORT, 8 + len(payload), 0)
    pseudo = addresses + struct.pack("!HH", socket.IPPROTO_UDP, 8 + len(payload))
    udp = udp[:6] + struct.pack("!H", ones_complement(pseudo + udp + payload) or 0xFFFF)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, size - 14, 0, 0x4000, 64, socket.IPPROTO_UDP, 0)
    ip = ip[:10] + struct.pack("!H", ones_complement(ip + addresses)) + addresses
    macs = bytes.fromhex(testbed.RECEIVER_MAC.replace(":", "")) + bytes.fromhex("020000000001")
    return macs + struct.pack("!H", 0x0800) + ip + udp + payload


def burst(sizes: Sequence[int]) -> list[bytes]:
    noise = random.Random(1)
    return [frame(number, size, noise)
            for number, size in enumerate(size for _ in range(EACH) for size in sizes)]


def differences(sent: Sequence[bytes], got: Sequence[bytes]) -> str | None:
    """What is wrong with what arrived; order does not count. None: nothing."""
    wanted, arrived = Counter(sent), Counter(got)
    lost, strange = wanted - arrived, arrived - wanted
    if not lost and not strange:
        return None
    words = []
    if lost:
        words.append(f"{lost.total()} of {len(sent)} did not arrive")
    if twice := sum(count for data, count in strange.items() if data in wanted):
        words.append(f"{twice} came more than once")
    if foreign := [data for data in strange if data not in wanted]:
        words.append(f"{len(foreign)} were not sent, the first is {foreign[0][:64].hex()}")
    return ", ".join(words)


class Capture:
    """Frames that arrive at a port, as the kernel hands them to a packet socket."""

    def __init__(self, bed: testbed.Bed, role: str, port: str) -> None:
        self._socket = bed.socket(role, socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        self._socket.bind((port, _ETH_P_ALL))
        self._socket.setblocking(False)
        self.got: list[bytes] = []

    def collect(self) -> int:
        try:
            while True:
                self.got.append(self._socket.recv(4096))
        except BlockingIOError:
            return len(self.got)

    def close(self) -> None:
        self._socket.close()


class Datagrams(Capture):
    """What the receiver's application reads."""

    def __init__(self, bed: testbed.Bed) -> None:
        self._socket = bed.socket("tap", socket.AF_INET, socket.SOCK_DGRAM, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)
        self._socket.bind((testbed.RECEIVER_ADDRESS, testbed.RECEIVER_PORT))
        self._socket.setblocking(False)
        self.got = []


def check(contestant: Contestant, tools: bench.Tools, sizes: Sequence[int]) -> None:
    """BenchError where a byte differs; Skip where the contestant cannot take part."""
    bed = contestant.bed()
    try:
        bed.far_ends_napi_on()
        with tempfile.TemporaryDirectory(prefix="vtap-bench-") as name:
            with contestant.start(bed, tools, Path(name)) as process:
                compare(contestant, bed, burst(sizes))
                if process and not process.alive():
                    raise bench.BenchError(f"{contestant.name} ended: {process.tail()}")
    finally:
        bed.close()


def compare(contestant: Contestant, bed: testbed.Bed, sent: list[bytes]) -> None:
    payload: Callable[[bytes], bytes] = lambda data: data[42:]
    ends: list[tuple[str, Capture, list[bytes]]] = []
    try:
        if contestant.on_receiver:
            ends.append(("originals", Datagrams(bed), [payload(data) for data in sent]))
        else:
            ends.append(("originals", Capture(bed, "rcv", "r0"), sent))
        for number in range(contestant.monitors):
            ends.append((f"copies at monitor {number + 1}",
                         Capture(bed, "mon", testbed.monitor_end(number)), sent))
        transmit(bed, sent)
        deadline = time.monotonic() + ARRIVE_S
        while (any(capture.collect() < len(wanted) for _, capture, wanted in ends)
               and time.monotonic() < deadline):
            time.sleep(0.01)
        time.sleep(LATE_S)
        for what, capture, wanted in ends:
            capture.collect()
            if wrong := differences(wanted, capture.got):
                raise bench.BenchError(f"{contestant.name}: {what} are not what was sent: {wrong}")
    finally:
        for _, capture, _ in ends:
            capture.close()


def transmit(bed: testbed.Bed, frames: list[bytes]) -> None:
    with bed.socket("gen", socket.AF_PACKET, socket.SOCK_RAW, 0) as link:
        link.bind(("g0", 0))
        for number, data in enumerate(frames, start=1):
            link.send(data)
            if number % PAUSE_EVERY == 0:
                time.sleep(0.002)
