#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The end-to-end bench: generator - tap - receiver, and a monitor, in network namespaces.

    gen          tap                  rcv
    g0 ========= a     b ============ r0     originals are counted at r0
                       m ============ m0     copies at m0 (namespace mon)

Every contestant gets a fresh lab in every round, and the order changes from round to round, so
that what the machine does meanwhile meets all of them alike. Ratios are taken within a round. Each
untapped forwarder runs twice per round, under two names: the ratio of the two (the A/A control)
would be 1 on a quiet machine; no other ratio is known better than this one.

Rates are taken in the middle of a run, by the receivers' own clocks. `delivered` compares totals
of the whole run, after the queues have run empty.

Needs root, and a build: cmake --preset bench && cmake --build --preset bench
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import dataclasses
import datetime
import json
import os
import platform
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PREFIX = "vtap-bench-"
ROOT = Path(__file__).resolve().parents[3]
SIZES = (64, 1514)
GENERATOR_CPU = 0  # and with it the softirq that forwards: all of the original's way
WORKER_CPU = 1
SETTLE_S = 0.3  # after the start of the generator, before the rates are taken
READY_S = 20.0

# 1024 flows: 64 source addresses from 10.0.0.1 on, 16 source ports each from 1024 on.
TRAFFIC = ["--src", "10.0.0.1", "--dst", "10.1.0.2", "--dst-port", "53",
           "--flows", "1024", "--flows-per-address", "16"]
TRAFFIC_HOSTS = 64

ONE_POLICY = """
[[policy]]
name = "everything"
monitors = ["ids"]
"""

# Hosts, prefixes and ports. No policy without a match, so every frame is looked at; p1, which is
# first in the file, selects every generated frame (and p4 once more), p2, p3, p6 and p9 select a
# part, the others none.
TEN_POLICIES = """
[[policy]]
name = "p1"
monitors = ["ids"]
match = [{ src = "10.0.0.0/16", proto = "udp", dst_port = [53, 443, "8000-8100"] }]

[[policy]]
name = "p2"
monitors = ["ids"]
match = [{ host = ["10.0.0.1", "10.0.0.7", "10.0.0.33", "192.0.2.1"] }]

[[policy]]
name = "p3"
monitors = ["ids"]
match = [{ src = "10.0.0.0/27" }]

[[policy]]
name = "p4"
monitors = ["ids"]
match = [{ dst = ["10.1.0.0/24", "2001:db8:1::/48"], port = [53, 5353] }]

[[policy]]
name = "p5"
monitors = ["ids"]
match = [{ proto = "tcp", port = [80, 443] }]

[[policy]]
name = "p6"
monitors = ["ids"]
match = [{ src_port = "1024-1031" }]
except = [{ src_port = 1025 }]

[[policy]]
name = "p7"
monitors = ["ids"]
match = [{ src = "2001:db8::/32", proto = "tcp", dst_port = 22 }]

[[policy]]
name = "p8"
monitors = ["ids"]
match = [{ host = "203.0.113.5", port = 53 }, { host = "203.0.113.6" }]

[[policy]]
name = "p9"
monitors = ["ids"]
match = [{ dst = "10.1.0.2", src_port = [1026, "1030-1033"] }]

[[policy]]
name = "p10"
monitors = ["ids"]
match = [{ src = ["172.16.0.0/12", "192.168.0.0/16"], proto = "udp", port = "5000-5100" }]
"""


def hundred_policies() -> str:
    """As above: hosts, prefixes and ports; the first selects every generated frame."""
    policies = ["""
[[policy]]
name = "q0"
monitors = ["ids"]
match = [{ src = "10.0.0.0/16", proto = "udp", dst_port = [53, 443, "8000-8100"] }]
"""]
    for n in range(1, 100):
        match = (f'{{ host = "203.0.{n}.5", port = {n} }}', f'{{ src = "198.{n}.0.0/16" }}',
                 f'{{ dst = "172.16.{n}.0/24", proto = "tcp", dst_port = "{n}00-{n}50" }}')[n % 3]
        policies.append(f"""
[[policy]]
name = "q{n}"
monitors = ["ids"]
match = [{match}]
""")
    return "".join(policies)


