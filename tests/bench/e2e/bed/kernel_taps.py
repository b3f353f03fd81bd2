# SPDX-License-Identifier: Apache-2.0
"""Peers in the kernel: a minimal clone tap, tc mirred, nftables dup."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import bench

from bed import testbed
from bed.contestant import Contestant, Kind, Start, running

TC = (("tc", "iproute2"),)
NFT = (("nft", "nftables"),)


def clone_tap(on_receiver: bool) -> Start:
    """bpf_clone_redirect at TC for the hosts of a map: the published vTAP, at its least."""
    def start(bed: testbed.Bed, tools: bench.Tools, directory: Path):
        return running(bed, "tap", [
            str(tools.generator), "clone-tap", "--ports", "a" if on_receiver else "a,b",
            "--monitor", ",".join(bed.monitor_ports()), "--first-host", "10.0.0.1", "--hosts",
            str(bench.TRAFFIC_HOSTS)], directory, bench.WORKER_CPU)
    return start


def mirred(on_receiver: bool) -> Start:
    """Mirror and redirect by a u32 filter that takes all: matchall is not in every kernel."""
    @contextlib.contextmanager
    def start(bed: testbed.Bed, tools: bench.Tools, directory: Path) -> Iterator[None]:
        bed.run("tap", "tc", "qdisc", "add", "dev", "a", "clsact")
        actions: list[str] = []
        for port in bed.monitor_ports():
            last = on_receiver and port == bed.monitor_ports()[-1]
            actions += ["action", "mirred", "egress", "mirror", "dev", port,
                        "continue" if last else "pipe"]
        if not on_receiver:
            actions += ["action", "mirred", "egress", "redirect", "dev", "b"]
        bed.run("tap", "tc", "filter", "add", "dev", "a", "ingress", "protocol", "all", "u32",
                "match", "u32", "0", "0", *actions)
        yield None
    return start


def nft_dup(on_receiver: bool) -> Start:
    @contextlib.contextmanager
    def start(bed: testbed.Bed, tools: bench.Tools, directory: Path) -> Iterator[None]:
        statements = [f'dup to "{port}"' for port in bed.monitor_ports()]
        if not on_receiver:
            statements.append('fwd to "b"')
        rules = directory / "rules.nft"
        rules.write_text(
            'table netdev tap {\nchain in {\ntype filter hook ingress device "a" priority 0\n'
            + "\n".join(statements) + "\n}\n}\n")
        bed.run("tap", "nft", "-f", str(rules))
        yield None
    return start


def variants(name: str, what: str, start, packages=()) -> list[Contestant]:
    """Between with one and with four monitors, and on the receiver."""
    return [
        Contestant(name, what, Kind.peer, start(False), packages=packages),
        Contestant(f"{name}-4", f"{what}, four monitors", Kind.peer, start(False),
                   testbed.MONITORS, packages=packages),
        Contestant(f"host-{name}", what, Kind.peer, start(True), on_receiver=True,
                   packages=packages)]


CONTESTANTS = [
    *variants("clone-tap", f"TC `bpf_clone_redirect`, map of {bench.TRAFFIC_HOSTS} hosts",
              clone_tap),
    *variants("mirred", "`tc mirred` mirror and redirect, u32 filter", mirred, TC),
    *variants("nft-dup", "nftables `dup` and `fwd` at netdev ingress", nft_dup, NFT),
]
