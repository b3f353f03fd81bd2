# SPDX-License-Identifier: Apache-2.0
"""What the alerts of a run are worth: against the ground truth, and against what Suricata says of
the pcap read offline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from idslab.flow import Flow
from idslab.scenario import Scenario
from idslab.suricata import Alert, Failed, Observation

if TYPE_CHECKING:
    from idslab.bed import Run
    from idslab.traffic import Attack, Traffic


@dataclass(frozen=True)
class Missed:
    """An attack without its alert, and how many of its frames Suricata looked at."""
    attack: Attack
    arrived: int

    def __str__(self) -> str:
        flows = list(self.attack.flows)
        name = str(flows[0]) if len(flows) == 1 else f"{len(flows)} flows, the first {flows[0]}"
        return (f"{self.attack.name} ({name}): {self.arrived} of {self.attack.frames} frames came")


@dataclass
class Verdict:
    """One side of one run."""
    detected: int
    attacks: int
    kept_up: bool  # Suricata dropped nothing and looked at all that came to its port
    same_as_offline: bool
    given_up: list[Missed] = field(default_factory=list)  # some of its frames never came
    unexplained: list[Missed] = field(default_factory=list)  # all of them came
    extra: list[Alert] = field(default_factory=list)  # alerts of no attack

    @property
    def complete(self) -> bool:
        return self.detected == self.attacks


def attack_of(alert: Alert, attacks: Iterable[Attack]) -> Attack | None:
    return next((attack for attack in attacks
                 if attack.sid == alert.sid and alert.flow in attack.flows), None)


def judge(seen: Observation, offline: set[Alert], attacks: Sequence[Attack],
          arrived: int) -> Verdict:
    """`arrived`: frames that came to the port on which Suricata listens."""
    found = {alert: attack_of(alert, attacks) for alert in seen.alerts}
    detected = {attack.name for attack in found.values() if attack is not None}
    verdict = Verdict(
        detected=len(detected), attacks=len(attacks),
        kept_up=seen.kernel_drops == 0 and seen.decoded == seen.kernel_packets == arrived,
        same_as_offline=seen.alerts == offline,
        extra=sorted(alert for alert, attack in found.items() if attack is None))
    for attack in attacks:
        if attack.name in detected:
            continue
        came = sum(min(seen.flows[name], frames) for name, frames in attack.flows.items())
        missed = Missed(attack, came)
        (verdict.unexplained if came == attack.frames else verdict.given_up).append(missed)
    return verdict


def check_baseline(offline: Observation, traffic: Traffic) -> None:
    """The experiment stands on this: offline, every attack gets its alert and nothing else does,
    and flows are as they were written."""
    verdict = judge(offline, offline.alerts, traffic.attacks, len(traffic.frames))
    wrong = [f"no alert for {missed}" for missed in (*verdict.given_up, *verdict.unexplained)]
    wrong += [f"alert without an attack: {alert}" for alert in verdict.extra]
    if offline.decoded != len(traffic.frames) or offline.invalid:
        wrong.append(f"{offline.decoded} of {len(traffic.frames)} frames decoded, "
                     f"{offline.invalid} invalid")
    if offline.flows != traffic.flows:
        wrong.append(f"{len(offline.flows)} flows, {len(traffic.flows)} were written, or not with "
                     "as many frames")
    if wrong:
        raise Failed("the pcap read offline does not give the ground truth:\n  " +
                     "\n  ".join(wrong))


# --- what must not be ---------------------------------------------------------------------------

def faults(run: Run, receiver: Verdict, monitor: Verdict, scenario: Scenario,
           flows: Counter[Flow]) -> list[str]:
    """Of one run. Of a Suricata that did not keep up nothing is asked."""
    wrong = [f"ledger: {line}" for line in run.ledger]
    if run.originals != run.sent:
        wrong.append(f"{run.originals} of {run.sent} originals arrived at the receiver")
    wrong += _side_faults(receiver, "receiver", whole=True)
    wrong += _side_faults(monitor, "monitor", scenario.whole)
    if not monitor.kept_up:
        return wrong
    lost = f"; the broker lost copies: {run.lost_copies}" if run.lost_copies else ""
    wrong += [f"monitor: the policy should not have given up {missed}{lost}"
              for missed in monitor.given_up if not scenario.may_lose(missed.attack)]
    return wrong + _flow_faults(run.monitor, scenario, flows, lost)


def _side_faults(verdict: Verdict, side: str, whole: bool) -> list[str]:
    """`whole`: the side gets every frame, so it must say what offline said. Else attacks may be
    missed, but only those of which frames are missing."""
    if not verdict.kept_up:
        return []
    wrong = [f"{side}: no alert though every frame came: {missed}"
             for missed in verdict.unexplained]
    wrong += [f"{side}: an alert of no attack: {alert}" for alert in verdict.extra]
    if whole and not verdict.same_as_offline:
        wrong.append(f"{side}: Suricata kept up, but its alerts are not those of the pcap read "
                     f"offline ({verdict.detected} of {verdict.attacks} attacks)")
    return wrong


def _flow_faults(seen: Observation, scenario: Scenario, flows: Counter[Flow],
                 lost: str) -> list[str]:
    if scenario.of_a_flow is None:
        return []
    odd = [name for name, frames in flows.items()
           if seen.flows[name] not in scenario.of_a_flow(frames)]
    if not odd:
        return []
    some = ", ".join(f"{seen.flows[name]} of {flows[name]} frames of {name}" for name in odd[:5])
    return [f"monitor: {len(odd)} flows came with frames that the policy does not explain: "
            f"{some}{lost}"]
