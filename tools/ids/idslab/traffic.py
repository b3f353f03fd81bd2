# SPDX-License-Identifier: Apache-2.0
"""The traffic of the experiment: background and attacks in one pcap, the same bytes for a seed.

Every attack is written down as it is made (`Attack`): which rule it matches, in which flows, and
with which of their frames it is complete. Checksums are right throughout.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.utils import RawPcapWriter

from idslab import rules
from idslab.flow import Flow, flow

CLIENT_MAC, SERVER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
MSS = 1460
EPOCH = 1_700_000_000  # of the pcap, s
SPACING_US = 50  # between frames of the pcap; the replay has a pace of its own
LATE_AFTER = 60  # segments of a long flow before its attack
LATE_DEPTH = 900  # bytes of payload before the marker of every other late attack


@dataclass(frozen=True)
class Sizes:
    """How much of what: flows, or datagrams of an elephant. The defaults are the experiment's."""
    web: int = 400
    names: int = 500
    voice: int = 20
    voice_frames: int = 300
    elephants: int = 8
    elephant_frames: int = 6000
    tcp_elephants: int = 2
    tcp_elephant_segments: int = 1000
    attacks: int = 20  # of each kind that takes one flow
    many_flow_attacks: int = 6  # of each kind that takes many
    late: int = 12

    def scaled(self, factor: float) -> "Sizes":
        """The attacks stay; the background has so many times the frames."""
        grows = ("web", "names", "voice_frames", "elephant_frames", "tcp_elephant_segments")
        return replace(self, **{name: max(1, round(getattr(self, name) * factor))
                                for name in grows})


SMALL = Sizes(web=6, names=6, voice=2, voice_frames=20, elephants=2, elephant_frames=80,
              tcp_elephants=1, tcp_elephant_segments=40, attacks=2, many_flow_attacks=1, late=2)


@dataclass(frozen=True)
class Attack:
    """`flows` maps each flow to its number of frames, both directions. `complete_with`: the most
    frames, counted from a flow's start in both directions, that the rule needs of any flow."""
    name: str
    kind: str
    sid: int
    flows: dict[Flow, int]
    complete_with: int

    @property
    def frames(self) -> int:
        return sum(self.flows.values())


@dataclass
class Traffic:
    frames: list[bytes]  # in the order of the pcap
    flows: Counter[Flow]  # frames of each
    attacks: list[Attack]

    @property
    def octets(self) -> int:
        return sum(map(len, self.frames))

    def write(self, path: Path) -> None:
        with RawPcapWriter(str(path), linktype=1, sync=False) as pcap:
            pcap.write_header(None)
            for number, frame in enumerate(self.frames):
                seconds, micros = divmod(number * SPACING_US, 1_000_000)
                pcap.write_packet(frame, sec=EPOCH + seconds, usec=micros, caplen=len(frame),
                                  wirelen=len(frame))


# --- conversations ------------------------------------------------------------------------------

@dataclass
class Conversation:
    """The frames of one flow in order, made as if by its two ends."""
    proto: str
    client: tuple[str, int]
    server: tuple[str, int]
    frames: list[bytes] = field(default_factory=list)

    @property
    def flow(self) -> Flow:
        return flow(self.proto, *self.client, *self.server)

    def _add(self, from_client: bool, l4: Packet) -> None:
        (src, sport), (dst, dport) = ((self.client, self.server) if from_client
                                      else (self.server, self.client))
        macs = (CLIENT_MAC, SERVER_MAC) if from_client else (SERVER_MAC, CLIENT_MAC)
        l4.sport, l4.dport = sport, dport
        self.frames.append(bytes(Ether(src=macs[0], dst=macs[1], type=0x0800) /
                                 IP(src=src, dst=dst, id=len(self.frames) + 1, flags="DF") / l4))


class Udp(Conversation):
    def __init__(self, client: tuple[str, int], server: tuple[str, int]) -> None:
        super().__init__("udp", client, server)

    def say(self, payload: Packet | bytes, from_client: bool = True) -> None:
        self._add(from_client, UDP() / (Raw(payload) if isinstance(payload, bytes) else payload))

    def repeat(self, count: int) -> None:
        """Goes through the datagrams said so far again, until there are `count`."""
        self.frames = list(itertools.islice(itertools.cycle(self.frames), count))


