# SPDX-License-Identifier: Apache-2.0
"""The broker on virtio NICs: what the kernel grants, what becomes of each byte, and who copied it.

On a kernel that grants virtio NICs zero-copy it must be granted; on another the same scenarios run
in copy mode. Either way the broker itself copies nothing but what a tee copies, once.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import packets
from broker import Broker, by_name, config, inline, monitors, policy, tap_ports
from cables import ZERO_COPY, CableLab, cables, granted
from lab import Lab, Wire, assert_frames, carry, eventually

CAPTURES = {"redirect": {"capture": "redirect"}, "tee": {"capture": "tee", "hook": "xdp"}}
captures = pytest.mark.parametrize("capture", CAPTURES)
BURST = 32

_AF_XDP, _SOL_XDP, _XDP_OPTIONS, _XDP_OPTIONS_ZEROCOPY = 44, 283, 8, 1
_SYS_PIDFD_GETFD = 438


def frames_of_all_kinds() -> list[bytes]:
    return [*packets.odd_frames().values(), *packets.random_frames(200, seed=5),
            *(packets.sized(length, length) for length in range(14, 1515, 20))]


def to(count: int) -> list[dict]:
    """One policy that sends everything to that many monitors, through the broker."""
    return [policy(to=[f"mon{number}" for number in range(count)], offload="never")]


def span() -> dict:
    return {"name": "feed", "mode": "span", "ports": ["t0"]}


@contextlib.contextmanager
def running_broker(lab: Lab, text: str) -> Iterator[Broker]:
    lab.open_wires()
    with Broker(lab, text) as running:
        yield running


# --- what was granted, asked twice --------------------------------------------------------------

def kernel_says(pid: int) -> list[bool]:
    """Of each AF_XDP socket of a process: whether the kernel granted zero-copy (XDP_OPTIONS)."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    answers: list[bool] = []
    try:
        for entry in Path("/proc", str(pid), "fd").iterdir():
            if not os.readlink(entry).startswith("socket:"):
                continue
            fd = libc.syscall(_SYS_PIDFD_GETFD, pidfd, int(entry.name), 0)
            assert fd >= 0, os.strerror(ctypes.get_errno())
            # With a family, as Python would ask for a name otherwise, which AF_XDP does not have.
            with socket.socket(_AF_XDP, socket.SOCK_RAW, 0, fileno=fd) as found:
                if found.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == _AF_XDP:
                    flags, = struct.unpack("I", found.getsockopt(_SOL_XDP, _XDP_OPTIONS, 4))
                    answers.append(bool(flags & _XDP_OPTIONS_ZEROCOPY))
    finally:
        os.close(pidfd)
    return answers


def assert_granted(running: Broker, expected: dict[str, str], copy: Sequence[str] = ()) -> None:
    """Each port has one socket of that direction ("": none); those not in `copy` are zero-copy."""
    told = granted(running.stats())
    wanted = {port: [(way, ZERO_COPY and port not in copy)] if way else []
              for port, way in expected.items()}
    assert told == wanted
    sockets = [zero_copy for queues in wanted.values() for _, zero_copy in queues]
    assert sorted(kernel_says(running.pid)) == sorted(sockets)


def assert_copied(stats: dict, teed: int) -> None:
    """Bytes that the tap programs copied; the workers copied none, in any mode."""
    assert [worker["copied_bytes"] for worker in stats["workers"]] == [0] * len(stats["workers"])
    assert sum(worker["teed_bytes"] for worker in stats["workers"]) == teed


def size(frames: Sequence[bytes]) -> int:
    return sum(map(len, frames))


def assert_sent(stats: dict, frames: int, count: int, times: int) -> None:
    """Counters of monitors that got everything; the ledgers themselves hold in settled()."""
    for number in range(count):
        monitor = by_name(stats, "monitors")[f"mon{number}"]
        assert (monitor["tx_frames"], monitor["tx_bytes"]) == (times, frames), monitor["name"]
        assert not any(monitor["dropped"].values())


# --- every byte ---------------------------------------------------------------------------------

