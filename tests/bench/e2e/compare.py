#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Two builds against each other, to decide whether a change is kept.

    compare.py BUILD_A BUILD_B --contestants tee-tc,tee-xdp

Both builds run every contestant in every round, in changing order, each in a fresh lab; A runs
twice (A and A'), so that the noise is seen. Ratios are taken within a round. B is called different
from A where the median of B / A is outside the range of A' / A, and at least nine of ten rounds
agree on the side; else the run says that it saw no difference. That is not a proof that there is
none.

Needs root, and two builds (cmake --preset bench; git worktree for the other).
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import bench
import peers
from bed import check, field, measure, report, rounds
from bed.contestant import Contestant, Kind
from bed.statistic import Spread, ratios, values

SIDES = ("A", "A'", "B")
AGREE = 0.9  # of the rounds
ENOUGH = 5  # rounds
QUANTITIES = (("originals", False), ("copies", False), ("user_ns_per_copy", True), ("cpu", True))


def named(contestant: Contestant, side: str) -> str:
    return f"{contestant.name} {side}"


def verdict(changed: Sequence[float], noise: Sequence[float], less_is_better: bool) -> str:
    """Of B / A and A' / A, by round."""
    if not changed or not noise:
        return "–"
    if min(len(changed), len(noise)) < ENOUGH:
        return "too few rounds"
    spread = Spread.of(changed)
    assert spread
    up = sum(value > 1 for value in changed) / len(changed)
    down = sum(value < 1 for value in changed) / len(changed)
    if min(noise) <= spread.median <= max(noise) or max(up, down) < AGREE:
        return "no difference seen"
    return "better" if (spread.median > 1) != less_is_better else "**worse**"


def markdown(record: rounds.Record, contestants: Sequence[Contestant], sizes: Sequence[int]) -> str:
    rows = []
    for contestant in contestants:
        a, control, b = (named(contestant, side) for side in SIDES)
        for quantity, less_is_better in QUANTITIES:
            for size in sizes:
                changed = ratios(record.rounds, size, quantity, [b], [a])
                if not changed:
                    continue
                noise = ratios(record.rounds, size, quantity, [control], [a])
                digits = 1 if quantity == "user_ns_per_copy" else 3
                rows.append([contestant.name, quantity, str(size), *(
                    report.cell(Spread.of(values(record.rounds, name, size, quantity)), digits)
                    for name in (a, b)), report.cell(Spread.of(noise), 3),
                    report.cell(Spread.of(changed), 3), verdict(changed, noise, less_is_better)])
    lines = [f"{len(record.rounds)} rounds; median (least–most). Mpps; CPU seconds for a million "
             "originals; ns.", "",
             *report.table(["contestant", "figure", "size", "A", "B", "A' / A", "B / A", ""], rows,
                           left=2)]
    lines += [f"\n**SKIPPED** {name}: {why}" for name, why in record.skipped.items()]
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("a", type=Path, metavar="BUILD_A", help="before")
    parser.add_argument("b", type=Path, metavar="BUILD_B", help="after")
    parser.add_argument("--contestants", type=lambda text: text.split(","), metavar="NAME,...",
                        default=["tee-tc", "tee-xdp"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--sizes", type=peers.sizes_of, default=[64, 1514])
    parser.add_argument("--seed", type=int, default=1, help="of the orders")
    parser.add_argument("--json", type=Path, metavar="FILE",
                        help="everything measured; goes on with what is in it")
    parser.add_argument("--budget", type=float, metavar="SECONDS",
                        help="begin no measurement after that")
    arguments = parser.parse_args()
    for name in arguments.contestants:
        if name not in field.BY_NAME or field.BY_NAME[name].kind is not Kind.vtap:
            parser.error(f"'{name}' is no contestant of this product; there are: " + ", ".join(
                c.name for c in field.CONTESTANTS if c.kind is Kind.vtap))
    if arguments.rounds < 1 or arguments.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    return arguments


def run(builds: dict[str, bench.Tools], arguments: argparse.Namespace) -> int:
    about = {"machine": bench.machine(), "sizes": arguments.sizes, "seconds": arguments.seconds,
             "programs": {side: rounds.fingerprint(tools) for side, tools in builds.items()}}
    if arguments.json and arguments.json.exists():
        record = rounds.Record.load(arguments.json, about, ("sizes", "seconds", "programs"))
    else:
        record = rounds.Record(arguments.json, about)
    if about["programs"]["A"] == about["programs"]["B"]:
        rounds.say("warning: both builds are the same programs")
    chosen = [field.BY_NAME[name] for name in arguments.contestants]
    sides = {named(contestant, side): builds[side] for contestant in chosen for side in SIDES}
    entries = [dataclasses.replace(contestant, name=named(contestant, side))
               for contestant in chosen for side in SIDES]
    complete = rounds.run(
        record, entries, arguments.rounds, arguments.seed,
        lambda entry: check.check(entry, sides[entry.name], arguments.sizes),
        lambda entry: measure.measure(entry, sides[entry.name], arguments.sizes,
                                      arguments.seconds),
        time.monotonic() + arguments.budget if arguments.budget else None)
    record.save()
    print(markdown(record, chosen, arguments.sizes))
    if not complete:
        rounds.say("time is up: go on with the same --json")
    return 1 if record.skipped else 0


def main() -> int:
    arguments = parse_arguments()
    if why := peers.prepare():
        print(f"compare.py: {why}", file=sys.stderr)
        return 3
    a, b = peers.tools_in(arguments.a), peers.tools_in(arguments.b)
    for tools in (a, b):
        if not tools.broker.exists():
            print(f"compare.py: no {tools.broker}", file=sys.stderr)
            return 2
    # The generator is that of A for both: what sends must not differ.
    b = dataclasses.replace(b, generator=a.generator)
    try:
        return run({"A": a, "A'": a, "B": b}, arguments)
    except (bench.BenchError, subprocess.SubprocessError) as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
