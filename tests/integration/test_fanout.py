# SPDX-License-Identifier: Apache-2.0
"""Fan-out: one frame to many monitors; a slow or dead one costs only its own copies."""

from __future__ import annotations

import pytest

import packets
from broker import (CAPTURES, Broker, by_name, config, delta, inline, monitors, policy,
                    simple_config)
from lab import Lab, assert_frames, carry, eventually
from traffic import BothWays


def frames_of(count: int, start: int = 0) -> list[bytes]:
    return [packets.sized(64 + n % 200, start + n) for n in range(count)]


def state(running: Broker, number: int) -> str:
    return by_name(running.stats(), "monitors")[f"mon{number}"]["state"]


def assert_state(running: Broker, number: int, wanted: str, timeout: float = 5.0) -> None:
    assert eventually(lambda: state(running, number) == wanted, timeout), \
        f"mon{number} is {state(running, number)}, not {wanted}\n{running.log()}"


@pytest.mark.parametrize("capture", CAPTURES)
def test_eight_monitors_get_everything(capture: str) -> None:
    with Lab(monitors=8, napi_ends=capture != "tc") as lab:
        lab.open_wires()
        with Broker(lab, simple_config(CAPTURES[capture], monitor_count=8)) as running:
            for source, sink in lab.directions():
                carry(frames_of(1000), source, sink, lab.monitors)
            stats = running.settled()
            for item in stats["monitors"]:
                assert item["tx_frames"] == 2000 and item["state"] == "up", item


def kill_by_port(lab: Lab, number: int) -> None:
    lab.port(f"m{number}").down()


def kill_by_peer(lab: Lab, number: int) -> None:
    lab.peer(number).down()


def kill_by_deletion(lab: Lab, number: int) -> None:
    lab.peer(number).delete()


def revive(lab: Lab, number: int, kind) -> None:
    if kind is kill_by_deletion:
        lab.link(f"m{number}", lab.peer(number))
    else:
        lab.port(f"m{number}").up()
        lab.peer(number).up()
    lab.monitor(number).reopen()


KILLS = pytest.mark.parametrize("kill", [kill_by_port, kill_by_peer, kill_by_deletion],
                                ids=lambda kind: kind.__name__)


@KILLS
def test_dead_monitor_costs_only_its_own_copies_and_comes_back(kill) -> None:
    with Lab(monitors=4) as lab:
        lab.open_wires()
        alive = [lab.monitor(number) for number in (0, 1, 3)]
        with Broker(lab, simple_config(monitor_count=4)) as running:
            carry(frames_of(200), lab.left, lab.right, lab.monitors)
            kill(lab, 2)
            assert_state(running, 2, "down")
            before = running.settled()
            for source, sink in lab.directions():
                carry(frames_of(1000, 1000), source, sink, alive)
            now = by_name(delta(running.settled(), before), "monitors")
            assert now["mon2"]["tx_frames"] == 0
            assert now["mon2"]["dropped"]["down"] == 2000
            assert now["mon0"]["tx_frames"] == 2000 and not any(now["mon0"]["dropped"].values())
            revive(lab, 2, kill)
            assert_state(running, 2, "up")
            lab.clear()
            carry(frames_of(500, 5000), lab.left, lab.right, lab.monitors)
            running.settled()


@pytest.mark.parametrize("capture", CAPTURES)
def test_eight_monitors_dead_at_once(capture: str) -> None:
    """While traffic flows; the originals do not notice, and all copies return with the ports."""
    with Lab(monitors=8, napi_ends=capture != "tc") as lab:
        lab.open_wires()
        with Broker(lab, simple_config(CAPTURES[capture], monitor_count=8)) as running:
            with BothWays(lab) as traffic:
                for number in range(8):
                    lab.port(f"m{number}").down()
                for number in range(8):
                    assert_state(running, number, "down")
                assert running.running
            traffic.assert_complete()
            dead = by_name(running.settled(), "monitors")
            assert all(item["dropped"]["down"] > 0 for item in dead.values())
            for number in range(8):
                lab.port(f"m{number}").up()
            for number in range(8):
                assert_state(running, number, "up")
            lab.clear()
            carry(frames_of(500), lab.left, lab.right, lab.monitors)
            running.settled()


def test_more_frames_than_memory_while_a_monitor_is_dead() -> None:
    """Frames held for a dead monitor come back: far more pass than the memory has."""
    with Lab(monitors=2) as lab:
        lab.open_wires()
        text = config([inline()], monitors(2, queue=256), [policy(to=["mon0", "mon1"])],
                      umem={"frames": 8192, "frame_size": 2048})
        with Broker(lab, text) as running:
            lab.port("m1").down()
            frames = frames_of(20000)
            lab.left.send_all(frames)
            assert_frames(frames, lab.right.receive(len(frames)), "originals")
            assert_frames(frames, lab.monitor(0).receive(len(frames)), "copies")
            assert by_name(running.settled(), "monitors")["mon1"]["dropped"]["down"] > 15000


def test_short_queue_costs_only_its_own_monitor() -> None:
    """A monitor that may hold few frames loses copies in a burst, counted; the other loses none."""
    with Lab(monitors=2) as lab:
        lab.open_wires()
        wide, narrow = monitors(2)
        text = config([inline()], [{**wide, "queue": 4096}, {**narrow, "queue": 64}],
                      [policy(to=["mon0", "mon1"])])
        with Broker(lab, text) as running:
            frames = frames_of(3000)
            lab.left.send_all(frames, burst=500, pause=0.02)
            assert_frames(frames, lab.right.receive(len(frames)), "originals")
            assert_frames(frames, lab.monitor(0).receive(len(frames)), "copies at mon0")
            counters = by_name(running.settled(), "monitors")["mon1"]
            copies = lab.monitor(1).receive(counters["tx_frames"])
            assert len(copies) == counters["tx_frames"] > 0
            assert len(copies) + sum(counters["dropped"].values()) == len(frames)
            position = {frame: number for number, frame in enumerate(frames)}
            order = [position[copy] for copy in copies]
            assert order == sorted(set(order)), "in order, none twice"


@pytest.mark.parametrize("capture", CAPTURES)
def test_what_arrives_on_a_monitor_port_goes_nowhere(capture: str) -> None:
    with Lab(monitors=2, napi_ends=capture != "tc") as lab:
        lab.open_wires()
        with Broker(lab, simple_config(CAPTURES[capture], monitor_count=2)) as running:
            before = running.settled()
            lab.monitor(0).send_all(list(packets.odd_frames().values()))
            for wire in (lab.left, lab.right, lab.monitor(0), lab.monitor(1)):
                assert wire.receive(0, quiet=0.2) == [], f"{wire} got a frame"
            now = running.settled()
            assert now["taps"] == before["taps"] and now["policies"] == before["policies"]


def test_policies_share_monitors_in_part() -> None:
    with Lab(monitors=4) as lab:
        lab.open_wires()
        text = config([inline()], monitors(4), [
            policy("tcp", ["mon0", "mon1"], match=[{"proto": "tcp"}]),
            policy("udp", ["mon1", "mon2"], match=[{"proto": "udp"}]),
            policy("all", ["mon3"])])
        tcp, udp = packets.ip_frame("tcp"), packets.ip_frame("udp")
        with Broker(lab, text):
            lab.left.send_all([tcp, udp] * 100)
            for number, wanted in enumerate(([tcp] * 100, [tcp, udp] * 100, [udp] * 100,
                                             [tcp, udp] * 100)):
                assert_frames(wanted, lab.monitor(number).receive(len(wanted)), f"mon{number}")