def test_cables_lose_and_change_nothing() -> None:
    """Before anything else is believed: without a broker, and XDP on neither end."""
    assert len(cables()) == 4
    with CableLab(monitors=2) as lab:
        lab.open_wires()
        frames = frames_of_all_kinds()
        near, other = lab.wire(lab.port("t0")), lab.wire(lab.port("m1"))
        time.sleep(0.5)  # the driver tells the device later that it is promiscuous
        carry(frames, lab.left, near)
        carry(frames, near, lab.left)
        carry(frames, other, lab.monitor(1))
        assert not lab.monitor(0).receive(0) and not lab.right.receive(0)
    assert len(cables()) == 4, "all are back"


@pytest.mark.parametrize("count", [1, 2])
def test_span(count: int) -> None:
    """The feed's memory is what the monitors' NICs send from."""
    with CableLab(monitors=count) as lab, \
            running_broker(lab, config([span()], monitors(count), to(count))) as running:
        assert_granted(running, {"t0": "rx", **{f"m{number}": "tx" for number in range(count)}})
        frames = frames_of_all_kinds()
        carry(frames, lab.left, lab.monitor(0), lab.monitors[1:])
        assert not lab.left.receive(0), "a span port sends nothing"
        stats = running.settled()
        port = tap_ports(stats)["t0"]
        assert port["rx_frames"] == port["consumed_frames"] == port["copied_frames"] == len(frames)
        assert_sent(stats, size(frames), count, len(frames))
        assert_copied(stats, teed=0)


@pytest.mark.parametrize("count", [1, 2])
@captures
def test_inline(capture: str, count: int) -> None:
    """Originals both ways, and their copies at one and two monitors."""
    with CableLab(monitors=count) as lab, \
            running_broker(lab, config([inline(**CAPTURES[capture])], monitors(count),
                                       to(count))) as running:
        taps = "rx+tx" if capture == "redirect" else ""
        assert_granted(running, {"t0": taps, "t1": taps,
                                 **{f"m{number}": "tx" for number in range(count)}})
        frames = frames_of_all_kinds()
        for source, sink in lab.directions():
            carry(frames, source, sink, lab.monitors)
        stats = running.settled()
        for port in tap_ports(stats).values():
            assert port["rx_frames"] == port["passed_frames"] == len(frames)
            assert port["copied_frames"] == len(frames) and not any(port["missed"].values())
        assert_sent(stats, 2 * size(frames), count, 2 * len(frames))
        assert_copied(stats, teed=2 * size(frames) if capture == "tee" else 0)


WANTED = bytes.fromhex("020000000077")


def test_unwanted_frames_take_the_plain_path() -> None:
    """What no policy wants never meets the broker, although its queue is zero-copy and the other
    port takes no frames from such a queue by XDP."""
    text = config([inline(**CAPTURES["redirect"])], monitors(1),
                  [policy(match=[{"src_mac": WANTED.hex(":")}], offload="never")])
    with CableLab() as lab, running_broker(lab, text) as running:
        rest = frames_of_all_kinds()
        wanted = [packets.ether(b"%064d" % number, src=WANTED) for number in range(100)]
        for source, sink in lab.directions():
            carry(rest, source, sink)
            carry(wanted, source, sink, lab.monitors)
        stats = running.settled()
        assert sum(worker["frames"] for worker in stats["workers"]) == 2 * len(wanted)
        for port in tap_ports(stats).values():
            assert port["rx_frames"] == port["passed_frames"] == len(rest) + len(wanted)
            assert port["copied_frames"] == len(wanted)
        assert_copied(stats, teed=0)


@pytest.mark.parametrize("veth", [("m1",), ("m0", "m1")], ids=["one monitor", "both monitors"])
@captures
def test_zero_copy_and_copy_ports_together(capture: str, veth: tuple[str, ...]) -> None:
    """One memory, registered once for each socket: the same frame goes to either kind of port."""
    with CableLab(monitors=2, veth=veth) as lab, \
            running_broker(lab, config([inline(**CAPTURES[capture])], monitors(2),
                                       to(2))) as running:
        taps = "rx+tx" if capture == "redirect" else ""
        assert_granted(running, {"t0": taps, "t1": taps, "m0": "tx", "m1": "tx"}, copy=veth)
        frames = frames_of_all_kinds()
        for source, sink in lab.directions():
            carry(frames, source, sink, lab.monitors)
        stats = running.settled()
        assert_sent(stats, 2 * size(frames), 2, 2 * len(frames))
        assert_copied(stats, teed=2 * size(frames) if capture == "tee" else 0)


