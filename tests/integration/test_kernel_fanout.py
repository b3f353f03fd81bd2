# SPDX-License-Identifier: Apache-2.0
"""Policies that the kernel serves at XDP: one verdict for the original and all copies."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import pytest

import packets
from broker import (Broker, by_name, checked, config, inline, monitors, policy, policy_to,
                    tap_ports)
from lab import Lab, assert_frames, carry, eventually, kernel_tells_xdp
from packets import ip_frame
from traffic import BothWays

TAP = inline(capture="tee", hook="xdp")
SPAN = {"name": "feed", "mode": "span", "ports": ["t0"]}


def fan_lab(count: int = 1, **keys: object) -> Lab:
    """Ends and monitors to which XDP can redirect."""
    return Lab(monitors=count, napi_ends=True, napi_monitors=True, **keys)


def require(name: str = "all", to: Sequence[str] = ("mon0",), **keys: object) -> dict:
    return policy(name, to, offload="require", **keys)


def dropped(stats: dict, monitor: str = "mon0") -> dict[str, int]:
    """Reasons that are not zero."""
    reasons = by_name(stats, "monitors")[monitor]["dropped"]
    return {reason: count for reason, count in reasons.items() if count}


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_bytes_and_order(count: int) -> None:
    """Any frame, both ways: original and copies are what was sent."""
    frames = [*packets.odd_frames().values(), *packets.random_frames(300, seed=count),
              *(packets.sized(length) for length in range(14, 1515, 25))]
    with fan_lab(count) as lab:
        lab.open_wires()
        text = config([TAP], monitors(count, queue=512),
                      [require(to=[f"mon{n}" for n in range(count)])])
        with Broker(lab, text) as running:
            for source, sink in lab.directions():
                carry(frames, source, sink, lab.monitors)
            stats = running.settled()
            assert stats["policies"][0]["placement"] == "kernel"
            for port in tap_ports(stats).values():
                assert port["rx_frames"] == port["passed_frames"] == len(frames)
                assert port["matched_frames"] == port["copied_frames"] == len(frames)
            for item in stats["monitors"]:
                assert item["tx_frames"] == 2 * len(frames) and not any(item["dropped"].values())
                assert item["tx_bytes"] == 2 * sum(map(len, frames))


def test_slices() -> None:
    """Each monitor its own, the first policy's that sends to it; the original whole."""
    text = config([TAP], monitors(4), [
        require("short", ["mon0"], slice=64), require("shorter", ["mon1"], slice=20),
        require("whole", ["mon2", "mon0"]),
        require("web", ["mon3"], slice=100, match=[{"port": 80}]),
        require("rest", ["mon3"])])
    frames = [packets.sized(length, length) for length in (14, 20, 21, 63, 64, 65, 500, 1514)] + \
        [ip_frame("tcp", bytes(300), dport=80), ip_frame("tcp", bytes(300), dport=81)] * 20
    expected = {0: [frame[:64] for frame in frames], 1: [frame[:20] for frame in frames],
                2: frames, 3: [frame[:100] if frame[36:38] == b"\0\x50" else frame
                               for frame in frames]}
    with fan_lab(4) as lab:
        lab.open_wires()
        with Broker(lab, text) as running:
            carry(frames, lab.left, lab.right, [lab.monitor(2)])
            for number in (0, 1, 3):
                assert_frames(expected[number], lab.monitor(number).receive(len(frames)),
                              f"slices at mon{number}")
            counters = by_name(running.settled(), "monitors")
            for number, wanted in expected.items():
                assert counters[f"mon{number}"]["tx_bytes"] == sum(map(len, wanted))


# --- the same as by the broker -------------------------------------------------------------------

NEVER = "1bit/s"  # no byte comes back in the time of a test

LIMITED = [
    policy("metered", ["mon0"], meter={"rate": NEVER, "burst": 20_000}),
    policy("rest", ["mon0", "mon1"], match=[{"proto": "udp"}], slice=90),  # mon0 has some already
    policy("third", ["mon2"], sample={"one_in": 3}, slice=60),
    policy("both", ["mon3", "mon1"], sample={"one_in": 2}, match=[{"proto": "tcp"}],
           meter={"rate": NEVER, "burst": 5000, "exceed": {"one_in": 4}, "peak_rate": NEVER,
                  "peak_burst": 90_000}),
    policy("flags", ["mon4"], match=[{"tcp_flags": "syn"}, {"length": "200-300"}],
           **{"except": [{"length": "250-260"}, {"dst_port": 7}]}),
]


