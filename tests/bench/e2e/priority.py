#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long a copy of the high priority takes while the low one is overloaded, over real ports.

    gen            tap                rcv
    g0 =========== a      b ========= r0     originals, with the kernel's time of arrival
    CPU 0                 m ========= m0     copies, likewise (namespace mon)
                   worker: CPU 1

The monitor has a `rate`. Frames of 1514 bytes for the low policy come at five times that rate, and
between them, at random times, short numbered ones for the high policy. The latency of a copy is the
time of its arrival at m0 less that of its original at r0: what the sender loses to the machine does
not count, what the worker loses does. Both are stamped by the kernel and read after the run, so
that no receiver takes a CPU meanwhile; a socket filter lets only high frames in.

`no worker` is the noise: the same load without a tap, and in the worker's place a thread that looks
at the clock all the time; what a high frame would have waited for it. `real-time` stands for a CPU
that the worker has for itself: it runs before everything else there. A fresh lab for every state
and round, in changing order; percentiles are of all rounds.

Needs root, and a build: cmake --preset bench && cmake --build --preset bench
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import ctypes
import dataclasses
import json
import math
import os
import random
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import bench

LOW, HIGH = 1001, 1007  # destination ports
LOW_SIZE, HIGH_SIZE = 1514, 128  # bytes without FCS
QUEUE = 4096  # frames; a second and more at the rate
OVERLOAD = 5
WARM_UP_S = 0.5  # until the queue is full, and then some; not counted
DRAIN_S = 30.0
TARGET_MS = 2.0
PERCENTILES = (50.0, 99.0, 99.9)
HOOKS = ("tc", "xdp")

STAMP = struct.Struct("!4sIQ")  # magic, number, time of sending
MAGIC = b"VTPR"
HEADERS = 14 + 20 + 8  # Ethernet, IPv4, UDP


# --- the sender: a process of its own, in gen ---------------------------------------------------

def frame_head(size: int, dst_port: int) -> bytes:
    """Ethernet, IPv4 and UDP of a frame of so many bytes. No UDP checksum."""
    def ipv4(checksum: int) -> bytes:
        return struct.pack("!BBHHHBBH4s4s", 0x45, 0, size - 14, 0, 0, 64, socket.IPPROTO_UDP,
                           checksum, socket.inet_aton("10.0.0.1"), socket.inet_aton("10.1.0.2"))
    total = sum(struct.unpack("!10H", ipv4(0)))
    total = (total & 0xFFFF) + (total >> 16)
    return (bytes.fromhex("020000000002020000000001") + struct.pack("!H", 0x0800)
            + ipv4(~(total + (total >> 16)) & 0xFFFF)
            + struct.pack("!HHHH", 1024, dst_port, size - 34, 0))


