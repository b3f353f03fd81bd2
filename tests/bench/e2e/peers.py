#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""vtap-broker beside its peers, on the published testbeds, in one run.

Contestants, testbeds and what is counted: docs/bench.md, which this writes with --output docs, and
the folder bed. Peers come from Debian packages (tools/setup.sh --bench); what is missing is skipped
aloud. A run that was ended goes on with --resume, in the middle of a round if need be.

Needs root, two CPUs, and a build: cmake --preset bench && cmake --build --preset bench
"""

from __future__ import annotations

import argparse
import atexit
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import bench
import latency
from bed import check, field, measure, plots, report, rounds, testbed
from bed.contestant import Contestant, Skip

SIZES = (64, 128, 256, 512, 1024, 1280, 1514)
SAME = ("sizes", "seconds", "seed", "programs", "kernel")  # of all rounds in one file
QUICK = {"rounds": 1, "seconds": 0.15, "sizes": [64, 1514]}
PACKAGES = ("iproute2", "nftables", "openvswitch-switch", "dpdk-dev")  # named with their versions


def sizes_of(text: str) -> list[int]:
    return [int(size) for size in text.split(",")]


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="contestants: " + "; ".join(f"{c.name} ({c.what})" for c in field.CONTESTANTS))
    parser.add_argument("--build-dir", type=Path, default=bench.ROOT / "build" / "bench")
    parser.add_argument("--rounds", type=int, default=5, help="in all, those resumed included")
    parser.add_argument("--seconds", type=float, default=1.0, help="per contestant, size and round")
    parser.add_argument("--sizes", type=sizes_of, default=list(SIZES),
                        help="frame bytes without FCS, default: the papers' tables")
    parser.add_argument("--contestants", type=lambda text: text.split(","), metavar="NAME,...",
                        help="these only, default all")
    parser.add_argument("--latency-rounds", type=int, default=0, metavar="N",
                        help="also what latency.py measures, so many rounds")
    parser.add_argument("--seed", type=int, default=1, help="of the orders")
    parser.add_argument("--output", type=Path, metavar="DIR",
                        help="writes bench.md, bench.json and bench-*.png there")
    parser.add_argument("--resume", action="store_true",
                        help="go on with the bench.json in --output")
    parser.add_argument("--budget", type=float, metavar="SECONDS",
                        help="begin no measurement after that; the next run may --resume")
    parser.add_argument("--quick", action="store_true",
                        help="one short round of two sizes: whether all of it works")
    parser.add_argument("--only", metavar="NAME",
                        help="run this contestant alone for --seconds, and say its pids, for "
                             "profiling")
    parser.add_argument("--require-targets", action="store_true",
                        help="exit 1 when a target is missed or not measured")
    arguments = parser.parse_args(words)
    for name in [*(arguments.contestants or []), *([arguments.only] if arguments.only else [])]:
        if name not in field.BY_NAME:
            parser.error(f"no contestant '{name}'; there are: {', '.join(field.BY_NAME)}")
    if arguments.quick:
        for key, value in QUICK.items():
            setattr(arguments, key, value)
    if arguments.rounds < 1 or arguments.seconds <= 0 or min(arguments.sizes) < 64:
        parser.error("--rounds and --seconds must be positive, --sizes 64 and more")
    if arguments.resume and not arguments.output:
        parser.error("--resume needs --output")
    return arguments


def command_shown(arguments: argparse.Namespace) -> str:
    """How a reader runs the same, from the root of the repository."""
    words = ["tests/bench/e2e/peers.py", f"--rounds {arguments.rounds}",
             f"--seconds {arguments.seconds:g}"]
    if tuple(arguments.sizes) != SIZES:
        words.append("--sizes " + ",".join(map(str, arguments.sizes)))
    if arguments.contestants:
        words.append("--contestants " + ",".join(map(shlex.quote, arguments.contestants)))
    if arguments.latency_rounds:
        words.append(f"--latency-rounds {arguments.latency_rounds}")
    return " ".join(words)


def versions() -> dict[str, str]:
    """Of the Debian packages that peers come from, as far as they are installed."""
    words = ["dpkg-query", "-W", "-f=${db:Status-Status} ${Package} ${Version}\n", *PACKAGES]
    if not shutil.which(words[0]):
        return {}
    lines = subprocess.run(words, text=True, capture_output=True).stdout.splitlines()
    return {name: version for status, name, version in map(str.split, lines)
            if status == "installed"}


def about(arguments: argparse.Namespace, tools: bench.Tools) -> dict[str, Any]:
    machine = bench.machine()
    return {"command": command_shown(arguments), "machine": machine, "kernel": machine["kernel"],
            "sizes": arguments.sizes, "seconds": arguments.seconds, "seed": arguments.seed,
            "programs": rounds.fingerprint(tools), "versions": versions(),
            "cpus_used": {"generator": bench.GENERATOR_CPU, "worker": bench.WORKER_CPU}}


def run_only(contestant: Contestant, tools: bench.Tools, arguments: argparse.Namespace) -> int:
    if why := contestant.missing(tools):
        raise bench.BenchError(f"{contestant.name}: {why}")

    def show(process: bench.Process | None, bed: testbed.Bed) -> None:
        pid = process.pid if process else "none: all of it is in the kernel"
        print(f"{contestant.name}: {contestant.what}\n  pid {pid}\n  generator and the way of the "
              f"originals on CPU {bench.GENERATOR_CPU}, the process on CPU {bench.WORKER_CPU}\n  "
              f"namespaces {', '.join(bed.name.values())}", flush=True)
    sizes = arguments.sizes if tuple(arguments.sizes) != SIZES else [64]
    for size, figures in measure.measure(contestant, tools, sizes, arguments.seconds, show).items():
        print(f"{size:5} B  " + "  ".join(f"{key} {value:.3f}" for key, value in figures.items()))
    return 0


def run_rounds(tools: bench.Tools, arguments: argparse.Namespace) -> int:
    deadline = time.monotonic() + arguments.budget if arguments.budget else None
    record = open_record(arguments, about(arguments, tools))
    wanted = [c for c in field.CONTESTANTS
              if not arguments.contestants or c.name in arguments.contestants]
    for contestant in wanted:
        if why := contestant.missing(tools):
            rounds.skip(record, contestant.name, why)
    complete = rounds.run(
        record, wanted, arguments.rounds, arguments.seed,
        lambda contestant: check.check(contestant, tools, arguments.sizes),
        lambda contestant: measure.measure(contestant, tools, arguments.sizes, arguments.seconds),
        deadline)
    if complete and arguments.latency_rounds:
        settings = latency.Settings(sizes=tuple(latency.SIZES), quick=arguments.quick)
        complete = latency.run(record, tools, settings, arguments.latency_rounds, arguments.seed,
                               deadline)
    finish(record, wanted, arguments)
    if not complete:
        rounds.say("time is up: go on with --resume")
    return verdict(record) if arguments.require_targets else 0


def open_record(arguments: argparse.Namespace, now: dict[str, Any]) -> rounds.Record:
    file = None
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        file = arguments.output / "bench.json"
        if arguments.resume and file.exists():
            record = rounds.Record.load(file, now, SAME)
            record.about["command"] = now["command"]
            record.skipped.clear()  # they may have been installed since
            return record
    return rounds.Record(file, now)


def finish(record: rounds.Record, wanted: list[Contestant], arguments: argparse.Namespace) -> None:
    pictures: list[str] = []
    if arguments.output:
        try:
            pictures = plots.draw(record, wanted, arguments.sizes, arguments.output)
        except ImportError:
            rounds.skip(record, "plots", "no matplotlib: apt-get install python3-matplotlib "
                        "(tools/setup.sh --bench)")
    tail, rows = latency.section(record)
    record.about["more_targets"] = rows + [[
        "whole pipeline, memory to memory, 100 policies, two monitors / bare rte_acl", "64", "≤ 2",
        "–", "measured by `build/bench/tests/bench/policies_bench`, not here"]]
    text = report.markdown(record, wanted, arguments.sizes, pictures, tail)
    record.save()
    print(text)
    if arguments.output:
        (arguments.output / "bench.md").write_text(text)


def verdict(record: rounds.Record) -> int:
    judged = [target.judge(record.rounds).reached for target in report.statistic.TARGETS]
    return 0 if all(judged) else 1


def prepare() -> str | None:
    """What stands against a run; else all that it makes will be taken away at its end."""
    if os.geteuid() != 0:
        return "needs root: it makes network namespaces"
    if (os.cpu_count() or 1) <= max(bench.GENERATOR_CPU, bench.WORKER_CPU):
        return "needs two CPUs"
    for tool in ("ip", "nsenter", "nice", "taskset", "ethtool", "sysctl"):
        if not shutil.which(tool):
            return f"needs {tool}"
    # A signal ends the bench the ordinary way: through every `finally`.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    atexit.register(bench.Lab.close_all)
    atexit.register(bench.Process.stop_all)  # before the labs: last in, first out
    bench.Lab.remove_leftovers()
    os.sched_setaffinity(0, {bench.WORKER_CPU})  # what this starts pins itself, or inherits it
    return None


def tools_in(build: Path) -> bench.Tools:
    build = build.resolve()
    return bench.Tools(broker=build / "broker" / "vtap-broker",
                       vtapctl=build / "tools" / "vtapctl" / "vtapctl",
                       generator=build / "tools" / "vtap-gen" / "vtap-gen")


def main() -> int:
    arguments = parse_arguments()
    if why := prepare():
        print(f"peers.py: {why}", file=sys.stderr)
        return 3
    tools = tools_in(arguments.build_dir)
    if not tools.generator.exists():
        print("peers.py: vtap-gen is not built, or see --build-dir", file=sys.stderr)
        return 2
    if arguments.quick:
        bench.SETTLE_S = 0.1
    try:
        if arguments.only:
            return run_only(field.BY_NAME[arguments.only], tools, arguments)
        return run_rounds(tools, arguments)
    except (bench.BenchError, Skip, subprocess.SubprocessError) as error:
        print(f"peers.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
