# SPDX-License-Identifier: Apache-2.0
"""The broker without root: what each of its threads holds, and what an intruder who runs code on one
of them gets from the kernel. All of it on a broker at work, which goes on working."""

from __future__ import annotations

import errno
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import inject
import packets
from broker import CAPTURES, Broker, ledgers_hold, run_broker, simple_config
from lab import Lab, carry, eventually
from traffic import BothWays

NOTHING = "0000000000000000"
FIVE = "000000c000007000"       # NET_ADMIN, NET_RAW, IPC_LOCK, PERFMON, BPF
SYS_ADMIN = "0000000000200000"  # of the thread that opens programs by id
RUN = Path("/run/vtap")
MAIN, WORKER, SERVER, OPENER = "vtap-broker", "vtap-worker", "vtap-control", "vtap-opener"

needs_injection = pytest.mark.skipif(not inject.SUPPORTED, reason="injection is for x86-64")

# Numbers of x86-64.
READ, OPEN, MMAP, MPROTECT, IOCTL, GETPID, SOCKET, CLONE, EXECVE, KILL = \
    0, 2, 9, 10, 16, 39, 41, 56, 59, 62
CHMOD, PTRACE, SETUID, MOUNT, SETNS, UNSHARE = 90, 101, 105, 165, 308, 272
INIT_MODULE, PROCESS_VM_WRITEV, BPF, CAPSET, OPENAT, UNLINK = 175, 311, 321, 126, 257, 87
SENDMSG = 46
IO_URING_SETUP, CLONE3, PIDFD_GETFD, KEXEC_LOAD = 425, 435, 438, 246

BPF_MAP_CREATE, BPF_MAP_UPDATE, BPF_PROG_LOAD, BPF_PROG_DETACH, BPF_BTF_GET_NEXT_ID = \
    0, 2, 5, 9, 23
PTRACE_SEIZE = 0x4206
AF_UNIX, AF_INET, AF_NETLINK, AF_PACKET, AF_XDP, SOCK_RAW = 1, 2, 16, 17, 44, 3
WRITE_CREATE = os.O_WRONLY | os.O_CREAT
EXECUTABLE, PRIVATE_ANONYMOUS = 5, 0x22


def forbidden() -> dict[str, inject.Call]:
    """For worker and server alike: EPERM, each of them."""
    me = os.getpid()
    path = inject.c_string
    return {
        "create a file": (OPEN, (path("/tmp/vtap-confine-was-here"), WRITE_CREATE, 0o600)),
        "write in the run directory": (OPENAT, (-100, path("/run/vtap/x"), WRITE_CREATE, 0o600)),
        "read a secret": (OPEN, (path("/etc/shadow"), os.O_RDONLY)),
        "write its own code": (OPEN, (path("/proc/self/mem"), os.O_RDWR)),
        "write a kernel setting": (OPEN, (path("/proc/sys/kernel/core_pattern"), os.O_WRONLY)),
        "remove a file": (UNLINK, (path("/no/such/file"),)),
        "change a mode": (CHMOD, (path("/no/such/file"), 0o777)),
        "internet socket": (SOCKET, (AF_INET, 1, 0)),
        "unix socket": (SOCKET, (AF_UNIX, 1, 0)),
        "packet socket": (SOCKET, (AF_PACKET, SOCK_RAW, 0)),
        "XDP socket": (SOCKET, (AF_XDP, SOCK_RAW, 0)),
        "firewall socket": (SOCKET, (AF_NETLINK, SOCK_RAW, 12)),
        "pass a descriptor on": (SENDMSG, (0, bytes(56), 0)),
        "device setting": (IOCTL, (0, 0x8946, 0)),
        "make a map": (BPF, (BPF_MAP_CREATE, inject.bpf_map_attributes(), 120)),
        "change a map": (BPF, (BPF_MAP_UPDATE, bytes(120), 120)),
        "load a program": (BPF, (BPF_PROG_LOAD, bytes(120), 120)),
        "detach a program": (BPF, (BPF_PROG_DETACH, bytes(120), 120)),
        "execute": (EXECVE, (path("/bin/true"), 0, 0)),
        "fork": (CLONE, (signal.SIGCHLD, 0, 0, 0, 0)),
        "start a thread": (CLONE3, (bytes(88), 88)),
        "trace a process": (PTRACE, (PTRACE_SEIZE, me, 0, 0)),
        "signal a process": (KILL, (me, 0)),
        "write a process's memory": (PROCESS_VM_WRITEV, (me, 0, 0, 0, 0, 0)),
        "take a process's descriptor": (PIDFD_GETFD, (0, 0, 0)),
        "become root": (SETUID, (0,)),
        "raise a capability": (CAPSET, (bytes(8), 0)),
        "mount": (MOUNT, (path("none"), path("/no/such/directory"), path("tmpfs"), 0, 0)),
        "another namespace": (SETNS, (-1, 0)),
        "a user namespace": (UNSHARE, (0x10000000,)),
        "a module": (INIT_MODULE, (0, 0, path(""))),
        "another kernel": (KEXEC_LOAD, (0, 0, 0, 0)),
        "io_uring": (IO_URING_SETUP, (1, bytes(120))),
        "new code": (MMAP, (0, 4096, EXECUTABLE, PRIVATE_ANONYMOUS, -1, 0)),
        "code of data": (MPROTECT, (0, 4096, EXECUTABLE)),
    }


