# SPDX-License-Identifier: Apache-2.0
"""Traffic that proves what happened to it: numbered streams, and TCP with a digest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lab import PATIENCE, Lab, Namespace, Wire
from packets import ip_frame, tcp_segment

_STAMP = struct.Struct("!4sHIQ")  # magic, stream, sequence number, time of sending
_MAGIC = b"VTIT"


def stamped(stream: int, seq: int, size: int = 0, **keys) -> bytes:
    """A UDP frame that carries its stream, number and time, padded to `size` bytes."""
    stamp = _STAMP.pack(_MAGIC, stream, seq, time.time_ns())
    return ip_frame("udp", stamp.ljust(max(len(stamp), size - 42), b"\xA5"), **keys)


def read_stamp(frame: bytes) -> tuple[int, int, int] | None:
    """(stream, number, time of sending) of a stamped frame, None of any other."""
    at = frame.find(_MAGIC)
    if at < 0 or len(frame) < at + _STAMP.size:
        return None
    return _STAMP.unpack_from(frame, at)[1:]


@dataclass
class Delivery:
    """What became of one stream. Times in ns of the wall clock: when the sender's kernel had taken
    the frame (so that a starved sender delays nothing), and when the receiver's kernel had it."""
    sent: list[int]                          # time of sending, by number
    arrived: list[tuple[int, int]]           # (number, time of arrival), in order of arrival

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in self.arrived]

    @property
    def lost(self) -> list[int]:
        return sorted(set(range(len(self.sent))) - set(self.numbers))

    def delays_s(self) -> list[float]:
        return [(at - self.sent[number]) / 1e9 for number, at in self.arrived]

    def assert_complete(self, what: str) -> None:
        """Every frame, once, in order."""
        assert self.sent, f"{what}: nothing was sent"
        lost = self.lost
        assert not lost, \
            f"{what}: {len(lost)} of {len(self.sent)} lost, from {lost[0]} to {lost[-1]}"
        self.assert_order(what)

    def assert_order(self, what: str) -> None:
        """No frame twice, none overtaken."""
        for before, after in zip(self.numbers, self.numbers[1:]):
            assert after > before, f"{what}: {after} came after {before}"


class Stream:
    """Numbered frames from one wire to another at a steady rate, from a thread of its own."""

    _count = 0

    def __init__(self, source: Wire, sink: Wire, rate: int = 1000, size: int = 128) -> None:
        Stream._count += 1
        self.source, self.sink = source, sink
        self._rate, self._size, self._id = rate, size, Stream._count & 0xFFFF
        self._sent: list[int] = []
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> "Stream":
        self._thread.start()
        return self

    def _run(self) -> None:
        due = time.monotonic()
        try:
            while not self._stop.is_set():
                frame = stamped(self._id, len(self._sent), self._size)
                # What the sender's own kernel refuses (no carrier, queue full) counts as sent and
                # lost: on a wire that nobody harms it does not happen.
                with contextlib.suppress(OSError):
                    self.source.send(frame)
                self._sent.append(time.time_ns())
                due += 1 / self._rate
                time.sleep(max(0.0, due - time.monotonic()))
        except BaseException as error:  # handed to the test in stop()
            self._error = error

    def stop(self) -> Delivery:
        self._stop.set()
        self._thread.join(10)
        if self._error is not None:
            raise self._error
        return Delivery(self._sent, [
            (mark[1], arrival.time_ns) for arrival in self.sink.arrivals(len(self._sent), 0.5)
            if (mark := read_stamp(arrival.data)) is not None and mark[0] == self._id])


class BothWays:
    """A stream in each direction of a pair; `deliveries` once the context has ended."""

    def __init__(self, lab: Lab, rate: int = 1000, pair: int = 0) -> None:
        left, right = lab.left_of(pair), lab.right_of(pair)
        self._streams = [Stream(left, right, rate), Stream(right, left, rate)]
        self.deliveries: list[tuple[str, Delivery]] = []

    def __enter__(self) -> "BothWays":
        for stream in self._streams:
            stream.start()
        time.sleep(0.1)
        return self

    def __exit__(self, kind, *_exc) -> None:
        time.sleep(0 if kind else 0.1)
        self.deliveries = [(f"{stream.source} -> {stream.sink}", stream.stop())
                           for stream in self._streams]

    def assert_complete(self) -> None:
        for what, delivery in self.deliveries:
            delivery.assert_complete(what)


