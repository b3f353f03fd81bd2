# SPDX-License-Identifier: Apache-2.0
"""Open vSwitch with the userspace datapath and a mirror: a peer.

Database and switch run as own processes from a scratch directory: no service, no system path.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import bench

from bed import testbed
from bed.contestant import Contestant, Kind, Start, environment, running

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
PACKAGES = tuple((program, "openvswitch-switch")
                 for program in ("ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl",
                                 "ovs-ofctl"))
START_S = 20.0


@contextlib.contextmanager
def switch(bed: testbed.Bed, directory: Path) -> Iterator[bench.Process]:
    """Database and an empty switch; yields the switch."""
    variables = environment(OVS_RUNDIR=str(directory), OVS_LOGDIR=str(directory))
    bench.run("ovsdb-tool", "create", f"{directory}/conf.db", str(SCHEMA))
    database = [*variables, "ovsdb-server", f"{directory}/conf.db",
                f"--remote=p{remote(directory)}", f"--unixctl={directory}/db.ctl"]
    daemon = [*variables, "ovs-vswitchd", remote(directory), f"--unixctl={directory}/switch.ctl",
              f"--pidfile={directory}/switch.pid"]
    with running(bed, "tap", database, directory, bench.WORKER_CPU,
                 lambda _: (directory / "db.sock").exists(), START_S):
        with running(bed, "tap", daemon, directory, bench.WORKER_CPU,
                     lambda _: (directory / "switch.ctl").exists(), START_S) as process:
            yield process


def remote(directory: Path) -> str:
    return f"unix:{directory}/db.sock"


def mirror(port_type: str, on_receiver: bool) -> Start:
    """Flows carry what comes in at a to b (or the host's stack); a mirror takes all of it."""
    @contextlib.contextmanager
    def start(bed: testbed.Bed, tools: bench.Tools, directory: Path) -> Iterator[bench.Process]:
        if port_type == "afxdp":
            bed.tx_offloads_off()
        monitor, = bed.monitor_ports()
        ports = ["a", monitor] if on_receiver else ["a", "b", monitor]
        with switch(bed, directory) as process:
            def ask(*words: str) -> None:
                bed.run("tap", "ovs-vsctl", f"--db={remote(directory)}",
                        f"--timeout={START_S:.0f}", *words)
            ask("init")
            ask("set", "Open_vSwitch", ".",
                f"other_config:pmd-cpu-mask={1 << bench.WORKER_CPU:#x}")
            words = ["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev",
                     "fail_mode=secure", f"other-config:hwaddr={testbed.RECEIVER_MAC}"]
            for port in ports:
                words += ["--", "add-port", "br0", port, "--", "set", "interface", port,
                          f"type={port_type}"]
            words += ["--", "--id=@from", "get", "port", "a",
                      "--", "--id=@to", "get", "port", monitor,
                      "--", "--id=@mirror", "create", "mirror", "name=tap",
                      "select-src-port=@from", "output-port=@to",
                      "--", "set", "bridge", "br0", "mirrors=@mirror"]
            ask(*words)
            complain_of_ports(bed, directory, ports)
            output = "LOCAL" if on_receiver else "b"
            flow = f"in_port=a,actions=output:{output}"
            bed.run("tap", "ovs-ofctl", "add-flow", f"unix:{directory}/br0.mgmt", flow)
            if on_receiver:
                bed.stack_behind("br0")
            yield process
    return start


def complain_of_ports(bed: testbed.Bed, directory: Path, ports: list[str]) -> None:
    for port in ports:
        error = bed.run("tap", "ovs-vsctl", f"--db={remote(directory)}", "--timeout=5", "get",
                        "interface", port, "error").stdout.strip()
        if error != "[]":
            raise bench.BenchError(f"Open vSwitch does not take port {port}: {error}")


def contestants(port_type: str) -> list[Contestant]:
    what = f"Open vSwitch mirror, userspace datapath, {port_type} ports"
    return [Contestant(f"ovs-{port_type}", what, Kind.peer, mirror(port_type, False),
                       packages=PACKAGES),
            Contestant(f"host-ovs-{port_type}", what + ", stack behind the bridge", Kind.peer,
                       mirror(port_type, True), on_receiver=True, packages=PACKAGES)]


CONTESTANTS = [*contestants("system"), *contestants("afxdp")]