def random_policies(rng: random.Random, count: int) -> list[dict]:
    made = []
    for number in range(count):
        keys: dict[str, object] = {}
        if rng.random() < 0.7:
            keys["match"] = [rng.choice((
                {"proto": rng.choice(("tcp", "udp"))}, {"port": rng.choice((53, 80, "1000-40000"))},
                {"length": f"0-{rng.randrange(100, 1000)}"}, {"tcp_flags": "syn"},
                {"src": rng.choice(("10.0.0.1", "10.0.0.0/30"))}, {"vlan": 7}))
                for _ in range(rng.randrange(1, 4))]
        if rng.random() < 0.3:
            keys["except"] = [{"dst_port": rng.choice((53, 80))}]
        if rng.random() < 0.5:
            keys["slice"] = rng.randrange(14, 700)
        if rng.random() < 0.4:
            keys["sample"] = {"one_in": rng.randrange(1, 5)}
        if rng.random() < 0.4:
            keys["meter"] = {"rate": "1pps", "burst": rng.randrange(10, 200)} \
                if rng.random() < 0.5 else {"rate": NEVER, "burst": rng.randrange(2000, 60_000)}
        made.append(policy(f"p{number}", rng.sample([f"mon{n}" for n in range(5)],
                                                    rng.randrange(1, 4)), **keys))
    return made


def random_traffic(rng: random.Random, count: int) -> list[bytes]:
    return [ip_frame(rng.choice(("tcp", "udp")), rng.randbytes(rng.randrange(18, 1400)),
                     src=f"10.0.0.{rng.randrange(1, 8)}", flags=rng.choice(("syn", "psh|ack")),
                     dport=rng.choice((7, 53, 80, 9000)),
                     tags=rng.choice(((), ((packets.DOT1Q, 7),)))) for _ in range(count)]


@pytest.mark.parametrize("seed", [None, *range(6)])
@pytest.mark.parametrize("mode", ["inline", "span"])
def test_placements_are_the_same(mode: str, seed: int | None) -> None:
    """Frame by frame: copies, their order and all counters."""
    rng = random.Random(101 if seed is None else seed)
    rules = LIMITED if seed is None else random_policies(rng, 6)
    sent = random_traffic(rng, 800)
    copies, counters = {}, {}
    with fan_lab(5) as lab:
        lab.open_wires()
        for offload in ("never", "require"):
            text = config([TAP if mode == "inline" else SPAN], monitors(5, queue=2048),
                          [{**item, "offload": offload} for item in rules])
            with Broker(lab, text) as running:
                start = time.monotonic()
                if mode == "inline":
                    carry(sent, lab.left, lab.right)
                else:
                    lab.left.send_all(sent)
                seconds = time.monotonic() - start
                assert seed is None or seconds < 0.9, "a packet came back; too slow to say more"
                assert eventually(lambda: tap_ports(running.stats())["t0"]["rx_frames"]
                                  == len(sent))
                stats = running.settled()
                tx = by_name(stats, "monitors")
                assert not any(any(item["dropped"].values()) for item in tx.values()), tx
                copies[offload] = [lab.monitor(number).receive(tx[f"mon{number}"]["tx_frames"])
                                   for number in range(5)]
                for number in range(5):
                    assert tx[f"mon{number}"]["tx_bytes"] == sum(map(len, copies[offload][number]))
                port = tap_ports(stats)["t0"]
                assert port["matched_frames"] == port["copied_frames"]
                counters[offload, "port"] = port["matched_frames"]
            counters[offload] = [{key: value for key, value in item.items() if key != "placement"}
                                 for item in stats["policies"]]
            assert {item["placement"] for item in stats["policies"]} == \
                {"kernel" if offload == "require" else "broker"}
            lab.clear()
    for number, expected in enumerate(copies["never"]):
        assert_frames(expected, copies["require"][number], f"monitor {number}")
    assert counters["require"] == counters["never"]
    assert counters["require", "port"] == counters["never", "port"]
    if seed is None:
        found = by_name(stats, "policies")
        assert found["metered"]["metered"]["yellow_frames"] > 100
        assert all(found["both"]["metered"][f"{colour}_frames"] > 5
                   for colour in ("green", "yellow", "red")), found["both"]["metered"]
        assert policy_to(stats, "rest", "mon0")["already_sent"] > 5
        assert found["flags"]["matched_frames"] > 100


