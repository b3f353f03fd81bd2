# SPDX-License-Identifier: Apache-2.0
"""The ways of a copy: tee, clone by the leg, clone straight to the monitor. Each of them gives the
same copies, byte for byte, and the same counters, of super-packets too."""

from __future__ import annotations

import json
import random

import pytest

import packets
from broker import Broker, by_name, config, inline, monitors, policy, run_broker, tap_ports
from lab import Lab, assert_frames
from packets import SuperPacket, ip_frame

WAYS = {
    "tee": ({"capture": "tee", "hook": "tc"}, {"offload": "never"}),
    "leg": ({"capture": "clone"}, {}),
    "kernel": ({"capture": "tee", "hook": "tc"}, {"offload": "require"}),
}
MODES = {
    "host": {"name": "tap", "mode": "host", "ports": ["t0"]},
    "inline": inline("tap"),
}

# What any way can do.
MATCHES = [
    policy("web", ["mon0"], match=[{"proto": "tcp", "dst_port": [80, 443]}]),
    policy("subnet", ["mon0", "mon1"], match=[{"src": "10.0.0.0/24"}, {"dst": "fd00::/64"}],
           **{"except": [{"proto": "udp", "dst_port": 53}]}),
    policy("rest", ["mon1", "mon2"], **{"except": [{"vlan": 7}]}),
]
# What has to look at the frames that come of a packet.
AFTER_THE_CUT = [
    policy("short", ["mon0"], match=[{"length": "0-1000"}]),
    policy("long", ["mon1"], match=[{"length": "1001-9000", "proto": "tcp"}]),
    policy("last", ["mon2"], match=[{"tcp_flags": "psh"}]),
    policy("not-last", ["mon3"], **{"except": [{"tcp_flags": "psh"}]}),
    policy("not-long", ["mon4"], **{"except": [{"length": "1001-9000"}]}),
    policy("third", ["mon5"], sample={"one_in": 3}),
    policy("sliced", ["mon6"], match=[{"proto": "tcp"}], slice=100),
]

Packet = bytes | SuperPacket


def traffic(seed: int) -> list[Packet]:
    """Frames and super-packets of TCP and UDP, IPv4 and IPv6, with tags and without."""
    rng = random.Random(seed)
    tags = ((), ((packets.DOT1Q, 5),), ((packets.DOT1Q, 7),), ((packets.DOT1AD, 9), (packets.DOT1Q, 7)))
    out: list[Packet] = []
    for number in range(60):
        v6 = rng.random() < 0.4
        keys = {
            "src": rng.choice(("fd00::1", "fd01::1") if v6 else ("10.0.0.1", "10.0.1.1")),
            "dst": rng.choice(("fd00::2", "fd02::2") if v6 else ("10.0.0.2", "192.0.2.2")),
            "sport": rng.randrange(1024, 60000), "dport": rng.choice((53, 80, 443, 8080)),
            "tags": rng.choice(tags), "ident": rng.randrange(60000),
        }
        if rng.random() < 0.4:
            size = rng.choice((100, 536, 1400))
            data = rng.randbytes(rng.randrange(size + 1, 40 * size))
            proto = rng.choice(("tcp", "tcp", "udp")) if packets.udp_segments() else "tcp"
            out.append(SuperPacket(proto, data[:60000], size, seq=rng.randrange(1 << 30), **keys))
        else:
            out.append(ip_frame(rng.choice(("tcp", "udp")), rng.randbytes(rng.randrange(1300)), **keys))
    return out


def wire_frames(sent: list[Packet]) -> list[bytes]:
    return [frame for packet in sent
            for frame in (packet.frames if isinstance(packet, SuperPacket) else (packet,))]


class Result:
    """What one way made of the traffic."""

    def __init__(self, lab: Lab, text: str, sent: list[Packet]) -> None:
        with Broker(lab, text) as running:
            for packet in sent:
                if isinstance(packet, SuperPacket):
                    lab.left.send_super(packet)
                else:
                    lab.left.send(packet)
            self.stats = running.settled()
            self.port = tap_ports(self.stats)["t0"]
            assert not any(self.port["missed"].values()), self.port
            assert self.port["rx_frames"] == self.port["passed_frames"] == len(wire_frames(sent))
            shown = lab.tap_ns.run("ip", "-j", "-s", "link", "show", "vtapleg0").stdout
            self.by_leg = json.loads(shown)[0]["stats64"]["tx"]["dropped"]
            counts = by_name(self.stats, "monitors")
            self.copies = [lab.monitor(number).receive(counts[f"mon{number}"]["tx_frames"])
                           for number in range(lab.monitor_count)]
        self.policies = [{key: item for key, item in part.items() if key != "placement"}
                         for part in self.stats["policies"]]


@pytest.mark.parametrize("mode", MODES)
def test_every_way_is_the_same(mode: str) -> None:
    sent = traffic(seed=1)
    for number, frame in enumerate(packets.odd_frames().values()):
        sent.insert(2 * number, frame)
    results = {}
    with Lab(monitors=3) as lab:
        lab.open_wires()
        for way, (tap, keys) in WAYS.items():
            text = config([{**MODES[mode], **tap}], monitors(3, queue=2048),
                          [{**item, **keys} for item in MATCHES])
            results[way] = Result(lab, text, sent)
            lab.clear()
    everything = wire_frames(sent)
    first = results["tee"]
    assert_frames([frame for frame in everything if frame in set(first.copies[2])],
                  first.copies[2], "copies are wire frames, in the order of the originals")
    for way, result in results.items():
        assert {item["placement"] for item in result.stats["policies"]} == \
            {"kernel" if way == "kernel" else "broker"}
        for number, copies in enumerate(first.copies):
            assert_frames(copies, result.copies[number], f"{way}, monitor {number}")
        assert result.policies == first.policies, way
    assert results["kernel"].by_leg == 0