def test_a_wire_between_a_zero_copy_and_a_copy_port() -> None:
    with CableLab(monitors=2, veth=["t1"]) as lab, \
            running_broker(lab, config([inline(**CAPTURES["redirect"])], monitors(2),
                                       to(2))) as running:
        assert_granted(running, {"t0": "rx+tx", "t1": "rx+tx", "m0": "tx", "m1": "tx"},
                       copy=["t1"])
        frames = frames_of_all_kinds()
        for source, sink in lab.directions():
            carry(frames, source, sink, lab.monitors)
        assert_copied(running.settled(), teed=0)


# --- faults -------------------------------------------------------------------------------------

class Numbered:
    """Frames from one wire to another, from a thread, each made from its number alone."""

    def __init__(self, source: Wire, sink: Wire, base: int) -> None:
        self.source, self.sink, self.base, self.sent = source, sink, base, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def frame(self, number: int) -> bytes:
        return packets.sized(60 + number * 7 % 1400, self.base + number)

    def _run(self) -> None:
        while not self._stop.is_set():
            for _ in range(4):
                self.source.send(self.frame(self.sent))
                self.sent += 1
            time.sleep(0.01)

    def __enter__(self) -> "Numbered":
        self._thread.start()
        return self

    def __exit__(self, *_exc) -> None:
        self._stop.set()
        self._thread.join(10)

    def arrived(self, got: Sequence[bytes], where: str,
                unordered: Sequence[range] = ()) -> list[int]:
        """The numbers of this stream's frames; each byte is as sent, none is twice or late (but for
        numbers in `unordered`: none is twice)."""
        numbers = []
        for frame in got:
            number = struct.unpack_from("!I", frame, 14)[0] - self.base
            if 0 <= number < self.sent:
                assert frame == self.frame(number), f"{where}: frame {number} was changed"
                numbers.append(number)
        assert len(numbers) == len(set(numbers)), f"{where}: twice"
        strict = [number for number in numbers
                  if not any(number in some for some in unordered)]
        for before, after in zip(strict, strict[1:]):
            assert after > before, f"{where}: {after} came after {before}"
        return numbers


SECOND = 1 << 24


