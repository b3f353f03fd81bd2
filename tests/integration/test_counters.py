# SPDX-License-Identifier: Apache-2.0
"""The counters as DESIGN 7.3 fixes them, and what the broker costs when nothing happens."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest

import packets
from broker import (CAPTURES, PLACEMENTS, Broker, by_name, config, delta, inline, monitors, policy,
                    simple_config, tap_ports)
from lab import PATIENCE, Lab, carry
from traffic import read_stamp, stamped

# DESIGN 7.3: the keys that must be there and their types; a dict in place of a type goes deeper, a
# list of one means a list of such, and REASONS is an object of counters. More keys may be there.
REASONS = "reasons"
SCHEMA = {
    "name": str, "plan": {"generation": int}, "uptime_s": float,
    "taps": [{"name": str, "mode": str, "capture": str, "hook": str, "ports": [{
        "name": str, "rx_frames": int, "rx_bytes": int, "passed_frames": int,
        "consumed_frames": int, "matched_frames": int, "copied_frames": int,
        "missed": REASONS, "not_passed": REASONS}]}],
    "policies": [{"name": str, "placement": str, "matched_frames": int, "matched_bytes": int,
                  "dropped": REASONS, "metered": REASONS, "monitors": [{
                      "name": str, "sent_frames": int, "sent_bytes": int, "already_sent": int}]}],
    "monitors": [{"name": str, "state": str, "tx_frames": int, "tx_bytes": int,
                  "dropped": REASONS}],
    "workers": [{"cpu": int, "bursts": int, "frames": int, "wakeups": int, "idle_ratio": float,
                 "teed_bytes": int, "copied_bytes": int}],
}


def schema_errors(schema, value, where: str = "stats") -> list[str]:
    if schema is REASONS:
        return schema_errors(dict.fromkeys(value, int), value, where) \
            if isinstance(value, dict) else [f"{where}: {value!r} is no object of counters"]
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return [f"{where}: {value!r} is no object"]
        missing = [f"{where}.{key} is missing" for key in schema.keys() - value.keys()]
        return missing + [error for key in schema.keys() & value.keys()
                          for error in schema_errors(schema[key], value[key], f"{where}.{key}")]
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{where}: {value!r} is no list"]
        return [error for number, item in enumerate(value)
                for error in schema_errors(schema[0], item, f"{where}[{number}]")]
    if schema is float:
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
    else:
        good = isinstance(value, schema) and not isinstance(value, bool)
        good = good and (schema is not int or value >= 0)
    return [] if good else [f"{where}: {value!r} is no {schema.__name__}"]


def test_schema_checker_finds_faults() -> None:
    assert schema_errors({"a": int}, {"a": 1, "more": 2}) == []
    for value in ({}, {"a": "1"}, {"a": -1}, {"a": True}, {"a": 1.5}, []):
        assert schema_errors({"a": int}, value), value
    assert schema_errors({"a": REASONS}, {"a": {"x": "y"}})
    assert schema_errors([{"a": int}], [{"a": 1}, {}])


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_schema(placement: str) -> None:
    tap, keys = PLACEMENTS[placement]
    kernel = placement == "kernel"
    with Lab(monitors=2, napi_ends=placement != "tc", napi_monitors=kernel) as lab:
        lab.open_wires()
        with Broker(lab, simple_config(tap, monitor_count=2, **keys)) as running:
            for traffic in (False, True):
                if traffic:
                    carry([packets.sized(60, n) for n in range(100)], lab.left, lab.right,
                          lab.monitors)
                stats = running.settled()
                assert not schema_errors(SCHEMA, stats)
                assert stats["name"] == running.name and stats["plan"]["generation"] == 1
                assert [tap["name"] for tap in stats["taps"]] == ["wire"]
                assert [port["name"] for port in stats["taps"][0]["ports"]] == ["t0", "t1"]
                assert {item["name"] for item in stats["monitors"]} == {"mon0", "mon1"}
                assert {item["state"] for item in stats["monitors"]} == {"up"}
                assert stats["policies"][0]["placement"] == ("kernel" if kernel else "broker")
                assert all(0 <= worker["idle_ratio"] <= 1 for worker in stats["workers"])
            taken = sum(worker["frames"] for worker in stats["workers"])
            assert taken == 0 if kernel else taken > 0
            later = running.stats()
            assert later["uptime_s"] > stats["uptime_s"] > 0


def test_ledgers_with_everything_at_once() -> None:
    """Policies that overlap, drop, slice, share monitors, one of which dies: always adds up."""
    with Lab(monitors=3, pairs=2, mtu=3000) as lab:
        lab.open_wires()
        text = config([inline("one"), inline("two", ("t2", "t3"))], monitors(3, queue=1024), [
            policy("web", ["mon0", "mon1"], match=[{"port": [80, 443]}], slice=64),
            policy("tenth", ["mon1", "mon2"], sample={"one_in": 10}),
            policy("metered", ["mon0", "mon2"], taps=["two"],
                   meter={"rate": "1Mbit/s", "burst": "8KiB"}),
            policy("half", ["mon2"], sample={"flows": 0.5}, match=[{"proto": "udp"}]),
            policy("never", ["mon0"], match=[{"ethertype": 0x9998}])])
        frames = [*packets.odd_frames().values(), *packets.random_frames(300, seed=11),
                  packets.sized(3000), *(packets.ip_frame("tcp", dport=80 + n % 2, sport=n)
                                         for n in range(1000))]
        with Broker(lab, text) as running:
            ways = [*lab.directions(), (lab.left_of(1), lab.right_of(1)),
                    (lab.right_of(1), lab.left_of(1))]
            for step in range(3):
                if step == 1:
                    lab.port("m1").down()
                if step == 2:
                    lab.port("m1").up()
                for source, sink in ways:
                    carry(frames, source, sink)
                stats = running.settled()
                for port in tap_ports(stats).values():
                    assert port["rx_frames"] == port["passed_frames"] == len(frames) * (step + 1)
                    assert port["missed"]["too_long"] == step + 1
            assert by_name(stats, "monitors")["mon1"]["dropped"]["down"] > 0
            assert by_name(stats, "policies")["never"]["matched_frames"] == 0


def test_what_the_counters_say_is_what_the_wires_saw() -> None:
    with Lab(monitors=2) as lab:
        lab.open_wires()
        text = config([inline()], monitors(2), [
            policy("udp", ["mon0"], match=[{"proto": "udp"}]),
            policy("sliced", ["mon0", "mon1"], slice=60)])
        frames = [packets.ip_frame("tcp" if n % 4 else "udp", bytes(n % 900)) for n in range(2000)]
        with Broker(lab, text) as running:
            lab.left.send_all(frames)
            assert len(lab.right.receive(len(frames))) == len(frames)
            stats = running.settled()
            port = tap_ports(stats)["t0"]
            assert (port["rx_frames"], port["rx_bytes"]) == (2000, sum(map(len, frames)))
            matched = by_name(stats, "policies")
            assert matched["udp"]["matched_frames"] == 500
            assert matched["udp"]["matched_bytes"] == sum(map(len, frames[::4]))
            for number in range(2):
                item = by_name(stats, "monitors")[f"mon{number}"]
                copies = lab.monitor(number).receive(item["tx_frames"])
                assert (item["tx_frames"], item["tx_bytes"]) == \
                    (len(copies), sum(map(len, copies)))


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process, to the nanosecond where the kernel tells it."""
    return sum(int(file.read_text().split()[0])
               for file in Path("/proc", str(pid), "task").glob("*/schedstat")) / 1e9