def test_many_sets_of_monitors() -> None:
    """Each frame to a set of its own: all unions of what policies send to."""
    text = config([TAP], monitors(6, queue=512), [
        require(f"bit{n}", [f"mon{n}"], match=[{"dscp": [value for value in range(64)
                                                        if value >> n & 1]}]) for n in range(6)])
    frames = [ip_frame(dscp=value) for value in range(64)] * 5
    with fan_lab(6) as lab:
        lab.open_wires()
        with Broker(lab, text) as running:
            carry(frames, lab.left, lab.right)
            for n in range(6):
                wanted = [frame for frame in frames if frame[15] >> 2 >> n & 1]
                assert_frames(wanted, lab.monitor(n).receive(len(wanted)), f"mon{n}")
            running.settled()


# --- beside policies of the broker ---------------------------------------------------------------

@pytest.mark.parametrize("mode", ["inline", "span"])
def test_beside_policies_of_the_broker(mode: str) -> None:
    """A frame for both is copied first, and then broadcast."""
    text = config([TAP if mode == "inline" else SPAN], monitors(3), [
        require("fast", ["mon0"], match=[{"proto": "udp"}], slice=50),
        policy("slow", ["mon1"], match=[{"src": "10.0.0.1"}], head=1_000_000),
        policy("filtered", ["mon2"], filter="tcp")])
    rng = random.Random(7)
    frames = [ip_frame(rng.choice(("tcp", "udp")), bytes(60), src=f"10.0.0.{n % 3}")
              for n in range(600)]
    is_udp = [frame[23] == 17 for frame in frames]
    with fan_lab(3) as lab:
        lab.open_wires()
        with Broker(lab, text) as running:
            if mode == "inline":
                carry(frames, lab.left, lab.right)
            else:
                lab.left.send_all(frames)
            wanted = {0: [frame[:50] for frame, udp in zip(frames, is_udp) if udp],
                      1: frames[1::3],
                      2: [frame for frame, udp in zip(frames, is_udp) if not udp]}
            for number, expected in wanted.items():
                assert_frames(expected, lab.monitor(number).receive(len(expected)), f"mon{number}")
            stats = running.settled()
            assert [item["placement"] for item in stats["policies"]] == \
                ["kernel", "broker", "broker"]
            assert stats["taps"][0]["capture"] == "tee"
            port = tap_ports(stats)["t0"]
            assert port["matched_frames"] == port["copied_frames"] == len(frames)
            assert port["passed_frames" if mode == "inline" else "consumed_frames"] == len(frames)


# --- ports that come, go and change --------------------------------------------------------------

def test_monitor_goes_and_comes() -> None:
    frames = [packets.sized(100, n) for n in range(100)]
    with fan_lab(2) as lab:
        lab.open_wires()
        text = config([TAP], monitors(2), [require("a", ["mon0", "mon1"], slice=80),
                                           require("b", ["mon1"])])

        def state(running: Broker) -> str:
            return by_name(running.stats(), "monitors")["mon0"]["state"]

        with Broker(lab, text) as running:
            expected = 0
            for step in ("down", "deleted"):
                if step == "down":
                    lab.port("m0").down()
                else:
                    lab.port("m0").delete()
                assert eventually(lambda: state(running) == "down")
                carry(frames, lab.left, lab.right)
                assert_frames([frame[:80] for frame in frames], lab.monitor(1).receive(100), "mon1")
                expected += 100
                assert dropped(running.settled()) == {"down": expected}
                if step == "down":
                    lab.port("m0").up()
                else:
                    lab.link("m0", lab.peer(0))
                    lab.peer(0).attach_xdp("xdp_foreign")
                    lab.monitor(0).reopen()
                assert eventually(lambda: state(running) == "up")
                # It polls from the moment it has its program; the broker is told.
                assert eventually(lambda: "no_xmit" not in _after_one(lab, running)), \
                    running.counters()
                lab.clear()
                before = by_name(running.settled(), "monitors")["mon0"]
                carry(frames, lab.left, lab.right)
                for number in range(2):
                    assert_frames([frame[:80] for frame in frames],
                                  lab.monitor(number).receive(100), f"mon{number}")
                after = by_name(running.settled(), "monitors")["mon0"]
                assert after["dropped"] == before["dropped"]
                expected = after["dropped"]["down"]
                if step == "down":
                    assert dropped(running.settled()) == {"down": 100}


