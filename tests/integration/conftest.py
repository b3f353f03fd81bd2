# SPDX-License-Identifier: Apache-2.0
"""Rules of all integration tests: root or a loud refusal, and nothing left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import signal
import sys
from collections.abc import Iterator

import pytest
from _pytest.runner import runtestprotocol

import broker
import lab as laboratory
import stalls

STALL_S = 0.25  # the broker calls a worker hung after 0.5 s, and that costs what is under way

watch: stalls.Watch | None = None


def pytest_configure(config: pytest.Config) -> None:
    # Python caches nothing beside the sources, and a driver's SIGTERM ends in cleanup, not in a
    # machine full of namespaces.
    sys.dont_write_bytecode = True
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    if os.geteuid() == 0:
        _one_run_at_a_time()
        laboratory.remove_stale()
        global watch
        watch = stalls.Watch()


def pytest_unconfigure() -> None:
    if watch is not None:
        watch.close()


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """A test that fails while the machine stands still is run once more, and says so."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    if watch is not None:
        watch.reset()
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    stalled = watch.longest_s() if watch is not None else 0.0
    if stalled > STALL_S and any(report.failed for report in reports):
        print(f"\n{item.nodeid} failed while a CPU stood still for {stalled:.2f} s; once more:\n"
              + "\n".join(str(report.longrepr) for report in reports if report.failed),
              file=sys.__stderr__)
        item._initrequest()
        watch.reset()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """With a failure, the counters of the brokers that still run: they say where frames went."""
    report = (yield).get_result()
    if call.when == "call" and report.failed:
        if watch is not None:
            report.sections.append(("longest stall of a CPU", f"{watch.longest_s():.3f} s"))
        for running in broker.Broker.all_running():
            report.sections.append((f"counters of {running.name}", running.counters()))


@pytest.fixture(scope="session", autouse=True)
def _no_directories_of_iproute2():
    """`ip link ... xdp obj` and `tc ... obj` leave directories for pinned maps on bpffs."""
    bpffs = pathlib.Path("/sys/fs/bpf")
    made = [name for name in ("ip", "xdp", "tc/globals", "tc")
            if not os.path.lexists(bpffs / name)]
    yield
    for path in (bpffs / name for name in made):
        with contextlib.suppress(OSError):  # never made, or somebody uses it
            path.unlink() if path.is_symlink() else path.rmdir()


def _one_run_at_a_time() -> None:
    """Two runs on one machine would see each other's BPF objects and state files, and their noise.
    The lock is on a directory that is always there: nothing to leave behind."""
    machine = os.open("/run", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(machine, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("waiting for another run of these tests to end", file=sys.__stderr__)
        fcntl.flock(machine, fcntl.LOCK_EX)  # kept until this process ends


@pytest.fixture(scope="session", autouse=True)
def root() -> None:
    if os.geteuid() == 0:
        return
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail("integration tests need root, and in CI nothing is skipped", pytrace=False)
    print("\n*** SKIPPED: integration tests need root ***", file=sys.__stderr__)
    pytest.skip("integration tests need root")


def _assert_nothing_new(before: set[str], what: str) -> None:
    laboratory.eventually(lambda: not laboratory.footprint() - before)
    left = laboratory.footprint() - before
    assert not left, f"left behind by {what}:\n  " + "\n  ".join(sorted(left))


@pytest.fixture(scope="session", autouse=True)
def nothing_left_at_the_end(root: None):
    """What fixtures of a module made; of session scope, as only then it is sure to end last."""
    before = laboratory.footprint()
    yield
    _assert_nothing_new(before, "the whole run")


@pytest.fixture(autouse=True)
def nothing_left_by_test(root: None, request: pytest.FixtureRequest):
    """Fixtures of wider scope are set up before this one, so theirs does not count here."""
    before = laboratory.footprint()
    yield
    _assert_nothing_new(before, request.node.name)


@pytest.fixture
def cpus() -> Iterator[list[int]]:
    """Two CPUs whose tee rings are served by worker 0 and worker 1."""
    mine = os.sched_getaffinity(0)
    chosen = [next((cpu for cpu in sorted(mine) if cpu % 2 == worker), None) for worker in (0, 1)]
    if None in chosen:
        pytest.skip("needs an even and an odd CPU")
    yield chosen
    os.sched_setaffinity(0, mine)
