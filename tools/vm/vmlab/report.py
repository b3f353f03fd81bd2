# SPDX-License-Identifier: Apache-2.0
"""What a guest says on its serial ports, and what to think of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

MARK = "VTAP-VM"  # as in guest/run.py
# What a kernel says when something is wrong with it, or with a program that it accepted.
_KERNEL_FAULT = re.compile(r"(BUG:|WARNING:|Oops|Kernel panic|general protection|Out of memory)")
_PYTEST = re.compile(r"(\d+) (passed|failed|errors?|skipped|deselected|xfailed|xpassed)")
_PYTEST_LAST = re.compile(r"^(?:=+ )?\d+ \w+.* in [\d.]+s(?: \([\d:]+\))?(?: =+)?$")
_GTEST = re.compile(r"^\[\s+(PASSED|FAILED|SKIPPED)\s+\] (\d+) tests?[.,]")


@dataclass
class Result:
    """How one suite went. `result`: its exit code, or "timeout"; None if it never ended."""
    name: str
    result: str | None = None
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    output: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Ended well, and really tested something."""
        return self.result == "0" and self.counts.get("passed", 0) > 0 and \
            not self.counts.get("failed", 0)

    @property
    def verdict(self) -> str:
        if self.passed:
            return "ok"
        if self.result is None:
            return "never ended"
        if self.result == "timeout":
            return "out of time"
        return "nothing ran" if self.result == "0" else f"FAILED (exit {self.result})"


@dataclass
class Report:
    kernel: str = ""
    results: list[Result] = field(default_factory=list)  # of suites that have ended
    unfinished: Result | None = None
    done: bool = False
    marks: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def running(self) -> str | None:
        return self.unfinished.name if self.unfinished else None


def counts_of(lines: Sequence[str]) -> dict[str, int]:
    """How many tests passed, failed and so on, from what pytest or GoogleTest prints last."""
    counts: dict[str, int] = {}
    for line in lines:
        if match := _GTEST.match(line):
            counts[match[1].lower()] = int(match[2])
        elif _PYTEST_LAST.match(line.strip()):
            counts = {}
            for number, what in _PYTEST.findall(line):
                key = "failed" if what.startswith("error") else what
                counts[key] = counts.get(key, 0) + int(number)
    return counts


def parse(text: str) -> Report:
    """Reads the second serial port, also of a guest that still writes."""
    report = Report()
    current: Result | None = None
    for line in text.replace("\r", "").split("\n"):
        words = line.split()
        if words[:1] != [MARK]:
            if current is not None and line:
                current.output.append(line)
            continue
        report.marks += 1
        kind, rest = words[1] if len(words) > 1 else "", words[2:]
        if kind == "kernel" and rest:
            report.kernel = rest[0]
        elif kind == "begin" and rest:
            current = Result(rest[0])
        elif kind == "end" and rest and current is not None and current.name == rest[0]:
            values = dict(word.split("=", 1) for word in rest[1:] if "=" in word)
            if "seconds" not in values:
                continue  # half a line so far
            current.result = values.get("result")
            current.seconds = float(values["seconds"] or 0)
            current.counts = counts_of(current.output)
            report.results.append(current)
            current = None
        elif kind == "done":
            report.done = True
    report.unfinished = current
    return report


def kernel_faults(console: str) -> list[str]:
    """Lines of the kernel's log that tell of a fault."""
    return [line.strip() for line in console.replace("\r", "").split("\n")
            if _KERNEL_FAULT.search(line)]


def complete(report: Report, expected: Sequence[str]) -> list[Result]:
    """A result for each suite that was asked for, in that order: silence is a failure."""
    by_name = {result.name: result for result in report.results}
    if report.unfinished is not None:
        by_name.setdefault(report.unfinished.name, report.unfinished)
    return [by_name.get(name, Result(name)) for name in expected]


def good(report: Report, expected: Sequence[str]) -> bool:
    return report.done and not report.faults and bool(expected) and \
        all(result.passed for result in complete(report, expected))


def table(guest: str, results: Sequence[Result]) -> str:
    """Markdown, one line a suite."""
    lines = ["| guest | suite | result | passed | failed | skipped | left out | s |",
             "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for result in results:
        counts = [str(result.counts.get(key, 0))
                  for key in ("passed", "failed", "skipped", "deselected")]
        lines.append("| " + " | ".join([guest, result.name, result.verdict, *counts,
                                        f"{result.seconds:.0f}"]) + " |")
    return "\n".join(lines)
