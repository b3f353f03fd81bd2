# SPDX-License-Identifier: Apache-2.0
"""One guest: QEMU without KVM, the host's files read-only, and cables that begin and end in it."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from . import report
from .kernels import Kernel
from .suites import Suite

PROGRAM = "qemu-system-x86_64"
RUNNER = Path(__file__).resolve().parents[1] / "guest" / "run.py"
BOOT_S = 180    # until the first suite begins; 10 s on an idle machine
GRACE_S = 60    # what a suite may take beyond its limit until the guest is given up
POLL_S = 0.25
CPUS = 2
# With ERMS and FSRM the kernel copies and clears by the byte, each emulated; LA57 adds a level to
# each walk of the page tables.
PROCESSOR = "max,-erms,-fsrm,-la57"
MEMORY_MB = 2048
PATIENCE = 5    # times as long as on real CPUs, tests wait for what is to happen
RELOADS = 20    # in a row, where tests make many; 60 on real CPUs


def mac(cable: int, end: int) -> str:
    """The address of one end of a cable; tests/vm/guest/cables.py finds the ends by it."""
    return f"02:76:74:61:{cable:02x}:{end:02x}"


def cable_options(cables: int) -> list[str]:
    """Two virtio NICs on one hub each: what one end sends, the other gets, and nobody else.

    Zero-copy needs a modern device (disable-legacy) that uses the kernel's DMA interface
    (iommu_platform). A hub offers no offloads, so frames are complete."""
    options: list[str] = []
    for cable in range(cables):
        for end in range(2):
            name = f"c{cable}e{end}"
            options += ["-netdev", f"hubport,id={name},hubid={cable}",
                        "-device", f"virtio-net-pci,netdev={name},mac={mac(cable, end)},"
                        "disable-legacy=on,iommu_platform=on,romfile="]
    return options


def command(kernel: Kernel, initrd: Path, job: Path, console: Path, output: Path,
            cables: int) -> list[str]:
    words = ("console=ttyS0 quiet panic=-1 net.ifnames=0 mitigations=off nowatchdog "
             "rcupdate.rcu_cpu_stall_suppress=1 "
             f"vtap.modules={kernel.modules} vtap.runner={RUNNER} vtap.job={job}")
    return [PROGRAM, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
            "-machine", "q35,accel=tcg", "-cpu", PROCESSOR, "-smp", str(CPUS), "-m", str(MEMORY_MB),
            "-serial", f"file:{console}", "-serial", f"file:{output}",
            "-kernel", str(kernel.image), "-initrd", str(initrd), "-append", words,
            "-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
            "-device", "virtio-9p-pci,fsdev=host,mount_tag=host",
            *cable_options(cables)]


def write_job(file: Path, suites: Sequence[Suite], directory: Path, environment: dict) -> None:
    file.write_text(json.dumps({
        "directory": str(directory), "env": environment,
        "suites": [{"name": suite.name, "argv": suite.argv, "limit_s": suite.limit_s}
                   for suite in suites]}))


def overdue(got: report.Report, limits: dict[str, float], quiet_s: float) -> str | None:
    """What a guest that has told nothing for `quiet_s` seconds is given up for, if it is."""
    if got.done:
        return "does not power off" if quiet_s > GRACE_S else None
    if got.running is None:
        return "does not boot" if not got.results and quiet_s > BOOT_S else \
               "stands still between two suites" if got.results and quiet_s > GRACE_S else None
    limit = limits.get(got.running, 0) + GRACE_S
    return f"hangs in {got.running}" if quiet_s > limit else None


def run(argv: Sequence[str], output: Path, suites: Sequence[Suite],
        tell: Callable[[report.Result], None]) -> report.Report:
    """Runs a guest to its end, or until it is overdue; the process is gone when this returns."""
    limits = {suite.name: suite.limit_s for suite in suites}
    output.unlink(missing_ok=True)
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
    told, marks, changed = 0, 0, time.monotonic()
    try:
        while True:
            ended = process.poll() is not None
            got = report.parse(output.read_text(errors="replace") if output.exists() else "")
            for result in got.results[told:]:
                tell(result)
            told = len(got.results)
            if got.marks != marks:
                marks, changed = got.marks, time.monotonic()
            if ended:
                error = process.stderr.read().strip() if process.stderr else ""
                if error and process.returncode != 0:
                    got.faults.append(f"QEMU: {error}")
                return got
            if why := overdue(got, limits, time.monotonic() - changed):
                got.faults.append(f"the guest {why} ({time.monotonic() - changed:.0f} s); ended")
                return got
            time.sleep(POLL_S)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
