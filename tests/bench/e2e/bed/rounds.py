# SPDX-License-Identifier: Apache-2.0
"""Rounds in changing order, kept in a file from which a later run goes on."""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bench

from bed.contestant import Contestant, Skip

VERSION = 1


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def fingerprint(tools: bench.Tools) -> str:
    """Of the programs that are measured: figures of different ones are not for one table."""
    digest = hashlib.sha256()
    for program in (tools.broker, tools.generator):
        digest.update(program.read_bytes() if program.exists() else b"-")
    return digest.hexdigest()[:16]


class Record:
    """All that was measured. Sizes are numbers in `rounds`, and words in the file."""

    def __init__(self, file: Path | None, about: dict[str, Any]) -> None:
        self.file = file
        self.about = about
        self.checked: list[str] = []
        self.skipped: dict[str, str] = {}
        self.rounds: list[dict[str, dict[int, dict[str, float]]]] = []
        self.latency: list[dict[str, Any]] = []

    @staticmethod
    def load(file: Path, about: dict[str, Any], same: Sequence[str]) -> "Record":
        """BenchError where a key of `same` differs from what the file was measured with."""
        data = json.loads(file.read_text())
        if data.get("version") != VERSION:
            raise bench.BenchError(f"{file.name} is of another version of this bench")
        for key in same:
            if data["about"].get(key) != about.get(key):
                raise bench.BenchError(
                    f"{file.name} was measured with {key} {data['about'].get(key)}, not "
                    f"{about.get(key)}: one table is for one setting; start a new one")
        record = Record(file, data["about"])
        record.checked, record.skipped = data["checked"], data["skipped"]
        record.latency = data["latency"]
        record.rounds = [{name: {int(size): figures for size, figures in sizes.items()}
                          for name, sizes in one.items()} for one in data["rounds"]]
        return record

    def save(self, **more: Any) -> None:
        """At once or not at all: a run may end at any time."""
        if self.file is None:
            return
        text = json.dumps({"version": VERSION, "about": self.about, "checked": self.checked,
                           "skipped": self.skipped, "rounds": self.rounds,
                           "latency": self.latency, **more}, indent=1)
        new = self.file.with_suffix(".new")
        new.write_text(text + "\n")
        os.replace(new, self.file)


def order(names: Sequence[str], seed: int, number: int) -> list[str]:
    """The order of a round, the same for every run that goes on with it."""
    result = list(names)
    random.Random(f"{seed} {number}").shuffle(result)
    return result


def run(record: Record, contestants: Sequence[Contestant], count: int, seed: int,
        check: Callable[[Contestant], None], measure: Callable[[Contestant], dict],
        deadline: float | None = None) -> bool:
    """Goes on until there are `count` rounds, or no time is left (False). What Skip or BenchError
    a measurement raises is said at once and kept for the report; of a check, BenchError ends all.
    """
    by_name = {contestant.name: contestant for contestant in contestants}
    if not check_all(record, contestants, check, deadline):
        return False
    for number in range(1, count + 1):
        while len(record.rounds) < number:
            record.rounds.append({})
        one = record.rounds[number - 1]
        for name in order(list(by_name), seed, number):
            if name in one or name in record.skipped:
                continue
            if deadline is not None and time.monotonic() > deadline:
                return False
            try:
                one[name] = measure(by_name[name])
            except Skip as why:
                skip(record, name, str(why))
            except bench.BenchError as why:
                skip(record, name, f"round {number}: {why}")
            else:
                say(f"round {number} {name:22}" + "".join(
                    f"  {size} B: {figures.get('originals', 0):.3f} originals "
                    f"{figures.get('copies', 0):.3f} copies" for size, figures in
                    one[name].items() if size in (min(one[name]), max(one[name]))))
            record.save()
    return True


def check_all(record: Record, contestants: Sequence[Contestant],
              check: Callable[[Contestant], None], deadline: float | None) -> bool:
    for contestant in contestants:
        if contestant.name in record.checked or contestant.name in record.skipped:
            continue
        if deadline is not None and time.monotonic() > deadline:
            return False
        try:
            check(contestant)
        except Skip as why:
            skip(record, contestant.name, str(why))
        else:
            record.checked.append(contestant.name)
            say(f"checked {contestant.name}: every byte of originals and copies")
        record.save()
    return True


def skip(record: Record, name: str, why: str) -> None:
    record.skipped[name] = why
    say(f"SKIPPED {name}: {why}")
