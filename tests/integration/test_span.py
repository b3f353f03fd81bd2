# SPDX-License-Identifier: Apache-2.0
"""Span taps: a feed is consumed; what no policy wants goes to the stack or nowhere."""

from __future__ import annotations

import pytest

import packets
from broker import Broker, config, monitors, policy, tap_ports
from lab import Lab, assert_frames


def span(**keys: object) -> dict:
    return {"name": "feed", "mode": "span", "ports": ["t0"], **keys}


def mixed_frames() -> tuple[list[bytes], list[bytes]]:
    """(all frames of a feed, those that a policy for TCP wants)."""
    everything = [packets.ip_frame("tcp" if n % 3 == 0 else "udp", b"%d" % n) for n in range(300)]
    return everything, everything[::3]


def test_everything_is_copied_and_consumed() -> None:
    with Lab(monitors=2) as lab:
        lab.open_wires()
        with Broker(lab, config([span()], monitors(2), [policy(to=["mon0", "mon1"])])) as running:
            stack = lab.wire(lab.port("t0"))
            frames = list(packets.odd_frames().values()) + packets.random_frames(300, seed=9) + \
                [packets.sized(length) for length in range(14, 1515, 25)]
            lab.left.send_all(frames)
            for monitor in lab.monitors:
                assert_frames(frames, monitor.receive(len(frames)), f"copies at {monitor}")
            assert not stack.receive(0), "a consumed frame never reaches the stack"
            assert not lab.left.receive(0), "a span port sends nothing"
            stats = running.settled()
            assert stats["taps"][0]["mode"] == "span"
            assert stats["taps"][0]["capture"] == "redirect"
            port = tap_ports(stats)["t0"]
            assert port["rx_frames"] == port["consumed_frames"] == len(frames)
            assert port["matched_frames"] == port["copied_frames"] == len(frames)
            assert port["passed_frames"] == 0


@pytest.mark.parametrize("unmatched", ["pass", "drop", None])
def test_unmatched(unmatched: str | None) -> None:
    keys = {} if unmatched is None else {"unmatched": unmatched}
    with Lab() as lab:
        lab.open_wires()
        stack = lab.wire(lab.port("t0"))
        text = config([span(**keys)], monitors(1), [policy(match=[{"proto": "tcp"}])])
        with Broker(lab, text) as running:
            frames, wanted = mixed_frames()
            rest = [frame for frame in frames if frame not in set(wanted)]
            passes = unmatched != "drop"
            lab.left.send_all(frames)
            assert_frames(wanted, lab.monitor(0).receive(len(wanted)), "copies")
            assert_frames(rest if passes else [], stack.receive(len(rest) if passes else 0),
                          "what the stack gets")
            port = tap_ports(running.settled())["t0"]
            assert port["rx_frames"] == len(frames)
            assert port["matched_frames"] == port["copied_frames"] == len(wanted)
            assert port["passed_frames"] == (len(rest) if passes else 0)


def test_several_ports_feed_one_monitor() -> None:
    with Lab() as lab:
        lab.open_wires()
        with Broker(lab, config([span(ports=["t0", "t1"])], monitors(1), [policy()])) as running:
            first = [packets.sized(60, n) for n in range(200)]
            second = [packets.sized(80, 1000 + n) for n in range(200)]
            for a, b in zip(first, second):
                lab.left.send(a)
                lab.right.send(b)
            copies = lab.monitor(0).receive(400)
            assert_frames(first, [copy for copy in copies if len(copy) == 60], "from t0")
            assert_frames(second, [copy for copy in copies if len(copy) == 80], "from t1")
            ports = tap_ports(running.settled())
            assert ports["t0"]["consumed_frames"] == ports["t1"]["consumed_frames"] == 200


def test_too_long_is_counted() -> None:
    with Lab(mtu=3000) as lab:
        lab.open_wires()
        with Broker(lab, config([span()], monitors(1), [policy()])) as running:
            frames = [packets.sized(1514, 1), packets.sized(3014, 2), packets.sized(60, 3)]
            lab.left.send_all(frames)
            assert_frames([frames[0], frames[2]], lab.monitor(0).receive(2), "copies")
            port = tap_ports(running.settled())["t0"]
            assert port["rx_frames"] == port["matched_frames"] == 3
            assert (port["copied_frames"], port["missed"]["too_long"]) == (2, 1)
