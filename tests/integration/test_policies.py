# SPDX-License-Identifier: Apache-2.0
"""Policies end to end: which frames they take, what they do to the copies, who gets them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest

import packets
from broker import (PLACEMENTS, Broker, by_name, config, delta, inline, monitors, policy, policy_to,
                    simple_config, tap_ports)
from lab import Lab, assert_frames, carry, eventually
from packets import DOT1AD, DOT1Q, ether, ip_frame
from traffic import stamped

A6, B6 = "2001:db8::1", "2001:db8::2"

# Every key of a match, each in a policy of its own.
MATCHES: dict[str, dict[str, object]] = {
    "src": {"src": "10.0.0.1"},
    "src prefix": {"src": "10.1.0.0/16"},
    "dst list": {"dst": ["10.0.0.9", "192.0.2.0/24", "2001:db8:9::/48"]},
    "host": {"host": "10.9.9.9"},
    "host6": {"host": "2001:db8::7"},
    "host prefix6": {"host": "2001:db8:5::/48"},
    "src_port": {"src_port": 4242},
    "dst_port list": {"dst_port": [80, 443, "8000-8100"]},
    "port": {"port": 53},
    "proto tcp": {"proto": "tcp"},
    "proto number": {"proto": 47},
    "proto icmp6": {"proto": 58},
    "sctp port": {"proto": "sctp", "port": 3868},
    "tcp web": {"proto": "tcp", "dst_port": 80},
    "src_mac": {"src_mac": "02:00:00:00:00:aa"},
    "dst_mac": {"dst_mac": ["02:00:00:00:00:bb", "02:00:00:00:00:bc"]},
    "mac": {"mac": "02:00:00:00:00:cc"},
    "vlan": {"vlan": 100},
    "vlan range": {"vlan": ["200-210", 300]},
    "vlan none": {"vlan": "none", "proto": "udp"},
    "inner_vlan": {"vlan": 10, "inner_vlan": 20},
    "priority tag": {"vlan": 0},
    "ethertype": {"ethertype": 0x88CC},
    "ethertype ip6": {"ethertype": 0x86DD},
    "syn": {"tcp_flags": "syn"},
    "syn without ack": {"tcp_flags": "syn,!ack"},
    "dscp": {"dscp": 46},
    "fragment": {"fragment": True},
    "whole udp": {"fragment": False, "proto": "udp"},
    "length": {"length": "1000-1100"},
    "all of it": {"src": "10.0.0.0/8", "dst": "10.0.0.0/8", "proto": "udp", "port": "6000-6010",
                  "vlan": 100, "dscp": 10, "fragment": False, "length": "60-200"},
}

# What a plain UDP frame over IPv4 from 10.0.0.1 is taken by; most probes add to it.
UDP4 = {"src", "vlan none", "whole udp"}
TAGGED_UDP4 = {"src", "whole udp"}
UDP6 = {"vlan none", "ethertype ip6", "whole udp"}
HOP_BY_HOP, ROUTING, DESTINATION = ((number, bytes(7)) for number in (0, 43, 60))


def udp6(**keys) -> bytes:
    return ip_frame("udp", **{"src": A6, "dst": B6, **keys})


# A frame and the policies that must take it, exactly these.
PROBES: dict[str, tuple[bytes, set[str]]] = {
    "udp": (ip_frame(), UDP4),
    "other source": (ip_frame(src="10.0.0.3"), UDP4 - {"src"}),
    "in the prefix": (ip_frame(src="10.1.255.255"), UDP4 - {"src"} | {"src prefix"}),
    "beside the prefix": (ip_frame(src="10.2.0.0"), UDP4 - {"src"}),
    "prefix at the other end": (ip_frame(dst="10.1.0.5"), UDP4),
    "dst address": (ip_frame(dst="10.0.0.9"), UDP4 | {"dst list"}),
    "dst prefix": (ip_frame(dst="192.0.2.200"), UDP4 | {"dst list"}),
    "dst prefix6": (udp6(dst="2001:db8:9:1::1"), UDP6 | {"dst list"}),
    "host as source": (ip_frame(src="10.9.9.9"), UDP4 - {"src"} | {"host"}),
    "host as destination": (ip_frame(dst="10.9.9.9"), UDP4 | {"host"}),
    "host6 as source": (udp6(src="2001:db8::7"), UDP6 | {"host6"}),
    "host6 as destination": (udp6(dst="2001:db8::7"), UDP6 | {"host6"}),
    "host prefix6": (udp6(dst="2001:db8:5:ffff::1"), UDP6 | {"host prefix6"}),
    "beside host prefix6": (udp6(dst="2001:db8:6::1"), UDP6),
    "source port": (ip_frame(sport=4242), UDP4 | {"src_port"}),
    "source port at the other end": (ip_frame(dport=4242), UDP4),
    "dst port 443": (ip_frame(dport=443), UDP4 | {"dst_port list"}),
    "first of a range": (ip_frame(dport=8000), UDP4 | {"dst_port list"}),
    "last of a range": (ip_frame(dport=8100), UDP4 | {"dst_port list"}),
    "behind a range": (ip_frame(dport=8101), UDP4),
    "port as source": (ip_frame(sport=53), UDP4 | {"port"}),
    "port as destination": (ip_frame(dport=53), UDP4 | {"port"}),
    "port6": (udp6(dport=53), UDP6 | {"port"}),
    "tcp": (ip_frame("tcp"), {"src", "proto tcp"}),
    "tcp web": (ip_frame("tcp", dport=80), {"src", "proto tcp", "tcp web", "dst_port list"}),
    "tcp6 web": (ip_frame("tcp", src=A6, dst=B6, dport=80),
                 {"ethertype ip6", "proto tcp", "tcp web", "dst_port list"}),
    "gre": (ip_frame(47, bytes(40)), {"src", "proto number"}),
    "gre has no ports": (ip_frame(47, b"\x00\x35\x00\x35" + bytes(36)), {"src", "proto number"}),
    "icmp6": (ip_frame("icmp6", src=A6, dst=B6), {"ethertype ip6", "proto icmp6"}),
    "sctp": (ip_frame("sctp", dport=3868), {"src", "sctp port"}),
    "sctp, dns port": (ip_frame("sctp", sport=53), {"src", "port"}),
    "udp on the sctp port": (ip_frame(dport=3868), UDP4),
    "source mac": (ip_frame(src_mac=packets.mac("02:00:00:00:00:aa")), UDP4 | {"src_mac"}),
    "source mac at the other end": (ip_frame(dst_mac=packets.mac("02:00:00:00:00:aa")), UDP4),
    "destination mac": (ip_frame(dst_mac=packets.mac("02:00:00:00:00:bc")), UDP4 | {"dst_mac"}),
    "mac as source": (ip_frame(src_mac=packets.mac("02:00:00:00:00:cc")), UDP4 | {"mac"}),
    "mac as destination": (ip_frame(dst_mac=packets.mac("02:00:00:00:00:cc")), UDP4 | {"mac"}),
    "vlan": (ip_frame(tags=((DOT1Q, 100),)), TAGGED_UDP4 | {"vlan"}),
    "vlan, with priority": (ip_frame(tags=((DOT1Q, 0xE000 | 100),)), TAGGED_UDP4 | {"vlan"}),
    "service tag": (ip_frame(tags=((DOT1AD, 100),)), TAGGED_UDP4 | {"vlan"}),
    "vlan in the range": (ip_frame(tags=((DOT1Q, 210),)), TAGGED_UDP4 | {"vlan range"}),
    "vlan of the list": (ip_frame(tags=((DOT1Q, 300),)), TAGGED_UDP4 | {"vlan range"}),
    "vlan behind the range": (ip_frame(tags=((DOT1Q, 211),)), TAGGED_UDP4),
    "priority tag": (ip_frame(tags=((DOT1Q, 0xA000),)), TAGGED_UDP4 | {"priority tag"}),
    "qinq": (ip_frame(tags=((DOT1AD, 10), (DOT1Q, 20)), dport=53),
             TAGGED_UDP4 | {"inner_vlan", "port"}),
    "qinq the other way round": (ip_frame(tags=((DOT1AD, 20), (DOT1Q, 10))), TAGGED_UDP4),
    "inner id is not outer id": (ip_frame(tags=((DOT1AD, 5), (DOT1Q, 100))), TAGGED_UDP4),
    "lldp": (ether(bytes(46), ethertype=0x88CC), {"ethertype"}),
    "lldp behind a tag": (ether(bytes(46), ethertype=0x88CC, tags=((DOT1Q, 100),)),
                          {"ethertype", "vlan"}),
    "arp": (packets.arp(), set()),
    "arp for a host": (packets.arp("10.9.9.9"), set()),
    "syn": (ip_frame("tcp", flags="syn"), {"src", "proto tcp", "syn", "syn without ack"}),
    "syn ack": (ip_frame("tcp", flags="syn|ack"), {"src", "proto tcp", "syn"}),
    "fin ack": (ip_frame("tcp", flags="fin|ack"), {"src", "proto tcp"}),
    "dscp": (ip_frame(dscp=46), UDP4 | {"dscp"}),
    "dscp6": (udp6(dscp=46), UDP6 | {"dscp"}),
    "first fragment": (ip_frame(data=bytes(32), more=True, dport=53), {"src", "vlan none",
                                                                        "fragment", "port"}),
    "later fragment": (ip_frame(data=b"\x00\x35" * 16, offset=64),
                       {"src", "vlan none", "fragment"}),
    "first fragment6": (udp6(data=bytes(32), more=True, dport=53),
                        {"vlan none", "ethertype ip6", "fragment", "port"}),
    "later fragment6": (udp6(data=b"\x00\x35" * 16, offset=64),
                        {"vlan none", "ethertype ip6", "fragment"}),
    "extension headers": (udp6(extensions=(HOP_BY_HOP, ROUTING, DESTINATION), dport=53),
                          UDP6 | {"port"}),
    "options": (ip_frame(options=bytes.fromhex("94040000"), dport=53), UDP4 | {"port"}),
    "1000 bytes": (ip_frame(data=bytes(958)), UDP4 | {"length"}),
    "999 bytes": (ip_frame(data=bytes(957)), UDP4),
    "1100 bytes, tag counted": (ip_frame(data=bytes(1054), tags=((DOT1Q, 100),)),
                                TAGGED_UDP4 | {"vlan", "length"}),
    "1101 bytes": (ether(bytes(1087)), set()),
    "1000 bytes, padding counted": (packets.arp().ljust(1000, b"\0"), {"length"}),
    "all of it": (ip_frame(data=bytes(60), sport=6010, dscp=10, tags=((DOT1Q, 100),)),
                  TAGGED_UDP4 | {"vlan", "all of it"}),
    "all but the port": (ip_frame(data=bytes(60), sport=6011, dscp=10, tags=((DOT1Q, 100),)),
                         TAGGED_UDP4 | {"vlan"}),
    "experimental": (packets.sized(60), set()),
    "runt": (packets.sized(14), set()),
    "mpls": (ether(bytes.fromhex("00064140") + ip_frame(dport=53)[14:], ethertype=0x8847), set()),
}


def _key(name: str) -> str:
    """The name of a policy in a config, where it holds no spaces."""
    return name.replace(" ", "-")


class Probes:
    """One broker with all of MATCHES; finds out which policies take a frame."""

    def __init__(self, lab: Lab, running: Broker) -> None:
        self.lab, self.broker, self.before = lab, running, running.settled()

    def taken_by(self, frame: bytes) -> set[str]:
        self.lab.clear()
        self.lab.left.send(frame)
        assert_frames([frame], self.lab.right.receive(1, quiet=0.0), "original")
        assert_frames([frame], self.lab.monitor(0).receive(1, quiet=0.0), "copy of the last policy")
        now = eventually(self._counted, 2.0)
        assert now.pop("every-frame") == 1
        assert set(now.values()) <= {0, 1}
        return {name for name in MATCHES if now[_key(name)]}

    def _counted(self) -> dict[str, int]:
        """What each policy took since the last frame; empty as long as none took anything."""
        stats = self.broker.settled()
        counts = {item["name"]: item["matched_frames"]
                  for item in delta(stats, self.before)["policies"]}
        if not any(counts.values()):
            return {}
        self.before = stats
        return counts


@pytest.fixture(scope="module", params=PLACEMENTS)
def probes(request: pytest.FixtureRequest) -> Iterator[Probes]:
    tap, keys = PLACEMENTS[request.param]
    with Lab(napi_ends=request.param != "tc", napi_monitors=request.param == "kernel") as lab:
        lab.open_wires()
        text = config([inline(**tap)], monitors(1), [
            *(policy(_key(name), match=[match], **keys) for name, match in MATCHES.items()),
            policy("every-frame", **keys)])
        with Broker(lab, text) as running:
            yield Probes(lab, running)


def test_match_keys(probes: Probes) -> None:
    """All probes in one test: their differences together say more than one by one."""
    wrong = []
    for name, (frame, wanted) in PROBES.items():
        if (taken := probes.taken_by(frame)) != wanted:
            wrong.append(f"{name}: missing {sorted(wanted - taken)}, "
                         f"extra {sorted(taken - wanted)}")
    assert not wrong, "\n".join(wrong)


def test_table_is_not_vacuous() -> None:
    """Every policy takes a probe and leaves one."""
    for name in MATCHES:
        taken = [name in wanted for _, wanted in PROBES.values()]
        assert any(taken) and not all(taken), name


# --- one lab for what is done to the copies ------------------------------------------------------

@pytest.fixture(scope="module")
def lab4() -> Iterator[Lab]:
    """For both hooks: complete frames, and ends that poll."""
    with Lab(monitors=4, pairs=2, napi_ends=True, napi_monitors=True) as lab:
        lab.open_wires()
        yield lab


@pytest.fixture(params=["broker", "kernel"])
def placed(request: pytest.FixtureRequest):
    """Config text whose policies all go there: by the broker at TC, by the kernel at XDP."""
    def made(taps: list[dict], to: list[dict], policies: list[dict]) -> str:
        if request.param == "kernel":
            tap, keys = PLACEMENTS["kernel"]
            taps = [{**item, **tap} for item in taps]
            policies = [{**item, **keys} for item in policies]
        return config(taps, to, policies)
    return made


@pytest.fixture
def lab(lab4: Lab) -> Lab:
    lab4.clear()
    return lab4


def test_match_is_any_of_and_except_takes_out(lab: Lab, placed) -> None:
    text = placed([inline()], monitors(1), [policy(
        match=[{"proto": "tcp", "dst_port": 80}, {"host": "10.0.0.9"}],
        **{"except": [{"dscp": 46}, {"proto": "udp", "port": 53}]})])
    frames = [ip_frame("tcp", dport=80), ip_frame("tcp", dport=80, dscp=46),
              ip_frame(dst="10.0.0.9"), ip_frame(dst="10.0.0.9", dport=53), ip_frame(),
              ip_frame("tcp", dport=80, dst="10.0.0.9")]
    with Broker(lab, text) as running:
        carry(frames, lab.left, lab.right, [lab.monitor(0)],
              copies=[frames[0], frames[2], frames[5]])
        assert by_name(running.settled(), "policies")["all"]["matched_frames"] == 3


def test_except_alone_takes_from_everything(lab: Lab, placed) -> None:
    frames = list(packets.odd_frames().values())
    wanted = [frame for frame in frames if frame[12:14] != b"\x08\x06"]
    with Broker(lab, placed([inline()], monitors(1), [
            policy(**{"except": [{"ethertype": 0x0806}]})])):
        carry(frames, lab.left, lab.right, [lab.monitor(0)], copies=wanted)


def test_already_sent(lab: Lab, placed) -> None:
    """All policies apply, but a monitor gets a packet once, by the first that sends it."""
    text = placed([inline()], monitors(3), [
        policy("web", ["mon0", "mon1"], match=[{"port": 80}]),
        policy("tcp", ["mon1", "mon2"], match=[{"proto": "tcp"}]),
        policy("all", ["mon0", "mon2"])])
    web, tcp, rest = ip_frame("tcp", dport=80), ip_frame("tcp"), ip_frame()
    frames = [web, tcp, rest] * 10
    with Broker(lab, text) as running:
        carry(frames, lab.left, lab.right, [lab.monitor(0), lab.monitor(2)])
        assert_frames([web, tcp] * 10, lab.monitor(1).receive(20), "copies at mon1")
        stats = running.settled()
        got = {(name, to): (counters["sent_frames"], counters["already_sent"])
               for name in ("web", "tcp", "all") for to in ("mon0", "mon1", "mon2")
               for counters in [item for item in by_name(stats, "policies")[name]["monitors"]
                                if item["name"] == to]}
        assert got == {("web", "mon0"): (10, 0), ("web", "mon1"): (10, 0),
                       ("tcp", "mon1"): (10, 10), ("tcp", "mon2"): (20, 0),
                       ("all", "mon0"): (20, 10), ("all", "mon2"): (10, 20)}


def test_slice(lab: Lab, placed) -> None:
    """The copy keeps the first bytes; another policy's copy of the same packet keeps all."""
    text = placed([inline()], monitors(3), [
        policy("short", ["mon0"], slice=64), policy("shorter", ["mon1"], slice=20),
        policy("whole", ["mon2", "mon0"])])
    frames = [packets.sized(length, length) for length in (14, 20, 21, 63, 64, 65, 500, 1514)]
    with Broker(lab, text) as running:
        carry(frames, lab.left, lab.right, [lab.monitor(2)])
        for number, size in ((0, 64), (1, 20)):
            assert_frames([frame[:size] for frame in frames],
                          lab.monitor(number).receive(len(frames)), f"slices at mon{number}")
        counters = by_name(running.settled(), "monitors")
        for number, size in ((0, 64), (1, 20), (2, 9999)):
            assert counters[f"mon{number}"]["tx_bytes"] == sum(min(len(f), size) for f in frames)