def send(port: str, seconds: float, low_pps: float, high_pps: float, burst: int) -> None:
    """Both streams from one thread that looks at the clock all the time. Low frames come evenly,
    `burst` at a time; the gaps between high frames are random, half to one and a half the mean."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    link.bind((port, 0))
    low = frame_head(LOW_SIZE, LOW).ljust(LOW_SIZE, b"\xa5")
    head, tail = frame_head(HIGH_SIZE, HIGH), b"\xa5" * (HIGH_SIZE - HEADERS - STAMP.size)
    gap = random.Random(1).uniform
    lows = highs = 0
    begin = now = time.monotonic()
    next_low = begin if low_pps else math.inf
    next_high = begin
    while now < begin + seconds:
        if now >= next_low:
            for _ in range(burst):
                link.send(low)
            lows += burst
            next_low += burst / low_pps
        if now >= next_high:
            link.send(head + STAMP.pack(MAGIC, highs, time.time_ns()) + tail)
            highs += 1
            next_high += gap(0.5, 1.5) / high_pps
        now = time.monotonic()
    print(json.dumps({"low_frames": lows, "high_frames": highs, "seconds": now - begin}))


def spin(seconds: float, per_second: float) -> None:
    """What so many frames a second would wait for a thread that does nothing but run: ms."""
    latencies = []
    gap = random.Random(2).uniform
    begin = now = time.monotonic()
    due = begin
    while now < begin + seconds:
        before, now = now, time.monotonic()
        while due <= now:
            latencies.append((now - max(due, before)) * 1e3)
            due += gap(0.5, 1.5) / per_second
    print(json.dumps(latencies))


# --- the receivers ------------------------------------------------------------------------------

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_IGNORE_OUTGOING = 263, 6, 23
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 26, 33, 35
_ETH_P_ALL = 3
_ONLY_HIGH = [  # struct sock_filter: IPv4, UDP, and the destination port
    (0x28, 0, 0, 12), (0x15, 0, 5, 0x0800),
    (0x30, 0, 0, 23), (0x15, 0, 3, socket.IPPROTO_UDP),
    (0x28, 0, 0, 36), (0x15, 0, 1, HIGH),
    (0x06, 0, 0, 0x40000), (0x06, 0, 0, 0)]


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    def enter(fd: int) -> None:
        if _libc.setns(fd, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        enter(there)
        yield
    finally:
        enter(home)
        os.close(there)
        os.close(home)


class Receiver:
    """Keeps the high frames of a port in the kernel until they are asked for."""

    def __init__(self, lab: bench.Lab, role: str, port: str) -> None:
        with inside(lab.name[role]):
            # Protocol 0: nothing comes in before the filter is in place.
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            program = b"".join(struct.pack("=HBBI", *line) for line in _ONLY_HIGH)
            memory = ctypes.create_string_buffer(program)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER,
                                    struct.pack("@HP", len(_ONLY_HIGH), ctypes.addressof(memory)))
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 512 << 20)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            self._socket.bind((port, _ETH_P_ALL))
            self._socket.setblocking(False)

    def arrivals(self) -> dict[int, tuple[int, int]]:
        """Number: time of sending, time of arrival; ns of the wall clock."""
        got: dict[int, tuple[int, int]] = {}
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, _ = self._socket.recvmsg(2048, 128)
                magic, number, sent = STAMP.unpack_from(data, HEADERS)
                if magic != MAGIC or number in got:
                    raise bench.BenchError(f"a strange frame, or number {number} twice")
                [(_, _, stamp)] = ancillary
                seconds, nanoseconds = struct.unpack("@qq", stamp)
                got[number] = sent, seconds * 10**9 + nanoseconds
        counters = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        _, dropped = struct.unpack("II", counters)
        if dropped:
            raise bench.BenchError(f"the bench's own socket dropped {dropped} frames")
        return got

    def close(self) -> None:
        self._socket.close()


# --- the states ---------------------------------------------------------------------------------

def policy(name: str, port: int, keys: str) -> str:
    return f"""
