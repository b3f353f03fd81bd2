#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Whether copies grow with the workers, on ports of four queues.

    gen, a generator on each CPU   tap                rcv
    g0 ========================== a     b ========== r0
    the queue of its CPU                m ========== m0     copies are counted here

A live frame enters the queue of the CPU that sends it: so many CPUs, so many queues are in use, up
to four. Each generator sends 1024 flows of its own, at a lower priority than the workers: where a
worker has work, it goes first, and the generator gets what is left. So each CPU that has a
worker shares itself among generator, way of the originals, worker and transmission, and a CPU
without one does nothing but send and forward.

One worker is on CPU 1, two are on CPU 0 and CPU 1, and so on. Every case gets a fresh lab in every
round, in changing order.

Needs root, two CPUs, and a build: cmake --preset bench && cmake --build --preset bench
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import bench
import peers
from bed import cpu, report, testbed, vtap
from bed.contestant import Skip
from bed.rounds import say
from bed.statistic import Round, Spread, ratios, values

QUEUES = 4
BELOW_WORKERS = -10  # nice level; workers have -20, and other work on the machine 0


@dataclasses.dataclass(frozen=True)
class Case:
    hook: str
    workers: int

    @property
    def name(self) -> str:
        return f"tee-{self.hook}, {self.workers} worker{'s' * (self.workers > 1)}"


def worker_cpus(workers: int, cpus: int) -> list[int]:
    """In their order: rings of CPUs go to workers in turn, so that each worker gets that of its own
    CPU as long as there is one for every CPU."""
    return sorted((1 + number) % cpus for number in range(workers))


@contextlib.contextmanager
def tapped(case: Case, bed: testbed.Bed, tools: bench.Tools, directory: Path, cpus: int
           ) -> Iterator[bench.Process]:
    if case.hook == "xdp":
        bed.tx_offloads_off()
    text = vtap.config(bed, directory, vtap.TEE_XDP if case.hook == "xdp" else vtap.TEE_TC,
                       on_receiver=False, monitors=1, workers=worker_cpus(case.workers, cpus))
    os.sched_setaffinity(0, range(cpus))  # what the broker may use
    try:
        with vtap.broker(bed, tools, directory, text) as process:
            if case.hook == "tc":
                bed.input_napi_on()  # the broker turns GRO off
            yield process
    finally:
        os.sched_setaffinity(0, {bench.WORKER_CPU})


@contextlib.contextmanager
def generators(bed: testbed.Bed, tools: bench.Tools, directory: Path, size: int, cpus: int
               ) -> Iterator[list[bench.Process]]:
    running: list[bench.Process] = []
    try:
        for number in range(min(cpus, QUEUES)):
            words = [word if word != "10.0.0.1" else f"10.0.{number}.1" for word in bench.TRAFFIC]
            process = bed.start("gen", [str(tools.generator), "--port", "g0", "--size", str(size),
                                        "--cpu", str(number), "--json", *words], directory)
            running.append(process)
            os.setpriority(os.PRIO_PROCESS, process.pid, BELOW_WORKERS)
            with contextlib.suppress(OSError):
                Path(f"/proc/{process.pid}/autogroup").write_text(str(BELOW_WORKERS))
        yield running
    finally:
        for process in running:
            process.stop()


def measure(case: Case, tools: bench.Tools, sizes: list[int], seconds: float, cpus: int
            ) -> dict[int, dict[str, float]]:
    bed = testbed.Bed(queues=QUEUES)
    try:
        with tempfile.TemporaryDirectory(prefix="vtap-bench-") as name, \
                contextlib.ExitStack() as stack:
            directory = Path(name)
            bed.far_ends_napi_on()
            process = stack.enter_context(tapped(case, bed, tools, directory, cpus))
            counters = bed.open_counters(tools, directory)
            for counter in counters:
                stack.callback(counter.stop)
            result = {}
            for size in sizes:
                with generators(bed, tools, directory, size, cpus) as senders:
                    result[size] = window(counters, seconds)
                    for sender in senders:
                        if not sender.alive():
                            raise bench.BenchError(f"a generator ended: {sender.tail()}")
                        sender.signal(signal.SIGTERM)
                        sender.wait(10)
                time.sleep(bench.SETTLE_S)
                stats = bench.run(str(tools.vtapctl), "--socket", str(directory / "control.sock"),
                                  "stats", "--json")
                result[size] |= shares(json.loads(stats.stdout))
            if not process.alive():
                raise bench.BenchError(f"the broker ended: {process.tail()}")
            return result
    finally:
        bed.close()