def test_one_in_is_exact(lab: Lab, placed) -> None:
    """The first, and then each Nth of those that match."""
    text = placed([inline()], monitors(3), [
        policy("tenth", ["mon0"], sample={"one_in": 10}, match=[{"proto": "udp"}]),
        policy("third", ["mon1"], sample={"one_in": 3}, match=[{"proto": "udp"}]),
        policy("each", ["mon2"], sample={"one_in": 1}, match=[{"proto": "udp"}])])
    udp = [ip_frame(data=b"%05d" % n) for n in range(1001)]
    mixed = [frame for one in udp for frame in (one, ip_frame("tcp"))]
    with Broker(lab, text) as running:
        lab.left.send_all(mixed)
        assert_frames(mixed, lab.right.receive(len(mixed)), "originals")
        for number, one_in in ((0, 10), (1, 3), (2, 1)):
            wanted = udp[::one_in]
            assert_frames(wanted, lab.monitor(number).receive(len(wanted)), f"one in {one_in}")
        counters = by_name(running.settled(), "policies")
        assert counters["tenth"]["matched_frames"] == 1001
        assert counters["tenth"]["dropped"]["sample"] == 900
        assert counters["third"]["dropped"]["sample"] == 1001 - 334


def test_one_in_counts_over_ports_and_directions(lab: Lab) -> None:
    text = config([inline("one"), inline("two", ("t2", "t3"))], monitors(1),
                  [policy("seventh", sample={"one_in": 7})])
    with Broker(lab, text) as running:
        for n in range(250):
            for wire in (lab.left, lab.right, lab.left_of(1), lab.right_of(1)):
                wire.send(packets.sized(60, n))
        assert len(lab.monitor(0).receive(143)) == 143  # ceil(1000 / 7)
        counters = policy_to(running.settled(), "seventh")
        assert counters["sent_frames"] == 143


