# SPDX-License-Identifier: Apache-2.0
"""A laboratory of network namespaces: sender - tap - receiver, and the far ends of the monitors.

Everything here is made by the test and taken away by it, whatever happens in between. Ports:

    left          tap                   right
    l0 ========== t0         t1 ======= r0        pair 0
    l1 ========== t2         t3 ======= r1        pair 1 ...
                  m0, m1 ... ========== p0, p1 ... in `mon`
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import errno
import functools
import itertools
import json
import os
import re
import select
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import packets

PREFIX = "vtap-it-"
OWN_PREFIX = f"{PREFIX}{os.getpid()}-"
NETNS_DIR = Path("/run/netns")
HERE = Path(__file__).resolve().parent

# By how much longer than usual things are waited for: machines that are emulated set it.
PATIENCE = float(os.environ.get("VTAP_TEST_PATIENCE", "1"))

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


def eventually(condition, timeout: float = 3.0, interval: float = 0.02):
    """The first true value of condition() within the timeout, else its last value."""
    deadline = time.monotonic() + timeout * PATIENCE
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(interval)
    return value


@functools.cache
def kernel_tells_xdp() -> bool:
    """Whether the kernel tells what devices can at XDP (the netdev netlink family, Linux 6.3)."""
    asked = subprocess.run(["genl", "ctrl", "get", "name", "netdev"], capture_output=True)
    return asked.returncode == 0


@functools.cache
def kernel_shows_skbs() -> bool:
    """Whether programs at TC can see all of a packet's state (bpf_cast_to_kern_ctx, Linux 6.2)."""
    return " bpf_cast_to_kern_ctx" in Path("/proc/kallsyms").read_text()


# --- namespaces and ports -----------------------------------------------------------------------

class Namespace:
    """One network namespace. Owned by whoever made it; `close` removes it, as does the exit."""

    _open: set["Namespace"] = set()

    def __init__(self, role: str) -> None:
        self.role = role
        self.name = f"{OWN_PREFIX}{next(_numbers)}"
        self.path = NETNS_DIR / self.name
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        Namespace._open.add(self)
        self.quiet_ipv6()
        self.run("ip", "link", "set", "lo", "up")

    def quiet_ipv6(self, quiet: bool = True) -> None:
        """With IPv6 off no interface made from now on sends a frame of its own accord."""
        for scope in ("all", "default"):
            self.sysctl(f"net/ipv6/conf/{scope}/disable_ipv6", "1" if quiet else "0")

    def close(self) -> None:
        if self in Namespace._open:
            Namespace._open.discard(self)
            subprocess.run(["ip", "netns", "del", self.name], check=True)

    @classmethod
    def close_all(cls) -> None:
        for namespace in list(cls._open):
            with contextlib.suppress(Exception):
                namespace.close()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread, and what it starts, are inside; the mount namespace stays as it is."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(there)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(there)
            os.close(home)

    def run(self, *argv: str | Path, check: bool = True, stdin: str | None = None,
            timeout: float = 30) -> subprocess.CompletedProcess[str]:
        with self.entered():
            done = subprocess.run([str(word) for word in argv], input=stdin, text=True,
                                  capture_output=True, timeout=timeout)
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, argv))} in {self.role}: exit "
                               f"{done.returncode}\n{stdin or ''}\n{done.stdout}{done.stderr}")
        return done

    def ip(self, *lines: str) -> None:
        """Runs lines of `ip` commands as one batch."""
        self.run("ip", "-batch", "-", stdin="\n".join(lines) + "\n")

    def sysctl(self, name: str, value: str | None = None) -> str:
        """Reads or writes a sysctl by its path below /proc/sys."""
        with self.entered():
            file = Path("/proc/sys", name)
            if value is not None:
                file.write_text(value)
            return file.read_text().strip()

    def socket(self, *args) -> socket.socket:
        with self.entered():
            return socket.socket(*args)


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def remove_stale() -> None:
    """Removes namespaces of test runs whose process is gone (killed by a test driver's timeout)."""
    for entry in NETNS_DIR.glob(f"{PREFIX}*") if NETNS_DIR.is_dir() else ():
        pid = entry.name[len(PREFIX):].split("-")[0]
        if not Path("/proc", pid).exists():
            subprocess.run(["ip", "netns", "del", entry.name], check=False)


atexit.register(Namespace.close_all)