def window(counters: list[testbed.Counter], seconds: float) -> dict[str, float]:
    time.sleep(bench.SETTLE_S)
    first, before = testbed.read_all(counters), cpu.now()
    time.sleep(seconds)
    last, after = testbed.read_all(counters), cpu.now()
    rates = [(end[0] - begin[0]) / (end[1] - begin[1]) / 1e6
             for begin, end in zip(first, last, strict=True)]
    if rates[0] <= 0 or rates[1] <= 0:
        raise bench.BenchError("no original or no copy came through")
    busy = cpu.between(before, after)
    return {"originals": rates[0], "copies": rates[1],
            **{f"cpu{number}_{what}": getattr(times, what) / seconds
               for number, times in busy.items() for what in ("user", "system", "softirq")}}


def shares(stats: dict) -> dict[str, float]:
    """The part of the copies that went through the busiest worker."""
    frames = [worker["frames"] for worker in stats["workers"]]
    return {"busiest_worker": max(frames) / max(sum(frames), 1)}


def markdown(rounds: list[Round], cases: list[Case], sizes: list[int], cpus: int,
             skipped: dict[str, str]) -> str:
    def cell(name: str, size: int, quantity: str) -> str:
        return report.cell(Spread.of(values(rounds, name, size, quantity)), 2)
    lines = [f"Mpps, median (least–most) of {len(rounds)} rounds. {QUEUES} queues on every port; "
             f"{min(cpus, QUEUES)} in use, as there are {cpus} CPUs and each has a generator.", "",
             *report.table(
                 ["case", "worker CPUs", "size", "originals", "copies", "busiest worker's part",
                  *(f"CPU {number}: user, system, softirq" for number in range(cpus))],
                 [[case.name, ", ".join(map(str, worker_cpus(case.workers, cpus))), str(size),
                   cell(case.name, size, "originals"), cell(case.name, size, "copies"),
                   cell(case.name, size, "busiest_worker"),
                   *(", ".join(cell(case.name, size, f"cpu{number}_{what}").split(" ")[0]
                               for what in ("user", "system", "softirq"))
                     for number in range(cpus))]
                  for case in cases for size in sizes], left=2), ""]
    rows = []
    for hook in dict.fromkeys(case.hook for case in cases):
        for size in sizes:
            growth = ratios(rounds, size, "copies", [Case(hook, 2).name], [Case(hook, 1).name])
            if growth:
                spread = Spread.of(growth)
                rows.append([f"tee-{hook}", str(size), report.cell(spread, 2),
                             "grows" if spread and spread.median > 1 else "**does not grow**"])
    lines += ["Copies with two workers / with one, within a round:", "",
              *report.table(["tap", "size", "ratio", ""], rows)]
    lines += [f"\n**SKIPPED** {name}: {why}" for name, why in skipped.items()]
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--build-dir", type=Path, default=bench.ROOT / "build" / "bench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="per case, size and round")
    parser.add_argument("--sizes", type=peers.sizes_of, default=[64, 1514])
    parser.add_argument("--seed", type=int, default=1, help="of the orders")
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything measured")
    parser.add_argument("--quick", action="store_true", help="one short round")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 0.2
    if arguments.rounds < 1 or arguments.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    return arguments


def run(tools: bench.Tools, arguments: argparse.Namespace, cpus: int) -> int:
    cases = [Case(hook, workers) for hook in ("tc", "xdp") for workers in (1, 2)]
    order, shuffled = random.Random(arguments.seed), list(cases)
    rounds: list[dict[str, dict[int, dict[str, float]]]] = []
    skipped: dict[str, str] = {}
    for number in range(1, arguments.rounds + 1):
        order.shuffle(shuffled)
        rounds.append({})
        for case in shuffled:
            if case.name in skipped:
                continue
            try:
                rounds[-1][case.name] = measure(case, tools, arguments.sizes, arguments.seconds,
                                                cpus)
            except (Skip, bench.BenchError) as why:
                skipped[case.name] = f"round {number}: {why}"
                say(f"SKIPPED {case.name}: {why}")
                continue
            say(f"round {number} {case.name:18}" + "".join(
                f"  {size} B: {figures['copies']:.3f} copies"
                for size, figures in rounds[-1][case.name].items()))
    print(markdown(rounds, cases, arguments.sizes, cpus, skipped))
    if arguments.json:
        arguments.json.write_text(json.dumps(
            {"machine": bench.machine(), "seconds": arguments.seconds, "skipped": skipped,
             "rounds": rounds}, indent=1) + "\n")
    return 1 if skipped else 0


def main() -> int:
    arguments = parse_arguments()
    cpus = len(os.sched_getaffinity(0))
    if why := peers.prepare():
        print(f"scale.py: {why}", file=sys.stderr)
        return 3
    tools = peers.tools_in(arguments.build_dir)
    for tool in (tools.broker, tools.vtapctl, tools.generator):
        if not tool.exists():
            print(f"scale.py: no {tool.name}; build it, or see --build-dir", file=sys.stderr)
            return 2
    try:
        return run(tools, arguments, cpus)
    except (bench.BenchError, subprocess.SubprocessError) as error:
        print(f"scale.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
