# SPDX-License-Identifier: Apache-2.0
"""A laboratory whose links are cables between virtio NICs of the guest."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from lab import Lab, Namespace, Port, eventually

# Given by tools/vm.sh: whether this kernel grants zero-copy to virtio NICs.
ZERO_COPY = os.environ.get("VTAP_VM_ZERO_COPY") == "1"
_MAC = re.compile(r"02:76:74:61:([0-9a-f]{2}):([0-9a-f]{2})")  # as in tools/vm/vmlab/qemu.py


@dataclass(frozen=True)
class Cable:
    """Two NICs of which each gets what the other sends; by their names in the first namespace."""
    near: str
    far: str


def links() -> list[dict]:
    """Of the first namespace."""
    done = subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def cables() -> list[Cable]:
    """Those that lie unused, in the order of their numbers."""
    ends: dict[tuple[int, int], str] = {}
    for link in links():
        if match := _MAC.fullmatch(link.get("address", "")):
            ends[int(match[1], 16), int(match[2], 16)] = link["ifname"]
    return [Cable(name, ends[number, 1]) for (number, end), name in sorted(ends.items())
            if end == 0 and (number, 1) in ends]


class CableLab(Lab):
    """A Lab with cables for links. `veth`: near ports that are veth all the same.

    A NIC goes into a namespace by its index there, and comes back when the lab is closed: its
    driver stays bound all the time, so what one test leaves in it would meet the next."""

    def __init__(self, *args, veth: Iterable[str] = (), **keys) -> None:
        self._veth = set(veth)
        self._free = cables()
        self._moved: list[tuple[Namespace, str, str]] = []
        super().__init__(*args, **keys)

    def link(self, near: str, far: Port, mtu: int = 1500, far_mtu: int = 1500,
             queues: int | None = None) -> None:
        if near in self._veth:
            return super().link(near, far, mtu, far_mtu, queues)
        if not self._free:
            pytest.fail("no cable is left: this test runs in a guest of tools/vm.sh")
        cable = self._free.pop(0)
        for old, port, size in ((cable.near, Port(self.tap_ns, near), mtu),
                                (cable.far, far, far_mtu)):
            subprocess.run(["ip", "link", "set", "dev", old, "netns", port.ns.name,
                            "name", port.name], check=True)
            self._moved.append((port.ns, port.name, old))
            # GRO would hold frames back, and others overtake them.
            port.offload("gro", "off")
            port.set(f"mtu {size} up")
            # The default, fq_codel, lets flows overtake each other.
            port.ns.run("tc", "qdisc", "replace", "dev", port.name, "root", "pfifo")

    def device_of(self, near: str) -> str:
        """The virtio device of a port: what its driver is bound to."""
        shown = json.loads(self.tap_ns.run("ip", "-d", "-j", "link", "show", near).stdout)
        return shown[0]["parentdev"]

    def take_back(self, near: str, address: bytes) -> None:
        """After the NIC of a port was bound to its driver again: to where it was."""
        def there() -> str | None:
            return next((link["ifname"] for link in links()
                         if link.get("address") == address.hex(":")), None)
        name = eventually(there, 5)
        assert name, f"the NIC of {near} is not back"
        subprocess.run(["ip", "link", "set", "dev", name, "netns", self.tap_ns.name, "name", near],
                       check=True)
        self.port(near).up()

    def close(self) -> None:
        for wire in self._wires.values():
            wire.close()
        self._wires.clear()
        self._free = []
        while self._moved:
            ns, name, home = self._moved.pop()
            ns.ip(f"link set dev {name} down", f"link set dev {name} mtu 1500 netns 1 name {home}")
        super().close()


def granted(stats: dict) -> dict[str, list[tuple[str, bool]]]:
    """By port: the direction of each of its AF_XDP sockets, and whether it is zero-copy."""
    ports = [port for tap in stats["taps"] for port in tap["ports"]]
    found = {port["name"]: port["queues"] for port in ports}
    found.update({monitor["port"]: monitor["queues"] for monitor in stats["monitors"]})
    return {name: [(queue["direction"], queue["zero_copy"]) for queue in queues]
            for name, queues in found.items()}