@dataclass(frozen=True)
class Port:
    """An interface in a namespace, by name: it may be deleted and made again."""
    ns: Namespace
    name: str

    def set(self, words: str) -> None:
        self.ns.ip(f"link set dev {self.name} {words}")

    def up(self) -> None:
        self.set("up")

    def down(self) -> None:
        self.set("down")

    def delete(self) -> None:
        self.ns.ip(f"link del dev {self.name}")

    def mac(self) -> bytes:
        shown = json.loads(self.ns.run("ip", "-j", "link", "show", self.name).stdout)
        return packets.mac(shown[0]["address"])

    def offload(self, *words: str) -> None:
        self.ns.run("ethtool", "-K", self.name, *words)

    def attach_tc(self, direction: str, section: str) -> None:
        """Attaches a section of ends.bpf.c at TC: the stack of an end makes or eats tags."""
        self.ns.run("tc", "qdisc", "replace", "dev", self.name, "clsact")
        self.ns.run("tc", "filter", "add", "dev", self.name, direction, "bpf", "da",
                    "obj", bpf_object(), "sec", section)

    def attach_xdp(self, section: str) -> None:
        self.ns.ip(f"link set dev {self.name} xdp obj {bpf_object()} sec {section}")

    def address(self, *addresses: str) -> None:
        for text in addresses:
            if ":" in text:
                self.ns.sysctl(f"net/ipv6/conf/{self.name}/accept_dad", "0")
                self.ns.sysctl(f"net/ipv6/conf/{self.name}/disable_ipv6", "0")
            self.ns.ip(f"addr add {text} dev {self.name}" + (" nodad" if ":" in text else ""))


_bpf_dir: tempfile.TemporaryDirectory | None = None


def bpf_object() -> Path:
    """Compiles ends.bpf.c once per run; the object lives in a temporary directory."""
    global _bpf_dir
    if _bpf_dir is None:
        _bpf_dir = tempfile.TemporaryDirectory(prefix=OWN_PREFIX)
        subprocess.run(["clang", "-O2", "-g", "-Wall", "-target", "bpf",
                        f"-I/usr/include/{os.uname().machine}-linux-gnu",
                        "-c", str(HERE / "ends.bpf.c"), "-o", f"{_bpf_dir.name}/ends.o"],
                       check=True)
    return Path(_bpf_dir.name, "ends.o")


# --- wires: exact bytes in and out --------------------------------------------------------------

WINDOW = 200    # frames under way: a veth's queue holds 256
QUIET_S = 0.05  # extra frames are waited for so long
_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP, _PACKET_STATISTICS, _PACKET_AUXDATA, _PACKET_IGNORE_OUTGOING = 1, 6, 8, 23
_PACKET_VNET_HDR = 15
_PACKET_MR_PROMISC = 1
_ETH_P_ALL = 3
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 32, 33, 35
_VLAN_VALID, _VLAN_TPID_VALID = 1 << 4, 1 << 6
CHECKSUM_UNFINISHED = 1 << 3
# The kernel stamps arriving packets only while some socket wants it, and switches that on a moment
# late: this one wants it from the start.
_STAMPS_ON = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
_STAMPS_ON.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
_AUXDATA = struct.Struct("=IIIHHHH")  # struct tpacket_auxdata


class Arrival(NamedTuple):
    """A frame as it was on the wire, when the kernel took it in, and the packet socket's flags."""
    data: bytes
    time_ns: int  # CLOCK_REALTIME, as time.time_ns()
    status: int


