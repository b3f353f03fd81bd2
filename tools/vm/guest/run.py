#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Process 1 of a guest: runs the suites of a job, one after the other, and powers off.

What they print, and lines that say where each begins and ends, go to the second serial port;
vmlab/report.py reads them. The job: {"suites": [{"name", "argv", "limit_s"}], "directory", "env"}.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback

MARK = "VTAP-VM"
_LINUX_REBOOT_CMD_POWER_OFF = 0x4321FEDC


def say(*words: object) -> None:
    """A line of its own, whatever was printed before."""
    print(f"\n{MARK}", *words, flush=True)


def run(suite: dict, job: dict) -> None:
    say("begin", suite["name"])
    began = time.monotonic()
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                   "HOME": "/root", "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1",
                   **job["env"]}
    process = subprocess.Popen(suite["argv"], cwd=job["directory"], env=environment,
                               stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        result = str(process.wait(suite["limit_s"]))
    except subprocess.TimeoutExpired:
        result = "timeout"
        process.terminate()  # pytest cleans up on that
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    say("end", suite["name"], f"result={result}", f"seconds={time.monotonic() - began:.1f}")


def prepare() -> None:
    socket.sethostname("guest")
    os.setsid()
    serial = os.open("/dev/ttyS1", os.O_RDWR | os.O_NOCTTY)
    subprocess.run(["stty", "-F", "/dev/ttyS1", "raw", "-echo", "115200"], check=False)
    for fd in (1, 2):
        os.dup2(serial, fd)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=False)
    # Drivers hand frames up in batches, which grow on a slow machine; of a batch, the kernel gives
    # packet sockets those that no protocol wants after the others. Tests look at the order.
    with open("/proc/sys/net/core/gro_normal_batch", "w", encoding="ascii") as file:
        file.write("1")
    for module in ("virtio_net", "veth", "tun"):
        subprocess.run(["modprobe", module], check=False)


def work(job_file: str) -> int:
    with open(job_file, encoding="utf-8") as file:
        job = json.load(file)
    say("kernel", os.uname().release, f"cpus={os.cpu_count()}", f"booted={time.monotonic():.1f}")
    for suite in job["suites"]:
        run(suite, job)
    say("done")
    return 0


def main() -> None:
    prepare()
    worker = os.fork()
    if worker == 0:
        code = 1
        try:
            code = work(sys.argv[1])
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    # Process 1 is the parent of all who lost theirs.
    while os.wait()[0] != worker:
        pass
    os.sync()
    ctypes.CDLL(None).reboot(_LINUX_REBOOT_CMD_POWER_OFF)


main()
