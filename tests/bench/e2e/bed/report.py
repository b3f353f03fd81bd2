# SPDX-License-Identifier: Apache-2.0
"""A record as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from bed import statistic
from bed.contestant import Contestant
from bed.rounds import Record
from bed.statistic import Spread

QUANTITIES = [  # quantity, heading, digits
    ("originals", "Originals at the receiver, Mpps", 3),
    ("copies", "Copies at the monitors, all together, Mpps", 3),
    ("mbit", "Copies at the monitors, Mbit/s of frame bytes", 0),
    ("delivered", "Originals delivered, of all that the generator sent", 2),
    ("cpu", "CPU seconds for a million originals, whole machine, generator and receivers included",
     2),
    ("user", "User CPU seconds of the contestant's process for a million originals", 3),
    ("system", "System CPU seconds likewise", 3),
    ("softirq", "Softirq CPU seconds on the CPU of the process likewise (its AF_XDP transmission, "
     "and the monitor's end)", 3),
]

ENOUGH_ROUNDS = 3
BUSY_LOAD = 2.0

BEDS = [
    (False, "Tap between",
     "Generator, tap, receiver and monitor in a namespace each; the tap is a wire between two "
     "ports. Originals and copies are counted by XDP at the far ends."),
    (True, "Tap on the receiver",
     "The tap is on the port of the host that the traffic is for. Originals are datagrams that "
     "came through the host's stack to a socket, copies are counted by XDP at the monitor's end."),
]

READING = """\
How to read it. Everything ran on one machine in one run, in network namespaces joined by veth.
CPU {generator}: the generator and, by softirq, the way of the originals. CPU {worker}: the process
of the contestant where it has one. The contestants took turns in changing order, each in a fresh
lab; cells are median (least–most) of the rounds. Absolute figures belong to this machine: read
the ratios, which are taken within a round. The `-aa` contestants are the same thing measured twice:
their ratio would be 1 on a quiet machine, and no other ratio is known better than this one. Before
anything was timed, a burst of numbered frames went through each contestant, and its originals and
copies were compared byte by byte.

`hook = "xdp"` on veth stands for a NIC that delivers complete frames: on real veth traffic, with
checksums and tags unfinished, the product taps at TC. The generator makes such frames. "Best peer"
is, in each round and at each size, whichever of {peers} was fastest there.

Frames count from the destination MAC, without FCS. CPU times are the kernel's ticks by CPU, not
those of a process, which the kernel mixes with softirqs; a process is alone on its CPU."""


def cell(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return "–"
    if spread.rounds == 1:
        return f"{spread.median:.{digits}f}"
    return f"{spread.median:.{digits}f} ({spread.least:.{digits}f}–{spread.most:.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    line = "| " + " | ".join(["---"] * left + ["---:"] * (len(head) - left)) + " |"
    return [f"| {' | '.join(head)} |", line, *(f"| {' | '.join(row)} |" for row in rows)]


def markdown(record: Record, contestants: Sequence[Contestant], sizes: Sequence[int],
             plots: Sequence[str], latency: str = "") -> str:
    names = {contestant.name for contestant in contestants}
    lines = ["# vtap-broker beside its peers", "", *about(record), "",
             READING.format(**record.about["cpus_used"], peers=", ".join(statistic.PEERS)), ""]
    lines += ["## To reach", "", *targets(record), ""]
    lines += ["## Ratios", "", *ratios(record, names, sizes), ""]
    for plot in plots:
        lines += [f"![{plot}]({plot})", ""]
    for on_receiver, title, text in BEDS:
        chosen = [c for c in contestants if c.on_receiver == on_receiver]
        if any(c.name in one for c in chosen for one in record.rounds):
            lines += [f"## {title}", "", text, "", *rates(record, chosen, sizes)]
    if latency:
        lines += ["## Added latency of originals", "", latency, ""]
    lines += ["## Contestants", "", *who(contestants), ""]
    if record.skipped:
        lines += ["## Skipped", "", *(f"- **{name}**: {why}"
                                      for name, why in sorted(record.skipped.items())), ""]
    return "\n".join(lines).rstrip() + "\n"


def about(record: Record) -> list[str]:
    machine, versions = record.about["machine"], record.about["versions"]
    complete = min((len(one) for one in record.rounds), default=0)
    warnings = []
    if len(record.rounds) < ENOUGH_ROUNDS:
        warnings += ["", f"**Fewer than {ENOUGH_ROUNDS} rounds: this shows that the bench works. Its "
                     "figures are noise.**"]
    if machine["load"] > BUSY_LOAD:
        warnings += ["", "**The machine was busy with other work when this began.**"]
    return [f"`{record.about['command']}`, {len(record.rounds)} rounds of "
            f"{record.about['seconds']:g} s for each contestant and size; {complete} contestants in "
            "the shortest round.", "",
            f"Kernel {machine['kernel']}, {machine['cpus']} CPUs ({machine['cpu']}), load "
            f"{machine['load']:.1f} at the start, {machine['time'][:10]}. "
            + "; ".join(f"{name} {version}" for name, version in versions.items()) + ".",
            *warnings]


def targets(record: Record) -> list[str]:
    rows = []
    for target in statistic.TARGETS:
        verdict = target.judge(record.rounds)
        why = [f"{name}: {record.skipped[name]}" for name in target.needs
               if name in record.skipped]
        sign = "≤" if target.at_most else "≥"
        value = cell(verdict.spread, 1 if target.unit else 2)
        rows.append([target.what, f"{target.size}", f"{sign} {target.bound:g}{target.unit}", value,
                     verdict.word() + (f" ({'; '.join(why)})" if why else "")])
    rows += record.about.get("more_targets", [])
    return table(["figure", "size", "to reach", "median (least–most)", ""], rows)


def ratios(record: Record, names: set[str], sizes: Sequence[int]) -> list[str]:
    """Of those that were asked for."""
    rows = []
    for quantity, above, below in statistic.RATIOS:
        if above not in names:
            continue
        cells = [cell(Spread.of(statistic.ratios(record.rounds, size, quantity, [above], below)), 2)
                 for size in sizes]
        if any(text != "–" for text in cells):
            base = {statistic.PEERS: "best peer",
                    statistic.PEERS_4: "best peer with four"}.get(below, below[0])
            rows.append([f"{quantity}: {above} / {base}", *cells])
    return table(["within a round", *(f"{size} B" for size in sizes)], rows)


def rates(record: Record, contestants: Sequence[Contestant], sizes: Sequence[int]) -> list[str]:
    lines: list[str] = []
    for quantity, heading, digits in QUANTITIES:
        rows = []
        for contestant in contestants:
            cells = [cell(Spread.of(statistic.values(record.rounds, contestant.name, size,
                                                     quantity)), digits) for size in sizes]
            if any(text != "–" for text in cells):
                rows.append([contestant.name, *cells])
        if rows:
            lines += [f"### {heading}", "",
                      *table(["contestant", *(f"{size} B" for size in sizes)], rows), ""]
    return lines


def who(contestants: Sequence[Contestant]) -> list[str]:
    return table(["name", "what", "role"], [[c.name, c.what, c.kind.value] for c in contestants],
                 left=3)
