# SPDX-License-Identifier: Apache-2.0
"""Flows end to end: which of a flow's packets go on, which are cut, and who shares a rate.

With one worker and with two: these take what different CPUs see, and each flow here goes both ways
and over both CPUs.
"""

from __future__ import annotations

import os
import struct
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import pytest

from broker import Broker, by_name, config, inline, monitors, policy, policy_to
from lab import Lab, Wire
from packets import ip_frame

WORKERS = [1] + [2] * (len(os.sched_getaffinity(0)) > 1)
V4, V6 = ("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2")
LENGTH = 200  # of what is not a fragment


@pytest.fixture(scope="module")
def lab4() -> Iterator[Lab]:
    with Lab(monitors=4) as lab:
        lab.open_wires()
        yield lab


@pytest.fixture
def lab(lab4: Lab) -> Lab:
    lab4.clear()
    return lab4


@pytest.fixture(params=WORKERS, ids=lambda count: f"{count} workers")
def workers(request: pytest.FixtureRequest) -> int:
    return request.param


class Flow:
    """UDP between two ports of two hosts; packets are numbered over both directions."""

    def __init__(self, port: int, ends: tuple[str, str]) -> None:
        self.port, self.ends, self.packets = port, ends, 0

    def frames(self, back: bool, fragmented: bool = False) -> list[bytes]:
        """The next packet: one frame, or three."""
        number, self.packets = self.packets, self.packets + 1
        a, b = self.ends[::-1] if back else self.ends
        sport, dport = (53, self.port) if back else (self.port, 53)
        keys = {"src": a, "dst": b, "ident": self.port * 64 + number & 0xFFFF}
        tag = struct.pack("!4sHBB", b"FLOW", self.port, number, back)
        if not fragmented:
            data = tag.ljust(LENGTH - (62 if ":" in a else 42), b"\xA5")
            return [ip_frame(data=data, sport=sport, dport=dport, **keys)]
        first = ip_frame(data=tag.ljust(120, b"\xA5"), sport=sport, dport=dport, offset=0,
                         more=True, **keys)
        return [first, *(ip_frame(data=tag.ljust(120, b"\xA5"), offset=offset, more=offset == 128,
                                  **keys) for offset in (128, 248))]


def of_flow(frame: bytes) -> tuple[int, int]:
    """Port and number of a flow's packet."""
    at = frame.index(b"FLOW")
    port, number = struct.unpack_from("!HB", frame, at + 4)
    return port, number


