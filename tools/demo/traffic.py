# SPDX-License-Identifier: Apache-2.0
"""Both ends of the demo's traffic; each runs in its own network namespace.

    traffic.py receive TAGS   answers until it is killed; prints `listening` when it can
    traffic.py send TAGS      sends until SIGTERM; prints a JSON line of totals twice a second

TAGS: who makes VLAN tags, the `stack` (a VLAN device) or these programs (`raw`).

Plain sockets with the kernel's defaults, so what crosses the tap is what hosts really send:
unfinished checksums, tags kept beside the packet, super-packets.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable

RECEIVER, RECEIVER_VLAN = "10.0.0.2", "10.100.0.2"
HTTP, DNS, BULK, FLOOD, ECHO = 80, 53, 5001, 9000, 7
LINK, VLAN, ETHERTYPE = "link0", 100, 0x88B5  # the latter: IEEE 802, for local experiments
# Fits one segment. Longer writes leave the sender as super-packets, for the tap to cut.
PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 1200\r\n\r\n".ljust(1242, b".")
BLOCK = bytes(1 << 18)
TIMEOUT = 5.0

stop = threading.Event()
totals: dict[str, float] = dict.fromkeys(
    ("web", "names", "vlan", "ping", "flood", "bulk_bytes", "bulk_s", "lost", "ping_ms"), 0)
counting = threading.Lock()


def count(name: str, amount: float = 1) -> None:
    with counting:
        totals[name] += amount


def recv_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = sock.recv(size - len(data))
        if not chunk:
            raise ConnectionError("closed by the other end")
        data += chunk
    return data


class TaggedFrames:
    """A packet socket that sends and receives datagrams in frames with a VLAN tag."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
        self._socket.bind((LINK, ETHERTYPE))
        self._socket.settimeout(TIMEOUT)

    def send(self, data: bytes) -> None:
        self._socket.send(b"\xff" * 6 + self._socket.getsockname()[4] +
                          struct.pack("!HHH", 0x8100, VLAN, ETHERTYPE) + data)

    def receive(self) -> bytes:
        """The kernel has put the tag beside the frame; what it hands out has none."""
        while True:
            frame, (_, _, kind, *_) = self._socket.recvfrom(2048)
            if kind != socket.PACKET_OUTGOING:
                return frame[14:]

    def __enter__(self) -> "TaggedFrames":
        return self

    def __exit__(self, *_exc) -> None:
        self._socket.close()


# --- sender -------------------------------------------------------------------------------------

def web() -> None:
    """Sessions of twenty requests each."""
    with socket.create_connection((RECEIVER, HTTP), TIMEOUT) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(20):
            sock.sendall(b"GET /index.html HTTP/1.1\r\nHost: receiver\r\n\r\n")
            if recv_exactly(sock, len(PAGE)) != PAGE:
                raise ValueError("a web page came with other bytes than were sent")
            count("web")
            if stop.wait(0.005):
                return


def asking(name: str, address: str, port: int) -> Callable[[], None]:
    """Datagrams that are sent back as they are."""
    def ask() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(TIMEOUT)
            sock.connect((address, port))
            while not stop.wait(0.02):
                question = os.urandom(60)
                sock.send(question)
                if sock.recv(2048) != question:
                    raise ValueError(f"{name}: an answer came with other bytes than were sent")
                count(name)
    return ask


def ask_tagged() -> None:
    with TaggedFrames() as frames:
        while not stop.wait(0.02):
            question = os.urandom(60)
            frames.send(question)
            if frames.receive() != question:
                raise ValueError("vlan: an answer came with other bytes than were sent")
            count("vlan")


