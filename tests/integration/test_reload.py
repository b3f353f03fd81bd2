# SPDX-License-Identifier: Apache-2.0
"""A reload: each packet has the old plan or the new one, no original is lost, counters go on."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import packets
from broker import (CAPTURES, PLACEMENTS, Broker, binary, by_name, config, inline, ledgers_hold,
                    monitors, policy, policy_to, tap_ports)
from lab import Lab, assert_frames, assert_restored, carry, eventually, snapshot
from traffic import BothWays, Flood, Stream, read_stamp

TCP = [packets.ip_frame("tcp", b"%d" % n) for n in range(60)]
UDP = [packets.ip_frame("udp", b"%d" % n, dport=53) for n in range(60)]  # not what a stream sends


def only(proto: str) -> dict:
    return {"match": [{"proto": "tcp"} if proto == "tcp" else {"proto": "udp", "port": 53}]}


@pytest.mark.parametrize("how", PLACEMENTS)
def test_policies_follow_each_other(how: str) -> None:
    """Counters of what stays go on, those of what comes begin, and the ledgers hold throughout."""
    capture, keys = PLACEMENTS[how]
    with Lab(monitors=2, napi_ends=how != "tc", napi_monitors=how == "kernel") as lab:
        lab.open_wires()

        def text(*policies: dict) -> str:
            return config([inline(**capture)], monitors(2), [{**each, **keys} for each in policies])

        stays = policy("stays", ["mon0"], **only("tcp"))
        with Broker(lab, text(stays, policy("goes", ["mon1"], **only("tcp")))) as running:
            carry(TCP, lab.left, lab.right, lab.monitors)
            carry(UDP, lab.left, lab.right, lab.monitors, [])
            running.reload(text(policy("comes", ["mon1"], **only("udp")), stays))
            carry(TCP, lab.left, lab.right, [lab.monitor(0)])
            carry(UDP, lab.left, lab.right, [lab.monitor(1)])
            assert not lab.monitor(0).receive(0) and not lab.monitor(1).receive(0)
            stats = running.settled()
            assert stats["plan"]["generation"] == 2
            assert [item["name"] for item in stats["policies"]] == ["comes", "stays"]
            assert by_name(stats, "policies")["stays"]["matched_frames"] == 2 * len(TCP)
            assert by_name(stats, "policies")["comes"]["matched_frames"] == len(UDP)
            found = by_name(stats, "monitors")
            assert found["mon0"]["tx_frames"] == 2 * len(TCP)
            assert found["mon1"]["tx_frames"] == len(TCP) + len(UDP)
            assert found["mon1"]["removed_policies"]["sent_frames"] == len(TCP)
            assert tap_ports(stats)["t0"]["rx_frames"] == 2 * len(TCP + UDP)


def test_a_monitor_joins_a_policy_and_leaves_it() -> None:
    with Lab(monitors=2) as lab:
        lab.open_wires()

        def text(*names: str) -> str:
            return config([inline()], monitors(2), [policy(to=names)])

        with Broker(lab, text("mon0")) as running:
            carry(TCP, lab.left, lab.right, [lab.monitor(0)])
            running.reload(text("mon0", "mon1"))
            carry(TCP, lab.left, lab.right, lab.monitors)
            stats = running.settled()
            assert policy_to(stats, "all", "mon1")["before_joining"] == len(TCP)
            running.reload(text("mon1"))
            carry(TCP, lab.left, lab.right, [lab.monitor(1)])
            assert not lab.monitor(0).receive(0)
            stats = running.settled()
            assert by_name(stats, "monitors")["mon0"]["removed_policies"]["sent_frames"] == \
                2 * len(TCP)
            assert by_name(stats, "policies")["all"]["matched_frames"] == 3 * len(TCP)


def test_a_storm_of_reloads_keeps_nobody_out() -> None:
    """SIGHUP again and again, faster than a reload is done: the API answers, SIGTERM ends it."""
    with Lab() as lab, Broker(lab, config([inline()], monitors(1), [policy()])) as running:
        stop = threading.Event()

        def storm() -> None:
            with contextlib.suppress(ProcessLookupError):
                while not stop.wait(0.002):
                    os.kill(running.pid, signal.SIGHUP)

        thread = threading.Thread(target=storm)
        thread.start()
        try:
            time.sleep(0.5)
            for _ in range(3):
                assert running.api("GET", "/v1/status")[0] == 200
            assert running.stop() == 0
        finally:
            stop.set()
            thread.join()
        running.start()


BROKEN = {
    "syntax": ("[[policy]\n", "tap.toml:"),
    "unknown name": (config([inline()], monitors(1), [policy(to=["nobody"])]), "nobody"),
    "no such port": (config([inline(ports=["t0", "nowhere9"])], monitors(1), [policy()]),
                     "nowhere9"),
    "umem": (config([inline()], monitors(1), [policy()],
                    umem={"frames": 16384, "frame_size": 2048}), "umem.frames"),
    "workers": (config([inline()], monitors(1), [policy()], workers=2), "workers"),
    "claimed": (config([inline()], [*monitors(1), {"name": "more", "port": "x9"}], [policy()]),
                "x9"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_does_not_load_changes_nothing(what: str) -> None:
    text, named = BROKEN[what]
    with Lab() as lab:
        lab.open_wires()
        good = config([inline()], monitors(1), [policy(**only("tcp"))])
        with Broker(lab, good) as running, BothWays(lab) as traffic:
            before = snapshot(lab.tap_ns)
            running.write(text)
            status, answer = running.api("POST", "/v1/reload")
            assert status == 422 and named in answer["error"], answer
            assert named in running.api("GET", "/v1/status")[1]["last_reload"]["error"]
            assert running.api("GET", "/v1/config")[1]["generation"] == 1
            assert_restored(before, lab.tap_ns)
            lab.monitor(0).clear()
            lab.left.send_all(TCP)
            assert eventually(lambda: by_name(running.stats(), "policies")["all"]
                              ["matched_frames"] == len(TCP))
            assert_frames(TCP, lab.monitor(0).receive(len(TCP)), "the old plan's copies")
            running.write(good)
        traffic.assert_complete()


@pytest.mark.parametrize("how", CAPTURES)
def test_taps_ports_and_monitors_come_and_go(how: str) -> None:
    """Under traffic through what stays, and through what goes: that becomes a wire."""
    with Lab(monitors=2, pairs=2, napi_ends=how != "tc") as lab:
        lab.open_wires()
        first = inline("first", ("t0", "t1"), **CAPTURES[how])
        second = inline("second", ("t2", "t3"), **CAPTURES[how])
        one, two = monitors(2)
        small = config([first], [one], [policy(**only("tcp"))])
        large = config([second, first], [two, one],
                       [policy("more", ["mon1"], taps=["second"], **only("udp")),
                        policy(**only("tcp"))])
        with Broker(lab, small) as running:
            found = snapshot(lab.tap_ns)
            with BothWays(lab) as traffic:
                for _ in range(2):
                    running.reload(large)
                    with BothWays(lab, pair=1) as more:
                        carried = lab.left_of(1)
                        carried.send_all(UDP)
                        assert_frames(UDP, lab.monitor(1).receive(len(UDP)), "of the new tap")
                        running.reload(small)
                    more.assert_complete()
            traffic.assert_complete()
            status = running.api("GET", "/v1/status")[1]
            assert status["left_wires"] == ["t2", "t3"]
            code, done = running.api("POST", "/v1/detach", {})
            assert code == 200 and done["undone"], done
            assert running.api("POST", "/v1/detach", {"ports": ["t0"]})[0] == 422
            left = {key: value for key, value in snapshot(lab.tap_ns).items()
                    if not key.startswith("bpf ") and "first" not in key}
            assert {key: left[key] for key in left if " t2" in key or " t3" in key} == \
                {key: found[key] for key in found if " t2" in key or " t3" in key}
            ledgers_hold(running.settled())


def test_ports_are_set_back_by_a_broker_that_was_restarted() -> None:
    """What it met there when it started was its own, and not what it found."""
    with Lab(monitors=2, pairs=2) as lab:
        lab.open_wires()
        base = inline("base", ("t0", "t1"))
        small = config([base], monitors(1), [policy()])
        large = config([base, {"name": "span", "mode": "span", "ports": ["t2"]},
                        {"name": "host", "mode": "host", "ports": ["t3"]}], monitors(2),
                       [policy(to=["mon0", "mon1"])])

        def found() -> dict[str, object]:
            return {key: value for key, value in snapshot(lab.tap_ns).items()
                    if any(f" {port}" in key for port in ("t2", "t3", "m1"))}

        with Broker(lab, small) as running:
            before = found()
            running.reload(large)
            assert found() != before
            assert running.stop() == 0
            running.start()
            running.reload(small)
            assert found() == before


def test_a_wire_that_was_left_stays_one_when_a_reload_fails() -> None:
    with Lab(monitors=1, pairs=2) as lab:
        lab.open_wires()
        base = inline("base", ("t0", "t1"))
        small = config([base], monitors(1), [policy()])
        taken = {"name": "taken", "mode": "host", "ports": ["t2"]}
        lab.tap_ns.ip("link add x9 type veth peer name x8", "link set x9 up", "link set x8 up")
        others = config([{"name": "other", "mode": "host", "ports": ["x9"]}],
                        [{"name": "x", "port": "x8"}], [])
        with Broker(lab, others):
            with Broker(lab, config([base, inline("left", ("t2", "t3"))], monitors(1),
                                    [policy()])) as running:
                running.reload(small)
                running.write(config([base, taken], [*monitors(1), {"name": "x", "port": "x9"}],
                                     [policy()]))
                status, answer = running.api("POST", "/v1/reload")
                assert status != 200 and "x9" in answer["error"], answer
                carry(TCP, lab.left_of(1), lab.right_of(1))
                carry(TCP, lab.right_of(1), lab.left_of(1))
                assert running.api("GET", "/v1/status")[1]["left_wires"] == ["t2", "t3"]
                running.reload(config([base, taken], monitors(1), [policy()]))
                lab.left_of(1).send_all(TCP)
                assert_frames(TCP, lab.monitor(0).receive(len(TCP)), "of the wire that was")
                running.settled()
                assert running.api("POST", "/v1/detach", {})[0] == 200


def test_redirect_goes_while_its_worker_is_behind() -> None:
    """Full RX rings on one port of a pair, none on the other: what is taken out of them leaves by
    sockets that go, too."""
    with Lab(monitors=1, pairs=2) as lab:
        lab.open_wires()
        base = inline("base", ("t0", "t1"))
        slow = [policy(f"slow{n}", filter=f"ip and udp[8:4] != {n} or tcp[tcpflags] & {n % 255} "
                                          f"!= 77 or ip[8] != 3") for n in range(2500)]
        full = config([base, inline("slow", ("t2", "t3"), capture="redirect")], monitors(1), slow,
                      workers=1)
        small = config([base], monitors(1), [policy()], workers=1)
        with Broker(lab, full) as running:
            stop = threading.Event()
            wire, frame = lab.right_of(1), TCP[0]

            def flood() -> None:
                while not stop.is_set():
                    with contextlib.suppress(OSError):
                        wire.send(frame)

            thread = threading.Thread(target=flood)
            thread.start()
            try:
                time.sleep(1)
                running.reload(small)
            finally:
                stop.set()
                thread.join()
            running.settled()
            assert running.api("POST", "/v1/detach", {})[0] == 200


def test_a_port_changes_its_role() -> None:
    """From a tap's to a monitor's and back, and a pair from one hook to the other."""
    with Lab(monitors=1, pairs=2, napi_ends=True) as lab:
        lab.open_wires()
        base = inline("base", ("t0", "t1"), capture="tee", hook="tc")
        texts = [
            config([base, {"name": "host", "mode": "span", "ports": ["t2"]}], monitors(1),
                   [policy(**only("tcp"))]),
            config([base], [*monitors(1), {"name": "other", "port": "t2"}],
                   [policy(**only("tcp")), policy("other", ["other"], **only("udp"))]),
            config([{**base, "hook": "xdp"}], monitors(1), [policy(**only("tcp"))]),
            config([{**base, "capture": "redirect", "hook": "auto"}], monitors(1),
                   [policy(**only("tcp"))]),
        ]
        with Broker(lab, texts[0]) as running, BothWays(lab) as traffic:
            for number in (1, 2, 3, 0, 3, 1, 0):
                running.reload(texts[number])
                lab.monitor(0).clear()
                lab.left.send_all(TCP)
                assert_frames(TCP, lab.monitor(0).receive(len(TCP)), f"plan {number}")
            running.settled()
        traffic.assert_complete()


@contextlib.contextmanager
def _read_all_the_time(running: Broker, look) -> Iterator[None]:
    """The counters, by three clients at once; `look` is called with each answer."""
    stop = threading.Event()
    problems: list[str] = []

    def read() -> None:
        try:
            while not stop.is_set():
                look(running.api("GET", "/v1/stats")[1])
        except Exception as error:  # of a thread: told below
            problems.append(repr(error))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not problems, problems


def test_counters_are_read_while_monitors_come_and_go() -> None:
    """Whoever reads them meets one plan or the other, and never lists on the way between."""
    with Lab(monitors=3) as lab:
        lab.open_wires()
        large = config([inline()], monitors(3), [policy(to=["mon0", "mon1", "mon2"])])
        small = config([inline()], [monitors(3)[1]], [policy(to=["mon1"])])

        def look(stats: dict) -> None:
            assert len(stats["taps"][0]["ports"]) == 2, stats["taps"]
            assert [each["name"] for each in stats["monitors"]] in (
                ["mon0", "mon1", "mon2"], ["mon1"])

        with Broker(lab, large) as running, _read_all_the_time(running, look):
            for _ in range(15):
                running.reload(small)
                running.reload(large)


def test_a_scheduled_monitor_moves() -> None:
    """What its queue dropped counts once; nothing of it goes on with a later one of its name."""
    with Lab(monitors=2) as lab:
        lab.open_wires()

        def text(port: str, name: str = "slow") -> str:
            return config([inline()], [{"name": name, "port": port, "rate": "50kbit/s",
                                        "queue": 20}], [policy(to=[name])])

        with Broker(lab, text("m0")) as running:
            lab.left.send_all(TCP * 3)
            before = running.settled(10)["monitors"][0]["dropped"]
            assert before["queue_full"] > 0
            running.reload(text("m1"))
            after = running.settled()["monitors"][0]
            assert (after["port"], after["dropped"]) == ("m1", before)
            lab.left.send_all(TCP * 3)
            running.settled(10)
            running.reload(text("m0", "other"))
            running.reload(text("m0"))
            assert sum(running.settled()["monitors"][0]["dropped"].values()) == 0


def test_counters_never_go_back_while_a_monitor_moves() -> None:
    with Lab(monitors=2) as lab:
        lab.open_wires()
        last: dict[int, int] = {}

        def look(stats: dict) -> None:
            counted = stats["monitors"][0]["tx_frames"] + \
                sum(stats["monitors"][0]["dropped"].values())
            client = threading.get_ident()
            assert counted >= last.get(client, 0)
            last[client] = counted

        texts = [config([inline()], [{"name": "mon", "port": f"m{port}"}], [policy(to=["mon"])])
                 for port in range(2)]
        with Broker(lab, texts[0]) as running:
            with BothWays(lab) as traffic, _read_all_the_time(running, look):
                for turn in range(8):
                    running.reload(texts[(turn + 1) % 2])
            traffic.assert_complete()
            running.settled()


def test_scheduled_monitors_change() -> None:
    """Rates, priorities and queues come, change and go; copies keep their order, none is lost."""
    with Lab(monitors=1) as lab:
        lab.open_wires()
        texts = [config([inline()], [{**monitors(1)[0], **keys}],
                        [policy("high", priority=high, **only("tcp")),
                         policy("low", **only("udp"))])
                 for keys, high in (({}, 0), ({"rate": "20Mbit/s"}, 0), ({"rate": "20Mbit/s"}, 3),
                                    ({"queue": 2000}, 5), ({}, 0))]
        with Broker(lab, texts[0]) as running:
            with BothWays(lab) as traffic:
                for text in texts[1:]:
                    lab.monitor(0).clear()
                    lab.left.send_all(TCP)
                    running.reload(text)
                    lab.left.send_all(UDP)
                    got = lab.monitor(0).receive(len(TCP) + len(UDP))
                    assert sorted(got) == sorted(TCP + UDP)
            stats = running.settled()
            assert by_name(stats, "monitors")["mon0"]["tx_frames"] == 4 * len(TCP + UDP)
        traffic.assert_complete()


@pytest.mark.parametrize("how", PLACEMENTS)
def test_no_packet_has_parts_of_both_plans(how: str) -> None:
    """Plan A sends each packet to the first two monitors, plan B to the others."""
    capture, keys = PLACEMENTS[how]
    if how == "kernel":
        keys = {}  # a switch of what the kernel broadcasts is test_policies_follow_each_other's
    with Lab(monitors=4, napi_ends=how != "tc") as lab:
        lab.open_wires()
        texts = [config([inline(**capture)], monitors(4, queue=2048),
                        [policy("x", [f"mon{n}"], **keys), policy("y", [f"mon{n + 1}"], **keys)])
                 for n in (0, 2)]
        with Broker(lab, texts[0]) as running:
            stream = Stream(lab.left, lab.right, rate=4000).start()
            for turn in range(10):
                running.reload(texts[(turn + 1) % 2])
            delivery = stream.stop()
            stats = running.settled()
            delivery.assert_complete("originals")
            at: dict[int, set[int]] = defaultdict(set)
            for number, monitor in enumerate(lab.monitors):
                for frame in monitor.receive(len(delivery.sent), quiet=0.05):
                    at[read_stamp(frame)[1]].add(number)
            missed = sum(sum(port["missed"].values()) for port in tap_ports(stats).values())
            mixed = {seq: where for seq, where in at.items() if where not in ({0, 1}, {2, 3})}
            assert not mixed, f"{len(mixed)} of {len(at)}, such as {next(iter(mixed.items()))}"
            assert len(at) == len(delivery.sent) - missed
            assert {0, 1} in at.values() and {2, 3} in at.values()


def test_samplers_and_meters_go_on() -> None:
    """A reload is no way around a limit."""
    for offload in ("never", "require"):
        with Lab() as lab:
            lab.open_wires()
            text = config([inline(capture="tee", hook="tc")], monitors(1),
                          [policy("metered", meter={"rate": "1pps", "burst": 1024},
                                  offload=offload),
                           policy("third", sample={"one_in": 7}, offload=offload)])
            with Broker(lab, text) as running:
                for turn in range(4):
                    lab.left.send_all(TCP * 6)
                    assert eventually(lambda: tap_ports(running.stats())["t0"]["rx_frames"]
                                      == 360 * (turn + 1))
                    running.reload(text)
                stats = running.settled()
                assert by_name(stats, "policies")["metered"]["matched_frames"] == 1440
                assert 1024 <= policy_to(stats, "metered")["sent_frames"] <= 1030, stats
                sampled = by_name(stats, "policies")["third"]
                assert sampled["matched_frames"] - sampled["dropped"]["sample"] == -(-1440 // 7)


def test_a_start_that_fails_leaves_the_wires_of_before() -> None:
    """Those of a broker that was killed, though the next would have tapped them in another way."""
    with Lab(monitors=1, pairs=2) as lab:
        lab.open_wires()
        lab.tap_ns.ip("link add x9 type veth peer name x8", "link set x9 up", "link set x8 up")
        others = config([{"name": "other", "mode": "host", "ports": ["x9"]}],
                        [{"name": "x", "port": "x8"}], [])
        with Broker(lab, others), Broker(lab, config([inline("left", ("t2", "t3"))], monitors(1),
                                                     [policy()])) as killed:
            killed.kill()
            killed.write(config([{"name": "taken", "mode": "host", "ports": ["t2"]}],
                                [*monitors(1), {"name": "x", "port": "x9"}], [policy()]))
            with pytest.raises(AssertionError, match="x9"):
                killed.start()
            carry(TCP, lab.left_of(1), lab.right_of(1))
            carry(TCP, lab.right_of(1), lab.left_of(1))
            killed.write(config([inline("left", ("t2", "t3"))], monitors(1), [policy()]))
            killed.start()
            lab.monitor(0).clear()
            carry(TCP, lab.left_of(1), lab.right_of(1), lab.monitors)


def test_a_pipe_is_no_config() -> None:
    """It would keep the broker waiting for a writer."""
    with Lab() as lab:
        lab.open_wires()
        text = config([inline()], monitors(1), [policy()])
        with Broker(lab, text) as running:
            file = running.directory / "tap.toml"
            file.unlink()
            os.mkfifo(file)
            status, answer = running.api("POST", "/v1/reload")
            assert status == 422 and "no regular file" in answer["error"], answer
            carry(TCP, lab.left, lab.right, lab.monitors)
            file.unlink()
            running.reload(text)


def _footprint(running: Broker) -> dict[str, int]:
    process = Path("/proc", str(running.pid))
    fds = [os.readlink(fd) for fd in (process / "fd").iterdir()]
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return {"fds": len(fds), "maps": sum("bpf-map" in fd for fd in fds),
            "programs": sum("bpf-prog" in fd for fd in fds),
            "sockets": sum("socket" in fd for fd in fds), "threads": int(status["Threads"]),
            "memory_kb": int(status["VmRSS"].split()[0])}


# The generator's frames come in by XDP alone.
TRAFFIC = {
    "both ways": (None, lambda lab: BothWays(lab, rate=500)),
    "50,000 a second": ("xdp", lambda lab: Flood(lab, binary("VTAP_GEN",
                                                             "tools/vtap-gen/vtap-gen"))),
}


@pytest.mark.parametrize("how", TRAFFIC)
def test_many_reloads_leave_nothing_behind(how: str) -> None:
    """Random plans, good and broken, under traffic: no original lost, no leak of anything.
    VTAP_RELOADS: how many, 60 if not set."""
    rng = random.Random(6)
    reloads = int(os.environ.get("VTAP_RELOADS", "60"))
    hook, traffic_of = TRAFFIC[how]
    hook = {"hook": hook} if hook else {}
    with Lab(monitors=3, pairs=2, napi_ends=True) as lab:
        lab.open_wires()

        def plan() -> str:
            taps = [inline("a", ("t0", "t1"), capture=rng.choice(("tee", "redirect")), **hook)]
            if rng.random() < 0.5:
                taps.append({"name": "b", "mode": rng.choice(("span", "host")), "ports": ["t2"]})
            some = rng.sample(monitors(3, queue=1000), rng.randrange(1, 4))
            if rng.random() < 0.5:
                some[0]["rate"] = rng.choice(("1Gbit/s", "50kpps"))
            names = [each["name"] for each in some]
            policies = [policy(f"p{rng.randrange(6)}{n}", rng.sample(names, rng.randrange(
                1, len(names) + 1)), **rng.choice((only("tcp"), only("udp"), {})),
                **rng.choice(({}, {"slice": 64}, {"sample": {"one_in": 3}}, {"head": 10},
                              {"filter": "ip"}, {"offload": "never"})))
                for n in range(rng.randrange(0, 5))]
            if rng.random() < 0.2:
                return config(taps, some, [*policies, policy("broken", ["nobody"])])
            return config(taps, some, policies)

        base = config([inline("a", ("t0", "t1"), capture="tee", **hook)], monitors(1), [policy()])
        with Broker(lab, base) as running:
            footprints = []
            free = running.settled()["umem"]["free"]
            with traffic_of(lab) as traffic:
                for turn in range(reloads):
                    running.write(plan())
                    status, answer = running.api("POST", "/v1/reload")
                    assert status == 200 or "nobody" in answer["error"], answer
                    if turn in (reloads // 3, reloads - 1):
                        running.reload(base)
                        eventually(lambda: running.stats()["umem"]["free"] > 0)
                        footprints.append(_footprint(running))
                        assert footprints[-1]["programs"] == footprints[0]["programs"]
            traffic.assert_complete()
            early, late = footprints
            assert late["memory_kb"] < early["memory_kb"] * 1.2 + 4096, footprints
            for key in ("fds", "maps", "programs", "sockets", "threads"):
                assert late[key] == early[key], footprints
            running.reload(base)
            free_after = running.settled()["umem"]["free"]
            print(f"{reloads} reloads under {how}:", *footprints, f"free {free}, {free_after}")
            assert abs(free_after - free) <= 64, (free, free_after)
