# SPDX-License-Identifier: Apache-2.0
"""The results as a Markdown table, as JSON, and as a plot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from idslab.bed import Run
    from idslab.judge import Missed, Verdict

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
_COLUMNS = ("policy", "frames/s", "originals", "copies", "broker lost", "receiver dropped",
            "receiver found", "monitor dropped", "monitor found", "monitor against offline")


@dataclass
class Result:
    """One scenario at one rate."""
    scenario: str
    rate: int | None  # asked for; None: as fast as it goes
    run: Run
    receiver: Verdict
    monitor: Verdict
    faults: list[str] = field(default_factory=list)

    @property
    def sent_rate(self) -> float:
        return self.run.sent / self.run.seconds

    @property
    def outcome(self) -> str:
        """The monitor's alerts in words."""
        if self.monitor.same_as_offline:
            return "the same"
        if self.monitor.complete:
            return "complete"
        if self.monitor.kept_up:
            return f"gave up {len(self.monitor.given_up)}"
        return "did not keep up"


def by_kind(missed: Iterable[Missed]) -> str:
    kinds = Counter(item.attack.kind for item in missed)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "nothing"


def drop_share(packets: int, drops: int) -> float:
    return drops / packets if packets else 0.0


def table(results: Sequence[Result]) -> str:
    rows = [_COLUMNS, ("---",) + ("---:",) * 8 + ("---",)]
    for result in results:
        run = result.run
        rows.append((
            result.scenario, f"{result.sent_rate:,.0f}", f"{run.originals:,}", f"{run.copies:,}",
            f"{sum(run.lost_copies.values()):,}", f"{run.receiver.kernel_drops:,}",
            f"{result.receiver.detected}/{result.receiver.attacks}",
            f"{run.monitor.kernel_drops:,}",
            f"{result.monitor.detected}/{result.monitor.attacks}", result.outcome))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _gave_up(results: Sequence[Result]) -> list[Result]:
    return [result for result in results
            if result.monitor.kept_up and not result.monitor.complete]


def kinds_given_up(results: Sequence[Result]) -> str:
    """A list of what the policies gave up, kind by kind; rates that agree share a line."""
    rates: dict[tuple[str, str], list[str]] = {}
    for result in _gave_up(results):
        rates.setdefault((result.scenario, by_kind(result.monitor.given_up)), []).append(
            f"{result.sent_rate:,.0f}")
    return "\n".join(f"- {name} at {' and '.join(at)} frames/s gave up: {kinds}"
                     for (name, kinds), at in rates.items())


def given_up(results: Sequence[Result]) -> str:
    """Flow by flow what the monitor had no alert for, where its Suricata kept up."""
    lines: list[str] = []
    said: dict[tuple[str, str], str] = {}  # per scenario and list: the first rate that had it
    for result in _gave_up(results):
        where = f"{result.scenario} at {result.sent_rate:,.0f} frames/s"
        names = "\n".join(f"  {missed}" for missed in result.monitor.given_up)
        first = said.get((result.scenario, names))
        lines.append(f"{where}: as {first}" if first else f"{where}:\n{names}")
        said.setdefault((result.scenario, names), where)
    return "\n".join(lines) or "nothing"


def as_json(results: Sequence[Result], facts: dict[str, object]) -> dict[str, object]:
    def side(observation, verdict: Verdict) -> dict[str, object]:
        return {"kernel_packets": observation.kernel_packets,
                "kernel_drops": observation.kernel_drops, "decoded": observation.decoded,
                "invalid": observation.invalid, "kept_up": verdict.kept_up,
                "attacks_found": verdict.detected, "attacks": verdict.attacks,
                "same_as_offline": verdict.same_as_offline,
                "alerts": sorted(map(str, observation.alerts)),
                "given_up": list(map(str, verdict.given_up)),
                "unexplained": list(map(str, verdict.unexplained)),
                "extra": list(map(str, verdict.extra))}

    return facts | {"runs": [
        {"policy": result.scenario, "rate_asked": result.rate, "rate": round(result.sent_rate),
         "sent": result.run.sent, "originals": result.run.originals, "copies": result.run.copies,
         "broker_lost": result.run.lost_copies, "faults": result.faults,
         "receiver": side(result.run.receiver, result.receiver),
         "monitor": side(result.run.monitor, result.monitor),
         "broker": result.run.counters} for result in results]}


def into_document(text: str, block: str) -> str:
    """`text` with what stands between the two markers replaced."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} … {END} in the document")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def plot(results: Sequence[Result], file: Path, title: str) -> None:
    """Attacks found and frames dropped by Suricata, over the rate, at both sides."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 7), sharex=True, sharey="row")
    names = list(dict.fromkeys(result.scenario for result in results))
    for column, side in enumerate(("receiver", "monitor")):
        found, dropped = axes[0][column], axes[1][column]
        for number, name in enumerate(names):
            mine = sorted((result for result in results if result.scenario == name),
                          key=lambda result: result.sent_rate)
            rates = [result.sent_rate / 1000 for result in mine]
            style = {"marker": "osD^vPX*"[number % 8], "color": f"C{number}", "label": name,
                     "markersize": 5, "linewidth": 1.3, "alpha": 0.85}
            verdicts = [getattr(result, side) for result in mine]
            seen = [getattr(result.run, side) for result in mine]
            found.plot(rates, [100 * item.detected / item.attacks for item in verdicts], **style)
            dropped.plot(rates, [100 * drop_share(item.kernel_packets, item.kernel_drops)
                                 for item in seen], **style)
        found.set_title(f"Suricata at the {side}")
        found.set_ylim(-3, 103)
        dropped.set_ylim(-3, 103)
        dropped.set_xscale("log")
        dropped.set_xlabel("thousand frames/s on the wire")
        for axis in (found, dropped):
            axis.grid(True, which="both", alpha=0.25)
    ticks = [rate for rate in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
             if min(r.sent_rate for r in results) / 1500 < rate
             < max(r.sent_rate for r in results) / 600]
    axes[1][0].set_xticks(ticks, [str(tick) for tick in ticks])
    axes[1][0].minorticks_off()
    axes[0][0].set_ylabel("attacks found, %")
    axes[1][0].set_ylabel("dropped by Suricata, % of what came")
    axes[0][1].legend(title="policy", fontsize=8)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    figure.savefig(file, dpi=100, metadata={"Software": None})
    pyplot.close(figure)
