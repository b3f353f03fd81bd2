# SPDX-License-Identifier: Apache-2.0
"""Runs the documents: their own commands, word by word, on a machine where they can be run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from broker import broker_binary, vtapctl_binary
from lab import PATIENCE, Lab, eventually

ROOT = Path(__file__).resolve().parents[2]

# /run, /etc and what packages install are its own; ports are those of the lab's tap namespace.
_SET_UP = r"""
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/vtap /run/etc/upper /run/etc/work /run/doc/upper /run/doc/work /run/home/build
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work /etc
mount -t overlay overlay -o lowerdir=/usr/share/doc,upperdir=/run/doc/upper,workdir=/run/doc/work \
  /usr/share/doc
mkdir -p /etc/vtap /run/bin /usr/share/doc/vtap-broker
ln -s "$BROKER" /run/bin/vtap-broker
ln -s "$VTAPCTL" /run/bin/vtapctl
ln -s "$BUILD" /run/home/build/release
ln -s "$CONFIGS" /usr/share/doc/vtap-broker/examples
echo up
exec sleep infinity
"""


class Machine:
    """Where documents are tried: commands are root's, in an empty directory, by bash."""

    def __init__(self, lab: Lab) -> None:
        self._environment = {
            "PATH": "/run/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "BROKER": str(broker_binary()), "VTAPCTL": str(vtapctl_binary()),
            "BUILD": str(broker_binary().parents[1]), "CONFIGS": str(ROOT / "config")}
        with lab.tap_ns.entered():
            self._init = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "bash", "-c", _SET_UP],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=self._environment)
        assert self._init.stdout is not None
        assert self._init.stdout.readline() == b"up\n", "no mount namespace of its own"
        self._broker: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, kind, *_exc) -> None:
        if kind is not None:
            print("--- log of the broker\n" + self.log())
        try:
            if self._broker is not None and self._broker.poll() is None:
                self.stop()
            for config in ("/run/home/tap.toml", *self._configs()):
                self.run(f"test ! -e {config} || vtap-broker --detach -c {config}")
        finally:
            self._init.kill()
            self._init.wait()
            self._init.stdout.close()

    def _configs(self) -> list[str]:
        return self.run("ls /etc/vtap/*.toml 2>/dev/null || true").stdout.split()

    def words(self, *argv: str) -> list[str]:
        """A command line that runs `argv` there."""
        return ["nsenter", "--mount", "--net", f"--target={self._init.pid}",
                "--wdns=/run/home", *argv]

    def run(self, script: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.words("bash", "-c", script), env=self._environment, text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout)

    def interrupted(self, script: str, work: Callable[[], None],
                    wait_s: float = 1.2) -> subprocess.CompletedProcess[str]:
        """A command in the foreground of a terminal: once it is under way `work`, then Ctrl-C."""
        running = subprocess.Popen(
            self.words("bash", "-c", script), env=self._environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True)
        time.sleep(wait_s * PATIENCE)
        work()
        time.sleep(wait_s * PATIENCE)
        os.killpg(running.pid, signal.SIGINT)
        out, error = running.communicate(timeout=20)
        return subprocess.CompletedProcess(script, running.returncode, out, error)

    def tool(self, name: str, script: str) -> None:
        """A program of that name for commands to find."""
        self.write(f"/run/bin/{name}", f"#!/bin/sh\n{script}\n")
        self.run(f"chmod 755 /run/bin/{name}")

    def write(self, path: str, text: str) -> None:
        done = subprocess.run(self.words("tee", path), input=text, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr

    def start(self, command: str) -> None:
        """Starts a broker by its command line, and waits until it is ready."""
        self.run("rm -f /run/log")
        self._broker = subprocess.Popen(
            self.words("bash", "-c", f"exec {command} >/run/log 2>&1"), env=self._environment,
            stdin=subprocess.DEVNULL)
        assert eventually(lambda: " ready\n" in self.log() or self._broker.poll() is not None, 30)
        assert self._broker.poll() is None, self.log()

    def stop(self) -> None:
        assert self._broker is not None
        self._broker.terminate()
        assert self._broker.wait(20) == 0

    def kill(self) -> None:
        assert self._broker is not None
        self._broker.kill()
        self._broker.wait()

    def log(self) -> str:
        return self.run("cat /run/log 2>/dev/null").stdout


# --- documents ----------------------------------------------------------------------------------

@dataclass
class Command:
    text: str
    answer: str = ""  # that stands behind or below it, as a comment

    def matches(self, output: str) -> bool:
        """An answer may leave out what is between "..."; places in a text are this text's own."""
        pattern = re.escape(self.answer).replace(r"\.\.\.", ".*?")
        pattern = re.sub(r"\.toml:\d+:\d+", r".toml:\\d+:\\d+", pattern)
        return re.fullmatch(pattern, output.strip(), re.S) is not None


def fences(document: str, language: str) -> list[str]:
    """The fenced blocks of a document, given by its path below the root."""
    text = (ROOT / document).read_text()
    found = re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)
    assert found, f"{document} has no block of {language}"
    return found


def _complete(script: str) -> bool:
    return subprocess.run(["bash", "-n", "-c", script], capture_output=True).returncode == 0


def commands(block: str) -> Iterator[Command]:
    """The commands of a block of shell, each with the answer that its comment promises."""
    found: list[Command] = []
    lines: list[str] = []
    for line in block.splitlines():
        if not lines and line.startswith("# {"):
            found[-1].answer = line[2:]
        elif lines or (line.strip() and not line.startswith("#")):
            lines.append(line)
            if _complete("\n".join(lines)):
                answer = re.search(r"\s# (\{.*)$", line)
                found.append(Command("\n".join(lines), answer[1] if answer else ""))
                lines = []
    assert not lines, f"no whole command: {lines}"
    return iter(found)


def run_commands(machine: Machine, block: str, *, first: str = "",
                 then: Mapping[str, Callable[[], None]] | None = None) -> None:
    """Each of a block; `first` is run ahead of each (functions), checks after those that contain
    their key. A command fails by its exit code, or by an answer other than the document's."""
    left = dict(then or {})
    for command in commands(block):
        done = machine.run(f"set -o pipefail\n{first}\n{command.text}")
        said = f"{command.text}\n{done.stdout}{done.stderr}[exit {done.returncode}]"
        assert done.returncode == 0, said
        if command.answer:
            assert command.matches(done.stdout), f"{said}\nnot as promised: {command.answer}"
        else:
            assert '"error"' not in done.stdout, said
        for key in [key for key in left if key in command.text]:
            left.pop(key)()
    assert not left, f"no command has {[*left]}"