class Flood:
    """Frames from the left end of pair 0 to the right at a rate that only vtap-gen keeps, less on an
    emulated machine; sent and arrived are counted. The tap is at XDP: only a port that polls takes
    them."""

    def __init__(self, lab: Lab, generator: Path, rate: int = 50_000) -> None:
        self._lab, self._generator, self._rate = lab, str(generator), int(rate / PATIENCE)
        self.sent = self.arrived = 0

    def _start(self, namespace: Namespace, *words: str) -> subprocess.Popen:
        with namespace.entered():
            return subprocess.Popen([self._generator, *words, "--json"], text=True,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __enter__(self) -> "Flood":
        self._sink = self._start(self._lab.right_ns, "sink", "--port", "r0")
        assert "ready" in self._sink.stderr.readline()
        self._source = self._start(self._lab.left_ns, "--port", "l0", "--flows", "1000",
                                   "--rate", str(self._rate), "--seconds", "86400")
        time.sleep(0.2)
        return self

    def __exit__(self, kind, *_exc) -> None:
        counts = []
        for process in (self._source, self._sink):
            assert process.poll() is None or kind, process.stderr.read()
            process.send_signal(signal.SIGINT)
            counts.append(json.loads(process.communicate(timeout=10)[0].splitlines()[-1])["frames"])
            time.sleep(0.2)
        self.sent, self.arrived = counts

    def assert_complete(self) -> None:
        assert self.sent > self._rate / 10, self.sent
        assert self.sent == self.arrived, f"{self.sent - self.arrived} of {self.sent} lost"


def tcp_transfer(server_ns: Namespace, client_ns: Namespace, host: str, size: int,
                 timeout: float = 20) -> bytes:
    """Sends `size` random bytes over TCP with the stack's defaults; the digests must agree. What
    was sent."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    digest, received = hashlib.sha256(), 0
    data = random.Random(f"{host} {size}").randbytes(size)  # each stream its own
    with contextlib.closing(server_ns.socket(family, socket.SOCK_STREAM)) as server, \
            contextlib.closing(client_ns.socket(family, socket.SOCK_STREAM)) as client:
        server.settimeout(timeout)
        client.settimeout(timeout)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, 0))
        server.listen(1)

        def send() -> None:
            client.connect(server.getsockname()[:2])
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)

        with _thread(send):
            accepted, _ = server.accept()
            with contextlib.closing(accepted):
                accepted.settimeout(timeout)
                while chunk := accepted.recv(1 << 18):
                    digest.update(chunk)
                    received += len(chunk)
    assert received == size, f"{received} of {size} bytes came over TCP"
    assert digest.digest() == hashlib.sha256(data).digest(), "TCP data differ"
    return data


@contextlib.contextmanager
def _thread(work) -> Iterator[None]:
    """Runs work() beside the body; its exception is raised at the end of the body."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    except Exception as error:
        raise errors[0] if errors else error from error
    finally:
        thread.join(30)
    if errors:
        raise errors[0]


def tcp_streams(frames: Iterable[bytes]) -> dict[tuple[bytes, bytes], bytes]:
    """The bytes of each direction of each TCP connection, by (source, destination) address with
    port, put together from frames in any order; frames twice are fine, what is missing is not."""
    parts: dict[tuple[bytes, bytes], dict[int, bytes]] = {}
    starts: dict[tuple[bytes, bytes], int] = {}
    for frame in frames:
        if (segment := tcp_segment(frame)) is None:
            continue
        flow, seq, flags, data = segment
        if flags & 0x02:  # SYN
            starts[flow] = seq + 1 & 0xFFFFFFFF
        elif data:
            known = parts.setdefault(flow, {}).get(seq, b"")
            parts[flow][seq] = max(known, data, key=len)
    streams = {}
    for flow, segments in parts.items():
        assert flow in starts, "the connection's first packet is missing"
        whole = bytearray()
        for at, data in sorted(((seq - starts[flow] & 0xFFFFFFFF), data)
                               for seq, data in segments.items()):
            assert at <= len(whole), f"{at - len(whole)} bytes are missing behind {len(whole)}"
            whole[at:at + len(data)] = data
        streams[flow] = bytes(whole)
    return streams