def _after_one(lab: Lab, running: Broker, size: int = 60) -> dict[str, int]:
    """Reasons that one more frame met at mon0."""
    before = by_name(running.settled(), "monitors")["mon0"]["dropped"]
    carry([packets.sized(size)], lab.left, lab.right)
    after = by_name(running.settled(), "monitors")["mon0"]["dropped"]
    return {reason: after[reason] - before[reason] for reason in after
            if after[reason] != before[reason]}


def test_monitor_that_takes_no_redirected_frames() -> None:
    """Its far end stops polling, and polls again: what the kernel would skip is counted; by the
    program, or where that cannot know, as the device's."""
    reason = "no_xmit" if kernel_tells_xdp() else "device"
    frames = [packets.sized(100, n) for n in range(50)]
    with fan_lab(2) as lab:
        lab.open_wires()
        text = config([TAP], monitors(2), [require(to=["mon0", "mon1"])])
        with Broker(lab, text) as running:
            lab.peer(0).set("xdp off")
            assert eventually(lambda: _after_one(lab, running) == {reason: 1})
            lab.clear()
            so_far = dropped(running.settled())[reason]
            carry(frames, lab.left, lab.right, [lab.monitor(1)])
            assert dropped(running.settled()) == {reason: so_far + 50}
            lab.peer(0).attach_xdp("xdp_foreign")
            assert eventually(lambda: _after_one(lab, running) == {})
            lab.clear()
            carry(frames, lab.left, lab.right, lab.monitors)


def test_output_that_takes_no_redirected_frames() -> None:
    """The original takes the plain path, where its loss is counted; monitors that could have a copy
    go without, under a name of its own. Where nobody knows before, they have it."""
    known = kernel_tells_xdp()
    frames = [packets.sized(100, n) for n in range(50)]
    with fan_lab() as lab:
        lab.open_wires()
        with Broker(lab, config([TAP], monitors(1), [require()])) as running:
            lab.right.port.offload("gro", "off")

            def lost() -> bool:
                lab.left.send(frames[0])
                stats = running.settled()
                failed = tap_ports(stats)["t0"]["not_passed"]["tx_failed"]
                return "no_broadcast" in dropped(stats) if known else failed

            assert eventually(lost)
            before = running.settled()
            lab.clear()
            lab.left.send_all(frames)
            assert eventually(lambda: tap_ports(running.stats())["t0"]["rx_frames"]
                              == tap_ports(before)["t0"]["rx_frames"] + 50)
            stats = running.settled()
            ports = [tap_ports(each)["t0"] for each in (before, stats)]
            assert ports[1]["not_passed"]["tx_failed"] - ports[0]["not_passed"]["tx_failed"] == 50
            missing = [dropped(each).get("no_broadcast", 0) for each in (before, stats)]
            assert missing[1] - missing[0] == (50 if known else 0)
            assert_frames([] if known else frames, lab.monitor(0).receive(0 if known else 50),
                          "copies")
            lab.right.port.offload("gro", "on")
            assert eventually(lambda: _after_one_way(lab))
            lab.clear()
            carry(frames, lab.left, lab.right, lab.monitors)
            running.settled()


def _after_one_way(lab: Lab) -> bool:
    """Whether a frame comes to the monitor and to the other side."""
    lab.left.send(packets.sized(60))
    return all(wire.receive(1, timeout=0.2) for wire in (lab.monitor(0), lab.right))


def test_output_down() -> None:
    frames = [packets.sized(100, n) for n in range(50)]
    with fan_lab() as lab:
        lab.open_wires()
        with Broker(lab, config([TAP], monitors(1), [require()])) as running:
            carry(frames, lab.left, lab.right, lab.monitors)
            lab.port("t1").down()
            assert eventually(lambda: next(port["state"] for tap in running.stats()["taps"]
                                           for port in tap["ports"] if port["name"] == "t1")
                              == "down")
            lab.left.send_all(frames)
            assert eventually(lambda: tap_ports(running.stats())["t0"]["rx_frames"] == 100)
            stats = running.settled()
            port = tap_ports(stats)["t0"]
            assert port["passed_frames"] == 50 and port["not_passed"]["tx_failed"] == 50
            assert dropped(stats) == {"no_broadcast": 50}
            lab.port("t1").up()
            assert eventually(lambda: _after_one_way(lab))
            lab.clear()
            carry(frames, lab.left, lab.right, lab.monitors)
            running.settled()