# What even the control thread, with its five capabilities, is refused; and by what.
FORBIDDEN_TO_CONTROL = {
    "execute": (EXECVE, (b"/bin/true\0", 0, 0), errno.EPERM),
    "trace a process": (PTRACE, (PTRACE_SEIZE, 1, 0, 0), errno.EPERM),
    "mount": (MOUNT, (b"none\0", b"/no/such/directory\0", b"tmpfs\0", 0, 0), errno.EPERM),
    "become root": (SETUID, (0,), errno.EPERM),
    "a user namespace": (UNSHARE, (0x10000000,), errno.EPERM),
    "a module": (INIT_MODULE, (0, 0, b"\0"), errno.EPERM),
    "io_uring": (IO_URING_SETUP, (1, bytes(120)), errno.EPERM),
    # There are none, rather than that it may not know: what loads programs on old kernels asks.
    "types of the kernel's modules": (BPF, (BPF_BTF_GET_NEXT_ID, bytes(120), 120), errno.ENOENT),
    "a file of root's": (OPEN, (b"/etc/passwd\0", os.O_WRONLY), errno.EACCES),
    "a new file": (OPEN, (b"/usr/vtap-confine-was-here\0", WRITE_CREATE, 0o600), errno.EACCES),
    "how the kernel dumps cores": (OPEN, (b"/proc/sys/kernel/core_pattern\0", os.O_WRONLY),
                                   errno.EACCES),
}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        made.open_wires()
        yield made


@pytest.fixture
def another_user() -> Iterator[None]:
    """A broker of another user takes the run directory over; it was this one's."""
    was = RUN.stat() if RUN.exists() else None
    yield
    if was is not None:
        os.chown(RUN, was.st_uid, was.st_gid)
    elif RUN.exists():
        RUN.rmdir()


def holdings(running: Broker) -> dict[str, set[tuple[str, ...]]]:
    """By kind of thread: permitted, effective, inheritable, ambient, bounding; and the rest."""
    fields = ("CapPrm", "CapEff", "CapInh", "CapAmb", "CapBnd", "NoNewPrivs", "Seccomp_filters")
    found: dict[str, set[tuple[str, ...]]] = {}
    for name, ids in inject.threads(running.pid).items():
        for thread in ids:
            status = inject.status(running.pid, thread)
            found.setdefault(name, set()).add(tuple(status[field] for field in fields))
    return found


def users(running: Broker) -> set[str]:
    return {inject.status(running.pid, thread)[field]
            for ids in inject.threads(running.pid).values() for thread in ids
            for field in ("Uid", "Gid")}


def confined(permitted: str, filters: int) -> set[tuple[str, ...]]:
    return {(permitted, permitted, NOTHING, NOTHING, NOTHING, "1", str(filters))}


def copies_flow(lab: Lab, running: Broker) -> None:
    """Originals and copies, byte for byte, and the ledgers."""
    lab.clear()
    carry([packets.sized(60 + n, n) for n in range(200)], lab.left, lab.right, lab.monitors)
    ledgers_hold(running.settled())


# --- what threads hold --------------------------------------------------------------------------

@pytest.mark.parametrize("capture", CAPTURES)
def test_threads_hold_what_they_need(capture: str) -> None:
    """While frames are copied and counters are read."""
    with Lab(napi_ends=capture != "tc") as lab:
        lab.open_wires()
        with Broker(lab, simple_config(CAPTURES[capture])) as running:
            with BothWays(lab, 500) as traffic:
                time.sleep(0.2)
                running.stats()
                held = holdings(running)
            for what, delivery in traffic.deliveries:
                delivery.assert_complete(what)
            # Workers and servers have the control thread's filter, and their own.
            assert held == {MAIN: confined(FIVE, 1), OPENER: confined(SYS_ADMIN, 1),
                            WORKER: confined(NOTHING, 2), SERVER: confined(NOTHING, 2)}
            copies_flow(lab, running)


