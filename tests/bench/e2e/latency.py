#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a tap adds to the latency of originals, over real ports.

    gen          tap                  rcv
    g0 ========= a     b ============ r0     how old each original is when it arrives

The generator writes the time into every frame as it sends it, an XDP program at r0 reads the same
clock and counts the difference in a histogram: every frame of the run is in the percentiles, to
1/64 of their value. The time is that of sending, not that at which the frame was due: what the
generator loses to the machine does not count, what the way loses does.

Load: part of what untapped forwarding at the same hook carries with this generator, found at the
start of each round. The broker: idle (its policy takes other frames), active (it takes all), hung
(SIGSTOP, policy takes all). A fresh lab for every case and round, in changing order.

Needs root, two CPUs, and a build: cmake --preset bench && cmake --build --preset bench
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import bench
from bed import lateness, report, rounds, testbed, vtap
from bed.contestant import Skip

SIZES = (64, 512, 1514)
LOADS = (0.1, 0.5, 0.9)
STATES = ("idle", "active", "hung")
ANY_RATE = 100_000_000  # frames a second: more than there are
HUNG_S = 0.8  # until a redirect knows that its worker hangs, and more

TAPS = {  # name: the hook of the untapped forwarding it is held against, the tap's lines, placement
    "tee-xdp": ("xdp", vtap.TEE_XDP, ""),
    "tee-tc": ("tc", vtap.TEE_TC, ""),
    "redirect": ("xdp", vtap.REDIRECT, ""),
    "clone": ("tc", 'capture = "clone"', ""),
    "kernel-tc": ("tc", vtap.TEE_TC, "require"),
    "fanout": ("xdp", vtap.TEE_XDP, "require"),
}


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    hook: str  # of the untapped forwarding that it is held against
    tap: str = ""  # of TAPS; none: untapped
    state: str = ""

    @property
    def base(self) -> str:
        return f"untapped-{self.hook}"


CASES = [
    *(Case(f"untapped-{hook}{suffix}", hook) for hook in ("xdp", "tc") for suffix in ("", "-aa")),
    *(Case(f"{tap}, {state}", hook, tap, state)
      for tap, (hook, _, _) in TAPS.items() for state in STATES),
]


@dataclasses.dataclass(frozen=True)
class Settings:
    sizes: tuple[int, ...] = SIZES
    loads: tuple[float, ...] = LOADS
    seconds: float = 0.7
    quick: bool = False  # one size, one load, short

    def points(self) -> list[tuple[int, float]]:
        if self.quick:
            return [(64, 0.5)]
        return [(size, load) for size in self.sizes for load in self.loads]

    @property
    def length(self) -> float:
        return 0.1 if self.quick else self.seconds


def point(size: int, load: float) -> str:
    return f"{size}/{load:g}"


# --- measuring ----------------------------------------------------------------------------------

class LatencySink:
    """Counts stamped frames at r0 by their age."""

    def __init__(self, bed: testbed.Bed, tools: bench.Tools, directory: Path) -> None:
        self._process = bed.start("rcv", [str(tools.generator), "sink", "--port", "r0", "--json",
                                          "--latency"], directory, bench.WORKER_CPU)
        self._process.wait_ready()
        self._reads = 0

    def read(self) -> tuple[int, lateness.Histogram]:
        """Frames so far, and their histogram."""
        self._process.signal(signal.SIGUSR1)
        self._reads += 1
        deadline = time.monotonic() + 5
        while True:
            lines = self._process.stdout().split("\n")[:-1]  # whole ones
            if len(lines) >= self._reads:
                count = json.loads(lines[self._reads - 1])
                return count["frames"], dict(map(tuple, count["latency_ns"]))
            if time.monotonic() > deadline or not self._process.alive():
                raise bench.BenchError(f"the sink does not answer: {self._process.tail()}")
            time.sleep(0.002)

    def stop(self) -> None:
        self._process.stop()


@contextlib.contextmanager
def tapped(case: Case, bed: testbed.Bed, tools: bench.Tools, directory: Path) -> Iterator[None]:
    if not case.tap:
        with vtap.forward(case.hook)(bed, tools, directory):
            yield
        return
    _, lines, offload = TAPS[case.tap]
    match = vtap.NOTHING if case.state == "idle" else vtap.EVERYTHING
    with vtap.tap(lines, offload=offload, match=match)(bed, tools, directory) as process:
        if case.state == "hung":
            process.signal(signal.SIGSTOP)
            time.sleep(HUNG_S)
        try:
            yield
        finally:
            process.signal(signal.SIGCONT)


