# SPDX-License-Identifier: Apache-2.0
"""Meters and samples of policies that the kernel serves: the same copies and counters as by the
broker, and what is different of super-packets, which the kernel passes or drops whole."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence

import pytest

import packets
from broker import (Broker, by_name, checked, config, inline, monitors, policy, policy_to,
                    shifted_clock, tap_ports)
from lab import Lab, assert_frames
from packets import SuperPacket, ip_frame
from traffic import tcp_transfer

TAP = inline(capture="tee", hook="tc")
BURST = 128 << 10  # bytes; the least that the kernel takes, as a super-packet has to fit
NEVER = "1bit/s"   # no byte comes back in the time of a test


def meter(burst: int = BURST, **keys: object) -> dict:
    return {"rate": NEVER, "burst": burst, **keys}


def send(lab: Lab, sent: Sequence[SuperPacket | bytes]) -> None:
    """In order: from one CPU, as what waits on another is overtaken where the sender moves on."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        for number, packet in enumerate(sent, 1):
            if isinstance(packet, SuperPacket):
                lab.left.send_super(packet)
            else:
                lab.left.send(packet)
            if number % 32 == 0:
                time.sleep(0.0005)  # a veth's queue holds only 256 frames
    finally:
        os.sched_setaffinity(0, cpus)


def frames_of(packet: SuperPacket | bytes) -> list[bytes]:
    return packet.frames if isinstance(packet, SuperPacket) else [packet]


POLICIES = [
    policy("metered", ["mon0"], meter=meter()),
    policy("rest", ["mon0", "mon1"], match=[{"proto": "udp"}]),  # mon0 has some already
    policy("third", ["mon2"], sample={"one_in": 3}),
    policy("both", ["mon3", "mon1"], sample={"one_in": 2}, match=[{"proto": "tcp"}],
           meter=meter(exceed={"one_in": 4}, peak_rate=NEVER, peak_burst=BURST + 50_000)),
    policy("enough", ["mon4"], meter={"rate": "400Gbit/s", "burst": 1 << 30}),
]


def test_placements_are_the_same() -> None:
    """Frame by frame: copies, their order and all counters."""
    rng = random.Random(1)
    sent = [ip_frame(rng.choice(("tcp", "udp")), rng.randbytes(rng.randrange(18, 1400)))
            for _ in range(1200)]
    copies, counters = {}, {}
    with Lab(monitors=5) as lab:
        lab.open_wires()
        for offload in ("never", "require"):
            text = config([TAP], monitors(5, queue=2048),
                          [{**item, "offload": offload} for item in POLICIES])
            with Broker(lab, text) as running:
                send(lab, sent)
                stats = running.settled()
                tx = by_name(stats, "monitors")
                assert not any(any(item["dropped"].values()) for item in tx.values())
                copies[offload] = [lab.monitor(number).receive(tx[f"mon{number}"]["tx_frames"])
                                   for number in range(5)]
                port = tap_ports(stats)["t0"]
                assert port["matched_frames"] == port["copied_frames"] == len(sent)
            counters[offload] = [{key: value for key, value in item.items() if key != "placement"}
                                 for item in stats["policies"]]
            assert {item["placement"] for item in stats["policies"]} == \
                {"kernel" if offload == "require" else "broker"}
            lab.clear()
    for number, expected in enumerate(copies["never"]):
        assert_frames(expected, copies["require"][number], f"monitor {number}")
    assert counters["require"] == counters["never"]
    found = by_name(stats, "policies")
    assert found["metered"]["metered"]["yellow_frames"] > 100
    assert all(found["both"]["metered"][f"{colour}_frames"] > 20
               for colour in ("green", "yellow", "red"))
    assert found["both"]["dropped"]["sample"] > 200
    assert policy_to(stats, "rest", "mon0")["already_sent"] > 20
    assert_frames(sent[::3], copies["require"][2], "each third")
    assert_frames(sent, copies["require"][4], "below the rate")