def ping() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect((RECEIVER, 0))
        number = 0
        while not stop.wait(0.1):
            number = number + 1 & 0xFFFF
            body = struct.pack("!HH", os.getpid() & 0xFFFF, number) + bytes(48)
            begin = time.monotonic()
            sock.send(struct.pack("!BBH", 8, 0, checksum(b"\x08\x00\x00\x00" + body)) + body)
            while sock.recv(2048)[20:] != struct.pack("!BBH", 0, 0, checksum(bytes(4) + body)) + body:
                pass
            totals["ping_ms"] = (time.monotonic() - begin) * 1e3
            count("ping")


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def flood() -> None:
    """2000 large datagrams a second that nobody answers."""
    datagram = bytes(1400)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((RECEIVER, FLOOD))
        due = time.monotonic()
        while not stop.is_set():
            for _ in range(20):
                sock.send(datagram)
            count("flood", 20)
            due = max(due + 0.01, time.monotonic() - 0.1)
            time.sleep(max(0.0, due - time.monotonic()))


def bulk() -> None:
    """One transfer a second, as fast as TCP goes for half of it."""
    with socket.create_connection((RECEIVER, BULK), TIMEOUT) as sock:
        begin, sent = time.monotonic(), 0
        while time.monotonic() - begin < 0.5:
            sock.sendall(BLOCK)
            sent += len(BLOCK)
        sock.shutdown(socket.SHUT_WR)
        if int.from_bytes(recv_exactly(sock, 8), "big") != sent:
            raise ValueError("a bulk transfer came with another length than was sent")
        count("bulk_bytes", sent)
        count("bulk_s", time.monotonic() - begin)
    stop.wait(0.5)


def repeat(work: Callable[[], None]) -> None:
    """What fails is counted and goes on: a demo of a wire must show it when the wire is bad."""
    while not stop.is_set():
        try:
            work()
        except (OSError, ValueError) as error:
            count("lost")
            print(f"{getattr(work, '__name__', work)}: {error}", file=sys.stderr, flush=True)
            stop.wait(0.2)


def send(tags: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    vlan = asking("vlan", RECEIVER_VLAN, ECHO) if tags == "stack" else ask_tagged
    work = (web, asking("names", RECEIVER, DNS), vlan, ping, flood, bulk)
    threads = [threading.Thread(target=repeat, args=(item,)) for item in work]
    for thread in threads:
        thread.start()
    while not stop.wait(0.5):
        report()
    for thread in threads:
        thread.join()
    report()


def report() -> None:
    with counting:
        print(json.dumps(totals), flush=True)


# --- receiver -----------------------------------------------------------------------------------

def serve_tcp(port: int, handle: Callable[[socket.socket], None]) -> None:
    server = socket.create_server((RECEIVER, port), backlog=64)

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                handle(connection)
            except OSError:
                pass  # the sender sees it at its end, and counts it

    def accept() -> None:
        while True:
            threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def serve_udp(address: str, port: int, answer: bool) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, port))

    def serve() -> None:
        while True:
            data, sender = sock.recvfrom(2048)
            if answer:
                sock.sendto(data, sender)

    threading.Thread(target=serve, daemon=True).start()


def pages(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while connection.recv(4096):
        connection.sendall(PAGE)


def swallow(connection: socket.socket) -> None:
    received, buffer = 0, bytearray(len(BLOCK))
    while size := connection.recv_into(buffer):
        received += size
    connection.sendall(received.to_bytes(8, "big"))


def answer_tagged() -> None:
    frames = TaggedFrames()

    def serve() -> None:
        while True:
            try:
                frames.send(frames.receive())
            except OSError:
                pass  # a timeout: nobody asks

    threading.Thread(target=serve, daemon=True).start()


def receive(tags: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve_tcp(HTTP, pages)
    serve_tcp(BULK, swallow)
    serve_udp(RECEIVER, DNS, answer=True)
    if tags == "stack":
        serve_udp(RECEIVER_VLAN, ECHO, answer=True)
    else:
        answer_tagged()
    serve_udp(RECEIVER, FLOOD, answer=False)
    print("listening", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    {"send": send, "receive": receive}[sys.argv[1]](sys.argv[2])
