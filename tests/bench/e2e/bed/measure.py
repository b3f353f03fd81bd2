# SPDX-License-Identifier: Apache-2.0
"""One contestant in one bed: rates and CPU time, frame size by frame size."""

from __future__ import annotations

import json
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import bench

from bed import cpu, testbed
from bed.contestant import Contestant, cpus_of

Figures = dict[str, float]  # quantity: value; see `figures`


def measure(contestant: Contestant, tools: bench.Tools, sizes: Sequence[int], seconds: float,
            show: Callable[[bench.Process | None, testbed.Bed], None] = lambda process, bed: None
            ) -> dict[int, Figures]:
    """Figures by frame size. Skip or BenchError where there are none."""
    bed = contestant.bed()
    counters: list[testbed.Counter] = []
    try:
        with tempfile.TemporaryDirectory(prefix="vtap-bench-") as name:
            bed.far_ends_napi_on()
            with contestant.start(bed, tools, Path(name)) as process:
                try:
                    counters += bed.open_counters(tools, Path(name))
                    if process and (others := cpus_of(process) - {bench.WORKER_CPU}):
                        raise bench.BenchError(f"{contestant.name} runs on CPU {others}, too")
                    show(process, bed)
                    return {size: measure_size(contestant, bed, tools, Path(name), counters,
                                               process, size, seconds) for size in sizes}
                finally:
                    for counter in counters:
                        counter.stop()
    finally:
        bed.close()


def measure_size(contestant: Contestant, bed: testbed.Bed, tools: bench.Tools, directory: Path,
                 counters: list[testbed.Counter], process: bench.Process | None, size: int,
                 seconds: float) -> Figures:
    before = testbed.read_all(counters)
    generator = bed.start(
        "gen", [str(tools.generator), "--port", "g0", "--size", str(size), "--cpu",
                str(bench.GENERATOR_CPU), "--json", *bench.TRAFFIC], directory)
    try:
        time.sleep(bench.SETTLE_S)
        first, first_times = testbed.read_all(counters), cpu.now()
        time.sleep(seconds)
        last, last_times = testbed.read_all(counters), cpu.now()
        if not generator.alive():
            raise bench.BenchError(f"the generator ended early: {generator.tail()}")
        generator.signal(signal.SIGTERM)
        generator.wait(10)
        sent = json.loads(generator.stdout())
    finally:
        generator.stop()
    time.sleep(bench.SETTLE_S)
    after = testbed.read_all(counters)
    if process and not process.alive():
        raise bench.BenchError(f"{contestant.name} ended while it was measured: {process.tail()}")
    if after[0][0] == before[0][0]:
        raise bench.BenchError(f"{contestant.name}: no original came through")
    totals = [end[0] - begin[0] for begin, end in zip(before, after, strict=True)]
    return {"offered": sent["mpps"], "delivered": totals[0] / sent["frames"],
            **figures(first, last, cpu.between(first_times, last_times), size,
                      contestant.monitors, process is not None)}


def figures(first: list[testbed.Reading], last: list[testbed.Reading], times: dict[int, cpu.Times],
            size: int, monitors: int, has_process: bool) -> Figures:
    """
    originals, copies: millions a second; copies of all monitors together
    copies_least: of the monitor that got least
    mbit: Mbit/s of copies, frame bytes without FCS
    cpu: seconds of all CPUs for a million originals, generator and receivers included
    user, system, softirq: of the contestant's process and of what ran on its CPU, likewise
    user_ns_per_copy
    """
    frames = [end[0] - begin[0] for begin, end in zip(first, last, strict=True)]
    rates = [count / (end[1] - begin[1]) / 1e6
             for count, begin, end in zip(frames, first, last, strict=True)]
    copies = rates[1:1 + monitors]
    result = {"originals": rates[0]}
    if monitors:
        result |= {"copies": sum(copies), "copies_least": min(copies),
                   "mbit": sum(copies) * size * 8}
    millions = max(frames[0], 1) / 1e6
    result["cpu"] = sum(one.all for one in times.values()) / millions
    if has_process:
        own = times[bench.WORKER_CPU]
        result |= {"user": own.user / millions, "system": own.system / millions,
                   "softirq": own.softirq / millions}
        if copied := sum(frames[1:1 + monitors]):
            result["user_ns_per_copy"] = own.user * 1e9 / copied
    return result