class Tcp(Conversation):
    """Delayed acknowledgements: for every second segment, and at the end of what is said."""

    def __init__(self, rng: random.Random, client: tuple[str, int],
                 server: tuple[str, int]) -> None:
        super().__init__("tcp", client, server)
        self._next = {True: rng.getrandbits(32), False: rng.getrandbits(32)}

    def _segment(self, from_client: bool, flags: str, data: bytes = b"", options=()) -> None:
        acked = 0 if flags == "S" else self._next[not from_client]
        head = TCP(seq=self._next[from_client], ack=acked, flags=flags, window=65000,
                   options=list(options))
        self._add(from_client, head / Raw(data) if data else head)
        used = len(data) + ("S" in flags) + ("F" in flags)
        self._next[from_client] = (self._next[from_client] + used) % 2**32

    def knock(self) -> "Tcp":
        self._segment(True, "S", options=[("MSS", MSS)])
        return self

    def open(self) -> "Tcp":
        self.knock()
        self._segment(False, "SA", options=[("MSS", MSS)])
        self._segment(True, "A")
        return self

    def say(self, *pieces: bytes, from_client: bool = True) -> "Tcp":
        """Each piece begins a segment of its own; long ones are cut."""
        segments = [piece[at:at + MSS] for piece in pieces for at in range(0, len(piece), MSS)]
        for number, data in enumerate(segments, 1):
            self._segment(from_client, "PA" if number == len(segments) else "A", data)
            if number % 2 == 0 or number == len(segments):
                self._segment(not from_client, "A")
        return self

    def close(self) -> "Tcp":
        for from_client, flags in ((True, "FA"), (False, "FA"), (True, "A")):
            self._segment(from_client, flags)
        return self


# --- who says what ------------------------------------------------------------------------------

@dataclass
class _Timed:
    """When a conversation's frames are due, in parts of the whole run."""
    talk: Conversation
    start: float
    end: float

    def due(self) -> Iterator[tuple[float, bytes]]:
        step = (self.end - self.start) / max(1, len(self.talk.frames))
        return ((self.start + number * step, frame)
                for number, frame in enumerate(self.talk.frames))


