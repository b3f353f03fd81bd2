# SPDX-License-Identifier: Apache-2.0
"""Ports of four queues, served by one worker and by two: every byte, the order of every flow, and
the ledgers. How much faster two workers are is the bench's business."""

from __future__ import annotations

import os
from collections import defaultdict

import pytest

from broker import (CAPTURES, Broker, by_name, config, inline, monitors, policy, policy_to,
                    tap_ports)
from lab import WINDOW, Lab, Wire
from traffic import read_stamp, stamped

QUEUES = 4
FLOWS = 16  # from each CPU; their hashes use all queues
ROUNDS = 24


def window(turn: int, cpu: int) -> list[bytes]:
    """The next frames of the flows that one CPU sends."""
    return [stamped(cpu * FLOWS + flow, turn, 64 + 89 * flow, sport=5000 + cpu * FLOWS + flow)
            for flow in range(FLOWS)]


def by_flow(frames: list[bytes]) -> dict[int, list[bytes]]:
    flows: dict[int, list[bytes]] = defaultdict(list)
    for frame in frames:
        stamp = read_stamp(frame)
        assert stamp is not None, f"not ours: {frame.hex(' ')}"
        flows[stamp[0]].append(frame)
    return flows


def assert_flows(sent: list[bytes], got: list[bytes], where: str) -> None:
    """Each frame once, unchanged, and each flow in order; flows need not keep step."""
    assert len(got) == len(sent), f"{where}: {len(got)} of {len(sent)} frames"
    wanted, found = by_flow(sent), by_flow(got)
    assert found.keys() == wanted.keys(), where
    for flow, frames in wanted.items():
        assert found[flow] == frames, f"{where}: flow {flow} changed or out of order"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("capture", CAPTURES)
def test_queues_and_workers(capture: str, workers: int, cpus: list[int]) -> None:
    """mon0 has a TX queue for each worker; mon1 has one, so that half of its copies cross."""
    assert 2 * FLOWS <= WINDOW
    with Lab(monitors=2, napi_ends=capture != "tc", queues=QUEUES) as lab:
        for number, queues in ((0, QUEUES), (1, 1)):
            lab.peer(number).delete()
            lab.link(f"m{number}", lab.peer(number), queues=queues)
        lab.open_wires()
        text = config([inline(**CAPTURES[capture])], monitors(2), [policy(to=["mon0", "mon1"])],
                      workers=workers)
        with Broker(lab, text) as running:
            sent: list[bytes] = []
            got: dict[Wire, list[bytes]] = {wire: [] for wire in (lab.right, *lab.monitors)}
            for turn in range(ROUNDS):
                frames: list[bytes] = []
                for cpu in (0, 1):
                    os.sched_setaffinity(0, {cpus[cpu]})
                    frames += window(turn, cpu)
                    lab.left.send_all(frames[cpu * FLOWS:])
                sent += frames
                for wire, frames_here in got.items():
                    frames_here += wire.receive(len(frames),
                                                quiet=0.05 if turn == ROUNDS - 1 else 0)
            for wire, frames in got.items():
                assert_flows(sent, frames, str(wire))
            stats = running.settled()
            assert tap_ports(stats)["t0"]["copied_frames"] == len(sent)
            for number, queues in ((0, workers), (1, 1)):
                counters = by_name(stats, "monitors")[f"mon{number}"]
                assert counters["tx_frames"] == len(sent)
                assert counters["tx_bytes"] == sum(map(len, sent))
                assert len(counters["queues"]) == queues, counters
                assert policy_to(stats, "all", f"mon{number}")["sent_frames"] == len(sent)
            parts = [worker["frames"] for worker in stats["workers"]]
            assert len(parts) == workers and sum(parts) == len(sent), parts
            # A tee's worker is picked by the sender's CPU, a queue's by the hash of the flow.
            assert min(parts) >= (len(sent) // 2 if workers == 2 and capture != "redirect" else 1)
