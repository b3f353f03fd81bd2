# SPDX-License-Identifier: Apache-2.0
"""Histograms of latency to percentiles, and percentiles to what a tap adds. No measuring here."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Histogram = dict[int, int]  # least ns of a bucket: frames
PERCENTS = (50.0, 99.0, 99.9)
ALLOWED_US = 10.0  # that a tap may add to p99.9 above what the A/A control differs


def label(percent: float) -> str:
    return f"p{percent:g}"


def difference(after: Histogram, before: Histogram) -> Histogram:
    return {low: count - before.get(low, 0) for low, count in after.items()
            if count > before.get(low, 0)}


def end_of(low: int) -> int:
    """The first ns that a bucket does not hold: it is 1/64 of a power of two wide."""
    return low + (1 if low < 64 else 1 << (low.bit_length() - 1 - 6))


def percentile(histogram: Histogram, percent: float) -> float:
    """us that so many percent do not exceed, to the end of the bucket. ValueError of nothing."""
    total = sum(histogram.values())
    if not total:
        raise ValueError("no frame")
    rank = max(1, math.ceil(total * percent / 100))
    for low in sorted(histogram):
        rank -= histogram[low]
        if rank <= 0:
            return end_of(low) / 1e3
    raise AssertionError


def summary(histogram: Histogram) -> dict[str, float]:
    return ({label(percent): percentile(histogram, percent) for percent in PERCENTS}
            | {"max": percentile(histogram, 100.0)})


Rounds = Sequence[Mapping[str, Any]]  # each: "cases" -> case -> "size/load" -> figures


def values(rounds: Rounds, case: str, point: str, quantity: str) -> list[float]:
    return [one["cases"][case][point][quantity] for one in rounds
            if point in one["cases"].get(case, {})]


def added(rounds: Rounds, case: str, base: str, point: str, quantity: str = "p99.9"
          ) -> list[float]:
    """us more than the base, in each round that has both."""
    return [one["cases"][case][point][quantity] - one["cases"][base][point][quantity]
            for one in rounds if point in one["cases"].get(case, {})
            and point in one["cases"].get(base, {})]


@dataclasses.dataclass(frozen=True)
class Verdict:
    added: float  # us, median of the rounds
    noise: float  # us that two untapped runs differ by, median of the rounds
    reached: bool


def judge(rounds: Rounds, case: str, base: str, control: str, point: str) -> Verdict | None:
    """None where one of the three was not measured."""
    more = added(rounds, case, base, point)
    noise = [abs(value) for value in added(rounds, control, base, point)]
    if not more or not noise:
        return None
    middle, spread = statistics.median(more), statistics.median(noise)
    return Verdict(middle, spread, middle <= spread + ALLOWED_US)