def test_flows_stay_together(lab: Lab) -> None:
    """A flow is taken whole or not at all, in both directions, and about the share asked for."""
    text = config([inline()], monitors(1), [policy("half", sample={"flows": 0.5})])
    flows = [("tcp" if n % 2 else "udp", *((A6, B6) if n % 4 > 1 else ("10.0.0.1", "10.0.0.2")),
              1024 + n, 443) for n in range(400)]
    with Broker(lab, text) as running:
        for round_number in range(3):
            for proto, a, b, sport, dport in flows:
                data = b"%d" % round_number
                lab.left.send(ip_frame(proto, data, src=a, dst=b, sport=sport, dport=dport))
                lab.right.send(ip_frame(proto, data, src=b, dst=a, sport=dport, dport=sport))
            time.sleep(0.05)
        sent = policy_to(running.settled(), "half")["sent_frames"]
        copies = lab.monitor(0).receive(sent)
        seen = Counter(_flow_of(copy) for copy in copies)
        assert set(seen.values()) == {6}, "three frames each way, of every flow that is taken"
        assert 0.4 < len(seen) / len(flows) < 0.6


def _flow_of(frame: bytes) -> frozenset[bytes]:
    """Both ends of a flow without tags, in no order."""
    if frame[12:14] == b"\x08\x00":
        return frozenset((frame[26:30] + frame[34:36], frame[30:34] + frame[36:38], frame[23:24]))
    return frozenset((frame[22:38] + frame[54:56], frame[38:54] + frame[56:58], frame[20:21]))