class _Maker:
    def __init__(self, seed: int, sizes: Sizes) -> None:
        self.rng = random.Random(seed)
        self.sizes = sizes
        self.timed: list[_Timed] = []
        self.attacks: list[Attack] = []
        self._ports = itertools.count()

    def make(self) -> Traffic:
        self._background()
        self._attacks()
        # By time; the number of the conversation decides between equal times, never its bytes.
        streams = (((at, number, frame) for at, frame in timed.due())
                   for number, timed in enumerate(self.timed))
        frames = [frame for _, _, frame in heapq.merge(*streams, key=lambda item: item[:2])]
        flows = Counter[Flow]()
        for timed in self.timed:
            flows[timed.talk.flow] += len(timed.talk.frames)
        return Traffic(frames, flows, self.attacks)

    def _client(self, address: str | None = None) -> tuple[str, int]:
        """A port that no other flow has, so every flow has a name of its own."""
        return (address or f"10.0.{self.rng.randrange(1, 9)}.{self.rng.randrange(1, 255)}",
                20000 + next(self._ports) % 45000)

    def _server(self, port: int) -> tuple[str, int]:
        return f"10.1.{self.rng.randrange(1, 5)}.{self.rng.randrange(1, 255)}", port

    def _text(self, length: int) -> bytes:
        """Readable bytes in which no marker can be: they have no capitals, slashes or dashes."""
        return bytes(self.rng.choices(b"abcdefghijklmnopqrstuvwxyz0123456789 \n", k=length))

    def _at(self, talk: Conversation, length: float = 0.1) -> None:
        """Somewhere in the run, over `length` of it."""
        start = self.rng.uniform(0, 1 - length)
        self.timed.append(_Timed(talk, start, start + length))

    # -- background --

    def _background(self) -> None:
        sizes, rng = self.sizes, self.rng
        for _ in range(sizes.web):
            self._at(self._web(f"/page/{rng.randrange(10**6)}.html"), rng.uniform(0.02, 0.3))
        for number in range(sizes.names):
            self._at(self._name(f"host{number}.office.example", number), 0.01)
        for _ in range(sizes.voice):
            talk = Udp(self._client(), self._server(16384))
            for turn in range(8):
                talk.say(self._text(172), from_client=turn % 2 == 0)
            talk.repeat(sizes.voice_frames)
            self._at(talk, 0.8)
        for _ in range(sizes.elephants):
            talk = Udp(self._client(), self._server(5001))
            for _ in range(16):
                talk.say(self._text(rng.randrange(1000, 1400)))
            talk.repeat(sizes.elephant_frames)
            self._at(talk, 0.9)
        for _ in range(sizes.tcp_elephants):
            talk = Tcp(rng, self._client(), self._server(5001)).open()
            for _ in range(sizes.tcp_elephant_segments):
                talk.say(self._text(MSS))
            self._at(talk.close(), 0.9)

    def _web(self, uri: str) -> Tcp:
        rng = self.rng
        host = f"www{rng.randrange(40)}.office.example"
        talk = Tcp(rng, self._client(), self._server(80)).open()
        talk.say(f"GET {uri} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: lab/1.0\r\n"
                 "Accept: */*\r\n\r\n".encode())
        body = self._text(min(30000, int(rng.paretovariate(1.2) * 800)))
        talk.say(f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
                 "\r\n".encode() + body, from_client=False)
        return talk.close()

    def _name(self, name: str, number: int) -> Udp:
        talk = Udp(self._client(), self._server(53))
        question = DNSQR(qname=name)
        talk.say(DNS(id=number, rd=1, qd=question))
        talk.say(DNS(id=number, qr=1, rd=1, ra=1, qd=question,
                     an=DNSRR(rrname=name, ttl=300, rdata="10.1.9.9")), from_client=False)
        return talk

    # -- attacks --

    def _attacks(self) -> None:
        for number in range(self.sizes.attacks):
            self._http_attack(number)
            self._shell_attack(number)
            self._split_attack(number)
            self._name_attack(number)
            self._beacon_attack(number)
        for number in range(self.sizes.many_flow_attacks):
            self._ssh_attack(number)
            self._scan_attack(number)
        for number in range(self.sizes.late):
            self._late_attack(number)

    def _record(self, kind: str, number: int, talks: Iterable[Conversation],
                complete_with: int) -> None:
        self.attacks.append(Attack(f"{kind}-{number}", kind, rules.RULES[kind].sid,
                                   {talk.flow: len(talk.frames) for talk in talks}, complete_with))

    def _http_attack(self, number: int) -> None:
        talk = self._web(f"{rules.HTTP_MARKER}?id={number}")
        self._at(talk)
        self._record("http-uri", number, [talk], 4)

    def _shell_attack(self, number: int) -> None:
        talk = Tcp(self.rng, self._client(), self._server(4444)).open()
        talk.say(f"{rules.SHELL_MARKER} {number}\n".encode())
        talk.say(self._text(300), from_client=False)
        self._at(talk.close())
        self._record("shell", number, [talk], 4)

    def _split_attack(self, number: int) -> None:
        """The marker in two segments: only who puts the stream together finds it."""
        talk = Tcp(self.rng, self._client(), self._server(8081)).open()
        marker = rules.SPLIT_MARKER.encode()
        cut = self.rng.randrange(4, len(marker) - 4)
        talk.say(self._text(40) + marker[:cut], marker[cut:] + self._text(40))
        self._at(talk.close())
        self._record("split", number, [talk], 5)

    def _name_attack(self, number: int) -> None:
        talk = self._name(f"c{number}.{rules.BAD_DOMAIN}", 30000 + number)
        self._at(talk, 0.01)
        self._record("dns-name", number, [talk], 1)

    def _beacon_attack(self, number: int) -> None:
        talk = Udp(self._client(), self._server(6969))
        talk.say(f"{rules.BEACON_MARKER} {number}".encode())
        talk.say(b"ok", from_client=False)
        self._at(talk, 0.01)
        self._record("beacon", number, [talk], 1)

    def _ssh_attack(self, number: int) -> None:
        """As many logins as the rule wants, one after the other."""
        attacker, server = f"10.0.100.{number + 1}", self._server(22)
        talks = []
        start = self.rng.uniform(0, 0.7)
        for turn in range(rules.SSH_LOGINS):
            talk = Tcp(self.rng, self._client(attacker), server).open()
            talk.say(b"SSH-2.0-labssh_1.0\r\n")
            talk.say(b"SSH-2.0-OpenSSH_9.2\r\n", from_client=False)
            talk.say(self._text(200)).close()
            begin = start + turn * 0.04
            self.timed.append(_Timed(talk, begin, begin + 0.03))
            talks.append(talk)
        self._record("ssh-brute-force", number, talks, 4)

    def _scan_attack(self, number: int) -> None:
        attacker, (target, _) = f"10.0.101.{number + 1}", self._server(0)
        talks = []
        start = self.rng.uniform(0, 0.7)
        for turn, port in enumerate(self.rng.sample(range(1000, 2001), rules.SCAN_PROBES)):
            talk = Tcp(self.rng, self._client(attacker), (target, port)).knock()
            begin = start + turn * 0.01
            self.timed.append(_Timed(talk, begin, begin + 0.005))
            talks.append(talk)
        self._record("port-scan", number, talks, 1)

    def _late_attack(self, number: int) -> None:
        """Deep in a long upload. Every other one has its marker in a long segment's depth, where
        a slice cuts it away; the others in a short segment."""
        talk = Tcp(self.rng, self._client(), self._server(9000)).open()
        for _ in range(LATE_AFTER):
            talk.say(self._text(MSS))
        marker = rules.LATE_MARKER.encode()
        deep = number % 2 == 1
        talk.say(self._text(LATE_DEPTH) + marker + self._text(200) if deep else marker)
        complete_with = len(talk.frames) - 1  # without the acknowledgement
        self._at(talk.close(), 0.5)
        self._record("late", number, [talk], complete_with)


def make(seed: int, sizes: Sizes = Sizes()) -> Traffic:
    """Equal arguments give equal bytes."""
    return _Maker(seed, sizes).make()
