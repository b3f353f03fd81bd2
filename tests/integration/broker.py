# SPDX-License-Identifier: Apache-2.0
"""The product under test: its config, its process, its counters (DESIGN 7)."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lab import OWN_PREFIX, PATIENCE, Lab, Namespace, eventually

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()

# The taps that every inline promise is tested on.
CAPTURES: dict[str, dict[str, str]] = {
    "tc": {"capture": "tee", "hook": "tc"},
    "xdp": {"capture": "tee", "hook": "xdp"},
    "redirect": {"capture": "redirect"},
}
TEES = ("tc", "xdp")
# Keys of a tap, and of all policies: each capture, and the kernel alone.
PLACEMENTS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    **{name: (capture, {}) for name, capture in CAPTURES.items()},
    "kernel": (CAPTURES["xdp"], {"offload": "require"}),
}
# One that ends fails the test at once; ten thousand policies take a minute on an emulated machine.
READY_S = 120


def binary(variable: str, below_build_dir: str) -> Path:
    """Path of a program, from its own variable or below VTAP_BUILD_DIR."""
    path = os.environ.get(variable)
    if path is None:
        build = os.environ.get("VTAP_BUILD_DIR")
        if build is None:
            raise RuntimeError(f"set VTAP_BUILD_DIR, or {variable}")
        path = os.path.join(build, below_build_dir)
    if not os.access(path, os.X_OK):
        raise RuntimeError(f"{path} is not there or not executable")
    return Path(path).resolve()


def broker_binary() -> Path:
    return binary("VTAP_BROKER", "broker/vtap-broker")


def vtapctl_binary() -> Path:
    return binary("VTAPCTL", "tools/vtapctl/vtapctl")


# --- config -------------------------------------------------------------------------------------

def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    raise TypeError(f"no TOML for {value!r}")


def config(taps: Sequence[Mapping], monitors: Sequence[Mapping], policies: Sequence[Mapping],
           **broker: object) -> str:
    """TOML text. Name and control socket are filled in by Broker where they are not given."""
    lines: list[str] = []
    tables = [("[broker]", broker)]
    for head, items in (("[[tap]]", taps), ("[[monitor]]", monitors), ("[[policy]]", policies)):
        tables += [(head, item) for item in items]
    for head, table in tables:
        lines += [head, *(f"{key} = {_value(value)}" for key, value in table.items()), ""]
    return "\n".join(lines)


def inline(name: str = "wire", ports: Sequence[str] = ("t0", "t1"), **keys: object) -> dict:
    return {"name": name, "mode": "inline", "ports": list(ports), **keys}


def monitors(count: int, **keys: object) -> list[dict]:
    return [{"name": f"mon{number}", "port": f"m{number}", **keys} for number in range(count)]


def policy(name: str = "all", to: Sequence[str] = ("mon0",), **keys: object) -> dict:
    return {"name": name, "monitors": list(to), **keys}


def simple_config(capture: Mapping[str, str] | None = None, monitor_count: int = 1,
                  **policy_keys: object) -> str:
    """One inline tap whose every frame (or what `policy_keys` select) goes to all monitors."""
    # Eight monitors with the default queue would hold every frame of the default memory.
    queue = {"queue": 512} if monitor_count > 2 else {}
    return config([inline(**(capture or {}))], monitors(monitor_count, **queue),
                  [policy(to=[f"mon{n}" for n in range(monitor_count)], **policy_keys)])


# --- process ------------------------------------------------------------------------------------

def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Broker:
    """One config in a temporary directory, and the process that runs it, again and again.

    As a context it starts on entry; on exit it stops cleanly, detaches, and fails if either fails.
    """

    _open: set["Broker"] = set()

    def __init__(self, lab: Lab, text: str, *, name: str | None = None,
                 launcher: Sequence[str] = (), arguments: Sequence[str] = ()) -> None:
        self.ns: Namespace = lab.tap_ns
        self.name = name or f"it{os.getpid()}n{next(_numbers)}"
        self.launcher = [*launcher]
        self.arguments = [*arguments]
        self.directory = Path(tempfile.mkdtemp(prefix=OWN_PREFIX))
        self.directory.chmod(0o755)
        self.socket = self.directory / "control.sock"
        self.file = self.directory / "tap.toml"
        self.log_file = self.directory / "log"
        self.write(text)
        self.process: subprocess.Popen[bytes] | None = None
        self._log_from = 0
        Broker._open.add(self)

    @classmethod
    def all_running(cls) -> list["Broker"]:
        """Those of this test and of the fixtures around it."""
        return [each for each in cls._open if each.running]

    # -- starting and ending --

    def start(self, wait_ready: bool = True, timeout: float = READY_S) -> "Broker":
        assert self.process is None or self.process.poll() is not None, "already running"
        self._log_from = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.ns.entered(), self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.launcher, broker_binary(), "-c", self.file, *self.arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_die_with_parent)
        if wait_ready:
            self.wait_ready(timeout)
        return self

    def wait_ready(self, timeout: float = READY_S) -> None:
        deadline = time.monotonic() + timeout
        while not re.search(r"\bready\b", self.log()[self._log_from:]):
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"broker ended with {self.process.returncode} before it was "
                                     f"ready:\n{self.log()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"broker not ready after {timeout} s:\n{self.log()}")
            time.sleep(0.005)

    @property
    def pid(self) -> int:
        assert self.process is not None, "not started"
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def send_signal(self, number: int) -> None:
        assert self.running, f"the broker has ended by itself:\n{self.log()}"
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def hang(self) -> None:
        """Stops every thread of it; only then it returns."""
        self.send_signal(signal.SIGSTOP)
        tasks = Path("/proc", str(self.pid), "task")
        assert eventually(lambda: all(
            file.read_text().rpartition(")")[2].split()[0] == "T" for file in tasks.glob("*/stat")))

    def resume(self) -> None:
        self.send_signal(signal.SIGCONT)

    def stop(self, number: int = signal.SIGTERM, timeout: float = 10) -> int:
        """Asks it to end; its exit code."""
        self.send_signal(number)
        return self.process.wait(timeout * PATIENCE)

    def write(self, text: str) -> None:
        """Another config, for the next start or reload."""
        extra = {"name": self.name, "control": str(self.socket)}
        lines = "".join(f"{key} = {_value(value)}\n" for key, value in extra.items()
                        if not re.search(rf"^{key} *=", text.partition("[[")[0], re.M))
        self.file.write_text(text.replace("[broker]\n", f"[broker]\n{lines}", 1))

    def reload(self, text: str | None = None) -> None:
        """By SIGHUP; fails if the config does not load."""
        if text is not None:
            self.write(text)
        seen = len(self.log())
        self.send_signal(signal.SIGHUP)
        assert eventually(lambda: re.search("reloaded|is not loaded", self.log()[seen:]), 10)
        assert "is not loaded" not in self.log()[seen:], self.log()[seen:]

    def api(self, method: str, path: str, body: object = None) -> tuple[int, dict]:
        """Asks the control socket; status and JSON of the answer."""
        connection = http.client.HTTPConnection("localhost", timeout=30 * PATIENCE)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(30 * PATIENCE)
        connection.sock.connect(str(self.socket))
        with contextlib.closing(connection):
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data,
                               {} if data is None else {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def detach(self, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.ns.run(broker_binary(), "--detach", "-c", self.file, check=check)

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def __enter__(self) -> "Broker":
        try:
            return self.start()
        except BaseException:
            self.close(failed=True)
            raise

    def __exit__(self, kind, *_exc) -> None:
        self.close(failed=kind is not None)

    def counters(self) -> str:
        """As they are, for a report of what went wrong."""
        try:
            return self.vtapctl("stats", "--json", check=False, timeout=3).stdout
        except subprocess.TimeoutExpired:
            return "no answer"

    def close(self, failed: bool = False) -> None:
        """Ends it, detaches and removes the temporary directory, whatever state it is in."""
        Broker._open.discard(self)
        problems: list[str] = []
        counters = "not running"
        if self.running:
            os.kill(self.pid, signal.SIGCONT)
            if failed:
                counters = self.counters()
            try:
                if (code := self.stop()) != 0:
                    problems.append(f"exit code {code} after SIGTERM")
            except subprocess.TimeoutExpired:
                problems.append("does not end on SIGTERM")
                self.kill()
        try:
            detached = self.detach(check=False)
            if detached.returncode != 0:
                problems.append(f"--detach: exit {detached.returncode}: {detached.stderr}")
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            problems.append(f"--detach: {error}")
        if failed or problems:
            print(f"--- config\n{self.file.read_text()}\n--- log of the broker\n{self.log()}\n"
                  f"--- counters\n{counters}")
        self.discard()
        if problems and not failed:
            raise AssertionError("; ".join(problems))

    def discard(self) -> None:
        """Removes the temporary directory, for a config that should never run."""
        if self.running:
            self.kill()
        shutil.rmtree(self.directory)

    # -- counters --

    def vtapctl(self, *words: str, check: bool = True,
                timeout: float = 30) -> subprocess.CompletedProcess[str]:
        return self.ns.run(vtapctl_binary(), "--socket", self.socket, *words, check=check,
                           timeout=timeout)

    def stats(self) -> dict:
        return json.loads(self.vtapctl("stats", "--json").stdout)

    def settled(self, timeout: float = 3.0) -> dict:
        """Counters once nothing moves any more; the ledgers must hold then."""
        deadline = time.monotonic() + timeout * PATIENCE
        stats = self.stats()
        while True:
            time.sleep(0.02)
            last, stats = stats, self.stats()
            still = all(last[part] == stats[part] for part in ("taps", "policies", "monitors"))
            if (still and not ledger_errors(stats)) or time.monotonic() > deadline:
                ledgers_hold(stats)
                return stats


@contextlib.contextmanager
def shifted_clock(seconds: int) -> Iterator[list[str]]:
    """What to start a program with that is to live in a time namespace of this offset. Entered as a
    whole: before Linux 6.3 a program that `unshare` starts is not, and can have no threads."""
    keeper = subprocess.Popen(["unshare", "--time", f"--monotonic={seconds}", "sleep", "infinity"])
    try:
        assert eventually(
            lambda: Path(f"/proc/{keeper.pid}/comm").read_text() == "sleep\n"), "no time namespace"
        yield ["nsenter", "--no-fork", f"--time=/proc/{keeper.pid}/ns/time_for_children"]
    finally:
        keeper.kill()
        keeper.wait()


def run_broker(lab: Lab, *words: str | Path, launcher: Sequence[str] = ()) \
        -> subprocess.CompletedProcess[str]:
    """Runs the broker where it should end by itself (errors, --check, --version)."""
    return lab.tap_ns.run(*launcher, broker_binary(), *words, check=False, timeout=15)


def checked(lab: Lab, text: str) -> tuple[int, str]:
    """What --check says of a config: exit code, and all output."""
    one = Broker(lab, text)
    try:
        done = run_broker(lab, "--check", "-c", one.file)
        return done.returncode, done.stdout + done.stderr
    finally:
        one.discard()


# --- counters -----------------------------------------------------------------------------------

def tap_ports(stats: dict) -> dict[str, dict]:
    return {port["name"]: port for tap in stats["taps"] for port in tap["ports"]}


def by_name(stats: dict, part: str) -> dict[str, dict]:
    return {item["name"]: item for item in stats[part]}


def policy_to(stats: dict, name: str, to: str = "mon0") -> dict:
    """The counters of a policy for one of its monitors."""
    return next(item for item in by_name(stats, "policies")[name]["monitors"]
                if item["name"] == to)


def ledger_errors(stats: dict) -> list[str]:
    """What does not add up of the ledgers of DESIGN 7.3."""
    wrong: list[str] = []

    def check(what: str, left: int, right: int) -> None:
        if left != right:
            wrong.append(f"{what}: {left} != {right}")

    for tap in stats["taps"]:
        for port in tap["ports"]:
            where = f"tap {tap['name']} port {port['name']}"
            check(f"{where}: rx = passed + consumed + not passed", port["rx_frames"],
                  port["passed_frames"] + port["consumed_frames"] +
                  sum(port["not_passed"].values()))
            check(f"{where}: matched = copied + missed", port["matched_frames"],
                  port["copied_frames"] + sum(port["missed"].values()))
    sent: dict[str, int] = {}
    for item in stats["policies"]:
        for to in item["monitors"]:
            check(f"policy {item['name']} to {to['name']}: matched = dropped + sent + already sent",
                  item["matched_frames"],
                  sum(item["dropped"].values()) + to["sent_frames"] + to["already_sent"] +
                  to.get("before_joining", 0))
            sent[to["name"]] = sent.get(to["name"], 0) + to["sent_frames"]
    for item in stats["monitors"]:
        check(f"monitor {item['name']}: sent by policies = tx + dropped",
              sent.get(item["name"], 0) + item.get("removed_policies", {}).get("sent_frames", 0),
              item["tx_frames"] + sum(item["dropped"].values()))
    return wrong


def ledgers_hold(stats: dict) -> None:
    wrong = ledger_errors(stats)
    assert not wrong, "ledgers:\n  " + "\n  ".join(wrong) + "\n" + json.dumps(stats, indent=1)


def delta(after, before):
    """`after` with every counter lessened by its value in `before`; absent ones count as zero."""
    if isinstance(after, bool) or isinstance(after, str):
        return after
    if isinstance(after, (int, float)):
        return after - (before or 0)
    if isinstance(after, dict):
        return {key: delta(value, (before or {}).get(key)) for key, value in after.items()}
    if isinstance(after, list):
        old = before or []
        return [delta(value, old[i] if i < len(old) else None) for i, value in enumerate(after)]
    return after