def test_all_and_no_flows(lab: Lab) -> None:
    text = config([inline()], monitors(1), [policy(sample={"flows": 1.0})])
    frames = [ip_frame(sport=1000 + n) for n in range(200)]
    with Broker(lab, text):
        carry(frames, lab.left, lab.right, [lab.monitor(0)])


def test_many_taps_to_one_monitor(lab: Lab, placed) -> None:
    text = placed([inline("one"), inline("two", ("t2", "t3"))], monitors(1), [policy()])
    ways = [(lab.left, lab.right), (lab.right, lab.left), (lab.left_of(1), lab.right_of(1)),
            (lab.right_of(1), lab.left_of(1))]
    with Broker(lab, text) as running:
        sent = [[ether(b"from %d, %03d" % (way, n), src=bytes(5) + bytes([way]))
                 for n in range(200)] for way in range(4)]
        for row in zip(*sent):
            for frame, (source, _) in zip(row, ways):
                source.send(frame)
        copies = lab.monitor(0).receive(800)
        for way, (source, sink) in enumerate(ways):
            assert_frames(sent[way], sink.receive(200), f"originals {source} -> {sink}")
            assert_frames(sent[way], [copy for copy in copies if copy[11] == way], f"copies {way}")
        assert len(copies) == 800
        stats = running.settled()
        assert all(port["copied_frames"] == 200 for port in tap_ports(stats).values())


