# SPDX-License-Identifier: Apache-2.0
"""The Debian package on a machine of its own: installed, run by systemd as the unit says, upgraded
and removed under traffic, purged. Nothing of the machine that runs this test is changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import packets
from broker import ledgers_hold, tap_ports
from lab import Lab, assert_restored, carry, differences, snapshot
from machine import Machine, wait_for
from traffic import BothWays

BUILD = Path(os.environ["VTAP_BUILD_DIR"])
UNIT = "vtap-broker@lab.service"
CONFIG = """
[broker]
name = "lab"
[[tap]]
name  = "wire"
mode  = "inline"
ports = ["t0", "t1"]
[[monitor]]
name = "ids"
port = "m0"
[[policy]]
name     = "everything"
monitors = ["ids"]
"""
EXPOSURE = 30  # tenths, of systemd-analyze security: what capabilities and the network cost
RATE = 1000  # frames per second and direction
CAPABILITIES = {12: "net_admin", 13: "net_raw", 14: "ipc_lock", 21: "sys_admin", 38: "perfmon",
                39: "bpf"}
# A user's account stays: its number must not be given to another.
ACCOUNTS = {f"/etc/{name}{suffix}" for name in ("passwd", "group", "shadow", "gshadow")
            for suffix in ("", "-")}

# Holds one thread of a process until that ends; argument: the thread.
HOLD_THREAD = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
thread = int(sys.argv[1])
for request in (0x4206, 0x4207):  # PTRACE_SEIZE, PTRACE_INTERRUPT
    if libc.ptrace(request, thread, None, None) != 0:
        sys.exit(os.strerror(ctypes.get_errno()))
try:
    while True:
        os.waitpid(-1, 0x40000000)  # __WALL
except ChildProcessError:
    pass
"""


def later_version(package: Path) -> Path:
    """The same package with a higher version, and a file that tells them apart."""
    tree = package.parent / "later"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    control = tree / "DEBIAN/control"
    lines = control.read_text().splitlines()
    control.write_text("".join(
        f"{line}+later\n" if line.startswith("Version:") else f"{line}\n" for line in lines))
    (tree / "usr/share/doc/vtap-broker/later").write_text("later\n")
    result = package.parent / "later.deb"
    subprocess.run(["dpkg-deb", "-Znone", "-b", tree, result], check=True, capture_output=True)
    return result


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of this build directory."""
    directory = tmp_path_factory.mktemp("package")
    done = subprocess.run(["cpack", "--config", BUILD / "CPackConfig.cmake", "-B", directory],
                          cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = directory.glob("*.deb")
    return result


def service_pid(machine: Machine) -> int:
    """The broker's number outside: there its /proc is."""
    inside = machine.show(UNIT, "MainPID")
    assert inside != "0"
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:
            continue
        if "Name:\tvtap-broker\n" in text and text.split("NSpid:")[1].split("\n")[0].split()[-1] \
                == inside and os.path.samefile(f"/proc/{status.parent.name}/ns/pid",
                                               f"/proc/{machine.pid}/ns/pid"):
            return int(status.parent.name)
    raise AssertionError(f"no process {inside}")


def assert_unit(machine: Machine) -> None:
    """Systemd understands all of it, and finds nothing open that could be shut."""
    verified = machine.run("systemd-analyze", "verify", UNIT)
    assert verified.stdout + verified.stderr == ""
    machine.run("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", UNIT)


def assert_confined(lab: Lab, machine: Machine) -> None:
    """It runs as the unit says."""
    status = dict(line.split(":\t", 1) for line in
                  Path(f"/proc/{service_pid(machine)}/status").read_text().splitlines())
    uid = machine.run("id", "-u", "vtap").stdout.strip()
    assert status["Uid"].split() == [uid] * 4
    for kind in ("CapEff", "CapPrm", "CapBnd"):
        held = {bit for bit in range(64) if int(status[kind], 16) >> bit & 1}
        assert held <= set(CAPABILITIES), f"{kind}: {held - set(CAPABILITIES)} more than needed"
    # Needs the one writable place below /proc/sys.
    assert lab.tap_ns.sysctl("net/ipv6/conf/t0/disable_ipv6") == "1"
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"


def assert_carries(lab: Lab, machine: Machine) -> None:
    lab.clear()
    carry([packets.sized(60, n) for n in range(300)], lab.left, lab.right, lab.monitors)
    # As somebody of the group, without any privilege.
    done = machine.run("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--groups", "vtap",
                       "vtapctl", "stats", "--json")
    stats = json.loads(done.stdout)
    ledgers_hold(stats)
    assert tap_ports(stats)["t0"]["copied_frames"] >= 300


def journal(machine: Machine) -> list[dict]:
    lines = machine.run("journalctl", "--no-pager", "-o", "json", "-u", UNIT).stdout.splitlines()
    return [json.loads(line) for line in lines]


