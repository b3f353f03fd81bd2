# SPDX-License-Identifier: Apache-2.0
"""A machine of its own to install packages on: systemd as process 1, above this machine's files,
which it cannot change; in the network namespace that the test gives it. Gone when it ends."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
import time
from pathlib import Path

from lab import OWN_PREFIX, Namespace, eventually

HERE = Path(__file__).resolve().parent
# What every installation writes, and the machine by itself.
NOT_OURS = ("/.layer", "/var/lib/dpkg", "/var/log", "/var/cache", "/var/lib/systemd", "/var/backups",
            "/etc/machine-id", "/.old", "/etc/.pwd.lock")


def _cgroup2() -> Path:
    """The directory of this process in the unified hierarchy."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    root = next(words[1] for words in mounts if words[2] == "cgroup2")
    own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines()
               if line.startswith("0::"))
    return Path(root + own[3:])


class Machine:
    """As a context: boots, and ends with all that runs in it."""

    def __init__(self, ns: Namespace) -> None:
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            undo.callback(self._stack.close)
            self.directory = Path(self._stack.enter_context(
                tempfile.TemporaryDirectory(prefix=OWN_PREFIX)))
            self.console = self.directory / "console"
            self._boot(ns)
            undo.pop_all()

    def _boot(self, ns: Namespace) -> None:
        cgroup = _cgroup2() / f"{OWN_PREFIX}machine"
        cgroup.mkdir()
        self._stack.callback(self._remove, cgroup)
        layers = self.directory / "layers"
        layers.mkdir()
        enter = 'echo 0 > "$1/cgroup.procs"; shift; exec "$@"'
        with ns.entered(), self.console.open("wb") as console:
            process = subprocess.Popen(
                ["sh", "-c", enter, "sh", cgroup, "unshare", "--mount", "--pid", "--fork",
                 "--cgroup", "--uts", "--ipc", "--kill-child", HERE / "machine.sh", layers],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        self._stack.callback(self._end, process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        assert eventually(lambda: children.read_text().split(), 10), "no process 1"
        self.pid = int(children.read_text().split()[0])
        assert eventually(self._up, 20, 0.1), f"does not boot:\n{self.console.read_text()}"

    def _up(self) -> bool:
        if Path(f"/proc/{self.pid}/comm").read_text() != "systemd\n":
            return False
        return self.run("systemctl", "is-system-running", check=False).stdout.strip() in (
            "running", "degraded")

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.kill()  # and with it the whole of its process namespace (--kill-child)
        process.wait()

    @staticmethod
    def _remove(cgroup: Path) -> None:
        def remove() -> bool:
            # The files in there go with their directories.
            for path, _, _ in os.walk(cgroup, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(path)
            return not cgroup.exists()
        assert eventually(remove), f"{cgroup} cannot be removed"

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, kind, *_exc) -> None:
        if kind is not None:
            print(self.run("journalctl", "--no-pager", "-o", "short-monotonic", check=False).stdout)
            print(self.console.read_text())
        self._stack.close()

    def run(self, *argv: str | Path, check: bool = True, timeout: float = 60) \
            -> subprocess.CompletedProcess[str]:
        """A command inside, with its plain environment."""
        done = subprocess.run(
            ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--cgroup", "--uts", "--ipc",
             "--net", "--", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8",
             "DEBIAN_FRONTEND=noninteractive", *map(str, argv)],
            cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(map(str, argv))}: exit {done.returncode}\n"
                                 f"{done.stdout}{done.stderr}")
        return done

    def install(self, package: Path) -> str:
        """What dpkg said."""
        shutil.copy(package, self.root / "tmp/package.deb")
        done = self.run("dpkg", "-i", "/tmp/package.deb")
        return done.stdout + done.stderr

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self.pid}/root")

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).stdout.strip()

    def changes(self) -> dict[str, str]:
        """Each file that is not as this machine has it: what it is, by its path."""
        layer = self.root / ".layer"
        found: dict[str, str] = {}
        for directory, names, files in os.walk(layer):
            for name in [*names, *files]:
                path = Path(directory, name)
                inside = "/" + str(path.relative_to(layer))
                if not inside.startswith(NOT_OURS):
                    found[inside] = _kind(path)
        return found


def _kind(path: Path) -> str:
    status = path.lstat()
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        return "removed"
    if stat.S_ISLNK(status.st_mode):
        return f"-> {os.readlink(path)}"
    if stat.S_ISDIR(status.st_mode):
        return "directory"  # copied up when something below it changed
    return f"{oct(status.st_mode)} {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


def wait_for(condition, what: str, timeout: float = 10) -> None:
    start = time.monotonic()
    assert eventually(condition, timeout, 0.1), f"not within {timeout} s: {what}"
    print(f"{what}: after {time.monotonic() - start:.1f} s")
