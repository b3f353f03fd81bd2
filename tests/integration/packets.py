# SPDX-License-Identifier: Apache-2.0
"""Frames made by hand, byte by byte, and a checksum verifier that trusts no kernel."""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

LEFT_MAC = bytes.fromhex("020000000001")
RIGHT_MAC = bytes.fromhex("020000000002")
EXPERIMENTAL = 0x88B5  # IEEE 802 local experimental ethertype
DOT1Q = 0x8100
DOT1AD = 0x88A8
TAGS = (DOT1Q, DOT1AD)
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmp6": 58, "sctp": 132}
FLAGS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32}
# The kernel drops frames of a VLAN ethertype that are shorter than this when it takes the tag out
# of the data, on every path that delivers skbs, a plain veth with a packet socket included.
MIN_TAGGED = 20


def ones_sum(data: bytes) -> int:
    """Ones' complement sum of 16-bit words (RFC 1071), folded, not inverted."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum(data: bytes) -> int:
    return ~ones_sum(data) & 0xFFFF


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ether(payload: bytes = b"", *, ethertype: int = EXPERIMENTAL, dst: bytes = RIGHT_MAC,
          src: bytes = LEFT_MAC, tags: tuple[tuple[int, int], ...] = ()) -> bytes:
    """An Ethernet II frame; `tags` are (TPID, TCI), outermost first. Nothing is padded."""
    head = b"".join(struct.pack("!HH", tpid, tci) for tpid, tci in tags)
    return dst + src + head + struct.pack("!H", ethertype) + payload


def _pseudo_header(src: bytes, dst: bytes, proto: int, length: int) -> bytes:
    if len(src) == 4:
        return src + dst + struct.pack("!BBH", 0, proto, length)
    return src + dst + struct.pack("!IHBB", length, 0, 0, proto)


def _transport(proto: int, data: bytes, sport: int, dport: int, flags: int, seq: int) -> bytes:
    """L4 header with a zero checksum, and data; an unknown protocol is data alone."""
    if proto == PROTOCOLS["udp"]:
        return struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data
    if proto == PROTOCOLS["tcp"]:
        return struct.pack("!HHIIBBHHH", sport, dport, seq, 0, 0x50, flags, 8192, 0, 0) + data
    if proto == PROTOCOLS["sctp"]:
        return struct.pack("!HHII", sport, dport, 1, 0) + data
    if proto in (PROTOCOLS["icmp"], PROTOCOLS["icmp6"]):
        return struct.pack("!BBHHH", 8 if proto == 1 else 128, 0, 0, 1, seq & 0xFFFF) + data
    return data


_CHECKSUM_AT = {6: 16, 17: 6, 1: 2, 58: 2}  # offset of the checksum in the L4 header


def _finish(segment: bytes, src: bytes, dst: bytes, proto: int) -> bytes:
    """The segment with its checksum filled in."""
    if proto not in _CHECKSUM_AT:
        return segment
    head = b"" if proto == 1 else _pseudo_header(src, dst, proto, len(segment))
    value = checksum(head + segment)
    if proto == PROTOCOLS["udp"] and value == 0:
        value = 0xFFFF
    at = _CHECKSUM_AT[proto]
    return segment[:at] + struct.pack("!H", value) + segment[at + 2:]


def ip_frame(proto: str | int = "udp", data: bytes = b"payload of this frame", *,
             src: str = "10.0.0.1", dst: str = "10.0.0.2", sport: int = 1000, dport: int = 2000,
             flags: str = "psh|ack", seq: int = 1, dscp: int = 0, ident: int = 1,
             extensions: tuple[tuple[int, bytes], ...] = (), offset: int | None = None,
             more: bool = False, options: bytes = b"", src_mac: bytes = LEFT_MAC,
             dst_mac: bytes = RIGHT_MAC, tags: tuple[tuple[int, int], ...] = ()) -> bytes:
    """One IPv4 or IPv6 frame (the addresses say which) with complete checksums.

    TCP that is not pushed may be held by a receiver's GRO, and come behind what was sent after it.

    `extensions` are (header number, body without next-header byte), IPv6 only. `offset` (bytes,
    multiple of 8) or `more` make it a fragment; one with an offset carries `data` without any L4
    header, as fragments behind the first do.
    """
    number = PROTOCOLS[proto] if isinstance(proto, str) else proto
    v6 = ":" in src
    family = socket.AF_INET6 if v6 else socket.AF_INET
    a, b = socket.inet_pton(family, src), socket.inet_pton(family, dst)
    if offset:
        segment = data
    else:
        bits = sum(FLAGS[flag] for flag in flags.split("|") if flag)
        segment = _finish(_transport(number, data, sport, dport, bits, seq), a, b, number)
    fragment = ((offset or 0) & ~7) | (1 if more else 0)
    is_fragment = offset is not None or more
    if v6:
        chain = list(extensions)
        if is_fragment:
            chain.append((44, struct.pack("!BHI", 0, fragment, ident)))
        numbers = [header for header, _ in chain] + [number]
        body = b"".join(bytes([following]) + rest
                        for following, (_, rest) in zip(numbers[1:], chain)) + segment
        header = struct.pack("!IHBB", 6 << 28 | dscp << 22, len(body), numbers[0], 64) + a + b
        ethertype = 0x86DD
    else:
        words = 5 + len(options) // 4
        field = (offset or 0) // 8 | (0x2000 if more else 0)
        header = struct.pack("!BBHHHBBH", 0x40 | words, dscp << 2, words * 4 + len(segment), ident,
                             field, 64, number, 0) + a + b + options
        header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
        body, ethertype = segment, 0x0800
    return ether(header + body, ethertype=ethertype, src=src_mac, dst=dst_mac, tags=tags)


class SuperPacket:
    """One packet that its sender leaves to be cut, as a stack or a virtual machine does: with a
    virtio_net_hdr in front and an unfinished checksum; and the frames that have to come of it.

    `fragmented`: UDP over IPv4 that becomes IP fragments (UFO), each with `size` bytes of the
    datagram, a multiple of 8.
    """

    _NEEDS_CSUM = 1
    _UFO = 3
    _GSO = {("tcp", False): 1, ("tcp", True): 4, ("udp", False): 5, ("udp", True): 5}

    def __init__(self, proto: str, data: bytes, size: int, *, flags: str = "psh|ack", seq: int = 1,
                 ident: int = 1, fragmented: bool = False, **keys) -> None:
        parts = [data[at:at + size] for at in range(0, len(data), size)]
        last = len(parts) - 1
        early = "|".join(flag for flag in flags.split("|") if flag not in ("fin", "psh"))
        self.frames = [
            ip_frame(proto, part, seq=seq + size * number, ident=ident + number,
                     flags=flags if number == last else early, **keys)
            for number, part in enumerate(parts)]
        whole = ip_frame(proto, data, seq=seq, ident=ident, flags=flags, **keys)
        position, pseudo, segment = checksum_position(whole)
        at = _CHECKSUM_AT[PROTOCOLS[proto]]
        start = position - at
        self.headers = len(whole) - len(data)
        self.frame = whole[:position] + struct.pack("!H", ones_sum(pseudo)) + whole[position + 2:]
        kind = self._GSO[proto, ":" in keys.get("src", "")]
        if fragmented:
            self.frames = list(_ipv4_fragments(whole, size))
            kind = self._UFO
        self.vnet = struct.pack("=BBHHHH", self._NEEDS_CSUM, kind, self.headers, size, start, at)
        assert len(segment) > size


def arp(sender: str = "10.0.0.1", target: str = "10.0.0.2") -> bytes:
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + LEFT_MAC + socket.inet_aton(sender) + \
        bytes(6) + socket.inet_aton(target)
    return ether(body, ethertype=0x0806, dst=b"\xff" * 6)


def sized(length: int, number: int = 0) -> bytes:
    """A frame of exactly `length` bytes (at least 14) of the experimental type."""
    body = struct.pack("!I", number) + bytes(i & 0xFF for i in range(max(0, length - 18)))
    return ether(body)[:length]


class Unfinished:
    """One frame whose checksum its sender leaves to be computed; `whole` is how it is on a wire."""

    def __init__(self, whole: bytes) -> None:
        position, pseudo, segment = checksum_position(whole)
        start = len(whole) - len(segment)
        self.whole = whole
        self.frame = whole[:position] + struct.pack("!H", ones_sum(pseudo)) + whole[position + 2:]
        self.vnet = struct.pack("=BBHHHH", 1, 0, 0, 0, start, position - start)


def write_pcap(path: Path, frames: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        file.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for frame in frames:
            file.write(struct.pack("=IIII", 0, 0, len(frame), len(frame)) + frame)


def read_pcap(path: Path) -> list[bytes]:
    data, at, frames = path.read_bytes(), 24, []
    while at < len(data):
        length, = struct.unpack_from("=I", data, at + 8)
        frames.append(data[at + 16:at + 16 + length])
        at += 16 + length
    return frames


def udp_segments() -> bool:
    """Whether the kernel takes super-packets of UDP from others (6.2)."""
    return tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (6, 2)


def _ipv4_fragments(frame: bytes, size: int) -> Iterator[bytes]:
    """What a frame with a plain IPv4 header becomes in steps of `size` bytes behind it."""
    at, _ = _ip_at(frame)
    header, body = frame[at:at + 20], frame[at + 20:]
    for offset in range(0, len(body), size):
        part = body[offset:offset + size]
        field = offset // 8 | (0x2000 if offset + size < len(body) else 0)
        made = header[:2] + struct.pack("!H", 20 + len(part)) + header[4:6] + \
            struct.pack("!H", field) + header[8:10] + bytes(2) + header[12:]
        yield frame[:at] + made[:10] + struct.pack("!H", checksum(made)) + made[12:] + part


class NoChecksum(ValueError):
    """The frame holds no TCP or UDP checksum that could be verified."""


def _ip_at(frame: bytes) -> tuple[int, int]:
    """(offset of the L3 header, its ethertype) behind any tags."""
    at = 12
    while True:
        ethertype, = struct.unpack_from("!H", frame, at)
        at += 2
        if ethertype not in TAGS:
            return at, ethertype
        at += 2


def checksum_position(frame: bytes) -> tuple[int, bytes, bytes]:
    """(offset of the L4 checksum, pseudo header, segment) of an unfragmented TCP or UDP frame."""
    at, ethertype = _ip_at(frame)
    if ethertype == 0x0800:
        length = (frame[at] & 15) * 4
        total, proto = struct.unpack_from("!H", frame, at + 2)[0], frame[at + 9]
        if struct.unpack_from("!H", frame, at + 6)[0] & 0x3FFF:
            raise NoChecksum("a fragment")
        a, b, segment = frame[at + 12:at + 16], frame[at + 16:at + 20], \
            frame[at + length:at + total]
        start = at + length
    elif ethertype == 0x86DD:
        size, proto = struct.unpack_from("!H", frame, at + 4)[0], frame[at + 6]
        a, b, start = frame[at + 8:at + 24], frame[at + 24:at + 40], at + 40
        segment = frame[start:start + size]
    else:
        raise NoChecksum(f"ethertype {ethertype:#06x}")
    if proto not in (6, 17):
        raise NoChecksum(f"protocol {proto}")
    return start + _CHECKSUM_AT[proto], _pseudo_header(a, b, proto, len(segment)), segment


def tcp_segment(frame: bytes) -> tuple[tuple[bytes, bytes], int, int, bytes] | None:
    """(source and destination address with port, sequence number, flags, data); None: no TCP."""
    at, ethertype = _ip_at(frame)
    if ethertype == 0x0800 and frame[at + 9] == 6:
        a, b = frame[at + 12:at + 16], frame[at + 16:at + 20]
        start, end = at + (frame[at] & 15) * 4, at + struct.unpack_from("!H", frame, at + 2)[0]
    elif ethertype == 0x86DD and frame[at + 6] == 6:
        a, b = frame[at + 8:at + 24], frame[at + 24:at + 40]
        start, end = at + 40, at + 40 + struct.unpack_from("!H", frame, at + 4)[0]
    else:
        return None
    seq, = struct.unpack_from("!I", frame, start + 4)
    data = frame[start + (frame[start + 12] >> 4) * 4:end]
    return (a + frame[start:start + 2], b + frame[start + 2:start + 4]), seq, frame[start + 13], data


def vxlan_inner(frame: bytes, port: int = 4789) -> bytes | None:
    """The frame inside a VXLAN packet to this UDP port; None: it is none."""
    try:
        _, _, segment = checksum_position(frame)
    except NoChecksum:
        return None
    if segment[2:4] != struct.pack("!H", port) or segment[8] != 8:
        return None
    return segment[16:]


def checksums_valid(frame: bytes) -> bool:
    """Whether IPv4 header checksum and TCP/UDP checksum are right; NoChecksum if it has none."""
    at, ethertype = _ip_at(frame)
    if ethertype == 0x0800 and ones_sum(frame[at:at + (frame[at] & 15) * 4]) != 0xFFFF:
        return False
    _, pseudo, segment = checksum_position(frame)
    return ones_sum(pseudo + segment) == 0xFFFF


def without_checksum(frame: bytes) -> bytes:
    """The frame with its L4 checksum field zeroed: what the stack and the wire must agree on."""
    position, _, _ = checksum_position(frame)
    return frame[:position] + b"\0\0" + frame[position + 2:]


def odd_frames() -> dict[str, bytes]:
    """Frames that are legal on a wire and that taps like to get wrong."""
    bpdu = bytes.fromhex("424203000000000080000200000000010000000080000200000000018001000014000200"
                         "0f00").ljust(46, b"\0")
    q, qq = ((DOT1Q, 0x2064),), ((DOT1AD, 0x0065), (DOT1Q, 0xE066))
    return {
        "lldp": ether(bytes.fromhex("0207040200000000010403056c3006020078" "0000").ljust(46, b"\0"),
                      ethertype=0x88CC, dst=mac("01:80:c2:00:00:0e")),
        "stp": ether(bpdu, ethertype=len(bpdu), dst=mac("01:80:c2:00:00:00")),
        "pause": ether(bytes.fromhex("0001ffff").ljust(46, b"\0"), ethertype=0x8808,
                       dst=mac("01:80:c2:00:00:01")),
        "lacp": ether(bytes(110), ethertype=0x8809, dst=mac("01:80:c2:00:00:02")),
        "vlan": ip_frame(tags=q),
        "priority tag": ip_frame(tags=((DOT1Q, 0xA000),)),
        "vlan, DEI set": ip_frame(tags=((DOT1Q, 0x1001),)),
        "vlan 4095": ip_frame(tags=((DOT1Q, 0x0FFF),)),
        "service tag alone": ip_frame(tags=((DOT1AD, 7),)),
        "qinq": ip_frame("tcp", tags=qq),
        "qinq of 0x8100 twice": ip_frame(tags=((DOT1Q, 5), (DOT1Q, 6))),
        "three tags": ip_frame(tags=qq + ((DOT1Q, 9),)),
        "vlan of the shortest kind": ether(b"\1\2", tags=q),
        "unknown type": ether(b"whatever this is" * 4, ethertype=0x9999),
        "type below 0x600": ether(bytes(300), ethertype=0x012C),
        "type 0x0000": ether(bytes(50), ethertype=0),
        "type 0xffff": ether(bytes(50), ethertype=0xFFFF),
        "mpls": ether(bytes.fromhex("00064140") + ip_frame()[14:], ethertype=0x8847),
        "pppoe": ether(bytes(46), ethertype=0x8864),
        "arp": arp(),
        "broadcast": ether(bytes(46), dst=b"\xff" * 6),
        "ipv4 multicast": ip_frame(dst="224.0.0.251", dst_mac=mac("01:00:5e:00:00:fb")),
        "ipv6 multicast": ip_frame(src="fe80::1", dst="ff02::1", dst_mac=mac("33:33:00:00:00:01")),
        "all zero": bytes(60),
        "source of ones": ether(bytes(46), src=b"\xff" * 6),
        "ipv4 options": ip_frame(options=bytes.fromhex("94040000")),
        "ipv4 length lies": ip_frame()[:16] + b"\xff\xff" + ip_frame()[18:],
        "ipv4 header length 0": ether(b"\x40" + bytes(45), ethertype=0x0800),
        "ipv4 padded": ip_frame(data=b"").ljust(60, b"\xEE"),
        "ipv6": ip_frame("tcp", src="2001:db8::1", dst="2001:db8::2"),
        "ipv6 extension chain": ip_frame(src="2001:db8::1", dst="2001:db8::2", extensions=(
            (0, b"\0" + bytes(6)), (60, b"\0" + bytes(6)), (43, b"\0" + bytes(6)))),
        "ipv6 fragment": ip_frame(src="2001:db8::1", dst="2001:db8::2", offset=1024, more=True,
                                  data=bytes(64)),
        "ipv4 fragment": ip_frame(offset=1480, data=bytes(64)),
        "cut in the ipv4 header": ip_frame()[:25],
        "cut in the tcp header": ip_frame("tcp")[:40],
        "udp without checksum": ip_frame()[:40] + b"\0\0" + ip_frame()[42:],
        "bad checksum": ip_frame()[:40] + b"\xde\xad" + ip_frame()[42:],
    }


def random_frames(count: int, seed: int, longest: int = 1514) -> list[bytes]:
    """Half of it noise, half of it real headers with bytes changed and ends cut off."""
    rng = random.Random(seed)
    models = list(odd_frames().values())
    made: list[bytes] = []
    while len(made) < count:
        if rng.random() < 0.5:
            frame = rng.randbytes(rng.randint(14, longest))
        else:
            frame = bytearray(rng.choice(models))
            for _ in range(rng.randint(1, 6)):
                frame[rng.randrange(12, len(frame))] = rng.randrange(256)
            frame = bytes(frame[:rng.randint(14, len(frame))])
        if len(frame) < MIN_TAGGED and struct.unpack_from("!H", frame, 12)[0] in TAGS:
            continue
        made.append(frame)
    return made
