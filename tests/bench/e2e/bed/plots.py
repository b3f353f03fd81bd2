# SPDX-License-Identifier: Apache-2.0
"""Throughput and CPU over the frame size, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bed import statistic
from bed.contestant import Contestant, Kind
from bed.rounds import Record
from bed.statistic import Spread

PICTURES = [  # file, testbed, monitors, quantity, title
    ("bench-originals.png", False, 1, "originals", "Tap between: originals at the receiver, Mpps"),
    ("bench-copies.png", False, 1, "copies", "Tap between: copies at one monitor, Mpps"),
    ("bench-mbit.png", False, 1, "mbit", "Tap between: copies at one monitor, Mbit/s"),
    ("bench-copies-4.png", False, 4, "copies", "Tap between: copies at four monitors, Mpps"),
    ("bench-cpu.png", False, 1, "cpu", "Tap between: CPU seconds for a million originals"),
    ("bench-host-originals.png", True, 1, "originals",
     "Tap on the receiver: originals to the socket, Mpps"),
    ("bench-host-copies.png", True, 1, "copies", "Tap on the receiver: copies, Mpps"),
    ("bench-host-cpu.png", True, 1, "cpu",
     "Tap on the receiver: CPU seconds for a million originals"),
]
STYLES = {Kind.untapped: ("--", "black"), Kind.vtap: ("-", None), Kind.peer: (":", None),
          Kind.extra: ("-.", "grey")}
MARKERS = "osv^D*PX<>hp"


def draw(record: Record, contestants: Sequence[Contestant], sizes: Sequence[int],
         directory: Path) -> list[str]:
    """The names of the files. ImportError without matplotlib."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    files = []
    for file, on_receiver, monitors, quantity, title in PICTURES:
        chosen = [c for c in contestants if c.on_receiver == on_receiver
                  and c.monitors in ((monitors,) if quantity in ("copies", "mbit")
                                     else (0, monitors)) and not c.name.endswith("-aa")]
        figure, axes = pyplot.subplots(figsize=(10, 5))
        drawn = 0
        for number, contestant in enumerate(chosen):
            drawn += line(axes, record, contestant, sizes, quantity, number)
        if drawn and len(sizes) > 1:
            axes.set_xlabel("frame size, bytes without FCS")
            axes.set_title(title)
            axes.set_xticks(sizes)
            axes.tick_params(axis="x", labelrotation=45)
            if quantity == "cpu":
                axes.set_yscale("log")
            else:
                axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")
            figure.savefig(directory / file, dpi=100, bbox_inches="tight",
                           metadata={"Software": None})
            files.append(file)
        pyplot.close(figure)
    return files


def line(axes, record: Record, contestant: Contestant, sizes: Sequence[int], quantity: str,
         number: int) -> bool:
    spreads = {size: spread for size in sizes if (spread := Spread.of(
        statistic.values(record.rounds, contestant.name, size, quantity)))}
    if not spreads:
        return False
    style, colour = STYLES[contestant.kind]
    medians = [spread.median for spread in spreads.values()]
    errors = [[spread.median - spread.least for spread in spreads.values()],
              [spread.most - spread.median for spread in spreads.values()]]
    axes.errorbar(list(spreads), medians, yerr=errors, linestyle=style, color=colour, capsize=2,
                  elinewidth=0.6, marker=MARKERS[number % len(MARKERS)], markersize=4,
                  label=contestant.name)
    return True