@contextlib.contextmanager
def laboratory(case: Case, tools: bench.Tools) -> Iterator[tuple[testbed.Bed, Path, LatencySink]]:
    bed = testbed.Between()
    try:
        with tempfile.TemporaryDirectory(prefix="vtap-bench-") as name, \
                contextlib.ExitStack() as stack:
            directory = Path(name)
            bed.far_ends_napi_on()
            stack.enter_context(tapped(case, bed, tools, directory))
            sink = LatencySink(bed, tools, directory)
            stack.callback(sink.stop)
            copies = bench.Sink(bed, tools, directory, "mon", "m0")
            stack.callback(copies.stop)
            yield bed, directory, sink
    finally:
        bed.close()


def send(bed: testbed.Bed, tools: bench.Tools, directory: Path, sink: LatencySink, size: int,
         rate: int, seconds: float) -> tuple[dict[str, float], lateness.Histogram]:
    """What was sent and came, and how old it was in the time between."""
    before, _ = sink.read()
    generator = bed.start("gen", [
        str(tools.generator), "--port", "g0", "--size", str(size), "--cpu",
        str(bench.GENERATOR_CPU), "--rate", str(rate), "--stamp", "--json", *bench.TRAFFIC],
        directory)
    try:
        time.sleep(bench.SETTLE_S)
        _, first = sink.read()
        time.sleep(seconds)
        _, last = sink.read()
        if not generator.alive():
            raise bench.BenchError(f"the generator ended early: {generator.tail()}")
        generator.signal(signal.SIGTERM)
        generator.wait(10)
        sent = json.loads(generator.stdout())
    finally:
        generator.stop()
    time.sleep(bench.SETTLE_S)
    after, _ = sink.read()
    return ({"mpps": sent["mpps"], "delivered": (after - before) / sent["frames"]},
            lateness.difference(last, first))


def capacities(tools: bench.Tools, settings: Settings) -> dict[str, dict[str, float]]:
    """Mpps by hook and size."""
    found: dict[str, dict[str, float]] = {}
    for hook in ("xdp", "tc"):
        with laboratory(Case(f"untapped-{hook}", hook), tools) as (bed, directory, sink):
            found[hook] = {}
            for size in dict.fromkeys(size for size, _ in settings.points()):
                result, _ = send(bed, tools, directory, sink, size, ANY_RATE, settings.length / 2)
                found[hook][str(size)] = result["mpps"] * result["delivered"]
    return found


def measure(case: Case, tools: bench.Tools, capacity: dict[str, float], settings: Settings
            ) -> dict[str, dict[str, float]]:
    figures = {}
    with laboratory(case, tools) as (bed, directory, sink):
        for size, load in settings.points():
            rate = max(1, round(capacity[str(size)] * load * 1e6))
            result, histogram = send(bed, tools, directory, sink, size, rate, settings.length)
            if not histogram:
                raise bench.BenchError(f"{case.name}: no original came through")
            figures[point(size, load)] = result | lateness.summary(histogram)
    return figures


def run(record: rounds.Record, tools: bench.Tools, settings: Settings, count: int, seed: int,
        deadline: float | None) -> bool:
    """Until there are so many rounds in the record, or no time is left: False."""
    by_name = {case.name: case for case in CASES}
    for number in range(1, count + 1):
        while len(record.latency) < number:
            record.latency.append({"capacity": {}, "cases": {}})
        one = record.latency[number - 1]
        if not one["capacity"]:
            if deadline is not None and time.monotonic() > deadline:
                return False
            one["capacity"] = capacities(tools, settings)
        for name in rounds.order(list(by_name), seed, number):
            case = by_name[name]
            key = f"latency: {case.tap or case.name}"
            if name in one["cases"] or key in record.skipped:
                continue
            if deadline is not None and time.monotonic() > deadline:
                return False
            if case.tap and not tools.broker.exists():
                rounds.skip(record, key, "vtap-broker is not built; see --build-dir")
                continue
            try:
                one["cases"][name] = measure(case, tools, one["capacity"][case.hook], settings)
            except (Skip, bench.BenchError) as why:
                rounds.skip(record, key, str(why))
                continue
            rounds.say(f"latency, round {number} {name:18}" + "".join(
                f"  {at}: p99.9 {figures['p99.9']:.0f} us"
                for at, figures in one["cases"][name].items()))
            record.save()
    return True


# --- reporting ----------------------------------------------------------------------------------

TEXT = """\
us from sending at the generator to the arrival at the receiver, by the same clock, of every frame:
medians of the rounds' percentiles (p99.9: least–most). The generator sends in batches of up to 64,
and the way of the originals has its CPU in turn with it: read the differences. Load: of what
untapped forwarding at the same hook carried in the same round. *Added*: p99.9 less that of untapped
forwarding in the same round; *within* where that is no more than the two untapped runs differ (A/A)
and 10 us."""