class Wire:
    """Raw end of a link: sends exact bytes, receives exact bytes, never its own."""

    def __init__(self, port: Port, promiscuous: bool = True) -> None:
        self.port = port
        self._promiscuous = promiscuous
        self._vnet: socket.socket | None = None
        self._socket = self._open()

    def _open(self) -> socket.socket:
        # Protocol 0 until it is bound: no frame of another interface slips in.
        sock = self.port.ns.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 128 << 20)
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 16 << 20)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        with self.port.ns.entered():
            index = socket.if_nametoindex(self.port.name)
        if self._promiscuous:
            sock.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP,
                            struct.pack("iHH8s", index, _PACKET_MR_PROMISC, 0, b""))
        sock.bind((self.port.name, _ETH_P_ALL))
        sock.setblocking(False)
        return sock

    def __str__(self) -> str:
        return f"{self.port.ns.role}/{self.port.name}"

    def close(self) -> None:
        self._socket.close()
        if self._vnet is not None:
            self._vnet.close()

    def reopen(self) -> None:
        """After the port was deleted and made again."""
        self._socket.close()
        self._socket = self._open()

    def send(self, frame: bytes) -> None:
        while True:
            try:
                self._socket.send(frame)
                return
            except BlockingIOError:
                select.select((), (self._socket,), (), 1.0)

    def send_super(self, packet: packets.SuperPacket) -> None:
        """Hands the kernel a packet that is still to be cut (PACKET_VNET_HDR)."""
        if self._vnet is None:
            self._vnet = self.port.ns.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._vnet.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
            self._vnet.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 16 << 20)
            self._vnet.bind((self.port.name, 0))
        self._vnet.send(packet.vnet + packet.frame)

    def send_all(self, frames: Iterable[bytes], burst: int = 32, pause: float = 0.0005) -> None:
        """Sends with a pause after each burst: a veth's queue holds only 256 frames."""
        for number, frame in enumerate(frames, 1):
            self.send(frame)
            if number % burst == 0:
                time.sleep(pause)

    def arrivals(self, count: int, timeout: float = 2.0, quiet: float = QUIET_S) -> list[Arrival]:
        """`count` frames, and then what else comes within `quiet` seconds: extras are faults."""
        got: list[Arrival] = []
        deadline = time.monotonic() + (timeout * PATIENCE if count else quiet)
        last_call = count == 0
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select((self._socket,), (), (), left)[0]:
                if last_call or len(got) < count:
                    break
            got.extend(self._drain())
            if not last_call and len(got) >= count:
                last_call, deadline = True, time.monotonic() + quiet
        assert not self.lost(), f"{self}: the test's own receive buffer overflowed"
        return got

    def receive(self, count: int, timeout: float = 2.0, quiet: float = QUIET_S) -> list[bytes]:
        return [arrival.data for arrival in self.arrivals(count, timeout, quiet)]

    def clear(self) -> None:
        for _ in self._drain():
            pass

    def lost(self) -> int:
        """Frames that the packet socket dropped since the last call."""
        raw = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        return struct.unpack("II", raw)[1]

    def _drain(self) -> Iterator[Arrival]:
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(1 << 17, 256)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ENETDOWN:
                    continue  # reported once, when the port goes down; frames may be behind it
                raise
            yield _with_tag(data, ancillary)


def _with_tag(data: bytes, ancillary: Sequence[tuple[int, int, bytes]]) -> Arrival:
    """The frame with the tag put back that the kernel keeps beside it."""
    status = stamp = 0
    for level, kind, value in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, nanoseconds = struct.unpack("qq", value[:16])
            stamp = seconds * 1_000_000_000 + nanoseconds
        elif (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA):
            status, _, _, _, _, tci, tpid = _AUXDATA.unpack(value[:_AUXDATA.size])
            if status & _VLAN_VALID:
                tpid = tpid if status & _VLAN_TPID_VALID else packets.DOT1Q
                data = data[:12] + struct.pack("!HH", tpid, tci) + data[12:]
    return Arrival(data, stamp, status)


# --- the lab ------------------------------------------------------------------------------------