@captures
def test_kill_under_traffic(capture: str) -> None:
    """kill -9: a tee's originals do not notice; a redirect loses what its rings hold, and then is
    a wire. A new broker takes the NICs again, with what the old one was granted."""
    text = config([inline(**CAPTURES[capture])], monitors(2), to(2))
    with CableLab(monitors=2) as lab, running_broker(lab, text) as running:
        before = granted(running.stats())
        with Numbered(lab.left, lab.right, 0) as there, \
                Numbered(lab.right, lab.left, SECOND) as back:
            time.sleep(0.5)
            marks: list[tuple[int, int]] = []
            rebound: list[tuple[int, int]] = []
            for _ in range(2):
                running.kill()
                marks.append((there.sent, back.sent))
                time.sleep(1.0)
                marks.append((there.sent, back.sent))
                running.start()
                time.sleep(0.3)
                rebound.append((there.sent, back.sent))
                time.sleep(0.3)
        right, left = lab.right.receive(there.sent, 0.3), lab.left.receive(back.sent, 0.3)
        copies = [wire.receive(there.sent + back.sent, 0.3) for wire in lab.monitors]
        # A socket that is bound or closed resets its queue. QEMU keeps what arrives meanwhile, and
        # delivers the next frame before it (net/queue.c).
        loose = [[] if capture == "tee" else
                 [some for run in range(2) for some in
                  (range(marks[2 * run][at], (marks[2 * run][at] + marks[2 * run + 1][at]) // 2),
                   range(marks[2 * run + 1][at], rebound[run][at]))]
                 for at in range(2)]
        for stream, got, at in ((there, right, 0), (back, left, 1)):
            numbers = stream.arrived(got, str(stream.sink), loose[at])
            assert len(numbers) == len(got), "a frame that nobody sent"
            lost = set(range(stream.sent)) - set(numbers)
            if capture == "tee":
                assert not lost, f"{len(lost)} originals lost"
            assert len(lost) <= 600, f"{len(lost)} of {stream.sent} lost"
            # While there is no broker the ports are a wire: but for the moment after the kill.
            for killed, started in ((marks[0][at], marks[1][at]), (marks[2][at], marks[3][at])):
                later = range(killed + (started - killed) // 2, started)
                assert len(later) > 20 and not lost & set(later), "not a wire"
        for wire, got in zip(lab.monitors, copies):
            assert there.arrived(got, str(wire), loose[0])
            assert back.arrived(got, str(wire), loose[1])
        lab.clear()
        assert granted(running.stats()) == before
        frames = frames_of_all_kinds()
        for source, sink in lab.directions():
            carry(frames, source, sink, lab.monitors)
        running.settled()


def test_hang_under_traffic() -> None:
    """A redirect whose broker hangs is a wire a second later, with zero-copy sockets still open."""
    text = config([inline(**CAPTURES["redirect"])], monitors(1), to(1))
    with CableLab() as lab, running_broker(lab, text) as running:
        with Numbered(lab.left, lab.right, 0) as stream:
            time.sleep(0.3)
            running.hang()
            time.sleep(1.0)
            first = stream.sent
            time.sleep(1.0)
            last = stream.sent
            running.resume()
            time.sleep(0.5)
        numbers = stream.arrived(lab.right.receive(stream.sent, 0.3), "originals")
        assert last - first > 20 and set(range(first, last)) <= set(numbers), "not a wire"
        assert set(range(stream.sent - 20, stream.sent)) <= set(numbers), "does not go on"
        port = tap_ports(running.settled())["t0"]
        assert port["not_passed"]["tx_failed"] == 0 and port["missed"]["stale"] >= last - first


def test_a_monitor_goes_down_and_comes_back() -> None:
    """Its frames come home from a NIC that may be reading them; the other monitor misses nothing."""
    with CableLab(monitors=2) as lab, \
            running_broker(lab, config([inline(**CAPTURES["redirect"])], monitors(2),
                                       to(2))) as running:
        frames = frames_of_all_kinds()
        free = running.stats()["umem"]["free"]
        for _ in range(3):
            lab.port("m1").down()
            assert eventually(lambda: by_name(running.stats(), "monitors")["mon1"]["state"] ==
                              "down", 10)
            carry(frames, lab.left, lab.right, lab.monitors[:1])
            lab.port("m1").up()
            assert eventually(lambda: by_name(running.stats(), "monitors")["mon1"]["state"] ==
                              "up", 10)
            lab.clear()
            carry(frames, lab.left, lab.right, lab.monitors)
        assert_granted(running, {"t0": "rx+tx", "t1": "rx+tx", "m0": "tx", "m1": "tx"})
        stats = running.settled()
        assert by_name(stats, "monitors")["mon1"]["dropped"]["down"] == 3 * len(frames)
        assert eventually(lambda: running.stats()["umem"]["free"] >= free - BURST)
        assert_copied(stats, teed=0)


def test_a_monitor_loses_its_driver() -> None:
    """The NIC is unbound under a zero-copy socket, then bound again: it is served again."""
    with CableLab(monitors=2) as lab, \
            running_broker(lab, config([inline(**CAPTURES["redirect"])], monitors(2),
                                       to(2))) as running:
        address, device = lab.port("m1").mac(), lab.device_of("m1")
        frames = frames_of_all_kinds()
        with Numbered(lab.left, lab.right, 0) as stream:
            time.sleep(0.2)
            Path("/sys/bus/virtio/drivers/virtio_net/unbind").write_text(device)
            assert eventually(lambda: by_name(running.stats(), "monitors")["mon1"]["state"] ==
                              "down", 10)
            time.sleep(0.2)
        got = lab.right.receive(stream.sent, 2.0)
        assert_frames([stream.frame(number) for number in range(stream.sent)], got, "originals")
        assert_frames(got, lab.monitor(0).receive(stream.sent, 2.0), "copies at the other monitor")
        Path("/sys/bus/virtio/drivers/virtio_net/bind").write_text(device)
        lab.take_back("m1", address)
        assert eventually(lambda: by_name(running.stats(), "monitors")["mon1"]["state"] == "up", 10)
        lab.clear()
        carry(frames, lab.left, lab.right, lab.monitors)
        assert_granted(running, {"t0": "rx+tx", "t1": "rx+tx", "m0": "tx", "m1": "tx"})
        running.settled()