def test_short_mtu() -> None:
    """Of a monitor: it goes without. Of the output: the original is too long for it either way."""
    short, long = [packets.sized(900, n) for n in range(20)], [packets.sized(1300, n)
                                                              for n in range(20)]
    edge = [packets.sized(1018), packets.sized(1019)]  # 1000 bytes, a header and a tag
    mixed = [frame for pair in zip(short, long) for frame in pair] + edge
    with fan_lab(2) as lab:
        lab.open_wires()
        with Broker(lab, config([TAP], monitors(2), [require(to=["mon0", "mon1"])])) as running:
            lab.port("m0").set("mtu 1000")
            assert eventually(lambda: _after_one(lab, running, 1300) == {"too_long": 1})
            lab.clear()
            before = dropped(running.settled())
            carry(mixed, lab.left, lab.right, [lab.monitor(1)])
            assert_frames([*short, edge[0]], lab.monitor(0).receive(21), "short ones at mon0")
            assert dropped(running.settled()) == {"too_long": before["too_long"] + 21}
            lab.port("m0").set("mtu 1500")
            lab.port("t1").set("mtu 1000")
            assert eventually(lambda: _too_long(lab, running) > 0)
            lab.clear()
            before = running.settled()
            lab.left.send_all(mixed)
            assert_frames([*short, edge[0]], lab.right.receive(21), "short originals")
            for wire in lab.monitors:
                assert_frames([*short, edge[0]], wire.receive(21), "their copies")
            stats = running.settled()
            ports = [tap_ports(each)["t0"] for each in (before, stats)]
            assert ports[1]["not_passed"]["too_long"] - ports[0]["not_passed"]["too_long"] == 21
            for name in ("mon0", "mon1"):
                assert dropped(stats, name)["no_broadcast"] - \
                    dropped(before, name).get("no_broadcast", 0) == 21


def _too_long(lab: Lab, running: Broker) -> int:
    lab.left.send(packets.sized(1300))
    return dropped(running.settled(), "mon1").get("no_broadcast", 0)


def test_frames_that_cannot_be_cloned() -> None:
    """A page has no room for them, or they are in several buffers: originals pass all the same.
    Where the kernel would lose the latter, the tap is refused."""
    sizes = (3000, 3400, 3900, 6000, 8000)
    frames = [packets.sized(size, n) for n, size in enumerate(sizes * 5)]
    with Lab(monitors=2, mtu=9000, napi_ends=True) as lab:
        for number in range(2):  # an XDP program would want a shorter MTU
            lab.peer(number).offload("gro", "on")
        lab.open_wires()
        text = config([TAP], monitors(2), [require(to=["mon0", "mon1"])])
        if not kernel_tells_xdp():
            code, said = checked(lab, text)
            assert code != 0 and "several buffers" in said and "MTU of 3400" in said, said
            return
        with Broker(lab, text) as running:
            carry(frames, lab.left, lab.right)
            stats = running.settled()
            port = tap_ports(stats)["t0"]
            assert port["passed_frames"] == port["copied_frames"] == len(frames)
            for number in range(2):
                copies = [frame for frame in frames if len(frame) <= 3400]
                assert_frames(copies, lab.monitor(number).receive(len(copies)), f"mon{number}")
                assert dropped(stats, f"mon{number}") == \
                    {"too_long_to_clone": len(frames) - len(copies)}


def test_a_monitor_that_is_too_slow() -> None:
    """What its device drops is counted there; every original passes."""
    frames = [packets.sized(200, n) for n in range(6000)]
    with fan_lab(2) as lab:
        lab.open_wires()
        with Broker(lab, config([TAP], monitors(2), [require(to=["mon0", "mon1"])])) as running:
            for first in range(0, len(frames), 100):
                carry(frames[first:first + 100], lab.left, lab.right)
            stats = running.settled()
            assert tap_ports(stats)["t0"]["passed_frames"] == len(frames)
            for number in range(2):
                tx = by_name(stats, "monitors")[f"mon{number}"]["tx_frames"]
                assert len(lab.monitor(number).receive(tx)) == tx


