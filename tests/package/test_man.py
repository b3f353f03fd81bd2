# SPDX-License-Identifier: Apache-2.0
"""The manual pages: clean, and in step with the programs and with docs/config.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import broker_binary, vtapctl_binary

SOURCE = Path(__file__).resolve().parents[2]
MAN = SOURCE / "docs/man"
PAGES = sorted(MAN.glob("*.[1-9]"))
PROGRAMS = {"vtap-broker.8": broker_binary, "vtapctl.8": vtapctl_binary}


def text_of(page: Path) -> str:
    """The page in words, without emphasis."""
    done = subprocess.run(["man", "-l", str(page)], capture_output=True, text=True, check=True,
                          env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "MANWIDTH": "100",
                               "MANROFFOPT": "-c", "TERM": "dumb"})
    return re.sub(".\b", "", done.stdout)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_clean(page: Path) -> None:
    if shutil.which("mandoc") is None:
        pytest.fail("needs mandoc: tools/setup.sh --test")
    lint = subprocess.run(["mandoc", "-T", "lint", page], capture_output=True, text=True)
    # Whether this machine has the pages that ours refer to is no matter of ours.
    found = [line for line in (lint.stdout + lint.stderr).splitlines()
             if "mandoc.db" not in line and "referenced manual not found" not in line]
    assert not found, "\n".join(found)
    groff = subprocess.run(["man", "-l", "--warnings", page], capture_output=True, text=True,
                           env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"})
    assert groff.returncode == 0 and groff.stderr == "", groff.stderr


def options_of(*command: str | Path) -> Iterator[str]:
    """All options and commands that --help of a program tells of, and of its commands."""
    done = subprocess.run([*map(str, command), "--help"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stdout + done.stderr
    part = ""
    for line in done.stdout.splitlines():
        if line and not line.startswith(" "):
            part = line
        words = re.match(r"  ([a-z-][\w,-]*)", line)
        if words is None:
            continue
        if part.startswith("Subcommands"):
            yield words[1]
            yield from options_of(*command, words[1])
        elif words[1].startswith("-"):
            yield from words[1].split(",")


@pytest.mark.parametrize("page", PROGRAMS)
def test_tells_of_every_option(page: str) -> None:
    options = set(options_of(PROGRAMS[page]()))
    assert {"-h", "--help", "--version"} <= options, "the help is read wrongly"
    text = text_of(MAN / page)
    missing = [option for option in sorted(options)
               if not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text)]
    assert not missing, f"docs/man/{page} does not tell of {' '.join(missing)}"


def keys_of_reference() -> set[str]:
    """The keys that the tables of docs/config.md name in their first column."""
    keys: set[str] = set()
    table = False
    for line in (SOURCE / "docs/config.md").read_text().splitlines():
        table = line.startswith("|") and (table or line.startswith("| key |"))
        if table:
            keys.update(re.findall(r"`([a-z_.]+)`", line.split("|")[1]))
    return keys


def test_tells_of_every_key() -> None:
    keys = keys_of_reference()
    assert {"workers", "umem.frames", "unmatched", "queue", "slice", "peak_rate", "tcp_flags"} <= keys
    text = text_of(MAN / "tap.toml.5")
    missing = [key for key in sorted(keys)
               if not re.search(rf"(?<![\w.]){re.escape(key)}(?![\w])", text)]
    assert not missing, f"docs/man/tap.toml.5 does not tell of {' '.join(missing)}"