def assert_logged(machine: Machine) -> None:
    ready = [entry for entry in journal(machine) if entry["MESSAGE"] == "ready"]
    assert ready, [entry["MESSAGE"] for entry in journal(machine)]
    assert ready[0]["PRIORITY"] == "6" and ready[0]["VTAP_BROKER"] == "lab"
    assert ready[0]["SYSLOG_IDENTIFIER"] == "vtap-broker"


def assert_watchdog(lab: Lab, machine: Machine) -> None:
    """One worker of several that stands still: the control thread turns on, and yet it ends."""
    drop_in = machine.root / f"run/systemd/system/{UNIT}.d/watchdog.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Service]\nWatchdogSec=2\nLimitCORE=0\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", UNIT)
    time.sleep(3)
    assert (machine.show(UNIT, "ActiveState"), machine.show(UNIT, "NRestarts")) \
        == ("active", "0"), "idle workers make rounds too"
    pid = service_pid(machine)
    threads = {task.name: (task / "comm").read_text().strip()
               for task in Path(f"/proc/{pid}/task").iterdir()}
    worker = next(tid for tid, name in threads.items() if "worker" in name)
    holder = subprocess.Popen([sys.executable, "-c", HOLD_THREAD, worker])
    with BothWays(lab, RATE) as traffic:
        wait_for(lambda: machine.show(UNIT, "NRestarts") == "1", "the watchdog restarted it")
        wait_for(lambda: machine.show(UNIT, "ActiveState") == "active", "and it is up again")
    holder.wait(5)
    traffic.assert_complete()
    assert any("Watchdog timeout" in entry["MESSAGE"] for entry in journal(machine))
    assert_carries(lab, machine)


def assert_upgrades(lab: Lab, machine: Machine, package: Path) -> None:
    before = machine.show(UNIT, "MainPID")
    with BothWays(lab, RATE) as traffic:
        machine.install(package)
        assert machine.show(UNIT, "ActiveState") == "active"
    traffic.assert_complete()
    assert machine.show(UNIT, "MainPID") != before, "the old program still runs"
    assert_carries(lab, machine)


def assert_removes(lab: Lab, machine: Machine, found: dict[str, object]) -> None:
    with BothWays(lab, RATE) as traffic:
        said = machine.run("dpkg", "--remove", "vtap-broker").stdout
    traffic.assert_complete()
    assert "inline wires stay" in said
    assert machine.run("pgrep", "-x", "vtap-broker", check=False).stdout == ""
    assert not (machine.root / "usr/sbin/vtap-broker").exists()
    assert differences(found, snapshot(lab.tap_ns)), "the stubs carry the wire"


def test_lintian(package: Path) -> None:
    if shutil.which("lintian") is None:
        pytest.fail("needs lintian: tools/setup.sh --test")
    # Whoever makes packages for others has an address: VTAP_PACKAGE_MAINTAINER.
    done = subprocess.run(["lintian", "--allow-root", "--fail-on", "error,warning",
                           "--suppress-tags", "bogus-mail-host,bogus-mail-host-in-debian-changelog",
                           package], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_lifecycle(package: Path) -> None:
    with Lab(ipv6=["tap"]) as lab:  # so that there is something to turn off, and on again
        lab.open_wires()
        found = snapshot(lab.tap_ns)
        with Machine(lab.tap_ns) as machine:
            before = machine.changes()
            machine.install(package)
            assert machine.run("stat", "-c", "%A %U %G", "/etc/vtap").stdout.strip() \
                == "drwxr-x--- root vtap"
            assert_unit(machine)
            (machine.root / "etc/vtap/lab.toml").write_text(CONFIG)
            machine.run("systemctl", "enable", "--now", UNIT)
            assert_confined(lab, machine)
            wait_for(lambda: machine.show(UNIT, "StatusText") == "every port carries", "ready")
            assert_carries(lab, machine)
            assert_logged(machine)
            pid = machine.show(UNIT, "MainPID")
            machine.run("systemctl", "reload", UNIT)
            assert_carries(lab, machine)
            assert machine.show(UNIT, "MainPID") == pid, "a reload is no restart"
            assert_watchdog(lab, machine)
            assert_upgrades(lab, machine, later_version(package))
            assert_removes(lab, machine, found)
            machine.run("dpkg", "--purge", "vtap-broker")
            assert_restored(found, lab.tap_ns)
            after = machine.changes()
            assert not (machine.root / "run/vtap").exists()
            left = {path for path in before.keys() | after.keys()
                    if before.get(path) != after.get(path) and after.get(path) != "directory"}
            assert left - ACCOUNTS == {"/etc/vtap/lab.toml"}, "the operator's, and nothing else"
