# SPDX-License-Identifier: Apache-2.0
"""Rounds to medians, ratios within rounds, and targets to verdicts. No measuring here."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

# What was measured in one round: contestant, size, quantity. A contestant that failed is not there.
Round = Mapping[str, Mapping[int, Mapping[str, float]]]


@dataclasses.dataclass(frozen=True)
class Spread:
    median: float
    least: float
    most: float
    rounds: int

    @staticmethod
    def of(values: Sequence[float]) -> "Spread | None":
        """None of no values."""
        if not values:
            return None
        return Spread(statistics.median(values), min(values), max(values), len(values))


def values(rounds: Iterable[Round], name: str, size: int, quantity: str) -> list[float]:
    return [value for one in rounds if (value := figure(one, name, size, quantity)) is not None]


def figure(one: Round, name: str, size: int, quantity: str) -> float | None:
    return one.get(name, {}).get(size, {}).get(quantity)


def best(one: Round, names: Iterable[str], size: int, quantity: str) -> float | None:
    """Of those that were measured in this round."""
    found = [value for name in names if (value := figure(one, name, size, quantity)) is not None]
    return max(found, default=None)


def ratios(rounds: Iterable[Round], size: int, quantity: str, above: Sequence[str],
           below: Sequence[str]) -> list[float]:
    """One for each round that has both: the first of `above` to the best of `below`."""
    result = []
    for one in rounds:
        upper, lower = best(one, above, size, quantity), best(one, below, size, quantity)
        if upper is not None and lower:
            result.append(upper / lower)
    return result


@dataclasses.dataclass(frozen=True)
class Target:
    """A figure to reach, at one size. The median of the rounds decides."""
    what: str
    size: int
    bound: float
    collect: Callable[[Sequence[Round]], list[float]]
    needs: tuple[str, ...]  # contestants
    at_most: bool = False
    unit: str = ""

    def judge(self, rounds: Sequence[Round]) -> "Verdict":
        spread = Spread.of(self.collect(rounds))
        reached = None
        if spread is not None:
            reached = (spread.median <= self.bound if self.at_most
                       else spread.median >= self.bound)
        return Verdict(self, spread, reached)


@dataclasses.dataclass(frozen=True)
class Verdict:
    target: Target
    spread: Spread | None
    reached: bool | None  # None: not measured

    def word(self) -> str:
        return {None: "**not measured**", True: "reached", False: "**missed**"}[self.reached]


def ratio_target(what: str, quantity: str, above: str, below: Sequence[str], bound: float,
                 size: int = 64) -> Target:
    return Target(what, size, bound,
                  lambda rounds: ratios(rounds, size, quantity, [above], below), (above,))


PEERS = ("clone-tap", "mirred", "nft-dup", "ovs-system", "ovs-afxdp", "dpdk-af_packet",
         "dpdk-af_xdp")
PEERS_4 = ("clone-tap-4", "mirred-4", "nft-dup-4", "dpdk-af_xdp-4")


def user_time(name: str) -> Target:
    what = f"user CPU of the broker per copied frame, {name}"
    return Target(what, 64, 60.0, lambda rounds: values(rounds, name, 64, "user_ns_per_copy"),
                  (name,), at_most=True, unit=" ns")


TARGETS = [
    ratio_target("originals: tee-xdp / untapped XDP forwarding", "originals", "tee-xdp",
                 ["xdp-forward"], 0.90),
    ratio_target("originals: tee-xdp / best peer", "originals", "tee-xdp", PEERS, 2.8),
    ratio_target("originals: tee-tc / untapped TC forwarding", "originals", "tee-tc",
                 ["tc-forward"], 0.90),
    ratio_target("originals: tee-tc / best peer", "originals", "tee-tc", PEERS, 1.4),
    ratio_target("copies: tee-tc / best peer", "copies", "tee-tc", PEERS, 1.1),
    ratio_target("copies: fanout / best peer", "copies", "fanout", PEERS, 2.0),
    ratio_target("copies: fanout / best peer", "copies", "fanout", PEERS, 1.6, 1514),
    ratio_target("copies at four monitors: fanout-4 / best peer with four", "copies", "fanout-4",
                 PEERS_4, 1.8),
    ratio_target("copies: tee-tc / Open vSwitch, afxdp ports", "copies", "tee-tc", ["ovs-afxdp"],
                 2.5),
    user_time("tee-xdp"),
    user_time("tee-tc"),
]

# What is worth a look beside the targets. The -aa rows are the noise: no ratio is known better.
RATIOS = [
    ("originals", "xdp-forward-aa", ("xdp-forward",)),
    ("originals", "tc-forward-aa", ("tc-forward",)),
    ("originals", "host-untapped-aa", ("host-untapped",)),
    ("originals", "tee-xdp", ("xdp-forward",)),
    ("originals", "tee-tc", ("tc-forward",)),
    ("originals", "fanout", ("xdp-forward",)),
    ("originals", "kernel-tc", ("tc-forward",)),
    ("originals", "redirect", ("xdp-forward",)),
    ("originals", "host-tee-xdp", ("host-untapped",)),
    ("originals", "host-tee-tc", ("host-untapped",)),
    ("originals", "host-kernel-tc", ("host-untapped",)),
    ("originals", "clone-tap", ("tc-forward",)),
    ("originals", "host-clone-tap", ("host-untapped",)),
    ("copies", "tee-xdp", PEERS),
    ("copies", "tee-tc", PEERS),
    ("copies", "kernel-tc", PEERS),
    ("copies", "fanout", PEERS),
    ("copies", "tee-xdp-4", PEERS_4),
    ("copies", "tee-tc-4", PEERS_4),
    ("copies", "kernel-tc-4", PEERS_4),
    ("copies", "fanout-4", PEERS_4),
]