@pytest.mark.parametrize("shift", ["ahead", "behind"])
def test_in_a_time_namespace(shift: str) -> None:
    """The broker's clock is not that of the programs."""
    uptime = int(time.clock_gettime(time.CLOCK_MONOTONIC))
    seconds = 100_000 if shift == "ahead" else -uptime // 2
    sent = [packets.sized(500, number) for number in range(600)]
    passed = sent[:BURST // 500]
    with Lab() as lab, shifted_clock(seconds) as launcher:
        lab.open_wires()
        text = config([TAP], monitors(1), [policy(offload="require", meter=meter())])
        with Broker(lab, text, launcher=launcher) as running:
            send(lab, sent)
            stats = running.settled()
            assert by_name(stats, "monitors")["mon0"]["tx_frames"] == len(passed)
            assert_frames(passed, lab.monitor(0).receive(len(passed)), "the burst")


@pytest.mark.parametrize("unit", ["bytes", "packets"])
def test_super_packets_are_decided_whole(unit: str) -> None:
    """They take the tokens of all their frames, or none. Two rates."""
    rng = random.Random(2)
    sent: list[SuperPacket | bytes] = []
    for number in range(60):
        if number % 3 == 2:
            sent.append(ip_frame("udp", rng.randbytes(rng.randrange(18, 1400))))
            continue
        size = rng.choice((100, 536, 1400))
        ends = rng.choice((("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")))
        tags = rng.choice(((), ((packets.DOT1Q, 7),)))
        data = rng.randbytes(rng.randrange(size + 1, min(40000, 300 * size)))
        sent.append(SuperPacket("tcp", data, size, src=ends[0], dst=ends[1], tags=tags,
                                seq=rng.randrange(1 << 30)))

    def cost(packet: SuperPacket | bytes) -> int:
        frames = frames_of(packet)
        return len(frames) if unit == "packets" else sum(map(len, frames))

    rate, burst = ("1pps", 1024) if unit == "packets" else (NEVER, BURST)
    peak = 2 * burst
    expected, colours, yellow = [], dict.fromkeys(("green", "yellow", "red"), 0), 0
    left = {"rate": burst, "peak": peak}
    for packet in sent:
        if cost(packet) > left["peak"]:
            colour, passes = "red", False
        else:
            left["peak"] -= cost(packet)
            if cost(packet) <= left["rate"]:
                left["rate"] -= cost(packet)
                colour, passes = "green", True
            else:
                colour, passes = "yellow", yellow % 2 == 0
                yellow += 1
        colours[colour] += len(frames_of(packet))
        if passes:
            expected += frames_of(packet)
    assert all(count > 100 for count in colours.values()), colours

    with Lab() as lab:
        lab.open_wires()
        text = config([TAP], monitors(1), [policy(
            offload="require", meter={"rate": rate, "burst": burst, "peak_rate": rate,
                                      "peak_burst": peak, "exceed": {"one_in": 2}})])
        with Broker(lab, text) as running:
            start = time.monotonic()
            send(lab, sent)
            seconds = time.monotonic() - start
            stats = running.settled()
            counted = by_name(stats, "policies")["all"]
            assert counted["matched_frames"] == sum(map(len, map(frames_of, sent)))
            port = tap_ports(stats)["t0"]
            assert port["rx_frames"] == port["matched_frames"] == port["copied_frames"]
            copies = lab.monitor(0).receive(counted["monitors"][0]["sent_frames"])
    assert unit == "bytes" or seconds < 1, "a packet came back; this machine is too slow to say more"
    assert {colour: counted["metered"][f"{colour}_frames"] for colour in colours} == colours
    assert_frames(expected, copies, "copies")


def test_a_sample_takes_super_packets_whole() -> None:
    """Each third packet, with all its frames."""
    sent = [SuperPacket("tcp", random.Random(number).randbytes(100 * (number + 2)), 100)
            for number in range(30)]
    with Lab() as lab:
        lab.open_wires()
        text = config([TAP], monitors(1), [policy(offload="require", sample={"one_in": 3})])
        with Broker(lab, text) as running:
            send(lab, sent)
            stats = running.settled()
            expected = [frame for packet in sent[::3] for frame in packet.frames]
            assert_frames(expected, lab.monitor(0).receive(len(expected)), "copies")
            counted = by_name(stats, "policies")["all"]
            assert counted["dropped"]["sample"] == \
                sum(len(packet.frames) for packet in sent) - len(expected)


def test_what_a_policy_drops_is_matched_at_the_tap() -> None:
    """Also of a super-packet of which the broker takes one frame, by the leg."""
    sent = [SuperPacket("tcp", random.Random(number).randbytes(350), 100) for number in range(20)]
    with Lab(monitors=2) as lab:
        lab.open_wires()
        text = config([TAP], monitors(2), [
            policy("none", offload="require", sample={"one_in": 1000}),
            policy("last", ["mon1"], match=[{"tcp_flags": "psh"}])])
        with Broker(lab, text) as running:
            send(lab, sent)
            stats = running.settled()
            port = tap_ports(stats)["t0"]
            assert port["rx_frames"] == port["matched_frames"] == port["copied_frames"] == 80
            assert_frames(sent[0].frames, lab.monitor(0).receive(4), "the first of the sample")
            assert_frames([packet.frames[-1] for packet in sent], lab.monitor(1).receive(20),
                          "for the broker")


@pytest.mark.parametrize("rate", [8_000_000, 200_000_000])
def test_a_stream_keeps_below_the_rate(rate: int) -> None:
    """TCP of two stacks, in super-packets: no more than the burst and what comes back in the time."""
    size = 8_000_000
    with Lab() as lab:
        lab.open_wires()
        lab.addresses()
        text = config([TAP], monitors(1), [policy(
            offload="require", match=[{"proto": "tcp"}],  # stacks have other things to say, too
            meter={"rate": f"{rate}bit/s", "burst": BURST})])
        with Broker(lab, text) as running:
            start = time.monotonic()
            for host in ("10.0.0.2", "fd00::2"):
                tcp_transfer(lab.right.port.ns, lab.left.port.ns, host, size)
            seconds = time.monotonic() - start
            stats = running.settled()
            counted = by_name(stats, "policies")["all"]
            sent = policy_to(stats, "all")
            copies = lab.monitor(0).receive(sent["sent_frames"])
    assert counted["matched_bytes"] > 2 * size
    assert counted["metered"]["yellow_frames"] == counted["dropped"]["meter"] > 0
    assert len(copies) == sent["sent_frames"] == counted["metered"]["green_frames"]
    assert sum(map(len, copies)) == sent["sent_bytes"]
    assert max(map(len, copies)) <= 1514
    assert BURST // 2 < sent["sent_bytes"] <= BURST + rate / 8 * seconds


FEW = "a {} of less than {} may be less than one super-packet, which the kernel passes or drops whole"


@pytest.mark.parametrize("keys, why", [
    ({"sample": {"one_in": 10}}, ""),
    ({"meter": {"rate": "1Mbit/s", "burst": "128KiB"}}, ""),
    ({"meter": {"rate": "20Mbit/s"}}, ""),
    ({"meter": {"rate": "1kpps", "burst": 1024, "peak_rate": "2kpps", "peak_burst": 1024,
                "exceed": {"one_in": 2}}}, ""),
    ({"sample": {"flows": 0.5}}, "it samples flows"),
    ({"meter": {"rate": "1Mbit/s"}}, FEW.format("burst", "128KiB")),
    ({"meter": {"rate": "1Mbit/s", "burst": BURST - 1}}, FEW.format("burst", "128KiB")),
    ({"meter": {"rate": "1kpps", "burst": 1023}}, FEW.format("burst", "1024 packets")),
    ({"meter": {"rate": "1Mbit/s", "burst": BURST, "peak_rate": "1Mbit/s",
                "peak_burst": BURST - 1, "exceed": {"one_in": 2}}},
     FEW.format("peak_burst", "128KiB")),
    ({"meter": {"rate": "1Gbit/s", "exceed": {"slice": 64}}},
     "its meter slices what exceeds the rate"),
    ({"meter": {"rate": "1Gbit/s", "per": "src"}}, "its meter is for each host or flow"),
    ({"meter": {"rate": "1Gbit/s", "per": "flow"}}, "its meter is for each host or flow"),
], ids=str)
def test_what_the_kernel_can(keys: dict, why: str) -> None:
    with Lab() as lab:
        code, said = checked(lab, config([TAP], monitors(1), [policy(offload="require", **keys)]))
        if why:
            assert code == 2 and why in said, said
        else:
            assert code == 0 and "policy all: placement kernel" in said, said