# --- faults --------------------------------------------------------------------------------------

def test_kill_and_restart_under_traffic() -> None:
    """The wire stays a wire; nothing of it is seen by an original."""
    frames = [packets.sized(100, n) for n in range(200)]
    with fan_lab(2) as lab:
        lab.open_wires()
        text = config([TAP], monitors(2), [require(to=["mon0"], slice=70),
                                           require("other", to=["mon1"])])
        with Broker(lab, text) as running:
            with BothWays(lab, 1000) as traffic:
                for _ in range(3):
                    running.kill()
                    time.sleep(0.2)
                    running.start()
                    time.sleep(0.2)
                running.hang()
                time.sleep(0.3)
                running.resume()
                running.stop()
                time.sleep(0.1)
                running.start()
            traffic.assert_complete()
            lab.clear()
            carry(frames, lab.left, lab.right, [lab.monitor(1)])
            assert_frames([frame[:70] for frame in frames], lab.monitor(0).receive(200), "slices")


def test_copies_go_on_while_the_broker_hangs() -> None:
    frames = [packets.sized(100, n) for n in range(2000)]
    with fan_lab() as lab:
        lab.open_wires()
        with Broker(lab, config([TAP], monitors(1), [require()])) as running:
            running.hang()
            carry(frames, lab.left, lab.right, lab.monitors)
            running.resume()
            running.settled()


def test_tap_port_made_again() -> None:
    frames = [packets.sized(100, n) for n in range(100)]
    with fan_lab() as lab:
        lab.open_wires()
        with Broker(lab, config([TAP], monitors(1), [require(slice=64)])) as running:
            carry(frames, lab.left, lab.right)
            lab.port("t1").delete()
            time.sleep(0.2)
            lab.link("t1", lab.right.port)
            lab.right.port.offload("gro", "on", "tx", "off", "tso", "off")
            lab.right.reopen()
            assert eventually(lambda: "taken up again" in running.log())
            assert eventually(lambda: _after_one_way(lab))
            time.sleep(0.2)
            lab.clear()
            for source, sink in lab.directions():
                carry(frames, source, sink)
            copies = [frame[:64] for frame in frames * 2]
            assert_frames(copies, lab.monitor(0).receive(200), "copies")


# --- what is placed where ------------------------------------------------------------------------

@pytest.mark.parametrize("keys, why", [
    ({"sample": {"one_in": 10}}, ""),
    ({"slice": 64}, ""),
    ({"match": [{"length": "60-100"}, {"tcp_flags": "syn"}]}, ""),
    ({"meter": {"rate": "1Mbit/s", "burst": "4KiB"}}, ""),
    ({"meter": {"rate": "1kpps", "burst": 4, "exceed": {"one_in": 2}}}, ""),
    ({"sample": {"flows": 0.5}}, "it samples flows"),
    ({"filter": "tcp"}, "it has a filter"),
    ({"head": 5}, "it has head"),
    ({"slice": {"bytes": 64, "after": 3}}, "it slices after the first packets of a flow"),
    ({"once": True}, "it has once"),
    ({"priority": 1}, "it has a priority"),
    ({"weight": 2}, "it has a weight"),
    ({"meter": {"rate": "1Gbit/s", "exceed": {"slice": 64}}},
     "its meter slices what exceeds the rate"),
    ({"meter": {"rate": "1Gbit/s", "per": "src"}}, "its meter is for each host or flow"),
], ids=str)
def test_what_the_kernel_can(keys: dict, why: str) -> None:
    with fan_lab() as lab:
        code, said = checked(lab, config([TAP], monitors(1), [require(**keys)]))
        if why:
            assert code == 2 and why in said, said
        else:
            assert code == 0 and "policy all: placement kernel (the kernel broadcasts" in said, said


HOST = {"name": "host", "mode": "host", "ports": ["t0"], "hook": "xdp", "direction": "ingress"}


