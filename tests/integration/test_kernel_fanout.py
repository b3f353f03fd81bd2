# SPDX-License-Identifier: Apache-2.0
"""Policies that the kernel serves at XDP: one verdict for the original and all copies."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import pytest

import packets
from broker import (Broker, by_name, checked, config, inline, monitors, policy, policy_to,
                    tap_ports)
from lab import Lab, Wire, assert_frames, carry, eventually
from packets import ip_frame
from traffic import BothWays

TAP = inline(capture="tee", hook="xdp")
SPAN = {"name": "feed", "mode": "span", "ports": ["t0"]}


def fan_lab(count: int = 1, **keys: object) -> Lab:
    """Ends and monitors to which XDP can redirect."""
    return Lab(monitors=count, napi_ends=True, napi_monitors=True, **keys)


def require(name: str = "all", to: Sequence[str] = ("mon0",), **keys: object) -> dict:
    return policy(name, to, offload="require", **keys)


def dropped(stats: dict, monitor: str = "mon0") -> dict[str, int]:
    """Reasons that are not zero."""
    return {reason: count for reason, count in by_name(stats, "monitors")[monitor]["dropped"].items()
            if count}


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_bytes_and_order(count: int) -> None:
    """Any frame, both ways: original and copies are what was sent."""
    frames = [*packets.odd_frames().values(), *packets.random_frames(300, seed=count),
              *(packets.sized(length) for length in range(14, 1515, 25))]
    with fan_lab(count) as lab:
        lab.open_wires()
        text = config([TAP], monitors(count, queue=512),
                      [require(to=[f"mon{n}" for n in range(count)])])
        with Broker(lab, text) as running:
            for source, sink in lab.directions():
                carry(frames, source, sink, lab.monitors)
            stats = running.settled()
            assert stats["policies"][0]["placement"] == "kernel"
            for port in tap_ports(stats).values():
                assert port["rx_frames"] == port["passed_frames"] == len(frames)
                assert port["matched_frames"] == port["copied_frames"] == len(frames)
            for item in stats["monitors"]:
                assert item["tx_frames"] == 2 * len(frames) and not any(item["dropped"].values())
                assert item["tx_bytes"] == 2 * sum(map(len, frames))


def test_slices() -> None:
    """Each monitor its own, the first policy's that sends to it; the original whole."""
    text = config([TAP], monitors(4), [
        require("short", ["mon0"], slice=64), require("shorter", ["mon1"], slice=20),
        require("whole", ["mon2", "mon0"]),
        require("web", ["mon3"], slice=100, match=[{"port": 80}]),
        require("rest", ["mon3"])])
    frames = [packets.sized(length, length) for length in (14, 20, 21, 63, 64, 65, 500, 1514)] + \
        [ip_frame("tcp", bytes(300), dport=80), ip_frame("tcp", bytes(300), dport=81)] * 20
    expected = {0: [frame[:64] for frame in frames], 1: [frame[:20] for frame in frames],
                2: frames, 3: [frame[:100] if frame[36:38] == b"\0\x50" else frame
                               for frame in frames]}
    with fan_lab(4) as lab:
        lab.open_wires()
        with Broker(lab, text) as running:
            carry(frames, lab.left, lab.right, [lab.monitor(2)])
            for number in (0, 1, 3):
                assert_frames(expected[number], lab.monitor(number).receive(len(frames)),
                              f"slices at mon{number}")
            counters = by_name(running.settled(), "monitors")
            for number, wanted in expected.items():
                assert counters[f"mon{number}"]["tx_bytes"] == sum(map(len, wanted))
