# SPDX-License-Identifier: Apache-2.0
"""What runs in which guest, what does not, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PYTEST = ("/usr/bin/python3", "-m", "pytest", "-q", "-rs", "--color=no", "-p", "no:cacheprovider")


@dataclass(frozen=True)
class Guest:
    """A kernel, and what its virtio NICs can do."""
    name: str
    suite: str  # of Debian
    zero_copy: bool


GUESTS = {
    "old": Guest("old", "bookworm", zero_copy=False),
    "new": Guest("new", "trixie-backports", zero_copy=True),
}


@dataclass(frozen=True)
class Suite:
    """One program, run in a guest."""
    name: str
    argv: list[str]
    limit_s: float
    left_out: Mapping[str, str] = field(default_factory=dict)  # test: why


# The selection without --all: each promise once, some minutes a guest. All suites of nics belong.
QUICK = {
    "old": ("bpf.clone", "bpf.skb", "bpf.stub", "bpf.verdict", "bpf.xsk_sink", "integration.span",
            "integration.inline", "nics.modules", "nics.zero_copy"),
    "new": ("bpf.skb", "bpf.verdict", "bpf.xsk_sink", "integration.span", "integration.inline",
            "nics.modules", "nics.zero_copy"),
}

# Tests that a guest cannot judge, by suite: what of their result depends on time.
LEFT_OUT: dict[str, dict[str, str]] = {}

_LIMIT_S = {"bpf": 240, "integration": 3600, "nics": 900}


def _suite(name: str, argv: Sequence[str]) -> Suite:
    left_out = LEFT_OUT.get(name, {})
    deselect = [word for test in left_out for word in ("--deselect", f"{argv[-1]}::{test}")]
    limit_s = _LIMIT_S[name.split(".")[0]]
    return Suite(name, [*argv[:-1], *deselect, argv[-1]] if deselect else [*argv], limit_s, left_out)


def _of_pytest(layer: str, folder: Path) -> list[Suite]:
    return [_suite(f"{layer}.{file.stem[len('test_'):]}", [*PYTEST, str(file)])
            for file in sorted(folder.glob("test_*.py"))]


def every(source: Path, build: Path) -> list[Suite]:
    """All suites, as the tree has them: tests of NICs, BPF tests, integration tests."""
    found = _of_pytest("nics", source / "tests/vm/guest")
    found += [_suite(f"bpf.{program.name[len('bpf_'):-len('_test')]}", [str(program)])
             for program in sorted((build / "tests/bpf").glob("bpf_*_test"))]
    host = build / "tests/integration/host_test"
    if host.exists():
        found.append(_suite("integration.host_devices", [str(host)]))
    return found + _of_pytest("integration", source / "tests/integration")


class Unknown(ValueError):
    """A name that no suite has."""


def chosen(suites: Sequence[Suite], guest: str, everything: bool,
           only: Iterable[str] = ()) -> list[Suite]:
    """The suites to run: named ones (also a whole layer), else all, else the quick selection."""
    only = list(only)
    if not only:
        names = QUICK[guest]
        missing = set(names) - {suite.name for suite in suites}
        if missing and not everything:
            raise Unknown(f"not built: {' '.join(sorted(missing))}")
        return [suite for suite in suites if everything or suite.name in names]
    for name in only:
        if not any(name in (suite.name, suite.name.split(".")[0]) for suite in suites):
            raise Unknown(f"no suite is called {name}; --list shows them")
    return [suite for suite in suites if suite.name in only or suite.name.split(".")[0] in only]