@pytest.mark.parametrize("taps, to, policies, why", [
    ([HOST], {}, [require()], "host is a host tap at xdp"),
    ([inline(capture="redirect")], {}, [require()], "its originals go to the broker"),
    ([TAP], {"rate": "1Gbit/s"}, [require()], "monitor mon0 has a rate"),
    ([TAP], {}, [require("a"), policy("b", filter="tcp")], "policy b shares a monitor with it"),
    ([{**SPAN, "capture": "redirect"}], {}, [require("a"), policy("b", ["mon1"], head=3)],
     "policy b shares a span tap with it"),
    ([TAP, inline("soft", ("t2", "t3"), capture="tee", hook="tc")], {}, [require(slice=64)],
     "it slices"),
    ([TAP], {}, [require(f"p{n}", [f"mon{n}"]) for n in range(8)],
     "more than 256 sets of monitors"),
    ([TAP], {}, [require("all", [f"mon{n}" for n in range(13)], slice=64)],
     "slices to more than 12 monitors"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_refused(taps: list, to: dict, policies: list, why: str) -> None:
    with fan_lab(13, pairs=2) as lab:
        code, said = checked(lab, config(taps, monitors(13, queue=64, **to), policies))
        assert code == 2 and why in said, said


@pytest.mark.parametrize("capture", ["auto", "redirect"])
@pytest.mark.parametrize("unmatched", ["pass", "drop"])
def test_span(capture: str, unmatched: str) -> None:
    """What is monitored is consumed; without a policy for the broker nothing goes by AF_XDP."""
    frames = [ip_frame("tcp" if n % 3 == 0 else "udp", b"%d" % n) for n in range(300)]
    rest = [frame for frame in frames if frame[23] == 17] if unmatched == "pass" else []
    with fan_lab(2) as lab:
        lab.open_wires()
        stack = lab.wire(lab.port("t0"))
        text = config([{**SPAN, "capture": capture, "unmatched": unmatched}], monitors(2),
                      [policy(to=["mon0", "mon1"], match=[{"proto": "tcp"}], **(
                          {} if capture == "auto" else {"offload": "require"}))])
        with Broker(lab, text) as running:
            lab.left.send_all(frames)
            for wire in lab.monitors:
                assert_frames(frames[::3], wire.receive(100), "copies")
            assert_frames(rest, stack.receive(len(rest)), "what the stack gets")
            stats = running.settled()
            by_kernel = capture != "auto" or kernel_tells_xdp()
            assert stats["policies"][0]["placement"] == ("kernel" if by_kernel else "broker")
            port = tap_ports(stats)["t0"]
            assert port["matched_frames"] == port["copied_frames"] == 100
            assert port["consumed_frames"] == (100 if rest else 300)
            assert (port["queues"] == []) == by_kernel


def test_auto() -> None:
    """The kernel where nothing but a span feed is concerned, and all ports can, as far as it tells;
    else the broker."""
    can = "kernel" if kernel_tells_xdp() else "broker"
    with fan_lab(3, pairs=2) as lab:
        def placements(taps: list[dict], policies: list[dict], of: Lab = lab) -> list[str]:
            code, said = checked(of, config(taps, monitors(3), policies))
            assert code == 0, said
            return [line.split("placement ")[1].split()[0] for line in said.splitlines()
                    if line.startswith("policy ")]

        assert placements([SPAN], [policy()]) == [can]
        assert placements([SPAN], [policy(offload="never")]) == ["broker"]
        assert placements([TAP], [policy()]) == ["broker"]
        assert placements([{**SPAN, "capture": "tee", "hook": "tc"}], [policy()]) == ["broker"]
        assert placements([SPAN], [policy("a"), policy("b", ["mon1"], head=5)]) == ["broker"] * 2
        assert placements([SPAN], [policy("a", offload="require"),
                                   policy("b", ["mon1"], head=5)]) == ["kernel", "broker"]
        other = inline("wire", ("t2", "t3"), capture="tee", hook="xdp")
        assert placements([SPAN, other], [policy("a", taps=["feed"]),
                                          policy("b", taps=["wire"])]) == ["broker"] * 2
        assert placements([SPAN, other], [policy("a", taps=["feed"]), policy(
            "b", ["mon1"], taps=["wire"])]) == [can, "broker"]
        lab.peer(0).set("xdp off")
        assert placements([SPAN], [policy()]) == ["broker"]
        code, said = checked(lab, config([SPAN], monitors(3), [policy()]))
        assert ("monitor port m0 takes no frames that XDP redirects" if kernel_tells_xdp()
                else "this kernel does not tell") in said
