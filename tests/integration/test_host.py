# SPDX-License-Identifier: Apache-2.0
"""Host taps: what arrives at a host's port is copied, and the host gets it as if nobody looked."""

from __future__ import annotations

import socket

import pytest

import packets
from broker import CAPTURES, TEES, Broker, by_name, config, monitors, policy, tap_ports
from lab import Lab, assert_frames
from traffic import tcp_streams, tcp_transfer


def host(**keys: object) -> dict:
    return {"name": "server", "mode": "host", "ports": ["t0"], "direction": "ingress", **keys}


@pytest.mark.parametrize("hook", TEES)
def test_ingress(hook: str) -> None:
    with Lab(monitors=2, napi_ends=hook == "xdp") as lab:
        lab.open_wires()
        stack = lab.wire(lab.port("t0"))
        text = config([host(**CAPTURES[hook])], monitors(2), [policy(to=["mon0", "mon1"])])
        with Broker(lab, text) as running:
            frames = list(packets.odd_frames().values()) + packets.random_frames(300, seed=3) + \
                [packets.sized(length) for length in range(14, 1515, 25)]
            lab.left.send_all(frames)
            assert_frames(frames, stack.receive(len(frames)), "what the host gets")
            for monitor in lab.monitors:
                assert_frames(frames, monitor.receive(len(frames)), f"copies at {monitor}")
            port = tap_ports(running.settled())["t0"]
            assert port["rx_frames"] == port["passed_frames"] == len(frames)
            assert port["matched_frames"] == port["copied_frames"] == len(frames)
            assert port["consumed_frames"] == 0


def test_sockets_of_the_host_work_both_ways() -> None:
    """TCP to and from the tapped host with default offloads; only ingress is copied."""
    with Lab() as lab:
        lab.open_wires()
        lab.left.port.address("10.0.0.1/24", "fd00::1/64")
        lab.port("t0").address("10.0.0.2/24", "fd00::2/64")
        with Broker(lab, config([host()], monitors(1), [policy()])) as running:
            assert running.stats()["taps"][0]["hook"] == "tc"
            tcp_transfer(lab.tap_ns, lab.left_ns, "10.0.0.2", 4 << 20)
            tcp_transfer(lab.left_ns, lab.tap_ns, "fd00::1", 4 << 20)
            stats = running.settled()
            assert not any(tap_ports(stats)["t0"]["not_passed"].values())
            copies = lab.monitor(0).receive(by_name(stats, "monitors")["mon0"]["tx_frames"])
            assert copies
            senders = {copy[6:12] for copy in copies}
            assert senders == {lab.left.port.mac()}, "only what arrived is copied"


def test_udp_reaches_the_host_and_its_copy_is_complete() -> None:
    with Lab() as lab:
        lab.open_wires()
        lab.left.port.address("10.0.0.1/24")
        lab.port("t0").address("10.0.0.2/24")
        text = config([host()], monitors(1), [policy(match=[{"proto": "udp"}])])
        with Broker(lab, text), lab.tap_ns.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, \
                lab.left_ns.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            server.bind(("10.0.0.2", 53))
            server.settimeout(2)
            client.sendto(b"question", ("10.0.0.2", 53))
            assert server.recv(100) == b"question"
            copy, = lab.monitor(0).receive(1)
            assert copy.endswith(b"question") and packets.checksums_valid(copy)


@pytest.mark.parametrize("capture", ["auto", "clone"])
def test_streams_both_ways(capture: str) -> None:
    """TCP to and from the tapped host with default offloads: copies are wire frames, with right
    checksums, and hold all that was sent in either direction."""
    with Lab() as lab:
        lab.open_wires()
        lab.left.port.address("10.0.0.1/24", "fd00::1/64")
        lab.port("t0").address("10.0.0.2/24", "fd00::2/64")
        text = config([host(direction="both", capture=capture)], monitors(1), [policy()])
        with Broker(lab, text) as running:
            sent = [tcp_transfer(lab.tap_ns, lab.left_ns, "10.0.0.2", 3 << 20)]
            running.settled()
            sent.append(tcp_transfer(lab.left_ns, lab.tap_ns, "fd00::1", 3 << 20))
            stats = running.settled()
            port = tap_ports(stats)["t0"]
            assert not any(port["missed"].values()), port
            assert port["rx_frames"] == port["passed_frames"] == port["copied_frames"]
            copies = lab.monitor(0).receive(by_name(stats, "monitors")["mon0"]["tx_frames"])
            assert max(map(len, copies)) <= 1514
            assert all(packets.checksums_valid(copy) for copy in copies
                       if packets.tcp_segment(copy))
            assert sorted(tcp_streams(copies).values()) == sorted(sent)
