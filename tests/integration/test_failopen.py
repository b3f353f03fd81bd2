# SPDX-License-Identifier: Apache-2.0
"""Fail open: the broker is killed, hung, stopped and started while numbered frames flow both ways.

A tee loses, reorders and delays no original. Inline redirect loses at most what its rings held, is
on the plain path within a second of a hang, and sends nothing late."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import packets
from broker import (CAPTURES, TEES, Broker, by_name, config, inline, ledgers_hold, monitors, policy,
                    shifted_clock, simple_config, tap_ports)
from lab import (Lab, assert_frames, assert_restored, carry, differences, eventually,
                 snapshot)
from traffic import BothWays, Delivery

RATE = 1000             # frames per second and direction
HANG_S = 3.0
FALLBACK_S = 1.0        # a hang may cost redirect's originals for this long
LATEST_S = 0.7          # an original of redirect that is older than this must not be sent any more
RING_FRAMES = 300       # what rings may hold at a crash; at this rate a healthy broker holds few

tees = pytest.mark.parametrize("capture", TEES)
captures = pytest.mark.parametrize("capture", CAPTURES)


@contextmanager
def lab_for(capture: str, **keys) -> Iterator[Lab]:
    with Lab(napi_ends=capture != "tc", **keys) as lab:
        lab.open_wires()
        yield lab


def assert_harmless(traffic: BothWays, capture: str) -> None:
    """What a crash, a restart or a stop may do: nothing to a tee, little to a redirect."""
    for what, delivery in traffic.deliveries:
        if capture == "redirect":
            delivery.assert_order(what)
            assert len(delivery.lost) <= RING_FRAMES, f"{what}: {len(delivery.lost)} lost"
            assert max(delivery.delays_s()) < LATEST_S
        else:
            delivery.assert_complete(what)
            assert max(delivery.delays_s()) < 0.25, f"{what}: delayed"


@captures
def test_kill_and_restart(capture: str) -> None:
    with lab_for(capture) as lab, Broker(lab, simple_config(CAPTURES[capture])) as running:
        with BothWays(lab, RATE) as traffic:
            time.sleep(0.3)
            running.kill()
            time.sleep(0.5)
            running.start()
            time.sleep(0.5)
            assert tap_ports(running.stats())["t0"]["copied_frames"] > 0
        assert_harmless(traffic, capture)
        lab.clear()
        carry([packets.sized(60, n) for n in range(300)], lab.left, lab.right, lab.monitors)
        ledgers_hold(running.settled())


@captures
def test_kill_again_and_again(capture: str) -> None:
    """Also while it starts."""
    with lab_for(capture) as lab, Broker(lab, simple_config(CAPTURES[capture])) as running:
        with BothWays(lab, RATE) as traffic:
            for pause in (0.0, 0.01, 0.03, 0.1, 0.2, 0.3):
                running.kill()
                running.start(wait_ready=False)
                time.sleep(pause)
            running.kill()
            running.start()
        if capture == "redirect":
            for what, delivery in traffic.deliveries:
                delivery.assert_order(what)
        else:
            assert_harmless(traffic, capture)
        lab.clear()
        carry([packets.sized(60, n) for n in range(300)], lab.left, lab.right, lab.monitors)


@captures
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_stop_and_restart(capture: str, number: signal.Signals) -> None:
    with lab_for(capture) as lab, Broker(lab, simple_config(CAPTURES[capture])) as running:
        with BothWays(lab, RATE) as traffic:
            time.sleep(0.2)
            assert running.stop(number) == 0
            time.sleep(0.3)
            running.start()
            time.sleep(0.2)
        # Not even a redirect loses or turns around anything when it has the time to say goodbye.
        for what, delivery in traffic.deliveries:
            delivery.assert_complete(what)
            limit = LATEST_S if capture == "redirect" else 0.25
            assert max(delivery.delays_s()) < limit, f"{what}: delayed"


def test_stop_with_copies_waiting_at_another_worker() -> None:
    """Copies that wait for a shaped monitor do not count as originals under way: the stop finds its
    moment, and turns nothing around."""
    text = config([inline(**CAPTURES["redirect"])], [*monitors(1), *monitors(2, rate="100kbit/s")[1:]],
                  [policy(to=["mon1"])], workers=2)
    for _ in range(4):
        with lab_for("redirect", monitors=2) as lab, Broker(lab, text) as running:
            with BothWays(lab, 4 * RATE) as traffic:
                time.sleep(0.3)
                assert by_name(running.stats(), "monitors")["mon1"]["waiting_frames"] > 0
                assert running.stop() == 0
                time.sleep(0.2)
            for what, delivery in traffic.deliveries:
                delivery.assert_complete(what)


@tees
def test_tee_does_not_care_about_a_hang(capture: str) -> None:
    with lab_for(capture) as lab, Broker(lab, simple_config(CAPTURES[capture])) as running:
        with BothWays(lab, RATE) as traffic:
            running.hang()
            time.sleep(HANG_S)
            running.resume()
            time.sleep(0.3)
        assert_harmless(traffic, capture)
        ledgers_hold(running.settled())
        lab.clear()
        carry([packets.sized(60, n) for n in range(300)], lab.left, lab.right, lab.monitors)


@tees
def test_tee_does_not_care_about_full_rings(capture: str) -> None:
    """Hung for longer than its memory lasts: copies are missed and counted, originals pass."""
    with lab_for(capture) as lab:
        text = config([inline(**CAPTURES[capture])], monitors(1, queue=512), [policy()],
                      umem={"frames": 4096, "frame_size": 2048})
        with Broker(lab, text) as running:
            running.hang()
            frames = [packets.sized(60, n) for n in range(20000)]
            lab.left.send_all(frames)
            assert_frames(frames, lab.right.receive(len(frames)), "originals")
            running.resume()
            stats = running.settled()
            port = tap_ports(stats)["t0"]
            assert port["passed_frames"] == port["matched_frames"] == len(frames)
            assert port["missed"].get("no_free_frame", 0) + port["missed"].get("ring_full", 0) > 0
            sent = by_name(stats, "monitors")["mon0"]["tx_frames"]
            assert len(lab.monitor(0).receive(sent)) == sent > 0


def _after(delivery: Delivery, since_ns: int, until_ns: int) -> set[int]:
    """Numbers of the frames sent in a span of time."""
    return {number for number, sent in enumerate(delivery.sent) if since_ns <= sent < until_ns}


def test_redirect_hangs() -> None:
    """The plain path within a second; after the resume nothing stale, and copies again."""
    with lab_for("redirect") as lab, Broker(lab, simple_config(CAPTURES["redirect"])) as running:
        with BothWays(lab, RATE) as traffic:
            hung = time.time_ns()
            running.hang()
            time.sleep(HANG_S)
            resumed = time.time_ns()
            running.resume()
            time.sleep(0.7)
        for what, delivery in traffic.deliveries:
            delivery.assert_order(what)
            late = [delay for delay in delivery.delays_s() if delay > LATEST_S]
            assert not late, f"{what}: {len(late)} originals came late, up to {max(late):.2f} s"
            arrived = set(delivery.numbers)
            plain = _after(delivery, hung + int(FALLBACK_S * 1e9), resumed)
            assert len(plain) > RATE / 10, "the test itself sent too little"
            assert plain <= arrived, f"{what}: the plain path lost {len(plain - arrived)}"
            assert len(delivery.lost) <= FALLBACK_S * RATE + RING_FRAMES
            end = _after(delivery, resumed + 300_000_000, 1 << 63)
            assert end <= arrived, f"{what}: {len(end - arrived)} lost after the resume"
        running.settled()
        lab.clear()
        carry([packets.sized(60, n) for n in range(300)], lab.left, lab.right, lab.monitors)


def test_redirect_counts_what_was_stale() -> None:
    """What the rings held at a hang is dropped on the resume, under its name."""
    with lab_for("redirect") as lab, Broker(lab, simple_config(CAPTURES["redirect"])) as running:
        running.hang()
        frames = [packets.sized(60, n) for n in range(50)]
        lab.left.send_all(frames)
        time.sleep(1.5)
        assert lab.right.receive(0) == []
        running.resume()
        assert lab.right.receive(0, quiet=0.5) == [], "stale originals were sent"
        port = tap_ports(running.settled())["t0"]
        assert port["rx_frames"] == 50 and port["passed_frames"] == 0
        assert port["not_passed"]["stale"] == 50


@tees
def test_started_under_ip_netns_exec(capture: str) -> None:
    """In a private mount namespace pins die with the process; a wire must not."""
    with lab_for(capture) as lab:
        launcher = ["ip", "netns", "exec", lab.tap_ns.name]
        with Broker(lab, simple_config(CAPTURES[capture]), launcher=launcher) as running:
            with BothWays(lab, RATE) as traffic:
                running.kill()
                time.sleep(0.5)
                running.start()
                time.sleep(0.2)
                assert running.stop() == 0
                time.sleep(0.3)
            assert_harmless(traffic, capture)


@captures
@pytest.mark.parametrize("shift", ["ahead", "behind"])
def test_started_in_a_time_namespace(capture: str, shift: str) -> None:
    """Its clock is not that of the programs."""
    uptime = int(time.clock_gettime(time.CLOCK_MONOTONIC))
    seconds = 100_000 if shift == "ahead" else -uptime // 2
    with lab_for(capture) as lab, shifted_clock(seconds) as launcher:
        with Broker(lab, simple_config(CAPTURES[capture]), launcher=launcher) as running:
            offsets = Path(f"/proc/{running.pid}/timens_offsets").read_text().split()
            assert int(offsets[1]) == seconds, "else this test shows nothing"
            for source, sink in lab.directions():
                carry([packets.sized(60, n) for n in range(300)], source, sink, lab.monitors)
            ledgers_hold(running.settled())


@captures
def test_tap_port_down_and_up(capture: str) -> None:
    with lab_for(capture) as lab, Broker(lab, simple_config(CAPTURES[capture])) as running:
        frames = [packets.sized(60, n) for n in range(200)]
        carry(frames, lab.left, lab.right, lab.monitors)
        for name in ("t0", "t1"):
            lab.port(name).down()
            time.sleep(0.5)
            assert running.running
            lab.port(name).up()
            time.sleep(1.5)
            lab.clear()
            for source, sink in lab.directions():
                carry(frames, source, sink, lab.monitors)
        running.settled()


@tees
@pytest.mark.parametrize("gone", [("t0",), ("t1",), ("t0", "t1")], ids="+".join)
def test_tap_port_deleted_and_made_again(capture: str, gone: tuple[str, ...]) -> None:
    """As the ports of virtual machines are. The tap goes on, and so do its counters."""
    with lab_for(capture) as lab, Broker(lab, simple_config(CAPTURES[capture])) as running:
        frames = [packets.sized(60, n) for n in range(200)]
        for source, sink in lab.directions():
            carry(frames, source, sink, lab.monitors)
        ends = {"t0": lab.left, "t1": lab.right}
        for name in gone:
            lab.port(name).delete()
        time.sleep(0.3)
        assert running.running
        lost = 0
        if gone == ("t1",):  # the kernel drops what is sent there, and that is told
            lost = 20
            lab.left.send_all([packets.sized(60, n) for n in range(lost)])
        for name in gone:
            lab.link(name, ends[name].port)
            if capture == "xdp":
                ends[name].port.offload("gro", "on", "tx", "off", "tso", "off")
            ends[name].reopen()
        assert eventually(lambda: all(port["state"] == "up"
                                      for port in tap_ports(running.stats()).values()))
        lab.clear()
        for source, sink in lab.directions():
            carry(frames, source, sink, lab.monitors)
        stats = running.settled()
        ledgers_hold(stats)
        ports = tap_ports(stats)
        assert [ports[name]["copied_frames"] for name in ("t0", "t1")] == [400 + lost, 400]
        assert [ports[name]["passed_frames"] for name in ("t0", "t1")] == [400, 400]
        assert ports["t0"]["not_passed"]["tx_failed"] == lost
        assert running.stop() == 0
        running.detach()
        assert "vtap" not in lab.tap_ns.run("bpftool", "net", "show").stdout


@tees
def test_host_port_deleted_and_made_again(capture: str) -> None:
    with lab_for(capture) as lab:
        tap = {"name": "server", "mode": "host", "ports": ["t0", "t1"], "direction": "ingress",
               **CAPTURES[capture]}
        text = config([tap], monitors(1), [policy()])
        with Broker(lab, text) as running:
            lab.port("t0").delete()
            lab.right.send(packets.sized(60, 1))  # the other port's copies go on meanwhile
            assert_frames([packets.sized(60, 1)], lab.monitor(0).receive(1), "copy of t1")
            lab.link("t0", lab.left.port)
            lab.left.reopen()
            assert eventually(lambda: tap_ports(running.stats())["t0"]["state"] == "up")
            lab.left.send(packets.sized(60, 2))
            assert_frames([packets.sized(60, 2)], lab.monitor(0).receive(1), "copy of t0")
            ledgers_hold(running.settled())


@captures
def test_start_lets_nothing_fall(capture: str) -> None:
    """Left as a stub by a clean stop, the wire carries through the next start and stop."""
    with lab_for(capture) as lab, Broker(lab, simple_config(CAPTURES[capture])) as running:
        assert running.stop() == 0
        for source, sink in lab.directions():
            carry(list(packets.odd_frames().values()), source, sink, lab.monitors, copies=[])
        running.start()


@captures
@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_detach_leaves_the_machine_as_found(capture: str, how: str) -> None:
    with lab_for(capture, ipv6=("tap",), monitors=2) as lab:
        time.sleep(0.1)
        lab.port("t1").offload("gro", "on")   # to be found again as it was
        lab.port("m0").set("promisc on")
        before = _steady_snapshot(lab)
        running = Broker(lab, simple_config(CAPTURES[capture], monitor_count=2))
        try:
            running.start()
            assert differences(before, snapshot(lab.tap_ns)), "the snapshot sees no broker"
            lab.clear()
            carry([packets.sized(60, n) for n in range(50)], lab.left, lab.right, lab.monitors)
            if how == "killed":
                running.kill()
            else:
                assert running.stop() == 0
            assert differences(before, snapshot(lab.tap_ns)), "a stop leaves the stubs"
            running.detach()
            assert_restored(before, lab.tap_ns)
            lab.left.send(packets.sized(60))
            assert not [frame for frame in lab.right.receive(0, quiet=0.1)
                        if frame == packets.sized(60)], "the wire is gone"
            running.detach()  # again: nothing to do, and no error
            assert_restored(before, lab.tap_ns)
        finally:
            running.close()


def _steady_snapshot(lab: Lab) -> dict[str, object]:
    """With IPv6 on, addresses appear in their own time."""
    before = snapshot(lab.tap_ns)
    for _ in range(20):
        time.sleep(0.3)
        last, before = before, snapshot(lab.tap_ns)
        if not differences(last, before):
            break
    return before


@captures
def test_stop_start_kill_start_then_detach(capture: str) -> None:
    """What was found first is what comes back, not what an earlier run had made of it."""
    with lab_for(capture) as lab:
        lab.port("t0").offload("gro", "on")
        before = snapshot(lab.tap_ns)
        running = Broker(lab, simple_config(CAPTURES[capture]))
        try:
            running.start()
            running.stop()
            running.start()
            running.kill()
            running.start()
            running.stop()
            running.detach()
            assert_restored(before, lab.tap_ns)
        finally:
            running.close()


@tees
def test_no_ipv6_chatter_from_the_tap(capture: str) -> None:
    """IPv6 autoconfiguration of inline and monitor ports would send frames that nobody sent."""
    with lab_for(capture, ipv6=("tap",)) as lab, Broker(lab, simple_config(CAPTURES[capture])):
        lab.clear()
        for name in ("t0", "t1", "m0"):
            lab.port(name).down()
            lab.port(name).up()
        for wire in (lab.left, lab.right, lab.monitor(0)):
            assert wire.receive(0, quiet=1.0) == [], f"{wire}: a frame of the tap's own"


# --- twice --------------------------------------------------------------------------------------

@captures
def test_starting_twice_is_refused_by_name(capture: str) -> None:
    with lab_for(capture) as lab, Broker(lab, simple_config(CAPTURES[capture])) as running:
        with BothWays(lab, RATE) as traffic:
            before = snapshot(lab.tap_ns)
            done = running.ns.run(running.process.args[0], "-c", running.file, check=False)
            assert done.returncode == 1, done.stderr
            assert running.name in done.stderr
            assert not differences(before, snapshot(lab.tap_ns))
        traffic.assert_complete()
        assert running.running and running.stats()["name"] == running.name


@pytest.mark.parametrize("shared", ["tap", "monitor"])
def test_another_config_that_shares_a_port_is_refused(shared: str) -> None:
    with lab_for("tc", monitors=2, pairs=2) as lab:
        text = config([inline("mine")], monitors(1), [policy()])
        ports, monitor = (("t1", "t2"), "m1") if shared == "tap" else (("t2", "t3"), "m0")
        with Broker(lab, text, name="first-broker") as running:
            other = Broker(lab, config([inline("theirs", ports)], [{"name": "x", "port": monitor}],
                                       [policy(to=["x"])]))
            before = snapshot(lab.tap_ns)
            try:
                other.start(wait_ready=False)
                assert other.process.wait(15) == 1
                assert ("t1" if shared == "tap" else "m0") in other.log()
                assert "first-broker" in other.log()
                assert not differences(before, snapshot(lab.tap_ns))
            finally:
                other.discard()
            carry([packets.sized(60, n) for n in range(100)], lab.left, lab.right,
                  [lab.monitor(0)])
            assert running.running


def test_two_brokers_side_by_side() -> None:
    """Different ports of one namespace: both work, and neither's end touches the other."""
    with lab_for("tc", monitors=2, pairs=2) as lab:
        first = Broker(lab, config([inline("one")], monitors(1), [policy()]))
        second = Broker(lab, config([inline("two", ("t2", "t3"))], [{"name": "x", "port": "m1"}],
                                    [policy(to=["x"])]))
        frames = [packets.sized(60, n) for n in range(200)]
        with first:
            with second:
                carry(frames, lab.left, lab.right, [lab.monitor(0)])
                carry(frames, lab.left_of(1), lab.right_of(1), [lab.monitor(1)])
            carry(frames, lab.left, lab.right, [lab.monitor(0)])
            assert by_name(first.settled(), "monitors")["mon0"]["tx_frames"] == 400


def test_same_port_names_in_another_namespace_do_not_meet() -> None:
    frames = [packets.sized(60, n) for n in range(100)]
    with lab_for("tc") as one, lab_for("tc") as two:
        with Broker(one, simple_config()), Broker(two, simple_config()):
            for lab in (one, two):
                carry(frames, lab.left, lab.right, lab.monitors)