@pytest.mark.parametrize("capture", ["tc", "redirect"])
def test_idle_costs_nothing(capture: str) -> None:
    with Lab(monitors=2, napi_ends=capture != "tc") as lab:
        lab.open_wires()
        with Broker(lab, simple_config(CAPTURES[capture], monitor_count=2)) as running:
            carry([packets.sized(60, n) for n in range(500)], lab.left, lab.right, lab.monitors)
            time.sleep(0.5)
            before, start = cpu_seconds(running.pid), time.monotonic()
            time.sleep(5)
            share = (cpu_seconds(running.pid) - before) / (time.monotonic() - start)
            # An emulated CPU takes as many times as long for the same work.
            assert share < 0.01 * PATIENCE, f"{100 * share:.2f}% of a core while idle"


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_single_frame_after_idle_is_quick(placement: str) -> None:
    """From sending until the kernel delivers the copy at the monitor's far end."""
    tap, keys = PLACEMENTS[placement]
    with Lab(napi_ends=placement != "tc", napi_monitors=placement == "kernel") as lab:
        lab.open_wires()
        with Broker(lab, simple_config(tap, **keys)) as running:
            time.sleep(0.5)
            sent = []
            for number in range(50):
                lab.left.send(stamped(1, number, 100))
                sent.append(time.time_ns())
                time.sleep(0.02)
            arrivals = lab.monitor(0).arrivals(50)
            assert [read_stamp(arrival.data)[1] for arrival in arrivals] == list(range(50))
            delays = sorted((arrival.time_ns - at) / 1e6 for arrival, at in zip(arrivals, sent))
            assert statistics.median(delays) < 2, f"median {statistics.median(delays):.2f} ms"
            # One may meet a scheduler that is busy elsewhere.
            assert delays[-2] < 20, f"longest {delays[-2:]} ms"
            running.settled()


def test_restart_starts_from_zero() -> None:
    """Cumulative since the broker started: nothing of an earlier process, killed or stopped."""
    with Lab() as lab:
        lab.open_wires()
        with Broker(lab, simple_config()) as running:
            frames = [packets.sized(60, n) for n in range(100)]
            carry(frames, lab.left, lab.right, lab.monitors)
            running.kill()
            running.start()
            stats = running.settled()
            assert delta(tap_ports(stats)["t0"], None)["rx_frames"] == 0
            carry(frames, lab.left, lab.right, lab.monitors)
            assert tap_ports(running.settled())["t0"]["rx_frames"] == 100