@pytest.mark.parametrize("how", ["named", "default"])
def test_runs_as_another_user(lab: Lab, another_user: None, tmp_path: Path, how: str) -> None:
    """Ports go and come back, and a dead broker's programs are replaced: all that without root."""
    user = pwd.getpwnam("nobody")
    if how == "named":
        running = Broker(lab, simple_config(CAPTURES["tc"]), arguments=["--user", "nobody"])
    else:  # a machine that has a user vtap
        passwords = tmp_path / "passwd"
        passwords.write_text(Path("/etc/passwd").read_text() +
                             f"vtap:x:{user.pw_uid}:{user.pw_gid}::/nonexistent:/bin/false\n")
        running = Broker(lab, simple_config(CAPTURES["tc"]), launcher=[
            "unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/passwd && exec "$@"',
            str(passwords)])
    os.chown(running.directory, user.pw_uid, user.pw_gid)
    with running:
        assert users(running) == {"\t".join([str(user.pw_uid)] * 4),
                                  "\t".join([str(user.pw_gid)] * 4)}
        assert holdings(running)[WORKER] == confined(NOTHING, 2)
        assert holdings(running)[MAIN] == confined(FIVE, 1)
        copies_flow(lab, running)
        lab.port("m0").down()
        assert eventually(lambda: running.stats()["monitors"][0]["state"] == "down")
        lab.port("m0").up()
        assert eventually(lambda: running.stats()["monitors"][0]["state"] == "up")
        copies_flow(lab, running)
        running.kill()
        running.start()
        copies_flow(lab, running)
    # As root again, over what the other left.
    with Broker(lab, simple_config(CAPTURES["tc"])) as again:
        copies_flow(lab, again)


def test_user_that_is_not_there(lab: Lab) -> None:
    attempt = Broker(lab, simple_config())
    try:
        done = run_broker(lab, "-c", attempt.file, "--user", "no-such-user")
        assert done.returncode == 2
        assert "no-such-user" in done.stderr and "--user" in done.stderr
    finally:
        attempt.discard()


# --- what an intruder gets ----------------------------------------------------------------------

def attempts(running: Broker, kind: str, calls: dict[str, inject.Call]) -> dict[str, int]:
    """What each call returned on a thread of that kind."""
    thread = inject.threads(running.pid)[kind][0]
    with inject.taken_over(running.pid, thread) as puppet:
        assert puppet.call(GETPID) == running.pid  # it is this thread that calls
        return {what: puppet.call(number, *arguments)
                for what, (number, arguments) in calls.items()}


@needs_injection
def test_the_injection_itself() -> None:
    """In a process that is not confined, the same calls are not refused by anybody."""
    calls = {what: call for what, call in forbidden().items()
             if what in ("create a file", "read a secret", "internet socket", "unix socket",
                         "packet socket", "XDP socket", "make a map", "new code",
                         "signal a process", "become root", "firewall socket")}
    victim = subprocess.Popen(["/bin/sleep", "60"])
    try:
        assert eventually(lambda: Path(f"/proc/{victim.pid}/wchan").read_text() not in ("", "0")
                          or "S (sleeping)" in Path(f"/proc/{victim.pid}/status").read_text())
        with inject.taken_over(victim.pid, victim.pid) as puppet:
            assert puppet.call(GETPID) == victim.pid
            got = {what: puppet.call(number, *arguments)
                   for what, (number, arguments) in calls.items()}
        assert all(result >= 0 for result in got.values()), got
        assert len(got) == 11
    finally:
        victim.kill()
        victim.wait()
        Path("/tmp/vtap-confine-was-here").unlink(missing_ok=True)


@needs_injection
@pytest.mark.parametrize("kind", [WORKER, SERVER])
def test_what_an_intruder_cannot_do(lab: Lab, kind: str) -> None:
    with Broker(lab, simple_config(CAPTURES["tc"])) as running:
        copies_flow(lab, running)
        got = attempts(running, kind, forbidden())
        assert {what: errno.errorcode.get(-result, result) for what, result in got.items()} == \
            dict.fromkeys(forbidden(), "EPERM")
        assert not Path("/tmp/vtap-confine-was-here").exists()
        copies_flow(lab, running)


@needs_injection
@pytest.mark.parametrize("kind", [MAIN, OPENER])
def test_what_even_the_privileged_threads_cannot_do(lab: Lab, kind: str) -> None:
    calls = {what: call[:2] for what, call in FORBIDDEN_TO_CONTROL.items()}
    expected = {what: call[2] for what, call in FORBIDDEN_TO_CONTROL.items()}
    if kind == OPENER:  # CAP_SYS_ADMIN: nothing but to open programs
        calls |= forbidden()
        expected = dict.fromkeys(calls, errno.EPERM)
    with Broker(lab, simple_config(CAPTURES["tc"])) as running:
        got = attempts(running, kind, calls)
        assert {what: -result for what, result in got.items()} == expected
        copies_flow(lab, running)


@needs_injection
def test_a_call_that_ends_the_broker_leaves_the_wire(lab: Lab) -> None:
    """By the table of another architecture: the process is killed, and that harms no original."""
    with Broker(lab, simple_config(CAPTURES["tc"])) as running:
        worker = inject.threads(running.pid)[WORKER][0]
        with BothWays(lab, 500) as traffic:
            time.sleep(0.1)
            with inject.taken_over(running.pid, worker) as puppet:
                puppet.old_call(20)  # getpid
            code = running.process.wait(10)
            time.sleep(0.2)
        # SIGSEGV: a kernel that has no such table.
        assert code in (-signal.SIGSYS, -signal.SIGSEGV)
        for what, delivery in traffic.deliveries:
            delivery.assert_complete(what)
        running.start()
        copies_flow(lab, running)
