# SPDX-License-Identifier: Apache-2.0
"""Inline taps: every Ethernet frame passes untouched, both ways, and its copy is the same bytes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import packets
from broker import (CAPTURES, Broker, by_name, config, delta, inline, ledgers_hold, monitors,
                    policy, simple_config, tap_ports)
from lab import Lab, assert_frames, carry, eventually
from traffic import tcp_transfer


@dataclass
class Tapped:
    """An inline tap, whose every frame goes to two monitors, shared by the tests of one capture."""
    capture: str
    lab: Lab
    broker: Broker

    def carry_counted(self, frames: list[bytes]) -> None:
        """Both ways: originals and copies byte-exact, in order, and counted to the frame."""
        for (source, sink), near in zip(self.lab.directions(), ("t0", "t1")):
            before = self.broker.settled()
            carry(frames, source, sink, self.lab.monitors)
            now = delta(self.broker.settled(), before)
            self._assert_counters(now, near, frames)

    def _assert_counters(self, now: dict, near: str, frames: list[bytes]) -> None:
        count, size = len(frames), sum(map(len, frames))
        ports = tap_ports(now)
        port, other = ports[near], ports["t1" if near == "t0" else "t0"]
        assert other["rx_frames"] == 0, "nothing arrived on the other port"
        assert port["rx_frames"] == port["passed_frames"] == count
        assert port["matched_frames"] == port["copied_frames"] == count
        assert port["rx_bytes"] == size, "bytes count tags and padding, not the FCS"
        matched = by_name(now, "policies")["all"]
        assert (matched["matched_frames"], matched["matched_bytes"]) == (count, size)
        for item in by_name(now, "monitors").values():
            assert (item["tx_frames"], item["tx_bytes"]) == (count, size), item["name"]
            assert not any(item["dropped"].values())


@pytest.fixture(scope="module", params=CAPTURES)
def tapped(request: pytest.FixtureRequest) -> Iterator[Tapped]:
    capture = request.param
    # The ends may send more than the MTU of the tap: packet sockets count 0x88a8 tags as payload.
    with Lab(monitors=2, ends_mtu=1600, napi_ends=capture != "tc") as lab:
        lab.open_wires()
        with Broker(lab, simple_config(CAPTURES[capture], monitor_count=2)) as running:
            yield Tapped(capture, lab, running)


@pytest.fixture(autouse=True)
def clean_wires(request: pytest.FixtureRequest) -> None:
    if "tapped" in request.fixturenames:
        request.getfixturevalue("tapped").lab.clear()


def test_capture_is_the_one_asked_for(tapped: Tapped) -> None:
    tap, = tapped.broker.stats()["taps"]
    assert (tap["name"], tap["mode"]) == ("wire", "inline")
    assert tap["capture"] == ("redirect" if tapped.capture == "redirect" else "tee")
    assert tap["hook"] == ("tc" if tapped.capture == "tc" else "xdp")


@pytest.mark.parametrize("kind", packets.odd_frames())
def test_odd_frame(tapped: Tapped, kind: str) -> None:
    frame = packets.odd_frames()[kind]
    for source, sink in tapped.lab.directions():
        source.send(frame)
        assert_frames([frame], sink.receive(1, quiet=0.01), f"{kind}, original at {sink}")
        for monitor in tapped.lab.monitors:
            assert_frames([frame], monitor.receive(1, quiet=0.01), f"{kind}, copy at {monitor}")


def test_odd_frames_in_a_row(tapped: Tapped) -> None:
    tapped.carry_counted(list(packets.odd_frames().values()))


def test_every_size(tapped: Tapped) -> None:
    """Runts from the bare Ethernet header on, up to the MTU."""
    tapped.carry_counted([packets.sized(length, length) for length in range(14, 1515)])


def test_tagged_up_to_the_mtu(tapped: Tapped) -> None:
    tag = (packets.DOT1Q, 0x3123)
    tapped.carry_counted([packets.ether(bytes(length), tags=(tag,))
                          for length in (2, 42, 1499, 1500)])
    service = ((packets.DOT1AD, 5), tag)
    tapped.carry_counted([packets.ether(bytes(length), tags=service) for length in (0, 38, 1496)])


def test_random_bytes(tapped: Tapped) -> None:
    tapped.carry_counted(packets.random_frames(1000, seed=20260101))


def test_order_of_many(tapped: Tapped) -> None:
    tapped.carry_counted([packets.ip_frame("tcp", f"{n}".encode(), seq=7919 * n, sport=1 + n % 50)
                          for n in range(5000)])


def test_order_when_the_sender_moves(tapped: Tapped) -> None:
    """From CPU to CPU, in the middle of a flow: a tee has a ring for each of them."""
    cpus = sorted(os.sched_getaffinity(0))
    frames = [packets.ip_frame("udp", b"%d" % n) for n in range(2000)]

    def moving() -> Iterator[bytes]:
        for number, frame in enumerate(frames):
            if number % 3 == 0:
                os.sched_setaffinity(0, {cpus[number // 3 % len(cpus)]})
            yield frame

    try:
        tapped.lab.left.send_all(moving())
    finally:
        os.sched_setaffinity(0, cpus)
    assert_frames(frames, tapped.lab.right.receive(len(frames)), "originals")
    for monitor in tapped.lab.monitors:
        assert_frames(frames, monitor.receive(len(frames)), f"copies at {monitor}")


def test_both_directions_at_once(tapped: Tapped) -> None:
    """Interleaved: each direction keeps its order, and monitors see every frame of both."""
    lab = tapped.lab
    there = [packets.ip_frame(data=b"there %d" % n) for n in range(500)]
    back = [packets.ip_frame(data=b"back %d" % n, src="10.0.0.2", dst="10.0.0.1")
            for n in range(500)]
    for a, b in zip(there, back):
        lab.left.send(a)
        lab.right.send(b)
    assert_frames(there, lab.right.receive(500), "there")
    assert_frames(back, lab.left.receive(500), "back")
    for monitor in lab.monitors:
        copies = monitor.receive(1000)
        for sent in (there, back):
            wanted = set(sent)
            assert_frames(sent, [copy for copy in copies if copy in wanted], f"copies, {monitor}")
        assert len(copies) == 1000


# --- taps with another config -------------------------------------------------------------------

@pytest.fixture(params=CAPTURES)
def capture(request: pytest.FixtureRequest) -> str:
    return request.param


def test_what_no_policy_wants_passes_uncopied(capture: str) -> None:
    with Lab(napi_ends=capture != "tc") as lab:
        lab.open_wires()
        text = simple_config(CAPTURES[capture], match=[{"proto": "tcp", "dst_port": 80}])
        with Broker(lab, text) as running:
            frames = list(packets.odd_frames().values()) + packets.random_frames(300, seed=5)
            wanted = packets.ip_frame("tcp", dport=80)
            carry([*frames, wanted], lab.left, lab.right, lab.monitors, copies=[wanted])
            port = tap_ports(running.settled())["t0"]
            assert port["rx_frames"] == port["passed_frames"] == len(frames) + 1
            assert port["matched_frames"] == port["copied_frames"] == 1


def test_without_policies_it_is_a_wire(capture: str) -> None:
    """A policy for another tap: this one has none, and copies nothing."""
    with Lab(pairs=2, napi_ends=capture != "tc") as lab:
        lab.open_wires()
        taps = [inline(**CAPTURES[capture]),
                inline("other", ("t2", "t3"), **CAPTURES[capture])]
        with Broker(lab, config(taps, monitors(1), [policy(taps=["other"])])) as running:
            frames = list(packets.odd_frames().values())
            for source, sink in lab.directions():
                carry(frames, source, sink, lab.monitors, copies=[])
            carry(frames, lab.left_of(1), lab.right_of(1), lab.monitors)
            assert tap_ports(running.settled())["t0"]["matched_frames"] == 0


@pytest.mark.parametrize("mtu", [3000, 9000])
def test_frames_longer_than_frame_size_pass(capture: str, mtu: int) -> None:
    """A frame too long for a UMEM frame costs its copy, which is counted, and nothing else."""
    if mtu == 9000 and capture != "tc":
        mtu = 3400  # beyond, one XDP buffer of a veth cannot hold a frame
    with Lab(mtu=mtu, napi_ends=capture != "tc") as lab:
        lab.open_wires()
        with Broker(lab, simple_config(CAPTURES[capture])) as running:
            short, long = packets.sized(1514, 1), packets.sized(mtu + 14, 2)
            for source, sink in lab.directions():
                # One by one: redirect takes the short ones through user space, and only those.
                for frame, copies in ((short, [short]), (long, []), (short, [short])):
                    carry([frame], source, sink, lab.monitors, copies=copies)
            for port in tap_ports(running.settled()).values():
                assert port["passed_frames"] == 3
                assert (port["matched_frames"], port["copied_frames"]) == (3, 2)
                assert port["missed"]["too_long"] == 1


@pytest.mark.parametrize("hook", ["tc", "xdp"])
def test_large_frame_size(hook: str) -> None:
    with Lab(mtu=3000, napi_ends=hook == "xdp") as lab:
        lab.open_wires()
        text = config([inline(**CAPTURES[hook])], monitors(1), [policy()],
                      umem={"frames": 16384, "frame_size": 4096})
        with Broker(lab, text):
            carry([packets.sized(3014, 1), packets.sized(60, 2)], lab.left, lab.right,
                  lab.monitors)


def test_long_double_tag() -> None:
    """1522 bytes of QinQ through ports of MTU 1500: the tags came beside the packet (TC only)."""
    with Lab(ends_mtu=2000) as lab:
        lab.port("m0").set("mtu 2000")
        lab.peer(0).set("mtu 2000")
        lab.open_wires()
        lab.left.port.attach_tc("egress", "tc_push_two")
        with Broker(lab, simple_config(CAPTURES["tc"])):
            plain = packets.sized(1514)
            tags = packets.ether(tags=((packets.DOT1AD, 7), (packets.DOT1Q, 42)))[12:20]
            tagged = plain[:12] + tags + plain[12:]
            assert len(tagged) == 1522
            lab.left.send(plain)
            assert_frames([tagged], lab.right.receive(1), "original")
            assert_frames([tagged], lab.monitor(0).receive(1), "copy")


def test_xdp_never_loses_originals_in_silence() -> None:
    """Forced XDP before ends that do not poll, where the kernel throws redirected frames away:
    refused, or carried, or counted; only silence is wrong."""
    with Lab() as lab:
        lab.open_wires()
        running = Broker(lab, simple_config(CAPTURES["xdp"]))
        try:
            running.start(wait_ready=False)
            if not eventually(lambda: not running.running or "ready" in running.log(), 15):
                pytest.fail("neither ready nor ended")
            if not running.running:
                assert running.process.returncode in (1, 3)
                assert "t0" in running.log() or "t1" in running.log()
                return
            running.wait_ready()
            lab.left.send_all([packets.sized(60, n) for n in range(100)])
            arrived = len(lab.right.receive(100, timeout=1.0))
            port = tap_ports(running.settled())["t0"]
            assert port["passed_frames"] == arrived
            assert port["passed_frames"] + sum(port["not_passed"].values()) == 100
        finally:
            running.close()


# --- default offloads: what a real stack sends ---------------------------------------------------

@pytest.mark.parametrize("keys", [{}, CAPTURES["tc"]], ids=["auto", "tc"])
def test_tcp_with_default_offloads(keys: dict[str, str]) -> None:
    """Full-speed TCP: super-packets pass whole, and are copied as the frames that they become."""
    with Lab() as lab:
        lab.open_wires()
        lab.addresses()
        with Broker(lab, simple_config(keys)) as running:
            tap, = running.stats()["taps"]
            assert (tap["capture"], tap["hook"]) == ("tee", "tc")
            for server, client, host in ((lab.right_ns, lab.left_ns, "10.0.0.2"),
                                         (lab.left_ns, lab.right_ns, "10.0.0.1"),
                                         (lab.right_ns, lab.left_ns, "fd00::2"),
                                         (lab.left_ns, lab.right_ns, "fd00::1")):
                tcp_transfer(server, client, host, 8 << 20)
            stats = running.settled()
            for name, port in tap_ports(stats).items():
                assert not any(port["not_passed"].values()), f"{name} lost originals"
                assert port["passed_frames"] == port["rx_frames"] > 100
                assert port["matched_frames"] == port["rx_frames"] > (8 << 20) // 1500, name
                assert port["missed"]["super_packet"] == port["missed"]["leg"] == 0, name
                assert port["copied_frames"] > 0
            copies = lab.monitor(0).receive(by_name(stats, "monitors")["mon0"]["tx_frames"])
            _assert_good_tcp_copies(copies)


def _assert_good_tcp_copies(copies: list[bytes]) -> None:
    seen = 0
    for copy in copies:
        assert len(copy) <= 1518, "no copy is longer than the wire allows"
        try:
            assert packets.checksums_valid(copy), copy.hex(" ")
            seen += 1
        except packets.NoChecksum:
            pass  # ARP and neighbour discovery
    assert seen > 10


@pytest.mark.parametrize("local, remote", [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")])
def test_unfinished_checksum_is_completed(local: str, remote: str) -> None:
    """The stack leaves UDP checksums to the device; copies have them complete, all else alike."""
    with Lab() as lab:
        lab.open_wires()
        lab.addresses()
        family = socket.AF_INET6 if ":" in local else socket.AF_INET
        with Broker(lab, simple_config(match=[{"proto": "udp", "dst_port": 5000}])), \
                lab.left_ns.socket(family, socket.SOCK_DGRAM) as sender, \
                lab.right_ns.socket(family, socket.SOCK_DGRAM) as receiver:
            receiver.bind((remote, 5000))
            receiver.settimeout(2)
            sender.bind((local, 4000))
            payloads = [bytes([n & 0xFF]) * n for n in (0, 1, 2, 63, 64, 1000, 1471, 1400)]
            for payload in payloads:
                if family == socket.AF_INET6:
                    payload = payload[:1452]
                sender.sendto(payload, (remote, 5000))
                assert receiver.recv(2000) == payload
            originals = [frame for frame in lab.right.receive(len(payloads))
                         if b"\x0f\xa0\x13\x88" in frame[34:60]]
            copies = lab.monitor(0).receive(len(payloads))
            assert len(copies) == len(payloads)
            assert all(packets.checksums_valid(copy) for copy in copies)
            assert_frames([packets.without_checksum(frame) for frame in originals],
                          [packets.without_checksum(frame) for frame in copies], "copies")


def test_tags_made_by_the_stack() -> None:
    """The tag travels beside the packet: it survives in the original and stands in the copy."""
    with Lab() as lab:
        lab.open_wires()
        lab.addresses(ipv6=False)
        lab.left.port.attach_tc("egress", "tc_push")
        with Broker(lab, simple_config(match=[{"vlan": 42}])):
            frame = packets.ip_frame()
            tagged = packets.ip_frame(tags=((packets.DOT1Q, 42),))
            lab.left.send(frame)
            assert_frames([tagged], lab.right.receive(1), "original")
            assert_frames([tagged], lab.monitor(0).receive(1), "copy")


def test_tcp_over_tags_made_by_the_stack() -> None:
    with Lab() as lab:
        lab.open_wires()
        lab.addresses()
        for end in (lab.left.port, lab.right.port):
            end.attach_tc("egress", "tc_push")
            end.attach_tc("ingress", "tc_pop")
        with Broker(lab, simple_config()) as running:
            tcp_transfer(lab.right_ns, lab.left_ns, "10.0.0.2", 4 << 20)
            tcp_transfer(lab.left_ns, lab.right_ns, "fd00::1", 4 << 20)
            stats = running.settled()
            assert not any(sum(port["not_passed"].values()) for port in tap_ports(stats).values())
            copies = lab.monitor(0).receive(by_name(stats, "monitors")["mon0"]["tx_frames"])
            assert copies and all(copy[12:16] == b"\x81\x00\x00\x2a" for copy in copies)
            _assert_good_tcp_copies(copies)


def test_several_inline_taps_do_not_mix() -> None:
    with Lab(monitors=2, pairs=2) as lab:
        lab.open_wires()
        text = config([inline("one"), inline("two", ("t2", "t3"))], monitors(2),
                      [policy("first", ["mon0"], taps=["one"]),
                       policy("second", ["mon1"], taps=["two"])])
        with Broker(lab, text) as running:
            one, two = ([packets.sized(60, start + n) for n in range(200)] for start in (0, 1000))
            lab.left.send_all(one)
            lab.left_of(1).send_all(two)
            for sink, monitor, frames in ((lab.right, lab.monitor(0), one),
                                          (lab.right_of(1), lab.monitor(1), two)):
                assert_frames(frames, sink.receive(200), f"originals at {sink}")
                assert_frames(frames, monitor.receive(200), f"copies at {monitor}")
            ledgers_hold(running.settled())