class Lab:
    """Namespaces, links and wires of one test, see the picture above.

    `napi_ends`: the ends poll (GRO on) and send complete frames (tx offloads off), as XDP on veth
    needs: without the first, frames that XDP redirects to the tap's port vanish in the kernel.
    `napi_monitors`: the far ends of the monitors poll, too, by an XDP program, as GRO would merge.
    `ipv6`: roles of the namespaces that keep IPv6 as the kernel has it. `queues`: of both ends of
    the pairs' links, each way; none: as the kernel makes them.
    """

    def __init__(self, monitors: int = 1, pairs: int = 1, mtu: int = 1500,
                 ends_mtu: int | None = None, napi_ends: bool = False,
                 napi_monitors: bool = False, ipv6: Iterable[str] = (),
                 queues: int | None = None) -> None:
        self._wires: dict[Port, Wire] = {}
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self.left_ns, self.tap_ns, self.right_ns, self.mon_ns = (
                self._namespace(role, role in ipv6) for role in ("left", "tap", "right", "mon"))
            for pair in range(pairs):
                for near, ns, far in ((f"t{2 * pair}", self.left_ns, f"l{pair}"),
                                      (f"t{2 * pair + 1}", self.right_ns, f"r{pair}")):
                    self.link(near, Port(ns, far), mtu, ends_mtu or mtu, queues)
                    if napi_ends:
                        Port(ns, far).offload("gro", "on", "tx", "off", "tso", "off")
            self.monitor_count, self.pair_count = monitors, pairs
            for number in range(monitors):
                self.link(f"m{number}", self.peer(number), mtu, mtu)
                if napi_monitors:
                    self.peer(number).attach_xdp("xdp_foreign")
            undo.pop_all()

    def _namespace(self, role: str, ipv6: bool) -> Namespace:
        namespace = Namespace(role)
        self._stack.callback(namespace.close)
        if ipv6:
            namespace.quiet_ipv6(False)
        return namespace

    def link(self, near: str, far: Port, mtu: int = 1500, far_mtu: int = 1500,
             queues: int | None = None) -> None:
        """A veth pair between the tap namespace and another, both ends up."""
        many = f"numtxqueues {queues} numrxqueues {queues}" if queues else ""
        self.tap_ns.ip(f"link add {near} mtu {mtu} {many} type veth peer name {far.name} "
                       f"mtu {far_mtu} {many} netns {far.ns.name}", f"link set {near} up")
        far.up()

    def close(self) -> None:
        for wire in self._wires.values():
            wire.close()
        self._wires.clear()
        self._stack.close()

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, *_exc) -> None:
        self.close()

    def port(self, name: str) -> Port:
        """A port of the tap namespace."""
        return Port(self.tap_ns, name)

    def peer(self, number: int) -> Port:
        """The far end of a monitor port."""
        return Port(self.mon_ns, f"p{number}")

    def wire(self, port: Port) -> Wire:
        if port not in self._wires:
            self._wires[port] = Wire(port)
        return self._wires[port]

    def left_of(self, pair: int) -> Wire:
        return self.wire(Port(self.left_ns, f"l{pair}"))

    def right_of(self, pair: int) -> Wire:
        return self.wire(Port(self.right_ns, f"r{pair}"))

    def monitor(self, number: int) -> Wire:
        return self.wire(self.peer(number))

    @property
    def left(self) -> Wire:
        return self.left_of(0)

    @property
    def right(self) -> Wire:
        return self.right_of(0)

    @property
    def monitors(self) -> list[Wire]:
        return [self.monitor(number) for number in range(self.monitor_count)]

    def open_wires(self) -> None:
        """Opens all wires now; what arrives before a wire is open is not seen."""
        for pair in range(self.pair_count):
            self.left_of(pair)
            self.right_of(pair)
        _ = self.monitors

    def clear(self) -> None:
        for wire in self._wires.values():
            wire.clear()

    def directions(self) -> tuple[tuple[Wire, Wire], tuple[Wire, Wire]]:
        return (self.left, self.right), (self.right, self.left)

    def addresses(self, ipv6: bool = True) -> None:
        """Gives both ends addresses: 10.0.0.1 and .2, fd00::1 and ::2."""
        for number, end in ((1, self.left.port), (2, self.right.port)):
            end.address(f"10.0.0.{number}/24", *([f"fd00::{number}/64"] if ipv6 else []))


# --- comparing frames ---------------------------------------------------------------------------

def assert_frames(expected: Sequence[bytes], got: Sequence[bytes], where: str) -> None:
    """The same frames, byte for byte, in the same order, none more; says what differs, shortly."""
    for number, (want, have) in enumerate(zip(expected, got)):
        if want == have:
            continue
        at = next((i for i, (a, b) in enumerate(zip(want, have)) if a != b),
                  min(len(want), len(have)))
        raise AssertionError(
            f"{where}: frame {number} differs at byte {at} (length {len(want)}, got {len(have)}; "
            f"{len(expected)} frames expected, {len(got)} got)\n"
            f"  want {want[:96].hex(' ')}\n  got  {have[:96].hex(' ')}")
    assert len(got) == len(expected), \
        f"{where}: {len(expected)} frames expected, {len(got)} got" + \
        (f"; the first extra one: {got[len(expected)][:96].hex(' ')}"
         if len(got) > len(expected) else "")