def over_cpus(sends: Sequence[tuple[Wire, list[bytes]]]) -> None:
    """Sends in order; each send goes on from another CPU, so that the workers take turns."""
    cpus = sorted(os.sched_getaffinity(0))
    try:
        for number, (wire, frames) in enumerate(sends):
            os.sched_setaffinity(0, {cpus[number // 3 % len(cpus)]})
            for frame in frames:
                wire.send(frame)
            if number % 16 == 15:
                time.sleep(0.001)
    finally:
        os.sched_setaffinity(0, cpus)


def exchange(lab: Lab, flows: Sequence[Flow], rounds: int, fragments: bool = False) \
        -> list[list[bytes]]:
    """Every flow gets a packet each round, from the left and from the right in turn; with
    `fragments` each third is fragmented. Returns the packets."""
    sends = []
    for number in range(rounds):
        for flow in flows:
            back = number % 2 == 1
            wire = lab.right if back else lab.left
            sends.append((wire, flow.frames(back, fragments and number % 3 == 2)))
    over_cpus(sends)
    return [frames for _, frames in sends]


def both_workers_work(running: Broker, workers: int) -> None:
    assert sum(worker["frames"] > 0 for worker in running.stats()["workers"]) == workers


def mixed_flows(count: int, first: int = 2000) -> list[Flow]:
    return [Flow(first + n, V6 if n % 2 else V4) for n in range(count)]


def test_head_and_slice_after_are_exact(lab: Lab, workers: int) -> None:
    """Of each flow the first five frames, both directions together; and whole the first four."""
    text = config([inline()], monitors(3), [
        policy("head", ["mon0"], head=5),
        policy("after", ["mon1"], slice={"bytes": 64, "after": 4}),
        policy("both", ["mon2"], head=6, slice={"bytes": 64, "after": 2}, flow_entries=4096),
    ], workers=workers)
    flows = mixed_flows(100)
    with Broker(lab, text) as running:
        packets = exchange(lab, flows, 10)
        frames = [frame for packet in packets for frame in packet]
        stats = running.settled()
        both_workers_work(running, workers)
        got = [lab.monitor(number).receive(policy_to(stats, name, f"mon{number}")["sent_frames"])
               for number, name in enumerate(("head", "after", "both"))]
    assert [len(copies) for copies in got] == [500, 1000, 600]
    assert by_name(stats, "policies")["head"]["dropped"]["head"] == 500
    assert by_name(stats, "policies")["after"]["dropped"]["head"] == 0
    assert by_name(stats, "policies")["both"]["dropped"]["head"] == 400
    sent = Counter(frames)
    assert not Counter(got[0]) - sent, "what came was sent, byte for byte"
    for number, whole, cut in ((0, 5, 0), (1, 4, 6), (2, 2, 4)):
        lengths: dict[int, Counter[int]] = defaultdict(Counter)
        for copy in got[number]:
            lengths[_port(copy)][len(copy)] += 1
        assert set(lengths) == {flow.port for flow in flows}
        for port, found in lengths.items():
            assert (found[LENGTH], found[64], found.total()) == (whole, cut, whole + cut), port
    if workers == 1:  # between workers there is no order
        first = [frame for frame in frames if of_flow(frame)[1] < 5]
        assert Counter(got[0]) == Counter(first)


def _port(frame: bytes) -> int:
    """The port of a flow, of a copy that may be cut."""
    at = 14 + (20 if frame[12:14] == b"\x08\x00" else 40)
    return max(struct.unpack_from("!HH", frame, at))


def test_flow_samples_keep_whole_flows(lab: Lab, workers: int) -> None:
    """Both directions, IPv4 and IPv6, and fragments with the flow that they belong to."""
    text = config([inline()], monitors(1), [policy("half", sample={"flows": 0.5})],
                  workers=workers)
    flows = mixed_flows(200)
    with Broker(lab, text) as running:
        packets = exchange(lab, flows, 6, fragments=True)
        stats = running.settled()
        both_workers_work(running, workers)
        copies = lab.monitor(0).receive(policy_to(stats, "half")["sent_frames"])
    taken = {of_flow(copy)[0] for copy in copies}
    assert 60 < len(taken) < 140
    assert {port % 2 for port in taken} == {0, 1}, "of both families"
    wanted = [frame for packet in packets for frame in packet if of_flow(frame)[0] in taken]
    assert Counter(copies) == Counter(wanted), "a flow is taken whole or not at all"


def test_fragments_count_with_their_flow(lab: Lab, workers: int) -> None:
    """The third packet of each flow has three frames: the third, fourth and fifth of the flow."""
    text = config([inline()], monitors(1), [policy("head", head=4)], workers=workers)
    flows = mixed_flows(100)
    with Broker(lab, text) as running:
        packets = exchange(lab, flows, 4, fragments=True)
        stats = running.settled()
        copies = lab.monitor(0).receive(policy_to(stats, "head")["sent_frames"])
    assert sum(map(len, packets)) == 600
    assert Counter(of_flow(copy)[0] for copy in copies) == {flow.port: 4 for flow in flows}
    assert by_name(stats, "policies")["head"]["dropped"]["head"] == 200


def test_a_meter_per_source_lets_mice_through(lab: Lab, workers: int) -> None:
    """An elephant sends far above the rate; hosts below it lose nothing. With one bucket for all,
    beside it, they do."""
    meter = {"rate": "1pps", "burst": 20}
    text = config([inline()], monitors(2), [
        policy("each", ["mon0"], meter={**meter, "per": "src"}),
        policy("all", ["mon1"], meter=meter)], workers=workers)
    mice = [Flow(2000 + n, (f"10.1.{n}.1", "10.0.0.2") if n % 2 else
                 (f"2001:db8:{n}::1", "2001:db8::2")) for n in range(50)]
    elephant = Flow(1999, V4)
    sends = []
    for _ in range(10):
        for mouse in mice:
            sends.append((lab.left, mouse.frames(False)))
            elephant.packets = 0
            sends.append((lab.left, [elephant.frames(False)[0] for _ in range(3)]))
    start = time.monotonic()
    with Broker(lab, text) as running:
        over_cpus(sends)
        stats = running.settled()
        seconds = time.monotonic() - start
        both_workers_work(running, workers)
        each, all_ = (policy_to(stats, name, to)["sent_frames"]
                      for name, to in (("each", "mon0"), ("all", "mon1")))
        copies = Counter(of_flow(copy)[0] for copy in lab.monitor(0).receive(each))
    assert 20 <= copies.pop(elephant.port) <= 20 + seconds
    assert copies == {mouse.port: 10 for mouse in mice}, "no mouse lost a frame"
    assert 20 <= all_ <= 20 + seconds
    counters = by_name(stats, "policies")["each"]
    assert counters["metered"]["green_frames"] == each
    assert counters["metered"]["yellow_frames"] == counters["dropped"]["meter"] == 2000 - each


@pytest.mark.parametrize("exceed", [{"slice": 64}, {"one_in": 10}], ids=["slice", "one in"])
def test_three_colours(lab: Lab, workers: int, exceed: dict[str, int]) -> None:
    """Two buckets, and hardly any time for tokens to come back: so many of each colour."""
    meter = {"rate": "1pps", "burst": 100, "peak_rate": "1pps", "peak_burst": 300,
             "exceed": exceed}
    text = config([inline()], monitors(1), [policy("three", meter=meter)], workers=workers)
    start = time.monotonic()
    with Broker(lab, text) as running:
        exchange(lab, mixed_flows(100), 10)
        stats = running.settled()
        seconds = time.monotonic() - start
        counters = by_name(stats, "policies")["three"]
        copies = lab.monitor(0).receive(counters["monitors"][0]["sent_frames"])
        both_workers_work(running, workers)
    green, yellow, red = (counters["metered"][f"{colour}_frames"]
                          for colour in ("green", "yellow", "red"))
    assert green + yellow + red == counters["matched_frames"] == 1000
    assert 100 <= green <= 100 + seconds
    assert 300 <= green + yellow <= 300 + seconds
    lengths = Counter(map(len, copies))
    if "slice" in exceed:
        assert lengths == {LENGTH: green, 64: yellow}
        assert counters["dropped"]["meter"] == red
    else:
        assert lengths == {LENGTH: green + (yellow + 9) // 10}


def test_a_small_flow_table_forgets_and_nothing_else(lab: Lab) -> None:
    """More flows at once than there is room for: then some begin anew, but the ledger holds and
    what is seen often is not forgotten."""
    text = config([inline()], monitors(1), [policy("head", head=2, flow_entries=8)])
    busy, flows = Flow(1999, V4), mixed_flows(64)
    sends = []
    for _ in range(4):
        for flow in flows:
            sends.append((lab.left, flow.frames(False)))
            sends.append((lab.left, busy.frames(False)))
            sends.append((lab.left, []))
    with Broker(lab, text) as running:
        for number, (wire, frames) in enumerate(sends):
            wire.send_all(frames)
            if number % 3 == 2:
                time.sleep(0.006)  # so that the busy one is more recent than the others
        stats = running.settled()
        copies = lab.monitor(0).receive(policy_to(stats, "head")["sent_frames"])
    seen = Counter(of_flow(copy)[0] for copy in copies)
    assert seen.pop(busy.port) == 2
    assert seen == {flow.port: 4 for flow in flows}, "each was pushed out before it came again"