[[policy]]
name = "{name}"
monitors = ["ids"]
match = [{{ proto = "udp", dst_port = {port} }}]
{keys}
"""


@dataclasses.dataclass(frozen=True)
class State:
    name: str
    what: str
    policies: str
    overload: bool = True
    real_time: bool = False  # the worker's scheduling; else the best nice level


_LOW = policy("low", LOW, "priority = 0")
_STRICT = _LOW + policy("high", HIGH, "priority = 7")

STATES = [
    State("idle", "no low frames", _STRICT, overload=False),
    State("strict", "priorities 0 and 7", _STRICT),
    State("strict, real-time", "the same, the worker under SCHED_FIFO", _STRICT, real_time=True),
    State("equal", "both of priority 0 and weight 1: they share", _LOW
          + policy("high", HIGH, "priority = 0")),
    State("one queue", "one policy takes all: first come, first served", bench.ONE_POLICY),
]


@contextlib.contextmanager
def tapped(lab: bench.Lab, tools: bench.Tools, directory: Path, hook: str, rate: float,
           policies: str) -> Iterator[bench.Process]:
    if hook == "xdp":
        lab.tx_offloads_off()
    config = directory / "tap.toml"
    text = bench.broker_config(f'hook = "{hook}"', policies, directory)
    config.write_text(text.replace(
        'port = "m"', f'port = "m"\nrate = "{rate:g}Mbit/s"\nqueue = {QUEUE}'))
    process = lab.start("tap", [str(tools.broker), "-c", str(config)], directory)
    try:
        process.wait_ready()
        yield process
    finally:
        process.stop()
        lab.run("tap", str(tools.broker), "--detach", "-c", str(config), check=False)


def stats(tools: bench.Tools, directory: Path) -> dict:
    return json.loads(bench.run(str(tools.vtapctl), "--socket", str(directory / "control.sock"),
                                "stats", "--json").stdout)


def drained(tools: bench.Tools, directory: Path, tap: bench.Process) -> dict:
    """The counters, once no copy waits any more."""
    deadline = time.monotonic() + DRAIN_S
    while True:
        time.sleep(bench.SETTLE_S)
        if not tap.alive():
            raise bench.BenchError(f"the tap ended while it was measured: {tap.tail()}")
        counters = stats(tools, directory)
        if counters["monitors"][0]["waiting_frames"] == 0:
            return counters
        if time.monotonic() > deadline:
            raise bench.BenchError("copies still wait")


def worker_thread(tap: bench.Process) -> Path:
    for task in Path(f"/proc/{tap.pid}/task").iterdir():
        if (task / "comm").read_text().startswith("vtap-worker"):
            return task
    raise bench.BenchError("the broker has no worker")


def kept_waiting_ns(thread: Path) -> int:
    """How long it was ready to run, and another had its CPU. (proc(5), schedstat)"""
    return int((thread / "schedstat").read_text().split()[1])


def make_real_time(thread: int) -> None:
    """A thread that never sleeps is taken off its CPU for 50 ms a second all the same (DL server);
    between bursts of low frames the worker sleeps."""
    os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(1))


def has_real_time() -> bool:
    try:
        make_real_time(0)
    except OSError:
        return False
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return True


@contextlib.contextmanager
def sending(lab: bench.Lab, directory: Path, overload: bool, arguments: argparse.Namespace
            ) -> Iterator[Callable[[], dict]]:
    """Yields what waits for the sender's end and gives what it has sent."""
    low_pps = OVERLOAD * arguments.rate * 1e6 / (8 * LOW_SIZE) if overload else 0
    seconds = arguments.seconds + WARM_UP_S
    process = lab.start("gen", [sys.executable, __file__, "send", "g0", str(seconds), str(low_pps),
                                str(arguments.trickle), str(arguments.burst)],
                        directory, bench.GENERATOR_CPU)

    def finish() -> dict:
        process.wait(seconds + bench.READY_S)
        sent = json.loads(process.stdout())
        if sent["low_frames"] < 0.95 * low_pps * sent["seconds"]:
            raise bench.BenchError("the sender was too slow")
        return sent

    try:
        yield finish
    finally:
        process.stop()


def measure_in(lab: bench.Lab, directory: Path, receivers: list[Receiver], tools: bench.Tools,
               hook: str, state: State, arguments: argparse.Namespace) -> dict:
    with tapped(lab, tools, directory, hook, arguments.rate, state.policies) as tap:
        if hook == "xdp":
            # Where redirected originals arrive, there must be a NAPI.
            lab.run("rcv", "ethtool", "-K", "r0", "gro", "on")
        worker = worker_thread(tap)
        if state.real_time:
            make_real_time(int(worker.name))
        waited = kept_waiting_ns(worker)
        with sending(lab, directory, state.overload, arguments) as finish:
            sent = finish()
            waited = kept_waiting_ns(worker) - waited
        monitor = drained(tools, directory, tap)["monitors"][0]
    if state.overload and not monitor["dropped"]["queue_full"]:
        raise bench.BenchError("the monitor was not overloaded")
    originals, copies = (receiver.arrivals() for receiver in receivers)
    if len(originals) != sent["high_frames"]:
        raise bench.BenchError(f"{len(originals)} of {sent['high_frames']} originals arrived")
    return judge(originals, copies) | {
        "waited_ms_per_s": waited / sent["seconds"] / 1e6,
        "low_mbit_s": low_mbit_s(sent)}


def low_mbit_s(sent: dict) -> float:
    return sent["low_frames"] * LOW_SIZE * 8 / sent["seconds"] / 1e6


def judge(originals: dict[int, tuple[int, int]], copies: dict[int, tuple[int, int]]) -> dict:
    """Of the high frames that were sent after the warm-up."""
    from_ns = min(sent for sent, _ in originals.values()) + WARM_UP_S * 1e9
    counted = [number for number, (sent, _) in originals.items() if sent >= from_ns]
    arrived = [number for number in counted if number in copies]
    return {"high_frames": len(counted), "lost": len(counted) - len(arrived),
            "latency_ms": [(copies[n][1] - originals[n][1]) / 1e6 for n in arrived],
            "since_sending_ms": [(copies[n][1] - copies[n][0]) / 1e6 for n in arrived]}


