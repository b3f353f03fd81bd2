# SPDX-License-Identifier: Apache-2.0
"""The golden cases (tests/golden) over real ports, wherever their policies are placed: the frames
and counters that were reviewed and stored."""

from __future__ import annotations

import json
import re
import struct
import tomllib
from itertools import groupby
from pathlib import Path

import pytest

from broker import Broker, checked, config
from lab import Lab, assert_frames

CASES = Path(__file__).resolve().parent.parent / "golden" / "cases"
# Those whose policies the kernel can serve at XDP, all of them, and whose frames a wire takes.
PLACED = ("one_in", "several_monitors", "slice")
# The kernel could serve these, too, but they have frames of less than a MAC header, which no socket
# sends, or a tap that is no wire.
NOT_SENT = ("except", "match_addresses", "match_link_layer", "match_ports_and_flags",
            "tags_and_fragments", "two_taps")
PORTS = ("t0", "t1", "t2", "t3")


def read_pcap(file: Path) -> list[tuple[int, bytes]]:
    """(time in microseconds, frame)."""
    data = file.read_bytes()
    assert data[:4] == b"\xd4\xc3\xb2\xa1", "little endian, microseconds"
    at, found = 24, []
    while at < len(data):
        seconds, micros, length, _ = struct.unpack_from("<IIII", data, at)
        found.append((seconds * 1_000_000 + micros, data[at + 16:at + 16 + length]))
        at += 16 + length
    return found


class Case:
    """A case with the lab's ports in place of its own, all policies placed alike."""

    def __init__(self, name: str, offload: str) -> None:
        self.folder = CASES / name
        parsed = tomllib.loads((self.folder / "tap.toml").read_text())
        names = [port for tap in parsed["tap"] for port in tap["ports"]]
        assert all(tap["mode"] == "inline" for tap in parsed["tap"]) and len(names) <= len(PORTS)
        self.monitors = [monitor["name"] for monitor in parsed["monitor"]]
        ports = iter(PORTS)
        for tap in parsed["tap"]:
            tap.update(ports=[next(ports) for _ in tap["ports"]], capture="tee", hook="xdp")
        for number, monitor in enumerate(parsed["monitor"]):
            monitor["port"] = f"m{number}"
        for policy in parsed["policy"]:
            policy["offload"] = offload
        self.text = config(parsed["tap"], parsed["monitor"], parsed["policy"])
        self.pairs = len(names) // 2
        arrivals = [(us, number, frame) for number, port in enumerate(names)
                    for us, frame in read_pcap(self.folder / f"{port}.pcap")]
        self.arrivals = sorted(arrivals, key=lambda arrival: arrival[0])  # ties by port, as stored

    def expected(self, monitor: str) -> list[bytes]:
        return [frame for _, frame in read_pcap(self.folder / "expected" / f"{monitor}.pcap")]

    def counters(self) -> dict:
        return json.loads((self.folder / "expected" / "counters.json").read_text())

    def lab(self) -> Lab:
        return Lab(monitors=len(self.monitors), pairs=self.pairs, napi_ends=True,
                   napi_monitors=True, mtu=2000)


def policies_of(counters: dict) -> list[dict]:
    """What the stored counters have of a policy, of the counters at hand."""
    return [{"name": item["name"], "matched_frames": item["matched_frames"],
             "matched_bytes": item["matched_bytes"],
             "dropped": {key: item["dropped"][key] for key in ("sample", "meter")},
             "monitors": item["monitors"]} for item in counters["policies"]]


@pytest.mark.parametrize("offload", ["never", "require"])
@pytest.mark.parametrize("name", PLACED)
def test_golden(name: str, offload: str) -> None:
    case = Case(name, offload)
    assert case.arrivals
    with case.lab() as lab:
        lab.open_wires()
        ways = [way for pair in range(case.pairs) for way in
                ((lab.left_of(pair), lab.right_of(pair)), (lab.right_of(pair), lab.left_of(pair)))]
        with Broker(lab, case.text) as running:
            for number, run in groupby(case.arrivals, key=lambda arrival: arrival[1]):
                frames = [frame for _, _, frame in run]
                source, sink = ways[number]
                source.send_all(frames)
                # The next ones come by another port, and must not overtake these.
                assert_frames(frames, sink.receive(len(frames), quiet=0), f"{source} -> {sink}")
            stats = running.settled()
            assert {item["placement"] for item in stats["policies"]} == \
                {"kernel" if offload == "require" else "broker"}
            for number, monitor in enumerate(case.monitors):
                expected = case.expected(monitor)
                assert_frames(expected, lab.monitor(number).receive(len(expected)), monitor)
            assert policies_of(stats) == policies_of(case.counters())


def test_all_that_can_is_placed() -> None:
    """No case is forgotten: the others are refused."""
    for folder in CASES.iterdir():
        if folder.name in PLACED + NOT_SENT:
            continue
        case = Case(folder.name, "require")
        with case.lab() as lab:
            code, said = checked(lab, case.text)
            assert code == 2 and re.search("offload = \"require\" is impossible", said), folder.name