def section(record: rounds.Record) -> tuple[str, list[list[str]]]:
    """The report's text, and its rows for the table of targets."""
    points = list(dict.fromkeys(at for one in record.latency for figures in one["cases"].values()
                                for at in figures))
    points.sort(key=lambda at: [float(word) for word in at.split("/")])
    if not points:
        return "", [["added p99.9 latency of originals, tee, 50% load", "64",
                     "≤ A/A + 10 us", "–", "**not measured** (`--latency-rounds`)"]]
    lines = [f"{len(record.latency)} rounds. {TEXT}", ""]
    for at in points:
        size, load = at.split("/")
        lines += [f"### {size} bytes, {float(load):.0%} load", "", *table(record.latency, at), ""]
    return "\n".join(lines).rstrip(), targets(record.latency, points)


def table(measured: lateness.Rounds, at: str) -> list[str]:
    rows = []
    for case in CASES:
        found = lateness.values(measured, case.name, at, "p99.9")
        if not found:
            continue
        def middle(quantity: str) -> float:
            return statistics.median(lateness.values(measured, case.name, at, quantity))
        verdict = lateness.judge(measured, case.name, case.base, case.base + "-aa", at)
        judged = ["–", "–"]
        if verdict and case.name != case.base:
            judged = [f"{verdict.added:+.1f} (A/A {verdict.noise:.1f})",
                      "within" if verdict.reached else "**above**"]
        rows.append([case.name, f"{middle('mpps'):.3f}", f"{middle('delivered'):.1%}",
                     f"{middle('p50'):.1f}", f"{middle('p99'):.1f}",
                     report.cell(report.Spread.of(found), 1), f"{middle('max'):.0f}", *judged])
    return report.table(["case", "Mpps", "delivered", "p50", "p99", "p99.9", "max",
                         "added to p99.9", ""], rows)


def targets(measured: lateness.Rounds, points: Sequence[str]) -> list[list[str]]:
    rows = []
    for at in points:
        size, load = at.split("/")
        for tap in ("tee-xdp", "tee-tc"):
            base = f"untapped-{TAPS[tap][0]}"
            verdict = lateness.judge(measured, f"{tap}, active", base, base + "-aa", at)
            if float(load) == 0.5 and verdict:
                rows.append([f"added p99.9 latency of originals, {tap}, 50% load", size,
                             f"≤ {verdict.noise:.1f} (A/A) + {lateness.ALLOWED_US:g} us",
                             f"{verdict.added:+.1f} us",
                             "reached" if verdict.reached else "**missed**"])
    return rows


# --- the command --------------------------------------------------------------------------------

def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--build-dir", type=Path, default=bench.ROOT / "build" / "bench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.7,
                        help="per case, size, load and round")
    parser.add_argument("--sizes", type=lambda text: tuple(map(int, text.split(","))),
                        default=SIZES)
    parser.add_argument("--loads", type=lambda text: tuple(map(float, text.split(","))),
                        default=LOADS, help="parts of the untapped capacity, default 0.1,0.5,0.9")
    parser.add_argument("--seed", type=int, default=1, help="of the orders")
    parser.add_argument("--json", type=Path, metavar="FILE",
                        help="everything measured; goes on with what is in it")
    parser.add_argument("--budget", type=float, metavar="SECONDS",
                        help="begin no measurement after that")
    parser.add_argument("--quick", action="store_true", help="one short round, one size and load")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 1
    if arguments.rounds < 1 or arguments.seconds <= 0 or min(arguments.loads) <= 0:
        parser.error("all numbers must be positive")
    return arguments


def main() -> int:
    import peers  # for what both do at the start; peers imports this file
    arguments = parse_arguments()
    if why := peers.prepare():
        print(f"latency.py: {why}", file=sys.stderr)
        return 3
    tools = peers.tools_in(arguments.build_dir)
    if not tools.generator.exists():
        print("latency.py: vtap-gen is not built, or see --build-dir", file=sys.stderr)
        return 2
    settings = Settings(arguments.sizes, arguments.loads, arguments.seconds, arguments.quick)
    about = {"machine": bench.machine(), "settings": json.loads(json.dumps(
        dataclasses.asdict(settings))), "programs": rounds.fingerprint(tools)}
    try:
        if arguments.json and arguments.json.exists():
            record = rounds.Record.load(arguments.json, about, ("settings", "programs"))
            record.skipped.clear()
        else:
            record = rounds.Record(arguments.json, about)
        deadline = time.monotonic() + arguments.budget if arguments.budget else None
        complete = run(record, tools, settings, arguments.rounds, arguments.seed, deadline)
        record.save()
        text, rows = section(record)
        print("\n".join(report.table(["figure", "size", "to reach", "median", ""], rows)), "",
              text, sep="\n")
        for name, why in record.skipped.items():
            print(f"\n**SKIPPED** {name}: {why}")
        if not complete:
            rounds.say("time is up: go on with the same --json")
        return 0
    except (bench.BenchError, subprocess.SubprocessError) as error:
        print(f"latency.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
