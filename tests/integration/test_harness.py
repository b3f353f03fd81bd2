# SPDX-License-Identifier: Apache-2.0
"""The harness itself, on a wire and a mirror of the kernel's own in place of the product: what
these tests cannot see, the others cannot either."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable

import pytest

import broker
import lab as laboratory
import packets
import stalls
from lab import PATIENCE, Lab, assert_frames, carry
from traffic import BothWays, Stream, tcp_transfer


# The u32 classifier wants four bytes behind the Ethernet header, tag not counted.
STAND_IN_MIN = 22


def long_enough(frames: Iterable[bytes]) -> list[bytes]:
    return [frame for frame in frames if len(frame) >= STAND_IN_MIN]


def kernel_tap(lab: Lab, ports: tuple[str, str] = ("t0", "t1"), mirror: str | None = "m0") -> None:
    """`tc mirred`: a wire between two ports, with a copy to a third."""
    for near, far in (ports, ports[::-1]):
        copy = ["action", "mirred", "egress", "mirror", "dev", mirror] if mirror else []
        lab.tap_ns.run("tc", "qdisc", "add", "dev", near, "clsact")
        lab.tap_ns.run("tc", "filter", "add", "dev", near, "ingress", "protocol", "all", "u32",
                       "match", "u32", "0", "0", *copy,
                       "action", "mirred", "egress", "redirect", "dev", far)


@pytest.fixture
def lab():
    with Lab() as made:
        kernel_tap(made)
        made.open_wires()
        yield made


def test_odd_frames_both_ways(lab: Lab) -> None:
    for source, sink in lab.directions():
        carry(long_enough(packets.odd_frames().values()), source, sink, lab.monitors)


def test_every_size(lab: Lab) -> None:
    carry([packets.sized(length, length) for length in range(STAND_IN_MIN, 1515)], lab.left,
          lab.right, lab.monitors)


def test_random_frames(lab: Lab) -> None:
    carry(long_enough(packets.random_frames(500, seed=1)), lab.left, lab.right, lab.monitors)


def test_comparison_sees_changes() -> None:
    frames = [packets.sized(60, number) for number in range(4)]
    for wrong in (frames[:3], frames + frames[:1], [frames[1], frames[0], *frames[2:]],
                  [frames[0][:-1] + b"!", *frames[1:]], [frames[0][:59], *frames[1:]]):
        with pytest.raises(AssertionError):
            assert_frames(frames, wrong, "on purpose")


def test_loss_on_a_wire_is_seen(lab: Lab) -> None:
    with BothWays(lab) as traffic:
        lab.port("t0").down()
        time.sleep(0.05)
        lab.port("t0").up()
    for what, delivery in traffic.deliveries:
        assert delivery.lost and len(delivery.arrived) > 100, what
        with pytest.raises(AssertionError, match="lost"):
            delivery.assert_complete(what)


def test_streams_both_ways(lab: Lab) -> None:
    with BothWays(lab, rate=2000) as traffic:
        time.sleep(1)
    traffic.assert_complete()
    for _, delivery in traffic.deliveries:
        assert len(delivery.sent) > 1500 / PATIENCE
        assert -0.2 < min(delivery.delays_s()) and max(delivery.delays_s()) < 0.2


def test_order_and_duplicates_are_seen(lab: Lab) -> None:
    delivery = Stream(lab.left, lab.right).start().stop()
    delivery.arrived = [(0, 1), (2, 2), (1, 3)]
    with pytest.raises(AssertionError):
        delivery.assert_order("swapped")
    delivery.arrived = [(0, 1), (0, 2)]
    with pytest.raises(AssertionError):
        delivery.assert_order("twice")


@pytest.mark.parametrize("host", ["10.0.0.2", "fd00::2"])
def test_tcp(lab: Lab, host: str) -> None:
    lab.addresses()
    tcp_transfer(lab.right_ns, lab.left_ns, host, 4 << 20)


def test_unfinished_checksum_is_seen(lab: Lab) -> None:
    lab.addresses(ipv6=False)
    with lab.left_ns.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.sendto(b"unfinished", ("10.0.0.2", 9))
    arrivals = [a for a in lab.right.arrivals(2) if a.data[12:14] == b"\x08\x00"]
    assert arrivals[0].status & laboratory.CHECKSUM_UNFINISHED
    assert not packets.checksums_valid(arrivals[0].data)


def test_verifier_of_checksums() -> None:
    for src, dst in (("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")):
        for proto in ("tcp", "udp"):
            for tags in ((), ((packets.DOT1Q, 5),)):
                frame = packets.ip_frame(proto, b"odd", src=src, dst=dst, tags=tags)
                assert packets.checksums_valid(frame)
                assert not packets.checksums_valid(frame[:-1] + b"x")
                position, _, _ = packets.checksum_position(frame)
                assert packets.without_checksum(frame)[position:position + 2] == b"\0\0"


def test_stack_made_tags(lab: Lab) -> None:
    lab.left.port.attach_tc("egress", "tc_push")
    frame = packets.ip_frame()
    lab.left.send(frame)
    assert_frames([packets.ip_frame(tags=((packets.DOT1Q, 42),))], lab.right.receive(1), "tagged")


def test_long_double_tag_made_by_the_stack() -> None:
    with Lab(ends_mtu=2000) as lab:
        kernel_tap(lab)
        lab.open_wires()
        lab.left.port.attach_tc("egress", "tc_push_two")
        lab.left.send(packets.sized(1514))
        got, = lab.right.receive(1)
        assert len(got) == 1522
        assert got[12:20] == bytes.fromhex("88a800078100002a")


def test_napi_ends_let_xdp_redirect_in() -> None:
    with Lab(napi_ends=True) as lab:
        kernel_tap(lab)
        lab.open_wires()
        carry(long_enough(packets.odd_frames().values()), lab.left, lab.right, lab.monitors)


def test_snapshot_sees_changes(lab: Lab) -> None:
    port = lab.port("t0")

    def changed(change) -> str:
        before = laboratory.snapshot(lab.tap_ns)
        assert not laboratory.differences(before, laboratory.snapshot(lab.tap_ns))
        change()
        return "\n".join(laboratory.differences(before, laboratory.snapshot(lab.tap_ns)))

    assert "PROMISC" in changed(lambda: port.set("promisc on"))
    assert "ethtool -k t0" in changed(lambda: port.offload("gro", "on"))
    assert "tc filter t0 egress" in changed(lambda: port.attach_tc("egress", "tc_push"))
    assert "xdp" in changed(lambda: port.attach_xdp("xdp_foreign"))
    assert "disable_ipv6" in changed(
        lambda: lab.tap_ns.sysctl("net/ipv6/conf/t0/disable_ipv6", "0"))
    with pytest.raises(AssertionError, match="not as found"):
        before = laboratory.snapshot(lab.tap_ns)
        port.set("promisc off")
        laboratory.assert_restored(before, lab.tap_ns, timeout=0.1)


def test_footprint_sees_what_is_left() -> None:
    before = laboratory.footprint()
    with Lab() as lab:
        sleeper = subprocess.Popen(["sh", "-c", "read line", lab.tap_ns.name],
                                   stdin=subprocess.PIPE)
        try:
            def seen() -> bool:
                new = "\n".join(laboratory.footprint() - before)
                return lab.tap_ns.name in new and f"process {sleeper.pid}" in new

            assert laboratory.eventually(seen)
        finally:
            sleeper.kill()
            sleeper.wait()
    assert not laboratory.footprint() - before


def test_lab_is_removed_when_it_fails() -> None:
    before = laboratory.footprint()
    with pytest.raises(RuntimeError):
        Lab(mtu=1)  # a veth takes no MTU below 68
    assert laboratory.footprint() == before


def _stats(**port: int) -> dict:
    counters = {"rx_frames": 3, "passed_frames": 2, "consumed_frames": 0, "matched_frames": 3,
                "copied_frames": 2, **port}
    return {"taps": [{"name": "t", "ports": [
                {"name": "p", **counters, "missed": {"too_long": 1}, "not_passed": {"stale": 1}}]}],
            "policies": [{"name": "a", "matched_frames": 2, "dropped": {"sample": 1},
                          "monitors": [{"name": "m", "sent_frames": 1, "already_sent": 0}]}],
            "monitors": [{"name": "m", "tx_frames": 0, "dropped": {"down": 1}}]}


def test_ledgers() -> None:
    assert not broker.ledger_errors(_stats())
    for name in ("rx_frames", "passed_frames", "consumed_frames", "matched_frames",
                 "copied_frames"):
        assert len(broker.ledger_errors(_stats(**{name: 9}))) == 1, name
    for part, key in (("policies", "matched_frames"), ("monitors", "tx_frames")):
        stats = _stats()
        stats[part][0][key] += 1
        assert len(broker.ledger_errors(stats)) == 1
        with pytest.raises(AssertionError, match="ledgers"):
            broker.ledgers_hold(stats)


def test_delta() -> None:
    now = broker.delta(_stats(rx_frames=10), _stats())
    assert broker.tap_ports(now)["p"]["rx_frames"] == 7
    assert broker.tap_ports(now)["p"]["name"] == "p"


def test_config_is_toml() -> None:
    import tomllib
    text = broker.config([broker.inline(capture="tee")], broker.monitors(2, queue=64),
                         [broker.policy(match=[{"port": [80, "1-9"], "fragment": True}],
                                        sample={"one_in": 3})], poll="busy")
    parsed = tomllib.loads(text)
    assert parsed["broker"] == {"poll": "busy"}
    assert parsed["policy"][0]["match"] == [{"port": [80, "1-9"], "fragment": True}]
    assert parsed["monitor"][1] == {"name": "mon1", "port": "m1", "queue": 64}


def test_own_process_is_not_moved(lab: Lab) -> None:
    inside = os.readlink("/proc/self/ns/net")
    with lab.tap_ns.entered():
        pass
    assert os.readlink("/proc/thread-self/ns/net") == inside


_failed_once: list[bool] = []


def _stall(watch: stalls.Watch) -> None:
    os.kill(watch.pids[0], signal.SIGSTOP)
    time.sleep(0.4)
    os.kill(watch.pids[0], signal.SIGCONT)
    assert laboratory.eventually(lambda: watch.longest_s() > 0.3)


def test_failed_while_the_machine_stood_still() -> None:
    """Such a test gets a second try (conftest.py)."""
    watch = sys.modules["conftest"].watch
    if _failed_once:
        assert watch.longest_s() < 0.3, "of the first try"
        return
    _failed_once.append(True)
    _stall(watch)
    pytest.fail("on purpose: this is the first try")
