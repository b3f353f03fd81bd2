#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Virtual machines on Open vSwitch, tapped at their ports (docs/operations.md): a trial by hand, as it
needs the package openvswitch-switch.

    VTAP_BUILD_DIR=$PWD/build/dev python3 tests/integration/ovs_trial.py

Two namespaces stand for the machines; the switch runs in a third, with the userspace datapath, from
a directory of its own. Nothing is changed in the switch. What the machines send to each other must
be in the copies, once for each direction of each port, and once in all with `once = true`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import packets
from broker import Broker, by_name, config, monitors, policy, tap_ports
from lab import OWN_PREFIX, Lab, Namespace, eventually
from traffic import tcp_streams, tcp_transfer

SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"


@contextlib.contextmanager
def open_vswitch(ns: Namespace, *ports: str) -> Iterator[None]:
    directory = Path(tempfile.mkdtemp(prefix=OWN_PREFIX))
    database = f"unix:{directory}/db.sock"
    environment = {**os.environ, "OVS_RUNDIR": str(directory), "OVS_LOGDIR": str(directory)}
    daemons: list[subprocess.Popen] = []

    def start(*argv: str) -> None:
        with ns.entered(), (directory / "log").open("ab") as log:
            daemons.append(subprocess.Popen(argv, env=environment, stdout=log, stderr=log))

    try:
        subprocess.run(["ovsdb-tool", "create", f"{directory}/conf.db", SCHEMA], check=True)
        start("ovsdb-server", f"{directory}/conf.db", f"--remote=p{database}",
              f"--unixctl={directory}/db.ctl")
        assert eventually((directory / "db.sock").exists, timeout=5)
        start("ovs-vswitchd", database, f"--unixctl={directory}/switch.ctl")
        words = ["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"]
        for port in ports:
            words += ["--", "add-port", "br0", port]
        ns.run("ovs-vsctl", f"--db={database}", "--timeout=20", *words)
        yield
    except BaseException:
        print((directory / "log").read_text(), file=sys.stderr)
        raise
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(10)
        shutil.rmtree(directory)


def main() -> None:
    missing = [name for name in ("ovs-vswitchd", "ovsdb-server", "ovs-vsctl")
               if shutil.which(name) is None]
    if missing:
        sys.exit(f"needs {', '.join(missing)}: apt-get install openvswitch-switch")
    with Lab(monitors=2) as lab, open_vswitch(lab.tap_ns, "t0", "t1"):
        lab.open_wires()
        lab.addresses(ipv6=False)
        for end in (lab.left.port, lab.right.port):
            end.offload("tx", "off")  # as the userspace datapath asks of its ports
        text = config([{"name": "vms", "mode": "host", "ports": ["t0", "t1"]}], monitors(2),
                      [policy("each"), policy("once", ["mon1"], once=True)])
        with Broker(lab, text) as running:
            for ns, to in ((lab.left_ns, "10.0.0.2"), (lab.right_ns, "10.0.0.1")):
                with ns.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                    for number in range(5):
                        sender.sendto(b"datagram %d" % number, (to, 9))
            sent = [tcp_transfer(lab.right_ns, lab.left_ns, "10.0.0.2", 2 << 20),
                    tcp_transfer(lab.left_ns, lab.right_ns, "10.0.0.1", 2 << 20)]
            stats = running.settled()
            counts = by_name(stats, "monitors")
            each, once = (lab.monitor(n).receive(counts[f"mon{n}"]["tx_frames"]) for n in (0, 1))
        ports = tap_ports(stats)
        for name, port in ports.items():
            print(f"{name}: rx {port['rx_frames']} passed {port['passed_frames']} "
                  f"copied {port['copied_frames']} missed {port['missed']}")
            assert port["rx_frames"] == port["passed_frames"] == port["copied_frames"] > 0
        datagrams = [copy for copy in each if copy[12:14] == b"\x08\x00" and copy[23] == 17]
        print(f"copies: {len(each)}, of datagrams {len(datagrams)}; once: {len(once)}")
        assert set(Counter(datagrams).values()) == {2}, "once at either port"
        assert len(set(datagrams)) == 10, "five each way"
        for copies in (each, once):
            assert sorted(tcp_streams(copies).values()) == sorted(sent)
            assert all(packets.checksums_valid(copy) for copy in copies
                       if packets.tcp_segment(copy))
        assert len(set(once) & set(datagrams)) == sum(copy in set(datagrams) for copy in once) == 10
        # Under load this datapath holds a frame for more than the 10 ms that `once` remembers.
        print(f"of the TCP segments, {sum(n > 1 for n in Counter(once).values())} twice")
    print("ok")


if __name__ == "__main__":
    main()