def in_the_kernel(policies: str) -> str:
    """The same policies, placed in the kernel."""
    return policies.replace('monitors = ["ids"]', 'monitors = ["ids"]\noffload = "require"')


class BenchError(Exception):
    """Something that makes a measurement worthless."""


def run(*argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, text=True, capture_output=True)
    if check and done.returncode:
        raise BenchError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()}")
    return done


# --- the lab ------------------------------------------------------------------------------------

class Process:
    """A child in a namespace, pinned to a CPU; its output in files. Ended by `stop`."""

    _live: set["Process"] = set()

    def __init__(self, namespace: str, argv: list[str], directory: Path, cpu: int | None) -> None:
        self.argv = argv
        self.name = Path(argv[0]).name
        self._out = tempfile.NamedTemporaryFile("w+", dir=directory, suffix=".out")
        self._err = tempfile.NamedTemporaryFile("w+", dir=directory, suffix=".err")
        pin = ["taskset", "-c", str(cpu)] if cpu is not None else []
        # All of these exec: the pid is that of the program itself. The highest nice level, of the
        # process and of its autogroup, leaves other work on the machine little to disturb.
        self._child = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{namespace}", "nice", "-n", "-20", *pin, *argv],
            stdin=subprocess.DEVNULL, stdout=self._out, stderr=self._err, start_new_session=True)
        Process._live.add(self)
        with contextlib.suppress(OSError):  # a kernel without CONFIG_SCHED_AUTOGROUP
            Path(f"/proc/{self.pid}/autogroup").write_text("-20")

    @property
    def pid(self) -> int:
        return self._child.pid

    def _text(self, file) -> str:
        return Path(file.name).read_text(errors="replace")

    def stdout(self) -> str:
        return self._text(self._out)

    def stderr(self) -> str:
        return self._text(self._err)

    def wait_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        while not re.search(r"\bready\b", self.stderr()):
            if self._child.poll() is not None:
                raise BenchError(f"{self.name} ended with {self._child.returncode}: {self.tail()}")
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name} not ready in {READY_S:.0f} s: {self.tail()}")
            time.sleep(0.01)

    def tail(self) -> str:
        return " | ".join(self.stderr().splitlines()[-8:])

    def alive(self) -> bool:
        return self._child.poll() is None

    def signal(self, number: int) -> None:
        self._child.send_signal(number)

    def wait(self, timeout: float) -> None:
        try:
            code = self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{self.name} did not end in time") from None
        if code:
            raise BenchError(f"{self.name} ended with {code}: {self.tail()}")

    def stop(self) -> None:
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(10)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
                print(f"warning: {self.name} had to be killed", file=sys.stderr)
        Process._live.discard(self)
        self._out.close()
        self._err.close()

    @classmethod
    def stop_all(cls) -> None:
        for process in list(cls._live):
            process.stop()


