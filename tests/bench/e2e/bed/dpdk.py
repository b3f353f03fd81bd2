# SPDX-License-Identifier: Apache-2.0
"""DPDK's testpmd: a peer.

None of testpmd's modes copies packets. But it can forward into a bond in broadcast mode, which
sends every packet by all of its ports, without copying it in between: that is a mirror. A bond
sets the MAC of its ports, which the af_xdp driver of DPDK 22.11 cannot, so its ports are af_packet
ones; only the input can be af_xdp. Forwarding alone is there for information, with either driver.

pdump would need memory shared by two processes, so huge pages set aside on the machine: not done.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import bench

from bed import testbed
from bed.contestant import Contestant, Kind, Start, running

PACKAGES = (("dpdk-testpmd", "dpdk-dev"),)
MEGABYTES = 256
BUFFERS = 16384
START_S = 20.0
LATE_S = 1.0  # it says that it forwards before it does


def device(driver: str, number: int, port: str) -> list[str]:
    queues = ",start_queue=0,queue_count=1" if driver == "af_xdp" else ""
    return ["--vdev", f"net_{driver}{number},iface={port}{queues}"]


def testpmd(ports: list[str], forwarding: tuple[int, int]) -> list[str]:
    """Without huge pages and without files in system paths. Main thread (idle) and forwarding
    thread on the same CPU."""
    cpu = bench.WORKER_CPU
    return ["stdbuf", "-oL", "dpdk-testpmd", "--no-huge", "--no-shconf", "-m", str(MEGABYTES), "--no-pci",
            "--no-telemetry", "--lcores", f"0@{cpu},1@{cpu}", *ports, "--", "--nb-cores=1",
            "--forward-mode=io", "--no-mlockall", f"--total-num-mbufs={BUFFERS}",
            f"--portlist={forwarding[0]},{forwarding[1]}", "--auto-start",
            "--stats-period=100000"]  # without it, it ends with its standard input


def forwards(process: bench.Process) -> bool:
    return "packet forwarding - ports=" in process.stdout()


def tap(driver: str) -> Start:
    @contextlib.contextmanager
    def start(bed: testbed.Bed, tools: bench.Tools, directory: Path) -> Iterator[bench.Process]:
        bed.tx_offloads_off()
        outputs = ["b", *bed.monitor_ports()]
        ports = device(driver, 0, "a")
        bond = "net_bonding0,mode=3"
        for number, port in enumerate(outputs, start=1):
            ports += device("af_packet", number, port)
            bond += f",slave=net_af_packet{number}"
        words = testpmd([*ports, "--vdev", bond], (0, 1 + len(outputs)))
        with running(bed, "tap", words, directory, bench.WORKER_CPU, forwards, START_S) as process:
            time.sleep(LATE_S)
            yield process
    return start


def forward(driver: str) -> Start:
    @contextlib.contextmanager
    def start(bed: testbed.Bed, tools: bench.Tools, directory: Path) -> Iterator[bench.Process]:
        bed.tx_offloads_off()
        words = testpmd([*device(driver, 0, "a"), *device(driver, 1, "b")], (0, 1))
        with running(bed, "tap", words, directory, bench.WORKER_CPU, forwards, START_S) as process:
            time.sleep(LATE_S)
            yield process
    return start


CONTESTANTS = [
    Contestant("dpdk-af_packet", "DPDK testpmd, af_packet into a broadcast bond of af_packet",
               Kind.peer, tap("af_packet"), packages=PACKAGES),
    Contestant("dpdk-af_xdp", "DPDK testpmd, af_xdp into a broadcast bond of af_packet",
               Kind.peer, tap("af_xdp"), packages=PACKAGES),
    Contestant("dpdk-af_xdp-4", "the same with four monitors", Kind.peer, tap("af_xdp"),
               testbed.MONITORS, packages=PACKAGES),
    Contestant("dpdk-forward-af_packet", "DPDK testpmd, forwarding only, af_packet", Kind.extra,
               forward("af_packet"), 0, packages=PACKAGES),
    Contestant("dpdk-forward-af_xdp", "DPDK testpmd, forwarding only, af_xdp", Kind.extra,
               forward("af_xdp"), 0, packages=PACKAGES),
]
