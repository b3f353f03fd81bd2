# SPDX-License-Identifier: Apache-2.0
"""Host taps on every kind of port a Linux host has, offloads left on: the streams that applications
send are in the copies, in frames as they are on a wire; and a copy is never tapped again."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import packets
from broker import Broker, by_name, config, monitors, policy, run_broker, tap_ports
from lab import (Lab, Namespace, Port, assert_frames, assert_restored, eventually,
                 kernel_shows_skbs, snapshot)
from traffic import BothWays, tcp_streams, tcp_transfer

SIZE = 3 << 20  # bytes that one test sends one way: what the tee rings and rings of a monitor hold


def host(*ports: str, **keys: object) -> dict:
    return {"name": "host", "mode": "host", "ports": list(ports), **keys}


@dataclass
class Place:
    """Two hosts, and a port between them that is to be tapped."""
    port: str
    one: tuple[Namespace, str, str]    # namespace, IPv4 and IPv6 address
    other: tuple[Namespace, str, str]


def address(port: Port, number: int) -> tuple[Namespace, str, str]:
    addresses = f"10.0.0.{number}", f"fd00::{number}"
    port.address(f"{addresses[0]}/24", f"{addresses[1]}/64")
    return port.ns, *addresses


def bridge(lab: Lab, *ports: str) -> None:
    lab.tap_ns.ip("link add br0 type bridge stp_state 0 mcast_snooping 0",
                  *(f"link set {port} master br0" for port in ports), "link set br0 up")


def tap_device(port: Port) -> int:
    """Makes a tap device, up, whose far end is the returned descriptor: packets with their
    virtio_net_hdr, not cut and with unfinished checksums."""
    tunsetiff, tunsetoffload = 0x400454CA, 0x400454D0
    tap, no_pi, vnet_hdr = 0x0002, 0x1000, 0x4000
    csum, tso4, tso6 = 1, 2, 4
    with port.ns.entered():
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(fd, tunsetiff, struct.pack("16sH22x", port.name.encode(), tap | no_pi | vnet_hdr))
        fcntl.ioctl(fd, tunsetoffload, csum | tso4 | tso6)
    port.up()
    return fd


class Vm:
    """A virtual machine as the host sees it: a tap device, and behind it somebody who leaves cutting
    and checksums to the host, and takes what is not cut (all offloads of virtio-net). Here that is
    another tap device in a namespace, and a thread that carries packets with their virtio_net_hdr
    between the two."""

    def __init__(self, outer: Port, inner: Port) -> None:
        self._fds = [tap_device(outer), tap_device(inner)]
        self._end, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        to = dict(zip(self._fds, reversed(self._fds)))
        while True:
            ready, _, _ = select.select([*self._fds, self._end], (), ())
            if self._end in ready:
                return
            for fd in ready:
                with contextlib.suppress(BlockingIOError, OSError):
                    while True:
                        os.write(to[fd], os.read(fd, 1 << 17))

    def close(self) -> None:
        os.close(self._stop)
        self._thread.join(5)
        for fd in (*self._fds, self._end):
            os.close(fd)


@contextlib.contextmanager
def place(lab: Lab, kind: str) -> Iterator[Place]:
    left, right, t0 = lab.left.port, lab.right.port, lab.port("t0")
    if kind == "veth":
        yield Place("t0", address(left, 1), address(t0, 2))
    elif kind == "bridge port":
        bridge(lab, "t0", "t1")
        yield Place("t0", address(left, 1), address(right, 2))
    elif kind == "bridge":
        bridge(lab, "t0", "t1")
        yield Place("br0", address(left, 1), address(lab.port("br0"), 2))
    elif kind == "macvlan":
        lab.tap_ns.ip("link add mv0 link t0 type macvlan mode bridge", "link set mv0 up")
        yield Place("mv0", address(left, 1), address(lab.port("mv0"), 2))
    else:
        assert kind == "vm"
        vm = Vm(lab.port("vm0"), Port(lab.right_ns, "eth0"))
        try:
            bridge(lab, "t0", "vm0")
            yield Place("vm0", address(left, 1), address(Port(lab.right_ns, "eth0"), 2))
        finally:
            vm.close()


KINDS = ("veth", "bridge port", "bridge", "macvlan", "vm")


def transfers(where: Place, running: Broker | None = None) -> list[bytes]:
    """Four streams: each way, IPv4 and IPv6. Between them the broker, if it runs, comes to the end of
    what it has: its rings hold a stream, but not four."""
    sent = []
    for server, client in ((where.one, where.other), (where.other, where.one)):
        for family in (1, 2):
            sent.append(tcp_transfer(server[0], client[0], server[family], SIZE))
            if running is not None:
                running.settled()
    return sent


def settled_copies(lab: Lab, running: Broker) -> tuple[dict, list[bytes]]:
    stats = running.settled()
    for port in tap_ports(stats).values():
        assert not any(port["missed"].values()) and not any(port["not_passed"].values()), port
    sent = by_name(stats, "monitors")["mon0"]
    assert not any(sent["dropped"].values()), sent
    return stats, lab.monitor(0).receive(sent["tx_frames"])


def assert_wire_frames(copies: list[bytes]) -> None:
    assert max(map(len, copies)) <= 1514
    wrong = [copy for copy in copies
             if packets.tcp_segment(copy) is not None and not packets.checksums_valid(copy)]
    assert not wrong, f"{len(wrong)} of {len(copies)} copies have a wrong checksum: " \
                      f"{wrong[0][:80].hex(' ')}"


PLACEMENTS = {"broker": {"offload": "never"}, "kernel": {"offload": "require"}}


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_streams_through(kind: str, placement: str) -> None:
    with Lab() as lab, place(lab, kind) as where:
        _ = lab.monitors
        text = config([host(where.port)], monitors(1), [policy(**PLACEMENTS[placement])])
        with Broker(lab, text) as running:
            sent = transfers(where, running)
            stats, copies = settled_copies(lab, running)
            port = tap_ports(stats)[where.port]
            assert port["rx_frames"] == port["passed_frames"] == port["copied_frames"]
            assert_wire_frames(copies)
            assert sorted(tcp_streams(copies).values()) == sorted(sent)


@pytest.mark.parametrize("direction", ["ingress", "egress"])
@pytest.mark.parametrize("kind", ["veth", "vm"])
def test_one_direction(kind: str, direction: str) -> None:
    with Lab() as lab, place(lab, kind) as where:
        _ = lab.monitors
        text = config([host(where.port, direction=direction)], monitors(1), [policy()])
        with Broker(lab, text) as running:
            transfers(where, running)
            _, copies = settled_copies(lab, running)
            assert_wire_frames(copies)
            # A host's own port sees the other host's frames arrive; a virtual machine's, its own.
            arriving = where.one if kind == "veth" else where.other
            seen = {segment[0][0][:-2] for copy in copies if (segment := packets.tcp_segment(copy))}
            leaving = where.other if arriving is where.one else where.one
            expected = arriving if direction == "ingress" else leaving
            assert seen == _addresses(expected)


def _addresses(end: tuple[Namespace, str, str]) -> set[bytes]:
    import socket
    return {socket.inet_pton(socket.AF_INET, end[1]), socket.inet_pton(socket.AF_INET6, end[2])}


def test_vxlan_of_the_host() -> None:
    """What the host encapsulates itself: cut and complete inside as well."""
    with Lab() as lab:
        _ = lab.monitors
        ends = []
        for number, port in ((1, lab.left.port), (2, lab.port("t0"))):
            port.address(f"192.0.2.{number}/24")
            port.ns.ip(f"link add vx0 type vxlan id 42 dstport 4789 local 192.0.2.{number} "
                       f"remote 192.0.2.{3 - number} dev {port.name}", "link set vx0 up")
            ends.append(address(Port(port.ns, "vx0"), number))
        with Broker(lab, config([host("t0")], monitors(1), [policy()])) as running:
            sent = transfers(Place("t0", *ends), running)
            _, copies = settled_copies(lab, running)
            assert max(map(len, copies)) <= 1514
            inner = [frame for copy in copies if (frame := packets.vxlan_inner(copy)) is not None]
            assert len(inner) > SIZE * 4 // 1500
            assert_wire_frames(inner)
            assert sorted(tcp_streams(inner).values()) == sorted(sent)


def test_two_ports_on_the_way() -> None:
    """What was cloned at one of them is tapped at the other as if nothing had been."""
    with Lab() as lab, place(lab, "bridge port") as where:
        with Broker(lab, config([host("t0", "t1")], monitors(1), [policy()],
                                umem={"frames": 1024})) as running:
            transfers(where, running)
            ports = tap_ports(running.settled())
            for port in ports.values():
                assert port["own_copies_frames"] == 0
                assert port["matched_frames"] == port["rx_frames"] > 4 * SIZE // 1500


def test_both_placements_at_once() -> None:
    """Super-packets that the kernel serves, with a few frames for the broker: it sees these only."""
    with Lab(monitors=2) as lab, place(lab, "veth") as where:
        _ = lab.monitors
        text = config([host(where.port)], monitors(2),
                      [policy("everything", offload="require"),
                       policy("begins", ["mon1"], match=[{"tcp_flags": "syn"}])])
        with Broker(lab, text) as running:
            sent = transfers(where, running)
            stats, copies = settled_copies(lab, running)
            assert sorted(tcp_streams(copies).values()) == sorted(sent)
            begins = [copy for copy in copies if (segment := packets.tcp_segment(copy)) is not None
                      and segment[2] & packets.FLAGS["syn"]]
            assert len(begins) == 2 * len(sent)
            assert_frames(begins, lab.monitor(1).receive(len(begins)), "begins")
            assert sum(worker["frames"] for worker in stats["workers"]) == len(begins)
            port = tap_ports(stats)[where.port]
            assert port["rx_frames"] == port["matched_frames"] == port["copied_frames"]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_datagrams_of_a_vm(placement: str) -> None:
    """UDP that the host has to cut, into datagrams and into fragments."""
    with Lab() as lab:
        _ = lab.monitors
        vm = tap_device(lab.port("vm0"))
        try:
            text = config([host("vm0", direction="ingress")], monitors(1),
                          [policy(match=[{"src": "10.0.0.1"}], **PLACEMENTS[placement])])
            with Broker(lab, text) as running:
                expected = []
                for number, (length, size) in enumerate(((2800, 1400), (9000, 1472), (60000, 536))):
                    for fragmented in (False, True):
                        packet = packets.SuperPacket("udp", os.urandom(length), size, ident=number,
                                                     fragmented=fragmented)
                        if not fragmented and not packets.udp_segments():
                            continue
                        os.write(vm, packet.vnet + packet.frame)
                        expected += packet.frames
                stats, copies = settled_copies(lab, running)
                assert_frames(expected, copies, "copies")
                port = tap_ports(stats)["vm0"]
                # One of 2,800 bytes becomes three fragments, but two datagrams of 1,400. The broker
                # sees what was made.
                seen = len(expected) - (0 if kernel_shows_skbs() else 1)
                assert port["rx_frames"] == seen
                assert port["matched_frames"] == (seen if placement == "kernel" else len(expected))
        finally:
            os.close(vm)


def test_fragments_without_ports() -> None:
    """Which of the fragments of a packet have ports is known once they are made."""
    with Lab() as lab:
        _ = lab.monitors
        vm = tap_device(lab.port("vm0"))
        try:
            with Broker(lab, config([host("vm0", direction="ingress")], monitors(1),
                                    [policy(**{"except": [{"dst_port": 2000}]})])) as running:
                packet = packets.SuperPacket("udp", os.urandom(3000), 1400, fragmented=True)
                os.write(vm, packet.vnet + packet.frame)
                _, copies = settled_copies(lab, running)
                assert_frames(packet.frames[1:], copies, "copies")
        finally:
            os.close(vm)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_what_would_take_too_long_to_cut(placement: str) -> None:
    """A virtual machine chooses the size of segments: no more than 1024 are made of a packet."""
    with Lab() as lab:
        _ = lab.monitors
        bridge(lab, "t0")
        vm = tap_device(lab.port("vm0"))
        lab.tap_ns.ip("link set vm0 master br0")
        try:
            text = config([host("vm0", direction="ingress")], monitors(1),
                          [policy(**PLACEMENTS[placement])])
            with Broker(lab, text) as running:
                # A monitor's own backlog holds a thousand frames.
                most = 1024 if placement == "broker" else 900
                good, bad = (packets.SuperPacket("tcp", bytes(size * 8), 8) for size in (most, 1025))
                for packet in (good, bad):
                    os.write(vm, packet.vnet + packet.frame)
                stats = running.settled()
                port, monitor = tap_ports(stats)["vm0"], by_name(stats, "monitors")["mon0"]
                missed = {"super_packet": 1025} if placement == "broker" else {}
                failed = {"clone_failed": 1025} if placement == "kernel" else {}
                assert {key: item for key, item in port["missed"].items() if item} == missed
                assert {key: item for key, item in monitor["dropped"].items() if item} == failed
                assert port["passed_frames"] == most + 1025
                assert_frames(good.frames, lab.monitor(0).receive(monitor["tx_frames"]), "copies")
        finally:
            os.close(vm)


def test_without_a_leg() -> None:
    """No /dev/net/tun: what is to be cut is missed, counted, and the rest copied; a tap that would
    clone everything is refused."""
    hidden = ("unshare", "--mount", "sh", "-c",
              'mount -t tmpfs none /dev/net && exec "$0" "$@"')
    with Lab() as lab, place(lab, "veth") as where:
        _ = lab.monitors
        with Broker(lab, config([host("t0")], monitors(1), [policy()]),
                    launcher=hidden) as running:
            assert "super-packets" in running.log()
            tcp_transfer(where.one[0], where.other[0], where.one[1], SIZE)
            stats = running.settled()
            port = tap_ports(stats)["t0"]
            assert port["missed"]["super_packet"] > SIZE // 1500
            assert port["copied_frames"] == by_name(stats, "monitors")["mon0"]["tx_frames"] > 3
        refused = Broker(lab, config([host("t0", capture="clone")], monitors(1), [policy()]))
        try:
            done = run_broker(lab, "-c", refused.file, launcher=hidden)
            assert done.returncode == 3
            assert "/dev/net/tun" in done.stderr
        finally:
            refused.discard()


def test_the_leg_is_silent() -> None:
    """It has no address, so the host sends nothing there; and a host without IPv6 has one, too."""
    for ipv6 in ((), ("tap",)):
        with Lab(ipv6=ipv6) as lab, Broker(lab, config([host("t0")], monitors(1), [policy()])):
            assert not lab.tap_ns.run("ip", "address", "show", "dev", "vtapleg0").stdout.count("inet")


def test_a_leg_that_is_down() -> None:
    """What was cloned to it and did not come out is missed, counted; all else is as ever."""
    with Lab() as lab:
        lab.open_wires()
        bridge(lab, "t0", "t1")
        with Broker(lab, config([host("t0", direction="ingress")], monitors(1), [policy()])) as running:
            frames = [packets.sized(100, number) for number in range(10)]
            cut = packets.SuperPacket("tcp", os.urandom(30_000), 1400)
            lab.port("vtapleg0").down()
            lab.left.send_all(frames)
            lab.left.send_super(cut)
            port = tap_ports(running.settled())["t0"]
            assert port["missed"]["leg"] == len(cut.frames)
            assert port["passed_frames"] == len(cut.frames) + len(frames)
            assert_frames(frames, lab.monitor(0).receive(len(frames)), "copies")
            lab.port("vtapleg0").up()
            lab.left.send_super(cut)
            assert_frames(cut.frames, lab.monitor(0).receive(len(cut.frames)), "cut")
            assert tap_ports(running.settled())["t0"]["missed"]["leg"] == len(cut.frames)


@pytest.mark.parametrize("where", ["port", "queue"])
def test_what_a_monitor_port_refuses(where: str) -> None:
    """Counted once, whether its device drops or its queueing discipline; super-packets, too."""
    with Lab(monitors=2) as lab:
        lab.open_wires()
        if where == "port":
            lab.peer(0).set("mtu 576")
        else:
            lab.tap_ns.run("tc", "qdisc", "add", "dev", "m0", "root", "pfifo", "limit", "0")
        text = config([host("t0", direction="ingress")], monitors(2),
                      [policy(to=["mon0", "mon1"], offload="require")])
        with Broker(lab, text) as running:
            short = [packets.sized(100, number) for number in range(10)]
            long = [packets.sized(1400, number) for number in range(20)]
            cut = packets.SuperPacket("tcp", os.urandom(30_000), 1400)
            lab.left.send_all([*short, *long])
            lab.left.send_super(cut)
            stats = running.settled()
            ours, other = (by_name(stats, "monitors")[name] for name in ("mon0", "mon1"))
            everything = [*short, *long, *cut.frames]
            assert_frames(everything, lab.monitor(1).receive(other["tx_frames"]), "the other")
            arrived = lab.monitor(0).receive(ours["tx_frames"])
            fits = [frame for frame in everything if len(frame) <= 576 + 14]
            assert_frames(fits if where == "port" else [], arrived, "what it takes")
            reason = "device" if where == "port" else "clone_failed"
            assert {key: item for key, item in ours["dropped"].items() if item} == \
                {reason: len(everything) - len(arrived)}
            assert other["tx_bytes"] == sum(map(len, everything))
            if where == "queue":
                assert ours["tx_bytes"] == 0


def test_redirected_originals_are_no_copies() -> None:
    """What inline redirect sends on, by AF_XDP as well, is tapped by a host tap behind it."""
    with Lab(monitors=2, napi_ends=True) as lab:
        lab.open_wires()
        lab.tap_ns.ip("link add x0 type veth peer name x1", "link set x0 up", "link set x1 up")
        for port in ("x0", "x1"):
            lab.port(port).offload("gro", "on", "tx", "off", "tso", "off")
        text = config([{"name": "wire", "mode": "inline", "ports": ["t0", "x0"],
                        "capture": "redirect"}, host("x1", direction="ingress")],
                      monitors(2), [policy("behind", taps=["host"]),
                                    policy("wire", ["mon1"], taps=["wire"])])
        with Broker(lab, text) as running:
            frames = [packets.sized(100, number) for number in range(50)]
            lab.left.send_all(frames, burst=4)
            port = tap_ports(running.settled())["x1"]
            assert (port["matched_frames"], port["own_copies_frames"]) == (len(frames), 0)
            for number in range(2):
                assert_frames(frames, lab.monitor(number).receive(len(frames)), f"monitor {number}")


def test_tags_are_back() -> None:
    """Beside the packet on both sides of a bridge, in place in the copies."""
    with Lab(monitors=2) as lab:
        lab.open_wires()
        bridge(lab, "t0", "t1")
        text = config([{**host("t0", direction="ingress"), "name": "in"},
                       {**host("t1", direction="egress"), "name": "out"}], monitors(2),
                      [policy("in", taps=["in"]), policy("out", ["mon1"], taps=["out"])])
        one, two = ((packets.DOT1Q, 5),), ((packets.DOT1AD, 9), (packets.DOT1Q, 0xE007))
        frames = [packets.ip_frame(proto, os.urandom(length), tags=tags)
                  for tags in ((), one, two) for proto in ("udp", "tcp")
                  for length in (1, 100, 1400)]
        with Broker(lab, text):
            lab.left.send_all(frames)
            assert_frames(frames, lab.right.receive(len(frames)), "originals")
            for number, where in enumerate(("arriving", "leaving")):
                assert_frames(frames, lab.monitor(number).receive(len(frames)), where)


# --- loops and doubles --------------------------------------------------------------------------

@pytest.mark.parametrize("placement", PLACEMENTS)
def test_no_loop_over_a_bridge(placement: str) -> None:
    """A monitor port whose far end is in the tapped bridge."""
    with Lab(monitors=0) as lab:
        lab.open_wires()
        lab.tap_ns.ip("link add m0 type veth peer name back", "link set m0 up", "link set back up")
        bridge(lab, "t0", "t1", "back")
        text = config([host("t0", "t1")], monitors(1), [policy(**PLACEMENTS[placement])])
        with Broker(lab, text) as running:
            frames = [packets.sized(100, number) for number in range(50)]
            lab.left.send_all(frames, burst=4)
            ports = tap_ports(running.settled())
            assert sum(port["matched_frames"] for port in ports.values()) == 2 * len(frames)
            # Each copy leaves the bridge by both ports.
            assert sum(port["own_copies_frames"] for port in ports.values()) == 4 * len(frames)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_no_loop_over_a_macvlan(placement: str) -> None:
    """A monitor port that shares a lower device with a tapped one, and that is tapped too."""
    with Lab(monitors=0) as lab:
        lab.open_wires()
        lab.tap_ns.ip(*(f"link add {name} link t0 type macvlan mode bridge" for name in ("mv0", "m0")),
                      "link set mv0 up", "link set m0 up")
        text = config([host("t0", "mv0")], monitors(1), [policy(**PLACEMENTS[placement])])
        with Broker(lab, text) as running:
            inner = lab.port("mv0").mac()
            frames = [packets.ip_frame("udp", bytes([number]), dst_mac=inner) for number in range(50)]
            lab.left.send_all(frames, burst=4)
            ports = tap_ports(running.settled())
            assert ports["t0"]["matched_frames"] == ports["mv0"]["matched_frames"] == len(frames)
            assert ports["mv0"]["own_copies_frames"] == 2 * len(frames)


def test_loops_that_cannot_be_seen_are_warned_of() -> None:
    with Lab(monitors=1) as lab:
        lab.tap_ns.ip("link add m1 type veth peer name back", "link set m1 up", "link set back up")
        for tap, count, said, unsaid in (
                (host("t0"), 2, ["network namespace by m0 and"], ["m1", "xdp"]),
                (host("t0", direction="ingress", hook="xdp"), 2, ["by m0", "xdp (tap host)"], [])):
            checked = Broker(lab, config([tap], monitors(count), [policy()]))
            try:
                done = run_broker(lab, "--check", "-c", checked.file)
                assert done.returncode == 0, done.stderr
                warnings = "".join(line for line in done.stdout.splitlines(keepends=True)
                                   if line.startswith("warning"))
                assert all(words in warnings for words in said), done.stdout
                assert not any(words in warnings for words in unsaid), done.stdout
            finally:
                checked.discard()


def test_once() -> None:
    """One copy of what crosses two taps, and not of what is sent twice."""
    with Lab(monitors=2) as lab:
        lab.open_wires()
        bridge(lab, "t0", "t1")
        text = config([host("t0", "t1")], monitors(2), [policy("each"),
                                                       policy("once", ["mon1"], once=True)])
        frames = [packets.ip_frame("udp", b"%d" % (number // 2), ident=number // 2)
                  for number in range(200)]
        with Broker(lab, text) as running:
            lab.left.send_all(frames)
            assert_frames(frames, lab.right.receive(len(frames)), "originals")
            each, once = lab.monitor(0).receive(2 * len(frames)), lab.monitor(1).receive(len(frames))
            assert sorted(each) == sorted(frames * 2)
            assert_frames(frames, once, "copies, once")
            dropped = by_name(running.settled(), "policies")["once"]["dropped"]
            assert dropped["once"] == len(frames)


# --- do no harm ---------------------------------------------------------------------------------

@contextlib.contextmanager
def tapped_bridge(placement: str = "broker") -> Iterator[tuple[Lab, Broker]]:
    with Lab(monitors=2) as lab:
        lab.open_wires()
        bridge(lab, "t0", "t1")
        text = config([host("t0", "t1")], monitors(2),
                      [policy(to=["mon0", "mon1"], **PLACEMENTS[placement])])
        with Broker(lab, text) as running:
            yield lab, running


def _kill(_lab: Lab, broker: Broker) -> None:
    broker.kill()


def _kill_and_start(_lab: Lab, broker: Broker) -> None:
    broker.kill()
    broker.start()


def _hang(_lab: Lab, broker: Broker) -> None:
    broker.hang()
    eventually(lambda: False, timeout=1.0)
    broker.resume()


def _stop_and_start(_lab: Lab, broker: Broker) -> None:
    assert broker.stop() == 0
    broker.start()


def _detach(_lab: Lab, broker: Broker) -> None:
    assert broker.stop() == 0
    broker.detach()


def _monitor_gone(lab: Lab, _broker: Broker) -> None:
    lab.port("m0").delete()


def assert_unharmed(streams: BothWays, lossless: bool) -> None:
    """Not a frame lost. Where the kernel has no tcx, a clsact that comes or goes may cost some."""
    if lossless:
        streams.assert_complete()
    for what, delivery in streams.deliveries:
        assert len(delivery.lost) <= 5, f"{what}: {len(delivery.lost)} lost"
        delivery.assert_order(what)


def has_tcx(lab: Lab) -> bool:
    """A broker runs, and needed no clsact."""
    return "clsact" not in lab.tap_ns.run("tc", "qdisc", "show", "dev", "t0").stdout


FAULTS = {fault.__name__.strip("_"): fault for fault in
          (_kill, _kill_and_start, _hang, _stop_and_start, _detach, _monitor_gone)}


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("fault", FAULTS)
def test_originals_do_not_notice(fault: str, placement: str) -> None:
    with tapped_bridge(placement) as (lab, broker):
        lossless = has_tcx(lab) or fault != "detach"
        streams = BothWays(lab)
        with streams:
            FAULTS[fault](lab, broker)
            eventually(lambda: False, timeout=0.2)
        assert_unharmed(streams, lossless)


def test_the_other_monitor_gets_all() -> None:
    with tapped_bridge("kernel") as (lab, broker):
        lab.port("m0").delete()
        frames = [packets.sized(100, number) for number in range(100)]
        assert eventually(lambda: by_name(broker.stats(), "monitors")["mon0"]["state"] == "down")
        lab.left.send_all(frames)
        assert sorted(lab.monitor(1).receive(2 * len(frames))) == sorted(frames * 2)
        dropped = by_name(broker.settled(), "monitors")["mon0"]["dropped"]
        assert dropped["down"] == 2 * len(frames)


def test_a_hung_broker_costs_no_cutting() -> None:
    """TCP with super-packets goes on, and nothing goes to the leg when no copy could be made."""
    with Lab() as lab, place(lab, "veth") as where:
        with Broker(lab, config([host("t0")], monitors(1), [policy()],
                                umem={"frames": 1024})) as running:
            running.hang()
            sent = transfers(where)
            running.resume()
            port = tap_ports(running.settled())["t0"]
            assert port["missed"]["no_free_frame"] + port["missed"]["ring_full"] > \
                len(sent) * SIZE // 1500
            assert port["copied_frames"] <= 1024


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_others_keep_what_is_theirs(placement: str) -> None:
    """Queueing disciplines and filters of others, on both sides of the port, stay and work: here
    they mirror what they see into a pair of their own."""
    with Lab() as lab, place(lab, "veth") as where:
        lab.tap_ns.ip("link add s0 type veth peer name s1", "link set s0 up", "link set s1 up")
        lab.tap_ns.run("tc", "qdisc", "add", "dev", "t0", "clsact")
        lab.tap_ns.run("tc", "qdisc", "add", "dev", "t0", "root", "handle", "1:", "pfifo")
        for direction in ("ingress", "egress"):
            lab.tap_ns.run("tc", "filter", "add", "dev", "t0", direction, "protocol", "all",
                           "prio", "7", "u32", "match", "u32", "0", "0",
                           "action", "mirred", "egress", "mirror", "dev", "s0")
        before = snapshot(lab.tap_ns)
        text = config([host("t0")], monitors(1), [policy(**PLACEMENTS[placement])])
        with Broker(lab, text) as running:
            tcp_transfer(where.one[0], where.other[0], where.one[1], 1 << 20)
            frames = tap_ports(running.settled())["t0"]["rx_frames"]
            shown = lab.tap_ns.run("ip", "-j", "-s", "link", "show", "s0").stdout
            assert json.loads(shown)[0]["stats64"]["tx"]["bytes"] > 1 << 20, frames
        assert_restored(before, lab.tap_ns)


def test_a_start_is_not_noticed() -> None:
    with Lab() as lab:
        lab.open_wires()
        bridge(lab, "t0", "t1")
        streams = BothWays(lab)
        with streams, Broker(lab, config([host("t0", "t1")], monitors(1), [policy()])):
            lossless = has_tcx(lab)
            eventually(lambda: False, timeout=0.3)
        assert_unharmed(streams, lossless)