class Lab:
    """The four namespaces and three veth pairs of one measurement."""

    ROLES = ("gen", "tap", "rcv", "mon")
    _open: set["Lab"] = set()

    def __init__(self) -> None:
        self.name = {role: f"{PREFIX}{os.getpid()}-{role}" for role in self.ROLES}
        Lab._open.add(self)
        for role in self.ROLES:
            run("ip", "netns", "add", self.name[role])
            # No frames of the stacks' own.
            for scope in ("all", "default"):
                self.run(role, "sysctl", "-qw", f"net.ipv6.conf.{scope}.disable_ipv6=1")
        self._pair("gen", "g0", "tap", "a")
        self._pair("tap", "b", "rcv", "r0")
        self._pair("tap", "m", "mon", "m0")

    def _pair(self, role: str, port: str, peer_role: str, peer: str) -> None:
        # With "name": without it, `ip link` reads a port named "a" or "b" as a keyword.
        run("ip", "-n", self.name[role], "link", "add", "name", port, "type", "veth",
            "peer", "name", peer, "netns", self.name[peer_role])
        for where, name in ((role, port), (peer_role, peer)):
            run("ip", "-n", self.name[where], "link", "set", "dev", name, "up")

    def run(self, role: str, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run("nsenter", f"--net=/run/netns/{self.name[role]}", *argv, check=check)

    def start(self, role: str, argv: list[str], directory: Path,
              cpu: int | None = None) -> Process:
        return Process(self.name[role], argv, directory, cpu)

    def tx_offloads_off(self) -> None:
        """What hook = "xdp" on veth asks of real traffic: frames complete at both ends."""
        for role, port in (("gen", "g0"), ("tap", "a"), ("tap", "b"), ("rcv", "r0")):
            self.run(role, "ethtool", "-K", port, "tx", "off", "txvlan", "off", check=False)

    def input_napi_on(self) -> None:
        """A veth takes redirected frames only while its peer has a NAPI: an XDP program, or GRO.
        GRO does not merge the generated frames, as they are UDP."""
        self.run("tap", "ethtool", "-K", "a", "gro", "on")

    def close(self) -> None:
        Lab._open.discard(self)
        for name in self.name.values():
            if Path("/run/netns", name).exists():
                run("ip", "netns", "del", name, check=False)

    @classmethod
    def close_all(cls) -> None:
        for lab in list(cls._open):
            lab.close()

    @staticmethod
    def remove_leftovers() -> None:
        """Labs of earlier runs that were killed."""
        for path in Path("/run/netns").glob(f"{PREFIX}*"):
            pid = path.name.removeprefix(PREFIX).split("-")[0]
            if not Path("/proc", pid).exists():
                run("ip", "netns", "del", path.name, check=False)


# --- the contestants ----------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class Tools:
    broker: Path
    vtapctl: Path
    generator: Path


# Puts a tap between a and b of the lab and yields its process once frames pass.
Start = Callable[[Lab, Tools, Path], contextlib.AbstractContextManager[Process]]


@dataclasses.dataclass(frozen=True)
class Contestant:
    name: str
    what: str
    start: Start
    copies: bool  # whether it feeds the monitor
    needs_broker: bool = False


@contextlib.contextmanager
def in_kernel(lab: Lab, tools: Tools, directory: Path, arguments: list[str]) -> Iterator[Process]:
    process = lab.start("tap", [str(tools.generator), *arguments], directory, WORKER_CPU)
    try:
        process.wait_ready()
        yield process
    finally:
        process.stop()


def forward(hook: str) -> Start:
    def start(lab: Lab, tools: Tools, directory: Path):
        if hook == "xdp":
            lab.tx_offloads_off()
        return in_kernel(lab, tools, directory, ["forward", "--hook", hook, "--ports", "a,b"])
    return start


def fan_bare(lab: Lab, tools: Tools, directory: Path):
    lab.tx_offloads_off()
    return in_kernel(lab, tools, directory,
                     ["forward", "--hook", "xdp", "--ports", "a,b", "--monitor", "m"])


def clone_tap(hosts: int) -> Start:
    def start(lab: Lab, tools: Tools, directory: Path):
        return in_kernel(lab, tools, directory,
                         ["clone-tap", "--ports", "a,b", "--monitor", "m", "--first-host",
                          "10.0.0.1", "--hosts", str(hosts)])
    return start


def broker_config(capture: str, policies: str, directory: Path) -> str:
    return f"""[broker]
name = "bench"
workers = [{WORKER_CPU}]
control = "{directory}/control.sock"

[[tap]]
name = "wan"
mode = "inline"
ports = ["a", "b"]
{capture}

[[monitor]]
name = "ids"
port = "m"
{policies}"""


def broker(hook: str | None, policies: str) -> Start:
    """The product; hook None means capture = "redirect"."""

    @contextlib.contextmanager
    def start(lab: Lab, tools: Tools, directory: Path) -> Iterator[Process]:
        capture = f'capture = "tee"\nhook = "{hook}"' if hook else 'capture = "redirect"'
        if hook != "tc":
            lab.tx_offloads_off()
        config = directory / "tap.toml"
        config.write_text(broker_config(capture, policies, directory))
        process = lab.start("tap", [str(tools.broker), "-c", str(config)], directory)
        try:
            process.wait_ready()
            if hook == "tc":
                lab.input_napi_on()  # the broker turns GRO off
            yield process
        finally:
            process.stop()
            lab.run("tap", str(tools.broker), "--detach", "-c", str(config), check=False)
    return start


def egress(policies: str) -> Start:
    """Untapped TC forwarding, and the product as a host tap on the port by which frames leave."""

    @contextlib.contextmanager
    def start(lab: Lab, tools: Tools, directory: Path) -> Iterator[Process]:
        config = directory / "tap.toml"
        tap = 'direction = "egress"'
        config.write_text(broker_config(tap, policies, directory)
                          .replace('mode = "inline"', 'mode = "host"')
                          .replace('ports = ["a", "b"]', 'ports = ["b"]'))
        with in_kernel(lab, tools, directory, ["forward", "--hook", "tc", "--ports", "a,b"]):
            process = lab.start("tap", [str(tools.broker), "-c", str(config)], directory)
            try:
                process.wait_ready()
                yield process
            finally:
                process.stop()
                lab.run("tap", str(tools.broker), "--detach", "-c", str(config), check=False)
    return start


CONTESTANTS = [
    Contestant("xdp-forward", "untapped XDP devmap redirect", forward("xdp"), copies=False),
    Contestant("xdp-forward-aa", "the same once more", forward("xdp"), copies=False),
    Contestant("tc-forward", "untapped TC redirect", forward("tc"), copies=False),
    Contestant("tc-forward-aa", "the same once more", forward("tc"), copies=False),
    Contestant("clone-tap", f"TC bpf_clone_redirect, host map of {TRAFFIC_HOSTS}",
               clone_tap(TRAFFIC_HOSTS), copies=True),
    Contestant("clone-bare", "TC bpf_clone_redirect of every frame, nothing else", clone_tap(0),
               copies=True),
    Contestant("clone-bare-aa", "the same once more", clone_tap(0), copies=True),
    Contestant("tee-xdp", 'tee, hook "xdp", one policy: everything', broker("xdp", ONE_POLICY),
               copies=True, needs_broker=True),
    Contestant("tee-xdp-10", 'tee, hook "xdp", ten policies', broker("xdp", TEN_POLICIES),
               copies=True, needs_broker=True),
    Contestant("tee-tc", 'tee, hook "tc", one policy: everything', broker("tc", ONE_POLICY),
               copies=True, needs_broker=True),
    Contestant("tee-tc-10", 'tee, hook "tc", ten policies', broker("tc", TEN_POLICIES),
               copies=True, needs_broker=True),
    Contestant("clone", "kernel placement at TC, one policy: everything",
               broker("tc", in_the_kernel(ONE_POLICY)), copies=True, needs_broker=True),
    Contestant("clone-100", "kernel placement at TC, a hundred policies",
               broker("tc", in_the_kernel(hundred_policies())), copies=True, needs_broker=True),
    Contestant("fan-bare", "XDP broadcast of every frame to output and monitor, nothing else",
               fan_bare, copies=True),
    Contestant("fanout", "kernel placement at XDP, one policy: everything",
               broker("xdp", in_the_kernel(ONE_POLICY)), copies=True, needs_broker=True),
    Contestant("fanout-10", "kernel placement at XDP, ten policies",
               broker("xdp", in_the_kernel(TEN_POLICIES)), copies=True, needs_broker=True),
    Contestant("fanout-slice", "kernel placement at XDP, one policy: 60 bytes of everything",
               broker("xdp", in_the_kernel(ONE_POLICY) + "slice = 60\n"), copies=True,
               needs_broker=True),
    Contestant("tee-egress", "tee at TC egress behind untapped forwarding, one policy: everything",
               egress(ONE_POLICY), copies=True, needs_broker=True),
    Contestant("clone-egress", "kernel placement there, the same policy",
               egress(in_the_kernel(ONE_POLICY)), copies=True, needs_broker=True),
    Contestant("redirect", 'capture "redirect", one policy: everything', broker(None, ONE_POLICY),
               copies=True, needs_broker=True),
]


@dataclasses.dataclass(frozen=True)
class Ratio:
    what: str  # "originals" or "copies"
    name: str
    base: str
    target: float | None  # None: for information
    sizes: tuple[int, ...] = (64,)  # at which it holds


RATIOS = [
    Ratio("originals", "xdp-forward-aa", "xdp-forward", None),
    Ratio("originals", "tc-forward-aa", "tc-forward", None),
    Ratio("originals", "tee-xdp", "xdp-forward", 0.85),
    Ratio("originals", "tee-xdp-10", "xdp-forward", 0.75),
    Ratio("originals", "tee-xdp", "clone-tap", 3.0),
    Ratio("originals", "tee-xdp-10", "clone-tap", 3.0),
    Ratio("copies", "tee-xdp", "clone-tap", None),
    Ratio("originals", "tee-tc", "tc-forward", 0.88),
    Ratio("originals", "tee-tc-10", "tc-forward", 0.80),
    Ratio("originals", "tee-tc", "clone-tap", 1.6),
    Ratio("originals", "tee-tc-10", "clone-tap", 1.6),
    Ratio("copies", "tee-tc", "clone-tap", 1.2),
    Ratio("copies", "tee-tc-10", "clone-tap", 1.2),
    Ratio("originals", "clone-bare-aa", "clone-bare", None),
    Ratio("originals", "clone", "clone-bare", 0.95, SIZES),
    Ratio("copies", "clone", "clone-bare", 0.95, SIZES),
    Ratio("originals", "clone-100", "clone-bare", 0.85, SIZES),
    Ratio("copies", "clone-100", "clone-bare", 0.85, SIZES),
    Ratio("originals", "fanout", "fan-bare", None, SIZES),
    Ratio("originals", "fanout-10", "fan-bare", None, SIZES),
    Ratio("originals", "fanout-slice", "fan-bare", None, SIZES),
    Ratio("copies", "fanout", "clone-tap", 2.0),
    Ratio("originals", "tee-egress", "clone-egress", 1.5),
    Ratio("originals", "redirect", "xdp-forward", None),
    Ratio("originals", "clone-tap", "tc-forward", None),
]


# --- measuring ----------------------------------------------------------------------------------

class Sink:
    """A counting receiver; `read` gives frames and the time of the count, by its own clock."""

    def __init__(self, lab: Lab, tools: Tools, directory: Path, role: str, port: str) -> None:
        self._process = lab.start(role, [str(tools.generator), "sink", "--port", port, "--json"],
                                  directory, WORKER_CPU)
        self._process.wait_ready()
        self._reads = 0

    def ask(self) -> None:
        self._process.signal(signal.SIGUSR1)
        self._reads += 1

    def answer(self) -> tuple[int, float]:
        deadline = time.monotonic() + 5
        while True:
            # Whole lines only: the last piece is what is still being written.
            lines = self._process.stdout().split("\n")[:-1]
            if len(lines) >= self._reads:
                count = json.loads(lines[self._reads - 1])
                return count["frames"], count["seconds"]
            if time.monotonic() > deadline or not self._process.alive():
                raise BenchError(f"the sink does not answer: {self._process.tail()}")
            time.sleep(0.002)

    def stop(self) -> None:
        self._process.stop()


def read_both(sinks: list[Sink]) -> list[tuple[int, float]]:
    for sink in sinks:
        sink.ask()
    return [sink.answer() for sink in sinks]


def measure(lab: Lab, tools: Tools, directory: Path, sinks: list[Sink], tap: Process, size: int,
            seconds: float) -> dict[str, float]:
    """Mpps of originals and copies at one frame size."""
    before = read_both(sinks)
    generator = lab.start(
        "gen", [str(tools.generator), "--port", "g0", "--size", str(size), "--cpu",
                str(GENERATOR_CPU), "--json", *TRAFFIC], directory)
    try:
        time.sleep(SETTLE_S)
        first = read_both(sinks)
        time.sleep(seconds)
        last = read_both(sinks)
        if not generator.alive():
            raise BenchError(f"the generator ended early: {generator.tail()}")
        generator.signal(signal.SIGTERM)
        generator.wait(10)
        sent = json.loads(generator.stdout())
    finally:
        generator.stop()
    time.sleep(SETTLE_S)
    after = read_both(sinks)
    if not tap.alive():
        raise BenchError(f"the tap ended while it was measured: {tap.tail()}")

    def rate(i: int) -> float:
        return (last[i][0] - first[i][0]) / (last[i][1] - first[i][1]) / 1e6

    totals = [end[0] - begin[0] for begin, end in zip(before, after, strict=True)]
    if totals[0] == 0:
        raise BenchError("no frame came through")
    return {"originals": rate(0), "copies": rate(1), "offered": sent["mpps"],
            "originals_delivered": totals[0] / sent["frames"],
            "copies_delivered": totals[1] / sent["frames"]}


def measure_contestant(contestant: Contestant, tools: Tools, sizes: list[int], seconds: float,
                       show: Callable[[Process], None] = lambda process: None,
                       done: Callable[[Path], None] = lambda directory: None
                       ) -> dict[int, dict[str, float]]:
    lab = Lab()
    sinks: list[Sink] = []
    try:
        with tempfile.TemporaryDirectory(prefix="vtap-bench-") as name:
            directory = Path(name)
            lab.input_napi_on()
            sinks += [Sink(lab, tools, directory, "rcv", "r0")]
            sinks += [Sink(lab, tools, directory, "mon", "m0")]
            try:
                with contestant.start(lab, tools, directory) as tap:
                    show(tap)
                    result = {size: measure(lab, tools, directory, sinks, tap, size, seconds)
                              for size in sizes}
                    done(directory)
                    return result
            finally:
                for sink in sinks:
                    sink.stop()
    finally:
        lab.close()


# --- reporting ----------------------------------------------------------------------------------

Round = dict[str, dict[int, dict[str, float]]]  # contestant, size, quantity


def ratio_values(rounds: list[Round], ratio: Ratio, size: int) -> list[float]:
    """One value per round in which both were measured."""
    values = []
    for one in rounds:
        if ratio.name in one and ratio.base in one:
            base = one[ratio.base][size][ratio.what]
            if base > 0:
                values.append(one[ratio.name][size][ratio.what] / base)
    return values


def summary(rounds: list[Round], sizes: list[int]) -> dict:
    def spread(values: list[float]) -> dict[str, float]:
        return {"median": statistics.median(values), "min": min(values), "max": max(values)}

    rates: list[dict] = []
    for contestant in CONTESTANTS:
        measured = [one[contestant.name] for one in rounds if contestant.name in one]
        for size in sizes if measured else []:
            rates.append({"contestant": contestant.name, "size": size, "rounds": len(measured),
                          **{key: spread([m[size][key] for m in measured])
                             for key in measured[0][size]}})
    ratios: list[dict] = []
    for size in sizes:
        for ratio in RATIOS:
            if values := ratio_values(rounds, ratio, size):
                target = ratio.target if size in ratio.sizes else None
                ratios.append({"what": ratio.what, "contestant": ratio.name, "base": ratio.base,
                               "size": size, "target": target,
                               "reached": None if target is None
                               else statistics.median(values) >= target, **spread(values)})
    return {"rates": rates, "ratios": ratios}


def markdown(result: dict, skipped: dict[str, str]) -> str:
    def cell(value: dict[str, float], digits: int) -> str:
        return (f"{value['median']:.{digits}f} "
                f"({value['min']:.{digits}f}–{value['max']:.{digits}f})")

    copying = {contestant.name for contestant in CONTESTANTS if contestant.copies}
    lines = ["Mpps: median (least–most) of the rounds. Delivered: of all generated frames.", "",
             "| contestant | size | originals/s | copies/s | originals delivered | "
             "copies delivered |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for rate in result["rates"]:
        copies = rate["contestant"] in copying
        lines.append(f"| {rate['contestant']} | {rate['size']} | {cell(rate['originals'], 3)} | "
                     + (cell(rate["copies"], 3) if copies else "–")
                     + f" | {rate['originals_delivered']['median']:.1%} | "
                     + (f"{rate['copies_delivered']['median']:.1%}" if copies else "–") + " |")
    lines += ["", "Ratios within a round: median (least–most). The -aa rows are the noise.", "",
              "| ratio | size | value | target | |", "| --- | ---: | ---: | ---: | --- |"]
    for ratio in result["ratios"]:
        verdict = {None: "", True: "reached", False: "**missed**"}[ratio["reached"]]
        target = "" if ratio["target"] is None else f"≥ {ratio['target']}"
        lines.append(f"| {ratio['what']}: {ratio['contestant']} / {ratio['base']} | "
                     f"{ratio['size']} | {cell(ratio, 3)} | {target} | {verdict} |")
    lines += [f"\n**SKIPPED** {name}: {why}" for name, why in skipped.items()]
    return "\n".join(lines)


def machine() -> dict:
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return {"kernel": platform.release(), "machine": platform.machine(),
            "cpu": model[1] if model else "", "cpus": os.cpu_count(),
            "load": os.getloadavg()[0],
            "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}


# --- the command --------------------------------------------------------------------------------

def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                     epilog="contestants: " + "; ".join(
                                         f"{c.name} ({c.what})" for c in CONTESTANTS))
    parser.add_argument("--build-dir", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="per contestant, size and round")
    parser.add_argument("--sizes", type=lambda text: [int(size) for size in text.split(",")],
                        default=list(SIZES), help="frame bytes without FCS, default 64,1514")
    parser.add_argument("--contestants", type=lambda text: text.split(","), metavar="NAME,...",
                        help="these only, default all")
    parser.add_argument("--seed", type=int, default=1, help="of the orders")
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything measured")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the tables")
    parser.add_argument("--require-targets", action="store_true",
                        help="exit 1 when a target is missed or a contestant skipped")
    parser.add_argument("--only", metavar="NAME", help="run one contestant once, for profiling")
    arguments = parser.parse_args()
    known = {contestant.name for contestant in CONTESTANTS}
    for name in [*(arguments.contestants or []), *([arguments.only] if arguments.only else [])]:
        if name not in known:
            parser.error(f"no contestant '{name}'; there are: {', '.join(sorted(known))}")
    if arguments.rounds < 1 or arguments.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    return arguments


def run_only(contestant: Contestant, tools: Tools, arguments: argparse.Namespace) -> int:
    def show(process: Process) -> None:
        print(f"{contestant.name}: {contestant.what}; pid {process.pid}, generator on CPU "
              f"{GENERATOR_CPU}, worker on CPU {WORKER_CPU}", flush=True)

    def stats(directory: Path) -> None:
        if contestant.needs_broker and tools.vtapctl.exists():
            socket = str(directory / "control.sock")
            print(run(str(tools.vtapctl), "--socket", socket, "stats", "--json",
                      check=False).stdout.strip())

    result = measure_contestant(contestant, tools, arguments.sizes, arguments.seconds, show, stats)
    for size, values in result.items():
        print(f"{size:5} B  " + "  ".join(f"{key} {value:.3f}" for key, value in values.items()))
    return 0


def run_rounds(tools: Tools, arguments: argparse.Namespace) -> int:
    skipped: dict[str, str] = {}
    contestants = []
    for contestant in CONTESTANTS:
        if arguments.contestants and contestant.name not in arguments.contestants:
            continue
        if contestant.needs_broker and not tools.broker.exists():
            skipped[contestant.name] = f"no {tools.broker}"
        else:
            contestants.append(contestant)
    for name, why in skipped.items():
        print(f"SKIPPED {name}: {why}", file=sys.stderr, flush=True)

    about = machine()
    order = random.Random(arguments.seed)
    rounds: list[Round] = []
    for number in range(1, arguments.rounds + 1):
        one: Round = {}
        order.shuffle(contestants)
        for contestant in contestants:
            try:
                one[contestant.name] = measure_contestant(contestant, tools, arguments.sizes,
                                                          arguments.seconds)
            except BenchError as error:
                # Said at once, kept for the report, and not tried again in this run.
                skipped[contestant.name] = f"round {number}: {error}"
                print(f"SKIPPED {contestant.name}: {error}", file=sys.stderr, flush=True)
                continue
            print(f"round {number} {contestant.name:15}"
                  + "".join(f"  {size} B: {values['originals']:.3f} originals"
                            f" {values['copies']:.3f} copies"
                            for size, values in one[contestant.name].items()),
                  file=sys.stderr, flush=True)
        contestants = [c for c in contestants if c.name not in skipped]
        rounds.append(one)

    result = summary(rounds, arguments.sizes)
    text = markdown(result, skipped)
    print(text)
    if arguments.markdown:
        arguments.markdown.write_text(text + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(
            {"machine": about, "seconds": arguments.seconds, "seed": arguments.seed,
             "skipped": skipped, "rounds": rounds, **result}, indent=1) + "\n")
    missed = [ratio for ratio in result["ratios"] if ratio["reached"] is False]
    return 1 if arguments.require_targets and (missed or skipped) else 0


def main() -> int:
    arguments = parse_arguments()
    if os.geteuid() != 0:
        print("bench.py: needs root: it makes network namespaces", file=sys.stderr)
        return 3
    if (os.cpu_count() or 1) <= max(GENERATOR_CPU, WORKER_CPU):
        print("bench.py: needs two CPUs", file=sys.stderr)
        return 3
    for tool in ("ip", "nsenter", "nice", "taskset", "ethtool", "sysctl"):
        if not shutil.which(tool):
            print(f"bench.py: needs {tool}", file=sys.stderr)
            return 3
    build = arguments.build_dir.resolve()
    tools = Tools(broker=build / "broker" / "vtap-broker",
                  vtapctl=build / "tools" / "vtapctl" / "vtapctl",
                  generator=build / "tools" / "vtap-gen" / "vtap-gen")
    if not tools.generator.exists():
        print(f"bench.py: no {tools.generator}; build it, or see --build-dir", file=sys.stderr)
        return 2

    # A signal ends the bench the ordinary way: through every `finally`.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    atexit.register(Lab.close_all)
    atexit.register(Process.stop_all)  # before the labs: last in, first out
    Lab.remove_leftovers()
    os.sched_setaffinity(0, {WORKER_CPU})  # what this starts pins itself, or inherits it
    try:
        if arguments.only:
            [contestant] = [c for c in CONTESTANTS if c.name == arguments.only]
            if contestant.needs_broker and not tools.broker.exists():
                raise BenchError(f"no {tools.broker}; build it, or see --build-dir")
            return run_only(contestant, tools, arguments)
        return run_rounds(tools, arguments)
    except BenchError as error:
        print(f"bench.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