@pytest.mark.parametrize("mode", MODES)
def test_after_the_cut(mode: str) -> None:
    """What hangs on the size or the number of frames, on the frames as they are on the wire."""
    sent = traffic(seed=2)
    everything = wire_frames(sent)
    cut = wire_frames([packet for packet in sent if isinstance(packet, SuperPacket)])
    results = {}
    with Lab(monitors=7) as lab:
        lab.open_wires()
        for way in ("tee", "leg"):
            text = config([{**MODES[mode], **WAYS[way][0]}], monitors(7, queue=2048), AFTER_THE_CUT)
            results[way] = Result(lab, text, sent)
            lab.clear()
    assert len(cut) <= results["tee"].by_leg < results["leg"].by_leg == len(everything)
    for way, result in results.items():
        short, long, last, not_last, not_long, third, sliced = result.copies

        def expect(frames: list[bytes], got: list[bytes], what: str) -> None:
            assert_frames(frames, got, f"{way}: {what}")

        expect([frame for frame in everything if len(frame) <= 1000], short, "short")
        tcp = {frame: segment for frame in everything
               if (segment := packets.tcp_segment(frame)) is not None}
        expect([frame for frame in everything if len(frame) > 1000 and frame in tcp], long, "long")
        expect([frame for frame in everything if frame in tcp and tcp[frame][2] & 8], last, "psh")
        expect([frame for frame in everything if not (frame in tcp and tcp[frame][2] & 8)],
               not_last, "no psh")
        expect([frame for frame in everything if len(frame) <= 1000], not_long, "not-long")
        expect(everything[::3], third, "every third")
        expect([frame[:100] for frame in everything if frame in tcp], sliced, "sliced")
        assert result.policies == results["tee"].policies


@pytest.mark.parametrize("way", ["tee", "leg"])
@pytest.mark.parametrize("keys, wanted", [
    ({"except": [{"tcp_flags": "psh"}]}, [0, 1, 2]),
    ({"match": [{"tcp_flags": "psh"}]}, [3]),
    ({"match": [{"length": "0-1000"}]}, [3]),
    ({"except": [{"length": "0-1000"}]}, [0, 1, 2]),
    ({"match": [{"length": "5000-9000"}]}, []),
], ids=str)
def test_some_of_a_packet(keys: dict, wanted: list[int], way: str) -> None:
    """A policy that, by what the whole packet has, would take all of it or nothing."""
    packet = SuperPacket("tcp", random.Random(1).randbytes(3 * 1400 + 500), 1400)
    with Lab() as lab:
        lab.open_wires()
        text = config([{**MODES["host"], **WAYS[way][0]}], monitors(1), [policy(**keys)])
        with Broker(lab, text) as running:
            lab.left.send_super(packet)
            assert tap_ports(running.settled())["t0"]["matched_frames"] == len(wanted)
            assert_frames([packet.frames[number] for number in wanted],
                          lab.monitor(0).receive(len(wanted)), "copies")


@pytest.mark.parametrize("keys, why", [
    ({"slice": 100}, "it slices"),
    ({"sample": {"flows": 0.5}}, "it samples flows"),
    ({"meter": {"rate": "1Gbit/s", "per": "src"}}, "its meter is for each host or flow"),
    ({"head": 5}, "it has head"),
    ({"slice": {"bytes": 64, "after": 3}}, "it slices after the first packets of a flow"),
    ({"match": [{"length": "60-100"}]}, "length"),
    ({"match": [{"tcp_flags": "syn"}]}, "TCP flags"),
    ({"once": True}, "once"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_the_kernel_cannot_is_said(keys: dict, why: str) -> None:
    with Lab() as lab:
        text = config([inline("tap", hook="tc")], monitors(1), [policy(offload="require", **keys)])
        refused = Broker(lab, text)
        try:
            done = run_broker(lab, "--check", "-c", refused.file)
            assert done.returncode == 2
            assert why in done.stderr and f"{refused.file}:" in done.stderr
        finally:
            refused.discard()


def test_policies_that_share_a_monitor_go_together() -> None:
    """One for the kernel takes those of its monitor along, and is refused if one of them cannot."""
    with Lab(monitors=2) as lab:
        taps = [inline("tap", hook="tc")]
        together = Broker(lab, config(taps, monitors(2), [
            policy("a", offload="require"), policy("b"), policy("c", ["mon1"], slice=64)]))
        apart = Broker(lab, config(taps, monitors(2), [
            policy("a", offload="require"), policy("b", ["mon0", "mon1"]),
            policy("c", ["mon1"], slice=64)]))
        try:
            done = run_broker(lab, "--check", "-c", together.file)
            assert done.returncode == 0, done.stderr
            for name, placement in (("a", "kernel"), ("b", "kernel"), ("c", "broker")):
                assert f"policy {name}: placement {placement}" in done.stdout
            done = run_broker(lab, "--check", "-c", apart.file)
            assert done.returncode == 2
            assert "policy c shares a monitor with it" in done.stderr
        finally:
            together.discard()
            apart.discard()
