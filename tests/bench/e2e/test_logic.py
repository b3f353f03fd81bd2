# SPDX-License-Identifier: Apache-2.0
"""The logic of the benches beside the peers: no root, no build, nothing measured."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import bench  # noqa: E402
import compare  # noqa: E402
import latency  # noqa: E402
import peers  # noqa: E402
import scale  # noqa: E402
from bed import (check, cpu, field, lateness, measure, plots, report, rounds, statistic,  # noqa: E402
                 testbed, vtap)
from bed.contestant import Contestant, Kind, Skip, without_paths  # noqa: E402
from bed.statistic import Spread  # noqa: E402


def figures(originals: float, copies: float | None = None, user: float | None = None) -> dict:
    result = {"originals": originals, "cpu": 1.0, "delivered": 1.0}
    if copies is not None:
        result |= {"copies": copies, "mbit": copies * 64 * 8}
    if user is not None:
        result["user_ns_per_copy"] = user
    return result


def one_round(**names: dict) -> dict:
    return {name.replace("_", "-"): {64: values} for name, values in names.items()}


def about(**more) -> dict:
    return {"command": "tests/bench/e2e/peers.py --rounds 2 --seconds 1", "seconds": 1.0,
            "machine": {"kernel": "6.1.0", "cpus": 2, "cpu": "a CPU", "load": 0.1,
                        "time": "2024-01-02T03:04:05+00:00"}, "kernel": "6.1.0",
            "versions": {"nftables": "1.0.6"}, "cpus_used": {"generator": 0, "worker": 1},
            "sizes": [64], "seed": 1, "programs": "abc", **more}


# --- statistics and targets ---------------------------------------------------------------------

def test_spread() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    assert Spread.of([]) is None


def test_ratios_are_taken_within_a_round_and_against_the_best_of_it() -> None:
    measured = [one_round(tee=figures(4), a=figures(1), b=figures(2)),
                one_round(tee=figures(9), a=figures(3)),
                one_round(tee=figures(9)),
                one_round(a=figures(3))]
    assert statistic.ratios(measured, 64, "originals", ["tee"], ["a", "b"]) == [2.0, 3.0]
    assert statistic.ratios(measured, 1514, "originals", ["tee"], ["a", "b"]) == []


def test_a_base_of_nothing_gives_no_ratio() -> None:
    assert statistic.ratios([one_round(tee=figures(4), a=figures(0))], 64, "originals",
                            ["tee"], ["a"]) == []


@pytest.mark.parametrize(("at_most", "values", "reached"), [
    (False, [0.8, 0.9, 1.0], True), (False, [0.8, 0.89, 1.0], False),
    (True, [50, 60, 70], True), (True, [50, 61, 70], False), (False, [], None)])
def test_the_median_decides(at_most: bool, values: list[float], reached: bool | None) -> None:
    bound = 60 if at_most else 0.9
    target = statistic.Target("x", 64, bound, lambda rounds: values, ("x",), at_most)
    verdict = target.judge([])
    assert verdict.reached is reached
    assert verdict.word() == {True: "reached", False: "**missed**",
                              None: "**not measured**"}[reached]


def test_targets_are_those_asked_for() -> None:
    asked = {(target.what.split(":")[0].split(",")[0], target.size, target.bound)
             for target in statistic.TARGETS}
    assert {("originals", 64, 0.90), ("originals", 64, 2.8), ("originals", 64, 1.4),
            ("copies", 64, 1.1), ("copies", 64, 2.0), ("copies", 1514, 1.6),
            ("copies at four monitors", 64, 1.8), ("copies", 64, 2.5),
            ("user CPU of the broker per copied frame", 64, 60.0)} <= asked


def test_every_name_in_targets_and_ratios_is_a_contestant() -> None:
    names = {*statistic.PEERS, *statistic.PEERS_4,
             *(name for target in statistic.TARGETS for name in target.needs)}
    for _, above, below in statistic.RATIOS:
        names |= {above, *below}
    assert names <= set(field.BY_NAME)
    for name in statistic.PEERS_4:
        assert field.BY_NAME[name].monitors == 4
    peer_names = {c.name for c in field.CONTESTANTS
                  if c.kind is Kind.peer and not c.on_receiver}
    assert peer_names == {*statistic.PEERS, *statistic.PEERS_4}, "every peer counts"


def test_targets_on_figures() -> None:
    measured = [one_round(tee_tc=figures(1.4, 1.1, 70), tc_forward=figures(1.5),
                          mirred=figures(1.0, 1.0), nft_dup=figures(0.5, 0.5))]
    verdicts = {(t.what, t.size): t.judge(measured) for t in statistic.TARGETS}
    assert verdicts["originals: tee-tc / best peer", 64].reached
    assert verdicts["originals: tee-tc / untapped TC forwarding", 64].reached
    assert verdicts["copies: tee-tc / best peer", 64].reached
    assert verdicts["user CPU of the broker per copied frame, tee-tc", 64].reached is False
    assert verdicts["originals: tee-xdp / best peer", 64].reached is None


# --- latency ------------------------------------------------------------------------------------

def test_percentiles_of_a_histogram() -> None:
    histogram = {10: 50, 1024: 49, 4096: 1}
    assert lateness.percentile(histogram, 50) == 0.011
    assert lateness.percentile(histogram, 99) == (1024 + 16) / 1e3
    assert lateness.percentile(histogram, 99.9) == lateness.percentile(histogram, 100) \
        == (4096 + 64) / 1e3
    with pytest.raises(ValueError):
        lateness.percentile({}, 50)


def test_only_the_window_counts() -> None:
    assert lateness.difference({1: 5, 2: 7, 9: 1}, {1: 5, 2: 3}) == {2: 4, 9: 1}


def latency_round(**p999: float) -> dict:
    return {"capacity": {"xdp": {"64": 1.0}}, "cases": {
        name.replace("_", "-").replace("--", ", "): {"64/0.5": {
            "p50": 1.0, "p99": 2.0, "p99.9": value, "max": value, "mpps": 0.5, "delivered": 1.0}}
        for name, value in p999.items()}}


@pytest.mark.parametrize(("tee", "reached"), [(24.9, True), (25.1, False)])
def test_added_latency_is_judged_by_the_control(tee: float, reached: bool) -> None:
    # The control differs by 5 us, so 15 us may be added to the 10 of the base.
    measured = [latency_round(untapped_xdp=10.0, untapped_xdp_aa=5.0, tee_xdp__active=tee)]
    verdict = lateness.judge(measured, "tee-xdp, active", "untapped-xdp", "untapped-xdp-aa",
                             "64/0.5")
    assert verdict and verdict.noise == 5.0 and verdict.reached is reached
    assert lateness.judge(measured, "tee-tc, active", "untapped-tc", "untapped-tc-aa",
                          "64/0.5") is None


def test_latency_section() -> None:
    record = rounds.Record(None, about())
    text, rows = latency.section(record)
    assert text == "" and "not measured" in rows[0][-1]
    record.latency = [latency_round(untapped_xdp=10.0, untapped_xdp_aa=5.0, tee_xdp__active=90.0)]
    text, rows = latency.section(record)
    assert "### 64 bytes, 50% load" in text and "**above**" in text
    assert rows == [["added p99.9 latency of originals, tee-xdp, 50% load", "64",
                     "≤ 5.0 (A/A) + 10 us", "+80.0 us", "**missed**"]]


# --- rounds -------------------------------------------------------------------------------------

def contestants(*names: str) -> list[Contestant]:
    return [Contestant(name, name, Kind.peer, vtap.nothing) for name in names]


def test_orders_change_but_are_the_same_for_the_same_round() -> None:
    names = [str(number) for number in range(10)]
    assert rounds.order(names, 1, 1) == rounds.order(names, 1, 1) != rounds.order(names, 1, 2)
    assert sorted(rounds.order(names, 1, 1)) == names


def test_a_run_goes_on_where_it_ended(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    done: list[str] = []

    def measure_one(contestant: Contestant) -> dict:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(contestant.name)
        return {64: figures(len(done))}
    chosen = contestants("a", "b")
    with pytest.raises(KeyboardInterrupt):
        rounds.run(rounds.Record(file, about()), chosen, 2, 1, lambda c: None, measure_one)
    record = rounds.Record.load(file, about(), peers.SAME)
    assert [len(one) for one in record.rounds] == [2, 1] and record.checked == ["a", "b"]
    done.clear()
    assert rounds.run(record, chosen, 2, 1, lambda c: pytest.fail("checked twice"), measure_one)
    assert len(done) == 1 and [len(one) for one in record.rounds] == [2, 2]
    assert record.rounds[0][rounds.order(["a", "b"], 1, 1)[0]][64]["originals"] == 1


def test_a_file_of_another_build_is_not_gone_on_with(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    rounds.Record(file, about()).save()
    with pytest.raises(bench.BenchError, match="programs"):
        rounds.Record.load(file, about(programs="other"), peers.SAME)


def test_no_measurement_begins_behind_the_deadline() -> None:
    record = rounds.Record(None, about())
    assert not rounds.run(record, contestants("a"), 1, 1, lambda c: pytest.fail("late"),
                          lambda c: pytest.fail("late"), deadline=0.0)


def test_skips_are_loud_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    def check_one(contestant: Contestant) -> None:
        if contestant.name == "a":
            raise Skip("vtap-broker refuses: not on this kernel")

    def measure_one(contestant: Contestant) -> dict:
        if contestant.name == "b":
            raise bench.BenchError("it fell over")
        return {64: figures(1.0)}
    record = rounds.Record(None, about())
    assert rounds.run(record, contestants("a", "b", "c"), 2, 1, check_one, measure_one)
    assert record.skipped == {"a": "vtap-broker refuses: not on this kernel",
                              "b": "round 1: it fell over"}
    assert [set(one) for one in record.rounds] == [{"c"}, {"c"}]
    said = capsys.readouterr().err
    assert "SKIPPED a: vtap-broker refuses: not on this kernel" in said
    assert "SKIPPED b: round 1: it fell over" in said


def test_wrong_bytes_end_the_run() -> None:
    def check_one(contestant: Contestant) -> None:
        raise bench.BenchError("copies are not what was sent")
    with pytest.raises(bench.BenchError):
        rounds.run(rounds.Record(None, about()), contestants("a"), 1, 1, check_one,
                   lambda c: pytest.fail("measured all the same"))


def test_what_is_not_installed_is_named(tmp_path: Path) -> None:
    tools = bench.Tools(tmp_path / "no", tmp_path / "no", tmp_path / "no")
    peer = Contestant("x", "x", Kind.peer, vtap.nothing,
                      packages=(("no-such-program", "its-package"),))
    assert "apt-get install its-package" in (peer.missing(tools) or "")
    assert "not built" in (field.BY_NAME["tee-tc"].missing(tools) or "")
    assert Contestant("y", "y", Kind.peer, vtap.nothing).missing(tools) is None


# --- bytes --------------------------------------------------------------------------------------

def test_frames_of_the_check_are_valid_and_distinct() -> None:
    sent = check.burst(peers.SIZES)
    assert len(set(sent)) == len(sent) == check.EACH * len(peers.SIZES)
    for data in sent:
        assert check.ones_complement(data[14:34]) == 0
        length, = struct.unpack("!H", data[38:40])
        pseudo = data[26:34] + struct.pack("!HH", 17, length)
        assert length == len(data) - 34 and check.ones_complement(pseudo + data[34:]) == 0
    assert {len(data) for data in sent} == set(peers.SIZES)


def test_differences() -> None:
    assert check.differences([b"a", b"b"], [b"b", b"a"]) is None
    assert "1 of 2 did not arrive" in (check.differences([b"a", b"b"], [b"a"]) or "")
    assert "1 came more than once" in (check.differences([b"a"], [b"a", b"a"]) or "")
    wrong = check.differences([b"a"], [b"x"]) or ""
    assert "1 of 1 did not arrive" in wrong and "1 were not sent" in wrong


# --- counters -----------------------------------------------------------------------------------

def test_ticks_by_cpu() -> None:
    text = "cpu  9 9 9 9\ncpu0 100 50 30 1000 2 3 4 0 0 0\ncpu1 1 0 0 0 0 0 0 0 0 0\nintr 1\n"
    times = cpu.parse(text)
    assert times[0] == cpu.Times(150 / cpu.TICKS, 30 / cpu.TICKS, 7 / cpu.TICKS)
    assert cpu.between(times, times)[1].all == 0


def test_udp_counters_of_the_receiver() -> None:
    text = ("Ip: A B\nIp: 1 2\nUdp: InDatagrams NoPorts InErrors OutDatagrams\nUdp: 5 3 2 9\n"
            "UdpLite: InDatagrams NoPorts InErrors\nUdpLite: 1 1 1\n")
    assert testbed.udp_arrived(text) == 10


def test_figures_of_a_window() -> None:
    times = {0: cpu.Times(0.0, 1.0, 1.0), 1: cpu.Times(0.5, 0.25, 0.25)}
    got = measure.figures([(0, 1.0), (0, 5.0), (10, 5.0)],
                          [(2_000_000, 2.0), (1_000_000, 7.0), (1_000_010, 7.0)], times, 100, 2,
                          True)
    assert got["originals"] == 2.0 and got["copies"] == 1.0 and got["copies_least"] == 0.5
    assert got["mbit"] == 1.0 * 800
    assert got["cpu"] == 3.0 / 2 and got["user"] == 0.25
    assert got["user_ns_per_copy"] == 0.5e9 / 2e6
    assert "user" not in measure.figures([(0, 0.0)], [(1, 1.0)], times, 64, 0, False)


def test_shares_of_workers() -> None:
    assert scale.shares({"workers": [{"frames": 3}, {"frames": 1}]}) == {"busiest_worker": 0.75}
    assert scale.worker_cpus(2, 2) == [0, 1] and scale.worker_cpus(1, 4) == [1]


# --- reports ------------------------------------------------------------------------------------

def report_of(**more: dict) -> str:
    record = rounds.Record(None, about())
    record.rounds = [one_round(tee_tc=figures(1.4, 1.1, 70), tc_forward=figures(1.5),
                               mirred=figures(1.0, 1.0), host_mirred=figures(0.5, 0.5), **more)]
    record.skipped = {"fanout": "vtap-broker refuses: no"}
    return report.markdown(record, field.CONTESTANTS, [64], ["bench-copies.png"])


def test_report() -> None:
    text = report_of()
    assert "| originals: tee-tc / best peer | 64 | ≥ 1.4 | 1.40 | reached |" in text
    assert ("| copies: fanout / best peer | 64 | ≥ 2 | – | **not measured** (fanout: vtap-broker "
            "refuses: no) |") in text
    assert "| tee-tc | 70" not in text
    assert "- **fanout**: vtap-broker refuses: no" in text
    assert "## Tap on the receiver" in text and "Kernel 6.1.0, 2 CPUs" in text
    assert "stands for a NIC that delivers complete frames" in text
    assert "![bench-copies.png](bench-copies.png)" in text
    assert str(HERE) not in text and "/tmp" not in text
    for row in text.splitlines():
        if row.startswith("| ") and "---" not in row:
            assert row.endswith("|")


def test_reports_say_how_little_they_are_worth() -> None:
    text = report_of()
    assert "Fewer than 3 rounds" in text and "busy" not in text
    record = rounds.Record(None, about())
    record.rounds = [{}, {}, {}]
    record.about["machine"]["load"] = 3.9
    text = report.markdown(record, field.CONTESTANTS, [64], [])
    assert "Fewer than 3 rounds" not in text and "The machine was busy" in text


def test_tables_are_even() -> None:
    widths: set[int] = set()
    for line in report_of().splitlines() + [""]:
        if line.startswith("|"):
            widths.add(line.count("|"))
        else:
            assert len(widths) <= 1
            widths.clear()


def test_commands_shown_are_of_the_repository() -> None:
    shown = peers.command_shown(peers.parse_arguments(
        ["--rounds", "3", "--output", "/some/where", "--build-dir", "/else/where"]))
    assert shown == "tests/bench/e2e/peers.py --rounds 3 --seconds 1"


def test_refusals_are_told_without_paths() -> None:
    directory = Path("/tmp/vtap-bench-x")
    assert without_paths(f"{directory}/tap.toml:3:1: no", directory) == "tap.toml:3:1: no"
    assert vtap.refusal("a\n\nb\n", directory) == "vtap-broker refuses: a | b"


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="apt-get install python3-matplotlib")
    record = rounds.Record(None, about())
    record.rounds = [{"tee-tc": {64: figures(1, 1), 1514: figures(1, 1)}},
                     {"tee-tc": {64: figures(2, 1), 1514: figures(2, 1)}}]
    files = plots.draw(record, field.CONTESTANTS, [64, 1514], tmp_path)
    assert "bench-copies.png" in files and "bench-host-copies.png" not in files
    assert all((tmp_path / file).read_bytes().startswith(b"\x89PNG") for file in files)


# --- comparing ----------------------------------------------------------------------------------

@pytest.mark.parametrize(("changed", "noise", "less", "word"), [
    ([1.2, 1.3, 1.2], [0.9, 1.0, 1.1], False, "better"),
    ([1.2, 1.3, 1.2], [0.9, 1.0, 1.1], True, "**worse**"),
    ([0.8, 0.7, 0.8], [0.9, 1.0, 1.1], False, "**worse**"),
    ([1.05, 1.05, 1.05], [0.9, 1.0, 1.1], False, "no difference seen"),
    ([1.2, 0.9, 1.3], [0.99, 1.01, 1.0], False, "no difference seen"),
    ([], [1.0], False, "–")])
def test_a_difference_is_one_that_noise_does_not_explain(changed, noise, less, word) -> None:
    assert compare.verdict(changed * 2, noise * 2, less) == word
    if changed:
        assert compare.verdict(changed, noise, less) == "too few rounds"


# --- commands -----------------------------------------------------------------------------------

@pytest.mark.parametrize("script", ["peers.py", "latency.py", "scale.py", "compare.py"])
def test_commands_explain_themselves(script: str) -> None:
    done = subprocess.run([sys.executable, str(HERE / script), "--help"], text=True,
                          capture_output=True)
    assert done.returncode == 0 and "usage" in done.stdout


def test_unknown_contestants_are_refused() -> None:
    with pytest.raises(SystemExit):
        peers.parse_arguments(["--contestants", "nobody"])


def test_records_are_json(tmp_path: Path) -> None:
    record = rounds.Record(tmp_path / "bench.json", about())
    record.rounds = [one_round(tee_tc=figures(1.0, 1.0))]
    record.save()
    assert json.loads((tmp_path / "bench.json").read_text())["rounds"][0]["tee-tc"]["64"]["copies"]
