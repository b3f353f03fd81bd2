# SPDX-License-Identifier: Apache-2.0
"""The logic of the IDS experiment (tools/ids), without Suricata, root or a broker."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import struct
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "ids" / "ids_lab.py"
sys.path[:0] = [str(SCRIPT.parent), str(ROOT / "tests" / "integration")]

import ids_lab  # noqa: E402
import packets  # noqa: E402
from idslab import bed, judge, report, rules, scenario, suricata, traffic  # noqa: E402
from idslab.flow import Flow, flow  # noqa: E402
from idslab.suricata import Alert, Failed, Observation  # noqa: E402
from idslab.traffic import Attack  # noqa: E402


@pytest.fixture(scope="module")
def made() -> traffic.Traffic:
    return traffic.make(7, traffic.SMALL)


# --- reading frames, independently of what made them --------------------------------------------

@dataclasses.dataclass(frozen=True)
class Read:
    flow: Flow
    source: tuple[str, int]
    target: tuple[str, int]
    flags: int  # of TCP; 0 in UDP
    payload: bytes


def read(frame: bytes) -> Read:
    assert frame[12:14] == b"\x08\x00" and frame[14] == 0x45
    total, = struct.unpack("!H", frame[16:18])
    assert total == len(frame) - 14
    proto = {6: "tcp", 17: "udp"}[frame[23]]
    src, dst = (socket.inet_ntoa(frame[at:at + 4]) for at in (26, 30))
    sport, dport = struct.unpack("!HH", frame[34:38])
    payload = frame[34 + (frame[46] >> 4) * 4:] if proto == "tcp" else frame[42:]
    return Read(flow(proto, src, sport, dst, dport), (src, sport), (dst, dport),
                frame[47] if proto == "tcp" else 0, payload)


def by_flow(frames: list[bytes]) -> dict[Flow, list[Read]]:
    found: dict[Flow, list[Read]] = defaultdict(list)
    for frame in frames:
        item = read(frame)
        found[item.flow].append(item)
    return found


def to_server(talk: list[Read]) -> bytes:
    return b"".join(item.payload for item in talk if item.source == talk[0].source)


MARKERS = {"http-uri": rules.HTTP_MARKER.encode(), "shell": rules.SHELL_MARKER.encode(),
           "split": rules.SPLIT_MARKER.encode(), "ssh-brute-force": b"SSH-2.0-lab",
           "dns-name": b"\x04evil\x08vtap-lab\x07example\x00",
           "beacon": rules.BEACON_MARKER.encode(), "late": rules.LATE_MARKER.encode()}


# --- traffic ------------------------------------------------------------------------------------

def test_a_seed_gives_the_same_pcap_in_every_process(tmp_path: Path, made) -> None:
    for name in ("one", "two"):
        # Another order of sets and dictionaries' hashes changes nothing.
        code = (f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
                "from pathlib import Path\nfrom idslab import traffic\n"
                f"traffic.make(7, traffic.SMALL).write(Path({str(tmp_path / name)!r}))")
        subprocess.run(["/usr/bin/python3", "-B", "-c", code], check=True,
                       env=os.environ | {"PYTHONHASHSEED": str(len(name) + ord(name[0]))})
    first = (tmp_path / "one").read_bytes()
    assert first == (tmp_path / "two").read_bytes()
    assert packets.read_pcap(tmp_path / "one") == made.frames
    assert traffic.make(8, traffic.SMALL).frames != made.frames


def test_frames_are_complete(made) -> None:
    assert all(packets.checksums_valid(frame) for frame in made.frames)
    assert max(map(len, made.frames)) <= 1514


def test_flows_are_those_in_the_pcap(made) -> None:
    counted = Counter({name: len(talk) for name, talk in by_flow(made.frames).items()})
    assert counted == made.flows
    for attack in made.attacks:
        assert attack.flows == {name: counted[name] for name in attack.flows}


def test_every_kind_of_attack_is_there_as_often_as_asked(made) -> None:
    sizes, kinds = traffic.SMALL, Counter(attack.kind for attack in made.attacks)
    many = {"ssh-brute-force", "port-scan"}
    assert kinds == {kind: sizes.many_flow_attacks if kind in many else
                     sizes.late if kind == "late" else sizes.attacks for kind in rules.RULES}
    assert len({attack.name for attack in made.attacks}) == len(made.attacks)


def test_only_attacks_carry_markers(made) -> None:
    expected = {kind: {name for attack in made.attacks if attack.kind == kind
                       for name in attack.flows} for kind in MARKERS}
    talks = by_flow(made.frames)
    for kind, marker in MARKERS.items():
        assert {name for name, talk in talks.items() if marker in to_server(talk)} == \
            expected[kind], kind


def test_an_attack_is_complete_with_the_frames_it_says(made) -> None:
    talks = by_flow(made.frames)
    for attack in made.attacks:
        for name in attack.flows if attack.kind in MARKERS else ():
            marker, talk = MARKERS[attack.kind], talks[name]
            assert marker in to_server(talk[:attack.complete_with]), attack.name
            assert marker not in to_server(talk[:attack.complete_with - 1]), attack.name


def test_split_markers_are_in_no_frame(made) -> None:
    assert not any(MARKERS["split"] in frame for frame in made.frames)


def test_late_attacks_are_late_and_half_of_them_deep(made) -> None:
    talks = by_flow(made.frames)
    late = [attack for attack in made.attacks if attack.kind == "late"]
    assert all(attack.complete_with > traffic.LATE_AFTER for attack in late)
    at = [item.payload.find(MARKERS["late"]) for attack in late for name in attack.flows
          for item in talks[name] if MARKERS["late"] in item.payload]
    assert sorted(at) == [0, traffic.LATE_DEPTH]


def test_scans_and_logins_reach_their_thresholds(made) -> None:
    talks = by_flow(made.frames)
    for attack in made.attacks:
        opened = [talks[name][0] for name in attack.flows]
        assert all(item.flags == packets.FLAGS["syn"] for item in opened if
                   item.flow.proto == "tcp")
        if attack.kind == "port-scan":
            assert len({item.target[1] for item in opened}) == rules.SCAN_PROBES
            assert all(1000 <= item.target[1] <= 2000 for item in opened)
        elif attack.kind == "ssh-brute-force":
            assert len(opened) == rules.SSH_LOGINS
        else:
            assert len(opened) == 1
            continue
        assert len({item.source[0] for item in opened}) == 1


def test_rules_have_numbers_of_their_own(made) -> None:
    text = rules.rule_file(weight=3)
    lines = text.splitlines()
    numbers = [int(line.partition(" sid:")[2].partition(";")[0]) for line in lines]
    assert len(lines) == len(rules.RULES) + 3 == len(set(numbers))
    assert all(attack.sid == rules.RULES[attack.kind].sid for attack in made.attacks)


# --- Suricata's words ---------------------------------------------------------------------------

def event(kind: str, **more: object) -> str:
    return json.dumps({"event_type": kind, "proto": "TCP", "src_ip": "10.0.0.1", "src_port": 5,
                       "dest_ip": "10.1.0.1", "dest_port": 80} | more)


def stats(decoded: int, **capture: int) -> str:
    return json.dumps({"event_type": "stats", "stats": {
        "decoder": {"pkts": decoded, "invalid": 1}, **({"capture": capture} if capture else {})}})


NAME = flow("tcp", "10.0.0.1", 5, "10.1.0.1", 80)


def test_eve_is_read() -> None:
    turned = {"src_ip": "10.1.0.1", "src_port": 80, "dest_ip": "10.0.0.1", "dest_port": 5}
    seen = suricata.read_eve([
        event("alert", alert={"signature_id": 3}),
        event("alert", alert={"signature_id": 3}, **turned),
        event("alert", alert={"signature_id": 4}),
        event("flow", flow={"pkts_toserver": 2, "pkts_toclient": 1}),
        event("flow", flow={"pkts_toserver": 1, "pkts_toclient": 0}, **turned),
        stats(5, kernel_packets=9, kernel_drops=4), event("http"),
        stats(10, kernel_packets=12, kernel_drops=2)])
    assert seen.alerts == {Alert(3, NAME), Alert(4, NAME)}
    assert seen.flows == {NAME: 4}
    assert (seen.decoded, seen.invalid, seen.kernel_packets, seen.kernel_drops) == (10, 1, 12, 2)


def test_eve_of_a_pcap_has_no_capture() -> None:
    assert suricata.read_eve([stats(5)]).kernel_packets == 0


@pytest.mark.parametrize("line", ['{"event_type":"alert"', event("alert"), event("flow"), "[]"])
def test_broken_eve_is_refused(line: str) -> None:
    with pytest.raises(Failed, match="line 2"):
        suricata.read_eve([event("http"), line])


def test_tcpreplay_is_read() -> None:
    assert bed.read_tcpreplay("Actual: 66564 packets (67034066 bytes) sent in 1.66 seconds\n"
                              "Rated: ...\n") == (66564, 1.66)
    with pytest.raises(Failed):
        bed.read_tcpreplay("Fatal Error")


def test_config_is_of_one_interface_or_none() -> None:
    live = suricata.config(Path("/x"), "r0", 2048)
    assert "interface: r0" in live and "ring-size: 2048" in live
    assert "af-packet" not in suricata.config(Path("/x"), None, 2048)


# --- judgement ----------------------------------------------------------------------------------

OTHER = flow("tcp", "10.0.0.2", 6, "10.1.0.1", 80)
ATTACKS = [Attack("a", "shell", 1, {NAME: 10}, 4), Attack("b", "late", 2, {OTHER: 100}, 90)]
BASE = {Alert(1, NAME), Alert(2, OTHER)}
FRAMES = 110
PLAIN, HEAD, FLOWS = (next(item for item in scenario.SCENARIOS if item.name == name)
                      for name in ("plain", "head", "flows"))


def observed(alerts=frozenset(BASE), drops: int = 0, decoded: int = FRAMES,
             **flows: int) -> Observation:
    return Observation(set(alerts), Counter({NAME: flows.get("a", 10),
                                             OTHER: flows.get("b", 100)}),
                       decoded + drops, drops, decoded)


def judged(seen: Observation, arrived: int = FRAMES) -> judge.Verdict:
    return judge.judge(seen, BASE, ATTACKS, arrived)


def ran(monitor: Observation, copies: int = FRAMES, originals: int = FRAMES,
        ledger: tuple[str, ...] = ()) -> bed.Run:
    counters = {"taps": [{"ports": [{"missed": {"ring_full": 0}}]}],
                "monitors": [{"dropped": {"queue_full": FRAMES - copies}, "tx_frames": copies}]}
    return bed.Run(1.0, FRAMES, originals, copies, observed(), monitor, counters, list(ledger))


def faults(run: bed.Run, item: scenario.Scenario = PLAIN) -> list[str]:
    return judge.faults(run, judged(run.receiver, run.originals),
                        judged(run.monitor, run.copies), item, Counter({NAME: 10, OTHER: 100}))


def test_all_well() -> None:
    verdict = judged(observed())
    assert verdict.kept_up and verdict.same_as_offline and verdict.complete
    assert not (verdict.given_up or verdict.unexplained or verdict.extra)
    assert faults(ran(observed())) == []


def test_an_attack_without_its_frames_is_given_up_by_name() -> None:
    verdict = judged(observed({Alert(1, NAME)}, b=20))
    assert verdict.detected == 1 and not verdict.complete and not verdict.same_as_offline
    assert [str(missed) for missed in verdict.given_up] == [
        "b (tcp 10.0.0.2:6 - 10.1.0.1:80): 20 of 100 frames came"]
    assert not verdict.unexplained


def test_an_attack_with_its_frames_and_no_alert_is_unexplained() -> None:
    run = ran(observed({Alert(1, NAME)}))
    assert [missed.attack.name for missed in judged(run.monitor).unexplained] == ["b"]
    assert any("though every frame came: b" in text for text in faults(run, HEAD))


def test_an_alert_of_no_attack_is_a_fault() -> None:
    for stray in (Alert(9, NAME), Alert(2, NAME)):
        run = ran(observed(BASE | {stray}))
        assert judged(run.monitor).extra == [stray]
        assert any("an alert of no attack" in text for text in faults(run, HEAD))


@pytest.mark.parametrize("seen", [
    observed(drops=1, decoded=FRAMES - 1), observed(decoded=FRAMES - 1),
    dataclasses.replace(observed(), kernel_drops=1),  # more came than was counted
    dataclasses.replace(observed(), decoded=FRAMES - 1)])
def test_a_suricata_that_lost_frames_did_not_keep_up(seen: Observation) -> None:
    seen.alerts = {Alert(1, NAME)}
    assert not judged(seen).kept_up
    assert faults(ran(seen)) == []  # nothing is asked of it


def test_the_plain_policy_must_say_what_offline_said() -> None:
    run = ran(observed({Alert(1, NAME)}, decoded=30, b=20), copies=30)
    assert judged(run.monitor, 30).kept_up
    assert any("not those of the pcap read offline" in text for text in faults(run))
    assert any("given up b" in text and "queue_full" in text for text in faults(run))


def test_a_policy_gives_up_only_what_it_may() -> None:
    late = ran(observed({Alert(1, NAME)}, decoded=30, b=20), copies=30)
    assert faults(late, HEAD) == []
    early = ran(observed({Alert(2, OTHER)}, decoded=23, a=3, b=20), copies=23)
    assert any("should not have given up a" in text for text in faults(early, HEAD))


def test_sampled_flows_come_whole_or_not_at_all() -> None:
    assert faults(ran(observed({Alert(1, NAME)}, decoded=10, b=0), copies=10), FLOWS) == []
    cut = ran(observed({Alert(1, NAME)}, decoded=20, b=10), copies=20)
    assert any("1 flows came with frames" in text and
               f"10 of 100 frames of {OTHER}" in text for text in faults(cut, FLOWS))


def test_a_head_is_as_long_as_the_policy_says() -> None:
    for b in (19, 21):
        odd = ran(observed({Alert(1, NAME)}, decoded=10 + b, b=b), copies=10 + b)
        assert any(f"{b} of 100 frames of {OTHER}" in text for text in faults(odd, HEAD))


def test_lost_originals_and_ledgers_are_faults_at_every_rate() -> None:
    slow = observed(drops=5, decoded=FRAMES - 5)
    assert any("originals" in text for text in faults(ran(slow, originals=FRAMES - 1)))
    assert faults(ran(slow, ledger=("x: 1 != 2",))) == ["ledger: x: 1 != 2"]


def test_the_baseline_must_be_the_ground_truth(made) -> None:
    alerts = {Alert(attack.sid, next(iter(attack.flows))) for attack in made.attacks}

    def baseline(**changes: object) -> Observation:
        return dataclasses.replace(Observation(set(alerts), Counter(made.flows),
                                               decoded=len(made.frames)), **changes)

    judge.check_baseline(baseline(), made)
    for changes in ({"alerts": set(list(alerts)[1:])}, {"alerts": alerts | {Alert(1, NAME)}},
                    {"decoded": 1}, {"invalid": 1}, {"flows": Counter()}):
        with pytest.raises(Failed):
            judge.check_baseline(baseline(**changes), made)


# --- report -------------------------------------------------------------------------------------

def result(run: bed.Run, item: scenario.Scenario = PLAIN) -> report.Result:
    return report.Result(item.name, 100, run, judged(run.receiver, run.originals),
                         judged(run.monitor, run.copies), faults(run, item))


HEADED = result(ran(observed({Alert(1, NAME)}, decoded=30, b=20), copies=30), HEAD)
SLOW = result(ran(observed({Alert(1, NAME)}, drops=60, decoded=50, b=40)))


def test_table() -> None:
    rows = report.table([result(ran(observed())), HEADED, SLOW]).splitlines()
    assert len({row.count("|") for row in rows}) == 1 and len(rows) == 5
    assert rows[2] == "| plain | 110 | 110 | 110 | 0 | 0 | 2/2 | 0 | 2/2 | the same |"
    assert rows[3] == "| head | 110 | 110 | 30 | 80 | 0 | 2/2 | 0 | 1/2 | gave up 1 |"
    assert rows[4] == "| plain | 110 | 110 | 110 | 0 | 0 | 2/2 | 60 | 1/2 | did not keep up |"


def test_given_up_is_said_flow_by_flow_and_once() -> None:
    later = dataclasses.replace(HEADED, run=dataclasses.replace(HEADED.run, seconds=2.0))
    text = report.given_up([HEADED, SLOW, later])
    assert text.splitlines() == [
        "head at 110 frames/s:", "  b (tcp 10.0.0.2:6 - 10.1.0.1:80): 20 of 100 frames came",
        "head at 55 frames/s: as head at 110 frames/s"]
    assert report.given_up([SLOW]) == "nothing"
    assert report.kinds_given_up([HEADED, SLOW, later]) == \
        "- head at 110 and 55 frames/s gave up: 1 late"
    assert report.kinds_given_up([SLOW]) == ""


def test_json_has_everything() -> None:
    whole = json.loads(json.dumps(report.as_json([HEADED], {"about": "x"})))
    run, = whole["runs"]
    assert whole["about"] == "x" and run["policy"] == "head" and run["broker_lost"]
    assert run["monitor"]["given_up"] == [
        "b (tcp 10.0.0.2:6 - 10.1.0.1:80): 20 of 100 frames came"]
    assert run["monitor"]["alerts"] == ["1 tcp 10.0.0.1:5 - 10.1.0.1:80"]


def test_results_go_between_the_markers() -> None:
    text = f"above\n{report.BEGIN}\nold\n{report.END}\nbelow\n"
    once = report.into_document(text, "new")
    assert once == f"above\n{report.BEGIN}\nnew\n{report.END}\nbelow\n"
    assert report.into_document(once, "new") == once
    with pytest.raises(ValueError):
        report.into_document("no markers", "new")
    report.into_document((ROOT / "docs" / "ids.md").read_text(), "new")


def test_exit_codes(capsys) -> None:
    well = result(ran(observed()))
    assert ids_lab.verdict([well, SLOW]) == 0
    assert ids_lab.verdict([SLOW]) == ids_lab.FAILED  # nothing shown
    assert ids_lab.verdict([]) == ids_lab.FAILED
    faulty = result(ran(observed({Alert(1, NAME)}, decoded=30, b=20), copies=30))
    assert faulty.faults and ids_lab.verdict([well, faulty]) == ids_lab.FAILED


# --- the command --------------------------------------------------------------------------------

def run_script(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/usr/bin/python3", *words], capture_output=True, text=True,
                          env=os.environ | environment)


def test_missing_programs_are_named(tmp_path: Path) -> None:
    done = run_script("-B", str(SCRIPT), PATH=str(tmp_path))
    assert done.returncode == ids_lab.MISSING
    assert "suricata" in done.stderr and "bookworm-backports" in done.stderr
    assert "tcpreplay" in done.stderr and "docs/ids.md" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_modules_are_named() -> None:
    done = run_script("-BS", str(SCRIPT))  # without Debian's packages
    assert done.returncode == ids_lab.MISSING
    assert "python3-scapy" in done.stderr and "python3-matplotlib" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["--rates", "0"], ["--rates", "fast"], ["--policy", "head = 5"],
                                   ["--scenario", "none"]])
def test_bad_options_are_usage_errors(words: list[str]) -> None:
    assert run_script("-B", str(SCRIPT), *words).returncode == ids_lab.USAGE


def test_options() -> None:
    choice = ids_lab.options(["--rates", "10,max", "--policy", "head5:head = 5"])
    assert choice.rates == [10, None]
    chosen = ids_lab.chosen(choice.scenarios, choice.policy)
    assert [item.name for item in chosen] == ["head5"]
    assert tomllib.loads(chosen[0].config(1))["policy"][0]["head"] == 5
    assert ids_lab.chosen(None, []) == list(scenario.SCENARIOS)
    assert [item.name for item in ids_lab.chosen(["head"], choice.policy)] == ["head", "head5"]


def test_scenarios_are_toml_with_one_tap_and_monitor() -> None:
    for item in scenario.SCENARIOS:
        config = tomllib.loads(item.config(cpu=1))
        assert config["broker"]["workers"] == [1]
        assert all(policy["monitors"] == ["ids"] for policy in config["policy"])
        # An attack that a scenario must not lose is one that its limits cannot reach.
        assert item.whole <= (not item.may_lose(ATTACKS[1]))
    assert HEAD.may_lose(ATTACKS[1]) and not HEAD.may_lose(ATTACKS[0])


def test_two_cpus_give_each_suricata_one_with_its_feeder(monkeypatch) -> None:
    for there, expected in (({0, 1}, (0, 1, 0, 1)), ({3}, (3, 3, 3, 3)),
                            ({0, 2, 4, 6}, (0, 2, 4, 6))):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid, cpus=there: cpus)
        assert dataclasses.astuple(bed.Cpus.of_machine()) == expected
