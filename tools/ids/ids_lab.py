#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What Suricata sees at a receiver, and at the monitor that vtap-broker feeds, at rising rates.

A seeded pcap of background traffic and attacks is read by Suricata offline, then replayed through
an inline tap in network namespaces, policy by policy and rate by rate, with one Suricata on the
receiver's port and one on the monitor's. See docs/ids.md.

Exit codes: 0 all is as it should be; 1 it is not, or something failed; 2 usage; 3 a tool or a
privilege is missing.
"""

# Not `env python3`: scapy and matplotlib are Debian's packages, for Debian's Python.
from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

from idslab import report, scenario  # noqa: E402
from idslab.judge import check_baseline, faults, judge  # noqa: E402
from idslab.scenario import SCENARIOS, Scenario  # noqa: E402

if TYPE_CHECKING:
    from idslab.traffic import Traffic

FAILED, USAGE, MISSING = 1, 2, 3
RATES = (8000, 16000, 32000, 64000)
BUILDS = ("release", "bench", "dev")
BUSY = 0.1  # of the CPUs used by others: figures are to be measured again

PROGRAMS = {"suricata": "suricata, from bookworm-backports: see docs/ids.md",
            "tcpreplay": "tcpreplay", "ip": "iproute2", "ethtool": "ethtool",
            "taskset": "util-linux"}
MODULES = {"scapy": "python3-scapy", "matplotlib": "python3-matplotlib"}


def missing() -> list[str]:
    """What this machine lacks, each with the Debian package that brings it."""
    lacking = [f"{program} (package {package})" for program, package in PROGRAMS.items()
               if shutil.which(program) is None]
    lacking += [f"Python module {module} (package {package})"
                for module, package in MODULES.items()
                if importlib.util.find_spec(module) is None]
    return lacking


# --- options ------------------------------------------------------------------------------------

def rate(text: str) -> int | None:
    if text == "max":
        return None
    value = int(text)
    if value <= 0:
        raise ValueError(text)
    return value


def rates(text: str) -> list[int | None]:
    return [rate(word) for word in text.split(",")]


def policy(text: str) -> Scenario:
    try:
        return scenario.from_option(text)
    except ValueError as error:  # argparse drops the words of a ValueError
        raise argparse.ArgumentTypeError(str(error)) from None


def options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path,
                        help="build directory (default: the first of " +
                        ", ".join(f"build/{name}" for name in BUILDS) + " that has a broker)")
    parser.add_argument("--rates", type=rates, default=list(RATES), metavar="N,N,…",
                        help="frames/s, or max (default: " + ",".join(map(str, RATES)) + ")")
    parser.add_argument("--scenario", action="append", dest="scenarios", metavar="NAME",
                        choices=[item.name for item in SCENARIOS],
                        help="only these (" + ", ".join(item.name for item in SCENARIOS) + ")")
    parser.add_argument("--policy", action="append", default=[], type=policy,
                        metavar="NAME:KEYS", help="one more, for example 'head5:head = 5'")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0,
                        help="of the background; the attacks stay (default: 1)")
    parser.add_argument("--weight", type=int, default=6, metavar="N",
                        help="rules that match nothing and cost time (default: 6)")
    parser.add_argument("--ring", type=int, default=2048, metavar="FRAMES",
                        help="Suricata's af-packet ring-size (default: 2048)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "ids",
                        help="where results go (default: build/ids)")
    parser.add_argument("--docs", action="store_true",
                        help="also write docs/ids.png and the results in docs/ids.md")
    parser.add_argument("--keep", action="store_true",
                        help="keep pcap, configs and logs below --out")
    return parser.parse_args(argv)


def chosen(names: Sequence[str] | None, more: Sequence[Scenario]) -> list[Scenario]:
    if names is None and more:
        return list(more)
    return [item for item in SCENARIOS if names is None or item.name in names] + list(more)


def build_directory(given: Path | None) -> Path | None:
    candidates = [given] if given else [ROOT / "build" / name for name in BUILDS]
    return next((path.resolve() for path in candidates
                 if os.access(path / "broker" / "vtap-broker", os.X_OK)), None)


# --- what the results are of --------------------------------------------------------------------

def busy_share(seconds: float = 2.0) -> float:
    """How much of the CPUs is in use, by others: we sleep."""
    def times() -> list[int]:
        return [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]

    before = times()
    time.sleep(seconds)
    spent = [new - old for new, old in zip(times(), before)]
    return 1 - (spent[3] + spent[4]) / max(1, sum(spent))  # idle, iowait


def suricata_version() -> str:
    done = subprocess.run(["suricata", "-V"], capture_output=True, text=True)
    found = re.search(r"version (\S+)", done.stdout + done.stderr)
    return found[1] if found else "of unknown version"


def cpu_model() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return found[1] if found else platform.machine()


def description(traffic: Traffic, offline_rate: float, cpus: object, build: Path,
                choice: argparse.Namespace) -> str:
    return (f"Kernel {platform.release()}, {os.cpu_count()} CPUs ({cpu_model()}), Suricata "
            f"{suricata_version()}, the broker of {build.name}. Seed {choice.seed}: "
            f"{len(traffic.frames):,} frames, {traffic.octets / 1e6:.0f} MB, "
            f"{len(traffic.flows):,} flows, {len(traffic.attacks)} attacks. Read offline by one "
            f"Suricata alone at {offline_rate:,.0f} frames/s ({choice.weight} rules of weight, "
            f"ring of {choice.ring}). {cpus}.")


def command(argv: Sequence[str]) -> str:
    return " ".join(["tools/ids/ids_lab.py", *argv])


# --- the run ------------------------------------------------------------------------------------

def experiment(choice: argparse.Namespace, build: Path, directory: Path,
               argv: Sequence[str]) -> list[report.Result]:
    os.environ["VTAP_BUILD_DIR"] = str(build)
    from idslab import bed, rules, suricata, traffic

    bed.remove_stale()
    busy = busy_share()
    print("ids: making the traffic", flush=True)
    made = traffic.make(choice.seed, traffic.Sizes().scaled(choice.scale))
    pcap = directory / "traffic.pcap"
    made.write(pcap)
    rule_text = rules.rule_file(choice.weight)
    offline = suricata.offline(directory / "offline", rule_text, pcap)
    check_baseline(offline, made)
    cpus = bed.Cpus.of_machine()
    facts = description(made, len(made.frames) / offline.seconds, cpus, build, choice)
    print(f"ids: {facts}", flush=True)

    results: list[report.Result] = []
    for item in chosen(choice.scenarios, choice.policy):
        with bed.Bed(item, cpus, directory, choice.ring) as lab:
            for speed in choice.rates:
                run = lab.replay(pcap, len(made.frames), speed, rule_text)
                results.append(judged(item, speed, run, offline, made))
                show(results[-1])
    busy = max(busy, busy_share())
    write(choice, results, facts, busy, argv)
    return results


def judged(item: Scenario, speed: int | None, run, offline, made: Traffic) -> report.Result:
    receiver = judge(run.receiver, offline.alerts, made.attacks, run.originals)
    monitor = judge(run.monitor, offline.alerts, made.attacks, run.copies)
    return report.Result(item.name, speed, run, receiver, monitor,
                         faults(run, receiver, monitor, item, made.flows))


def show(result: report.Result) -> None:
    print(f"ids: {result.scenario:11}{result.sent_rate:>9,.0f}/s  copies {result.run.copies:>7,}  "
          f"dropped: receiver {result.run.receiver.kernel_drops:>6,} "
          f"monitor {result.run.monitor.kernel_drops:>6,}  "
          f"found: receiver {result.receiver.detected:>3} monitor {result.monitor.detected:>3} "
          f"of {result.monitor.attacks}  {result.outcome}", flush=True)
    for fault in result.faults:
        print(f"ids: FAULT: {fault}", flush=True)


def write(choice: argparse.Namespace, results: Sequence[report.Result], facts: str, busy: float,
          argv: Sequence[str]) -> None:
    if not results:
        return
    noise = f"Other work took {busy:.0%} of the CPUs before or after the run"
    noise += ": **to be measured again on a quiet machine**." if busy > BUSY else "."
    block = "\n\n".join(filter(None, (f"`{command(argv)}`", f"{facts} {noise}",
                                      report.table(results), report.kinds_given_up(results))))
    choice.out.mkdir(parents=True, exist_ok=True)
    (choice.out / "results.md").write_text(
        f"{block}\n\nWithout an alert at the monitor, though its Suricata kept up:\n\n```\n"
        f"{report.given_up(results)}\n```\n")
    (choice.out / "results.json").write_text(json.dumps(
        report.as_json(results, {"command": command(argv), "about": f"{facts} {noise}"}),
        indent=1) + "\n")
    plots = [choice.out / "ids.png"]
    if choice.docs:
        document = ROOT / "docs" / "ids.md"
        document.write_text(report.into_document(document.read_text(), block))
        plots.append(ROOT / "docs" / "ids.png")
    for file in plots:
        report.plot(results, file, "Suricata behind vtap-broker")
    print(f"\n{report.table(results)}\n\n{report.kinds_given_up(results)}\n\n"
          f"ids: results.md, results.json and ids.png are in {choice.out}")


def verdict(results: Sequence[report.Result]) -> int:
    """The exit code. A run in which nothing could have gone wrong shows nothing."""
    wrong = sum(len(result.faults) for result in results)
    if wrong:
        print(f"ids: {wrong} faults, see above", file=sys.stderr)
        return FAILED
    if not any(result.monitor.kept_up for result in results):
        print("ids: the monitor's Suricata kept up at no rate: nothing was shown; ask for lower "
              "--rates or less --weight", file=sys.stderr)
        return FAILED
    print("ids: wherever Suricata kept up, the alerts are those that there should be")
    return 0


def main(argv: Sequence[str]) -> int:
    choice = options(argv)
    if lacking := missing():
        print("ids: missing: " + "; ".join(lacking) + "\nids: docs/ids.md says how to install "
              "them", file=sys.stderr)
        return MISSING
    if os.geteuid() != 0:
        print("ids: network namespaces and BPF need root", file=sys.stderr)
        return MISSING
    build = build_directory(choice.build)
    if build is None:
        print("ids: no vtap-broker: cmake --preset release && cmake --build --preset release "
              "--target vtap-broker vtapctl, or --build DIR", file=sys.stderr)
        return USAGE
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(128 + signal.SIGTERM))
    from idslab.suricata import Failed
    with tempfile.TemporaryDirectory(prefix="vtap-ids-") as temporary:
        directory = Path(temporary)
        try:
            return verdict(experiment(choice, build, directory, argv))
        except (Failed, AssertionError, RuntimeError, OSError,
                subprocess.SubprocessError) as error:
            print(f"ids: {error}", file=sys.stderr)
            return FAILED
        except KeyboardInterrupt:
            print("ids: ended", file=sys.stderr)
            return 128 + signal.SIGINT
        finally:
            if choice.keep:
                shutil.copytree(directory, choice.out / "kept", dirs_exist_ok=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