def carry(frames: Sequence[bytes], source: Wire, sink: Wire, monitors: Iterable[Wire] = (),
          copies: Sequence[bytes] | None = None) -> None:
    """Sends frames; the sink must get exactly these, each monitor `copies` (default: the same).

    No more are under way than a veth's queue holds: a broker that the machine stops for some
    milliseconds goes on with a burst of all that waited, and a veth drops what is more."""
    monitors = list(monitors)
    paced = [sink, *(monitors if copies is None else ())]
    got: dict[Wire, list[bytes]] = {wire: [] for wire in (sink, *monitors)}
    for first in range(0, len(frames) or 1, WINDOW):
        window = frames[first:first + WINDOW]
        source.send_all(window)
        last = first + WINDOW >= len(frames)
        for wire in paced:
            got[wire] += wire.receive(len(window), quiet=QUIET_S if last else 0)
        if any(len(got[wire]) < first + len(window) for wire in paced):
            break  # lost: no use in waiting again
    assert_frames(frames, got[sink], f"originals {source} -> {sink}")
    for monitor in monitors:
        if copies is not None:
            got[monitor] = monitor.receive(len(copies))
        assert_frames(frames if copies is None else copies, got[monitor], f"copies at {monitor}")


# --- before and after ---------------------------------------------------------------------------

def _vtap_objects(kind: str) -> list[int]:
    done = subprocess.run(["bpftool", "-j", kind, "show"], capture_output=True, text=True)
    return sorted(item["id"] for item in json.loads(done.stdout or "[]")
                  if str(item.get("name", "")).startswith("vtap"))


def snapshot(ns: Namespace) -> dict[str, object]:
    """All that a tap may change on a machine, for comparing before and after."""
    links = json.loads(ns.run("ip", "-d", "-j", "link").stdout)
    names = [link["ifname"] for link in links]
    state: dict[str, object] = {}
    for link in links:
        del link["operstate"]  # follows the carrier, late, and so do two of the flags
        link["flags"] = sorted(set(link["flags"]) - {"NO-CARRIER", "LOWER_UP"})
        for key, value in link.items():
            state[f"link {link['ifname']} {key}"] = value
    for entry in json.loads(ns.run("ip", "-j", "addr").stdout):
        state[f"addresses {entry['ifname']}"] = sorted(
            f"{info['local']}/{info['prefixlen']} {info['scope']}" for info in entry["addr_info"])
    # One process for all devices: with one for each question this is most of a short test's time.
    asked = [f"{what} {name}{where}" for name in names for what, where in
             (("qdisc", ""), ("filter", " ingress"), ("filter", " egress"))]
    told = ns.run("tc", "-json", "-force", "-batch", "-", check=False, stdin="".join(
        line.replace(" ", " show dev ", 1) + "\n" for line in asked)).stdout.splitlines()
    state.update((f"tc {question}", answer) for question, answer in zip(asked, told, strict=False))
    for features in ns.run("ethtool", "-k", "*").stdout.strip().split("\n\n"):
        heading, _, rest = features.partition(":\n")
        state[f"ethtool -k {heading.removeprefix('Features for ')}"] = rest
    state["bpftool net"] = ns.run("bpftool", "-j", "net", "show", check=False).stdout
    with ns.entered():
        for family in ("ipv4", "ipv6"):
            for file in sorted(Path("/proc/sys/net", family, "conf").glob("*/*")):
                with contextlib.suppress(OSError):  # some can only be written
                    state[f"sysctl {file}"] = file.read_text().strip()
    for kind in ("prog", "map", "link"):
        state[f"bpf {kind} ids"] = _vtap_objects(kind)
    return state


def differences(before: dict[str, object], after: dict[str, object]) -> list[str]:
    return [f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
            for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]


def assert_restored(before: dict[str, object], ns: Namespace, timeout: float = 5.0) -> None:
    """The namespace is as it was; the kernel frees programs and addresses a moment later."""
    eventually(lambda: not differences(before, snapshot(ns)), timeout, 0.2)
    left = differences(before, snapshot(ns))
    assert not left, "not as found:\n  " + "\n  ".join(left)


# State of ports of a lab, by their names, as brokers of others may run here; and pins of vtap.
_STATE_FILE = re.compile(rf"^[tm]\d+\b|^it{os.getpid()}n")
_PIN = re.compile("^vtap")


def footprint() -> set[str]:
    """What a test run leaves on the machine if it does not clean up."""
    found = {f"namespace {path.name}" for path in NETNS_DIR.glob(f"{OWN_PREFIX}*")}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if int(process.name) != os.getpid() and OWN_PREFIX in words:
                found.add(f"process {process.name}: {words}")
    for root, pattern in (("/run/vtap", _STATE_FILE), ("/sys/fs/bpf", _PIN)):
        with contextlib.suppress(OSError):
            found.update(f"file {path}" for path in Path(root).rglob("*")
                         if pattern.search(path.name) and not path.is_dir())
    return found
