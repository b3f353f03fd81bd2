# SPDX-License-Identifier: Apache-2.0
"""Ten thousand policies, and one policy of a hundred thousand hosts: each frame to its policy, and
a broker that is stopped, killed and started with them costs no original. How long a load takes, and
a frame, is the bench's business."""

from __future__ import annotations

import ipaddress
import random
import time
from pathlib import Path

import pytest

import packets
from broker import (CAPTURES, TEES, Broker, by_name, config, inline, ledgers_hold, monitors, policy,
                    run_broker, tap_ports)
from lab import Lab, assert_frames
from traffic import BothWays

POLICIES = 10_000
HOSTS, PREFIXES = 100_000, 20_000
PROBES = 300


def kind_of(number: int) -> tuple[dict, dict]:
    """The match of a policy, and what a frame needs to be taken by it alone."""
    high, low = number >> 8, number & 255
    kinds = (
        ({"host": f"10.1.{high}.{low}"}, {"dst": f"10.1.{high}.{low}"}),
        ({"src": f"10.2.{high}.{low}", "proto": "udp"}, {"src": f"10.2.{high}.{low}"}),
        ({"dst": f"11.{high}.{low}.0/24"}, {"dst": f"11.{high}.{low}.77"}),
        ({"dst": f"2001:db8:{number:x}::/64"},
         {"src": "fd00::1", "dst": f"2001:db8:{number:x}::9"}),
        ({"host": f"2001:db9::{number:x}"}, {"src": f"2001:db9::{number:x}", "dst": "fd00::2"}),
        ({"proto": "udp", "dst_port": 20_000 + number}, {"dport": 20_000 + number}),
        ({"src": f"10.3.{high}.0/24", "src_port": 1000 + number},
         {"src": f"10.3.{high}.9", "sport": 1000 + number}),
    )
    return kinds[number % len(kinds)]


def ten_thousand(capture: str) -> str:
    policies = [policy(f"p{number}", match=[kind_of(number)[0]]) for number in range(POLICIES)]
    return config([inline(**CAPTURES[capture])], monitors(1), policies)


@pytest.mark.parametrize("capture", CAPTURES)
def test_each_frame_finds_its_policy_among_ten_thousand(capture: str) -> None:
    rng = random.Random(7)
    chosen = [0, POLICIES - 1, *rng.sample(range(1, POLICIES - 1), PROBES)]
    wanted = [packets.ip_frame(ident=number & 0xffff, **kind_of(number)[1]) for number in chosen]
    others = [packets.ip_frame(src="172.16.0.1", dst="172.16.0.2", sport=9, dport=9 + number % 500)
              for number in range(PROBES)]
    frames = wanted + others
    with Lab(napi_ends=capture != "tc") as lab:
        lab.open_wires()
        with Broker(lab, ten_thousand(capture)) as running:
            lab.left.send_all(frames)
            key = sorted if capture == "redirect" else list
            assert_frames(key(frames), key(lab.right.receive(len(frames))), "originals")
            assert_frames(wanted, lab.monitor(0).receive(len(wanted)), "copies")
            stats = running.settled()
            assert tap_ports(stats)["t0"]["matched_frames"] == len(wanted)
            counts = {name: entry["matched_frames"]
                      for name, entry in by_name(stats, "policies").items()
                      if entry["matched_frames"]}
            assert counts == {f"p{number}": 1 for number in chosen}
            ledgers_hold(stats)


def test_one_policy_of_many_hosts() -> None:
    rng = random.Random(8)
    hosts = sorted({rng.getrandbits(32) for _ in range(HOSTS)})
    prefixes = sorted({rng.getrandbits(24) << 8 for _ in range(PREFIXES)})
    covered = {prefix >> 8 for prefix in prefixes}
    addresses = [str(ipaddress.ip_address(host)) for host in hosts]
    networks = [f"{ipaddress.ip_address(prefix)}/24" for prefix in prefixes]
    text = config([inline(capture="tee", hook="tc")], monitors(1),
                  [policy("many", match=[{"host": addresses + networks}])])
    picked = rng.sample(addresses, 200)
    inside = [str(ipaddress.ip_address(prefix + 200)) for prefix in rng.sample(prefixes, 200)]
    beside = [str(ipaddress.ip_address(host ^ 1)) for host in rng.sample(hosts, 200)
              if host ^ 1 not in set(hosts) and host >> 8 not in covered]
    wanted = [packets.ip_frame(src="192.0.2.1", dst=address) for address in picked + inside]
    wanted += [packets.ip_frame(src=address, dst="192.0.2.1") for address in picked + inside]
    others = [packets.ip_frame(src="192.0.2.1", dst=address) for address in beside]
    assert len(others) > 150
    if int(ipaddress.ip_address("192.0.2.1")) >> 8 in covered:
        pytest.fail("the sender is one of the hosts; choose another seed")
    with Lab() as lab:
        lab.open_wires()
        with Broker(lab, text) as running:
            lab.left.send_all(wanted + others)
            assert_frames(wanted + others, lab.right.receive(len(wanted + others)), "originals")
            assert_frames(wanted, lab.monitor(0).receive(len(wanted)), "copies")
            stats = running.settled()
            assert tap_ports(stats)["t0"]["matched_frames"] == len(wanted)
            ledgers_hold(stats)


@pytest.mark.parametrize("capture", TEES)
def test_ten_thousand_come_and_go_under_traffic(capture: str) -> None:
    with Lab(napi_ends=capture != "tc") as lab:
        lab.open_wires()
        with Broker(lab, ten_thousand(capture)) as running:
            with BothWays(lab, 1000) as traffic:
                time.sleep(0.2)
                assert running.stop() == 0
                running.start()
                running.kill()
                running.start()
                time.sleep(0.2)
            for what, delivery in traffic.deliveries:
                delivery.assert_complete(what)


def test_more_than_the_plan_holds_is_refused_with_the_limit(tmp_path: Path) -> None:
    matches = [{"dst_port": port} for port in range(33_000)]
    text = config([inline()], monitors(1), [policy(match=matches)])
    with Lab() as lab:
        file = tmp_path / "tap.toml"
        file.write_text(text)
        done = run_broker(lab, "--check", "-c", file)
        assert done.returncode == 2
        assert "32768" in done.stderr, done.stderr
