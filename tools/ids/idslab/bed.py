# SPDX-License-Identifier: Apache-2.0
"""The test bed: sender - vtap-broker - receiver, and the monitor, in network namespaces.

    l0 ===== t0 [ broker ] t1 ===== r0  Suricata of the receiver
                   m0 ============= p0  Suricata of the monitor

The namespaces, and the broker's start and end, are those of the integration tests.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "tests" / "integration"))

from broker import Broker, ledger_errors, run_broker  # noqa: E402
from lab import Lab, Port, remove_stale  # noqa: E402,F401

from idslab import suricata  # noqa: E402
from idslab.scenario import Scenario  # noqa: E402
from idslab.suricata import Failed, Observation  # noqa: E402

SETTLE_S, REPLAY_S = 10.0, 120.0
OFFLOADS = ("gro", "off", "gso", "off", "tso", "off", "tx", "off")
# The sender and the broker stand for machines of their own, which a slow IDS does not slow down.
FIRST = ("nice", "-n", "-15")


@dataclass(frozen=True)
class Cpus:
    """Who works where. With two CPUs each Suricata shares one with what feeds it."""
    sender: int
    worker: int
    receiver: int
    monitor: int

    @classmethod
    def of_machine(cls) -> "Cpus":
        there = sorted(os.sched_getaffinity(0))
        return cls(*(there[number % len(there)] for number in range(2)),
                   *(there[(number if len(there) >= 4 else number - 2) % len(there)]
                     for number in (2, 3)))

    def __str__(self) -> str:
        return (f"CPU {self.sender}: tcpreplay and all that forwards and taps (softirq); "
                f"CPU {self.worker}: the broker's worker; CPU {self.receiver}: the receiver's "
                f"Suricata; CPU {self.monitor}: the monitor's Suricata")


@dataclass
class Run:
    """One replay: what each end got and saw, and the broker's counters of it."""
    seconds: float  # of the replay
    sent: int
    originals: int  # arrived at the receiver's port
    copies: int  # arrived at the monitor's port
    receiver: Observation
    monitor: Observation
    counters: dict
    ledger: list[str]  # what does not add up

    @property
    def lost_copies(self) -> dict[str, int]:
        """Copies that were wanted and not delivered, by reason; those a policy dropped are not."""
        lost: dict[str, int] = {}
        for tap in self.counters["taps"]:
            for port in tap["ports"]:
                _add(lost, port["missed"])
        for monitor in self.counters["monitors"]:
            _add(lost, monitor["dropped"])
            _add(lost, {"wire": monitor["tx_frames"] - self.copies})
        return {reason: count for reason, count in lost.items() if count}


def _add(total: dict[str, int], more: dict[str, int]) -> None:
    for reason, count in more.items():
        total[reason] = total.get(reason, 0) + count


class Bed:
    """One scenario's lab. Only one on a machine, and none beside the integration tests: all of them
    look at the same BPF objects and state files."""

    def __init__(self, scenario: Scenario, cpus: Cpus, directory: Path, ring_frames: int) -> None:
        self._cpus = cpus
        self._directory = directory / scenario.name
        self._directory.mkdir()
        self._ring_frames = ring_frames
        self._runs = 0
        with contextlib.ExitStack() as undo:
            undo.enter_context(_alone())
            self._lab = undo.enter_context(Lab())
            self._sender = Port(self._lab.left_ns, "l0")
            self._receiver = Port(self._lab.right_ns, "r0")
            self._monitor = self._lab.peer(0)
            for port in (self._sender, self._receiver, self._monitor):
                port.offload(*OFFLOADS)
            config = scenario.config(cpus.worker)
            if problem := self._refused(config):
                raise Failed(problem)
            self._config = config
            self._undo = undo.pop_all()

    def __enter__(self) -> "Bed":
        return self

    def __exit__(self, *exc) -> None:
        self._undo.__exit__(*exc)

    def _refused(self, config: str) -> str:
        """What `vtap-broker --check` has against a config; empty if nothing."""
        file = self._directory / "check.toml"
        file.write_text(config)
        done = run_broker(self._lab, "--check", "-c", file)
        file.unlink()
        return "" if done.returncode == 0 else (done.stderr.replace(f"{file}:", "").strip() or
                                                f"exit {done.returncode}")

    def replay(self, pcap: Path, frames: int, rate: int | None, rules: str) -> Run:
        """`rate` in frames/s; None: as fast as it goes. Each replay has a broker of its own: to the
        last one's the flows would not be new."""
        self._runs += 1
        with contextlib.ExitStack() as children:
            broker = children.enter_context(Broker(self._lab, self._config, launcher=FIRST))

            def listen(role: str, port: Port, cpu: int) -> suricata.Live:
                live = suricata.Live(self._directory / f"{self._runs}-{role}", rules, port.name,
                                     cpu, self._ring_frames, port.ns.entered())
                children.callback(live.close)
                return live

            receiver = listen("receiver", self._receiver, self._cpus.receiver)
            monitor = listen("monitor", self._monitor, self._cpus.monitor)
            receiver.wait_ready()
            monitor.wait_ready()
            originals, copies = self._received(self._receiver), self._received(self._monitor)
            sent, seconds = self._send(pcap, rate)
            if sent != frames:
                raise Failed(f"tcpreplay sent {sent} of {frames} frames")
            counters = _settled(broker)
            receiver.wait_idle()
            monitor.wait_idle()
            receiver.end()
            monitor.end()
            return Run(seconds, sent, self._received(self._receiver) - originals,
                       self._received(self._monitor) - copies, receiver.finish(),
                       monitor.finish(), counters, ledger_errors(counters))

    def _send(self, pcap: Path, rate: int | None) -> tuple[int, float]:
        pace = ["--topspeed"] if rate is None else [f"--pps={rate}"]
        done = self._sender.ns.run(*FIRST, "taskset", "-c", self._cpus.sender,
                                   "tcpreplay", "-q", "-K", "--timer=nano", "--no-flow-stats",
                                   *pace, "-i", self._sender.name, pcap, timeout=REPLAY_S)
        return read_tcpreplay(done.stdout)

    @staticmethod
    def _received(port: Port) -> int:
        shown = port.ns.run("ip", "-s", "-j", "link", "show", "dev", port.name).stdout
        return json.loads(shown)[0]["stats64"]["rx"]["packets"]


def _settled(broker: Broker) -> dict:
    """The counters when nothing moves any more; whether the ledger adds up is for the caller."""
    deadline = time.monotonic() + SETTLE_S
    stats = broker.stats()
    while time.monotonic() < deadline:
        time.sleep(0.1)
        last, stats = stats, broker.stats()
        if all(last[part] == stats[part] for part in ("taps", "policies", "monitors")):
            break
    return stats


def read_tcpreplay(output: str) -> tuple[int, float]:
    """Frames sent, and in how many seconds."""
    found = re.search(r"^Actual: (\d+) packets .* sent in ([\d.]+) seconds", output, re.M)
    if found is None:
        raise Failed(f"tcpreplay says:\n{output}")
    return int(found[1]), float(found[2])


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """The lock of the integration tests (tests/integration/conftest.py)."""
    machine = os.open("/run", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(machine, fcntl.LOCK_EX)
        yield
    finally:
        os.close(machine)