def bucket_lets_pass(times: list[float], cost: float, rate: float, bucket: float) -> int:
    """Frames that a token bucket passes when they come at these times, each of this cost."""
    tokens, last, passed = bucket, times[0], 0
    for now in times:
        tokens = min(bucket, tokens + (now - last) * rate)
        last = now
        if tokens >= cost:
            tokens -= cost
            passed += 1
    return passed


def test_meter_holds_its_rate(lab: Lab, placed) -> None:
    """Twice the rate is offered for ten seconds: the bucket, and then the rate within 2%. What is
    due goes by when the frames were sent: while the machine stops the sender, a full bucket
    overflows."""
    bits, bucket, per_second = 4_000_000, 50_000, 1000
    text = placed([inline()], monitors(2), [
        policy("bits", ["mon0"], meter={"rate": "4Mbit/s", "burst": "50KB"}),
        policy("packets", ["mon1"], meter={"rate": "1kpps", "burst": 100})])
    size, rate, seconds = 500, 2000, 10
    with Broker(lab, text) as running:
        start = time.monotonic()
        times: list[float] = []
        for number in range(rate * seconds):
            time.sleep(max(0.0, start + number / rate - time.monotonic()))
            lab.left.send(stamped(1, number, size))
            times.append(time.monotonic())
        assert len(lab.right.receive(rate * seconds)) == rate * seconds, "originals are not metered"
        stats = running.settled()
        sent = policy_to(stats, "bits", "mon0")
        due = bucket_lets_pass(times, size, bits / 8, bucket)
        assert sent["sent_bytes"] == pytest.approx(due * size, rel=0.02)
        counted = policy_to(stats, "packets", "mon1")
        due = bucket_lets_pass(times, 1, per_second, 100)
        assert counted["sent_frames"] == pytest.approx(due, rel=0.02)
        assert len(lab.monitor(1).receive(counted["sent_frames"])) == counted["sent_frames"]
        for name, to in (("bits", sent), ("packets", counted)):
            dropped = by_name(stats, "policies")[name]["dropped"]["meter"]
            assert dropped == rate * seconds - to["sent_frames"]


def test_meter_burst(lab: Lab, placed) -> None:
    """A full bucket lets a burst through at once."""
    text = placed([inline()], monitors(1), [policy(meter={"rate": "1kbit/s", "burst": "2KB"})])
    frames = [packets.sized(100, n) for n in range(200)]
    with Broker(lab, text):
        carry(frames, lab.left, lab.right, [lab.monitor(0)], copies=frames[:20])