def measure(tools: bench.Tools, hook: str, state: State, arguments: argparse.Namespace) -> dict:
    lab = bench.Lab()
    receivers: list[Receiver] = []
    try:
        with tempfile.TemporaryDirectory(prefix="vtap-bench-") as name:
            receivers.append(Receiver(lab, "rcv", "r0"))
            receivers.append(Receiver(lab, "mon", "m0"))
            return measure_in(lab, Path(name), receivers, tools, hook, state, arguments)
    finally:
        for receiver in receivers:
            receiver.close()
        lab.close()


def measure_noise(arguments: argparse.Namespace) -> dict:
    lab = bench.Lab()
    try:
        with tempfile.TemporaryDirectory(prefix="vtap-bench-") as name, \
                sending(lab, Path(name), True, arguments) as finish:
            spinner = lab.start("tap", [sys.executable, __file__, "spin", str(arguments.seconds),
                                        str(arguments.trickle)], Path(name), bench.WORKER_CPU)
            try:
                spinner.wait(arguments.seconds + bench.READY_S)
                latencies = json.loads(spinner.stdout())
            finally:
                spinner.stop()
            return {"latency_ms": latencies, "high_frames": len(latencies),
                    "low_mbit_s": low_mbit_s(finish())}
    finally:
        lab.close()


# --- reporting ----------------------------------------------------------------------------------

def percentile(ordered: Sequence[float], percent: float) -> float:
    """The least value that so many percent do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def summary(key: tuple[str, str], rounds: list[dict]) -> dict:
    pooled = sorted(value for one in rounds for value in one["latency_ms"])
    row: dict = {"hook": key[0], "state": key[1], "rounds": len(rounds)}
    for what in ("high_frames", "lost"):
        row[what] = sum(one.get(what, 0) for one in rounds)
    for what in ("low_mbit_s", "waited_ms_per_s"):
        row[what] = statistics.median(one.get(what, 0) for one in rounds)
    if pooled:
        row |= {f"p{percent:g}": percentile(pooled, percent) for percent in PERCENTILES}
        row["max"] = pooled[-1]
        row["maxima"] = [max(one["latency_ms"]) for one in rounds if one["latency_ms"]]
        row["since_sending_max"] = max((max(one["since_sending_ms"]) for one in rounds
                                        if one.get("since_sending_ms")), default=0)
    return row


def markdown(rows: list[dict]) -> str:
    def ms(value: float) -> str:
        return f"{value:.3f}" if value < 100 else f"{value:.0f}"

    def cells(row: dict) -> list[str]:
        start = [row["hook"] or "–", row["state"], f"{row['low_mbit_s']:.0f}"]
        if "max" not in row:
            return [*start, f"{row['lost']} of {row['high_frames']}"]
        maxima = f"{ms(row['max'])} ({ms(min(row['maxima']))}–{ms(max(row['maxima']))})"
        figures = [ms(row[f"p{percent:g}"]) for percent in PERCENTILES]
        if not row["hook"]:
            return [*start, "–", *figures, maxima]
        return [*start, f"{row['lost']} of {row['high_frames']}", *figures, maxima,
                ms(row["since_sending_max"]), f"{row['waited_ms_per_s']:.1f}"]

    heads = ["hook", "state", "low, Mbit/s", "high lost", *(f"p{p:g}" for p in PERCENTILES),
             "max (of the rounds)", "since sending: max", "worker kept from its CPU, ms/s"]
    lines = ["ms from the arrival of the original to that of its copy, of all rounds.", "",
             f"| {' | '.join(heads)} |", "| --- | --- |" + " ---: |" * (len(heads) - 2)]
    for row in rows:
        line = cells(row)
        lines.append(f"| {' | '.join(line + ['–'] * (len(heads) - len(line)))} |")
    return "\n".join(lines)


# --- the command --------------------------------------------------------------------------------

def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="states: " + "; ".join(f"{state.name} ({state.what})" for state in STATES))
    parser.add_argument("--build-dir", type=Path, default=bench.ROOT / "build" / "bench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="per hook, state and round")
    parser.add_argument("--rate", type=float, default=50.0, metavar="MBIT/S",
                        help="of the monitor; low frames come at five times that")
    parser.add_argument("--trickle", type=float, default=500.0, metavar="FPS",
                        help="high frames a second")
    parser.add_argument("--burst", type=int, default=16, metavar="FRAMES",
                        help="low frames sent at once")
    parser.add_argument("--hooks", type=lambda text: text.split(","), default=list(HOOKS))
    parser.add_argument("--seed", type=int, default=1, help="of the orders")
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything measured")
    parser.add_argument("--quick", action="store_true",
                        help="one short round: whether all of it works")
    parser.add_argument("--require-target", action="store_true",
                        help=f"exit 1 when a high copy is lost or takes {TARGET_MS:g} ms with "
                             "strict priorities")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 0.3
    if arguments.rounds < 1 or min(arguments.seconds, arguments.rate, arguments.trickle,
                                   arguments.burst) <= 0:
        parser.error("all numbers must be positive")
    if unknown := set(arguments.hooks) - set(HOOKS):
        parser.error(f"no hook {', '.join(unknown)}; there are: {', '.join(HOOKS)}")
    return arguments


def run_rounds(tools: bench.Tools, arguments: argparse.Namespace) -> int:
    about = bench.machine()
    by_name = {state.name: state for state in STATES}
    if not has_real_time():
        print("SKIPPED real-time: the kernel refuses SCHED_FIFO", file=sys.stderr, flush=True)
        by_name = {name: state for name, state in by_name.items() if not state.real_time}
    contestants = [("", "no worker")]
    contestants += [(hook, name) for hook in arguments.hooks for name in by_name]
    order = random.Random(arguments.seed)
    measured: dict[tuple[str, str], list[dict]] = {key: [] for key in contestants}
    for number in range(1, arguments.rounds + 1):
        order.shuffle(contestants)
        for key in contestants:
            hook, name = key
            one = (measure(tools, hook, by_name[name], arguments) if hook
                   else measure_noise(arguments))
            measured[key].append(one)
            row = summary(key, [one])
            print(f"round {number} {hook:3} {name:17} lost {row['lost']:4} of {row['high_frames']}"
                  + "".join(f"  {what} {row[what]:.3f}" for what in ("p50", "p99.9", "max")
                            if what in row), file=sys.stderr, flush=True)
    rows = [summary(key, rounds) for key, rounds in measured.items()]
    print(markdown(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(
            {"machine": about, "seconds": arguments.seconds, "rate_mbit_s": arguments.rate,
             "trickle": arguments.trickle, "burst": arguments.burst, "queue": QUEUE, "rows": rows,
             "rounds": [{"hook": hook, "state": name, "rounds": rounds}
                        for (hook, name), rounds in measured.items()]}, indent=1) + "\n")
    missed = [row for row in rows if row["state"] == "strict"
              and (row["lost"] or row["max"] >= TARGET_MS)]
    return 1 if arguments.require_target and missed else 0


def main() -> int:
    arguments = parse_arguments()
    if os.geteuid() != 0:
        print("priority.py: needs root: it makes network namespaces", file=sys.stderr)
        return 3
    if (os.cpu_count() or 1) < 2:
        print("priority.py: needs two CPUs", file=sys.stderr)
        return 3
    build = arguments.build_dir.resolve()
    tools = bench.Tools(broker=build / "broker" / "vtap-broker",
                        vtapctl=build / "tools" / "vtapctl" / "vtapctl", generator=Path())
    for tool in (tools.broker, tools.vtapctl):
        if not tool.exists():
            print(f"priority.py: no {tool}; build it, or see --build-dir", file=sys.stderr)
            return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    atexit.register(bench.Lab.close_all)
    atexit.register(bench.Process.stop_all)  # before the labs: last in, first out
    bench.Lab.remove_leftovers()
    try:
        return run_rounds(tools, arguments)
    except (bench.BenchError, subprocess.SubprocessError) as error:
        print(f"priority.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    if sys.argv[1:2] == ["send"]:
        send(sys.argv[2], *map(float, sys.argv[3:6]), burst=int(sys.argv[6]))
    elif sys.argv[1:2] == ["spin"]:
        spin(*map(float, sys.argv[2:4]))
    else:
        sys.exit(main())
