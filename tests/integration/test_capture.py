# SPDX-License-Identifier: Apache-2.0
"""Live captures: the bytes that the monitors get, and nothing that a capture could disturb."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import packets
from broker import CAPTURES, Broker, config, inline, monitors, policy, vtapctl_binary
from lab import Lab, carry, eventually
from lab import assert_frames as assert_frames_at
from traffic import BothWays

TCP = [packets.ip_frame("tcp", b"%d" % n) for n in range(60)]
UDP = [packets.ip_frame("udp", b"%d" % n, dport=53) for n in range(60)]


def only(proto: str) -> dict:
    return {"match": [{"proto": proto}], "offload": "never"}


def assert_frames(wanted: list[bytes], got: list[bytes], where: str = "captured") -> None:
    assert_frames_at(wanted, got, where)


def blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and body of each block of a pcapng file, which has to be whole."""
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        assert struct.unpack_from("<I", data, at + length - 4)[0] == length, f"torn at {at}"
        yield kind, data[at + 8:at + length - 4]
        at += length


def frames_of(data: bytes) -> list[tuple[bytes, int, int, int]]:
    """Bytes, original length, interface and time in ns of all packets."""
    found = []
    for kind, body in blocks(data):
        if kind == 6:
            interface, high, low, kept, original = struct.unpack_from("<IIIII", body)
            found.append((body[20:20 + kept], original, interface, high << 32 | low))
    return found


def interfaces(data: bytes) -> list[str]:
    names = []
    for kind, body in blocks(data):
        if kind == 1:
            code, size = struct.unpack_from("<HH", body, 8)
            assert code == 2
            names.append(body[12:12 + size].decode())
    return names


class Capture:
    """vtapctl capture -w FILE, from the moment at which the broker has begun."""

    def __init__(self, running: Broker, *words: str, address: tuple = ()) -> None:
        address = address or ("--socket", running.socket)
        number = len(list(running.directory.glob("*.pcapng")))
        self.file: Path = running.directory / f"{number}.pcapng"
        with running.ns.entered():
            self.process = subprocess.Popen(
                [vtapctl_binary(), *address, "capture", "-w", self.file, *words],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert eventually(lambda: self.process.poll() is not None or
                          (self.file.exists() and self.file.stat().st_size > 0)), "nothing came"
        assert self.process.poll() is None or words, self.process.communicate()

    def end(self, number: int | None = signal.SIGINT) -> tuple[int, int]:
        """Captured and dropped, as vtapctl says; a signal ends it, or nothing needs to."""
        if number is not None:
            time.sleep(0.1)
            self.process.send_signal(number)
        _, said = self.process.communicate(timeout=10)
        counts = re.fullmatch(r"(\d+) frames captured, (\d+) dropped\n", said)
        assert counts is not None and self.process.returncode == 0, said
        return int(counts[1]), int(counts[2])

    @property
    def data(self) -> bytes:
        return self.file.read_bytes()

    def frames(self) -> list[bytes]:
        return [frame for frame, *_ in frames_of(self.data)]


@pytest.mark.parametrize("how", CAPTURES)
def test_the_bytes_that_the_monitor_gets(how: str) -> None:
    with Lab(napi_ends=True) as lab:
        lab.open_wires()
        text = config([inline(**CAPTURES[how])], monitors(1), [policy("web", **only("tcp"))])
        with Broker(lab, text) as running:
            capture = Capture(running)
            began = time.time_ns()
            carry(TCP, lab.left, lab.right, lab.monitors)
            carry(UDP, lab.left, lab.right, lab.monitors, [])
            assert capture.end() == (len(TCP), 0)
            assert_frames(TCP, capture.frames())
            assert interfaces(capture.data) == ["t0", "t1"]
            for _, original, interface, when in frames_of(capture.data):
                assert interface == 0 and began <= when <= time.time_ns()
            running.settled()
            shown = subprocess.run(["tcpdump", "-nn", "-r", str(capture.file)],
                                   capture_output=True, text=True)
            assert shown.returncode == 0 and len(shown.stdout.splitlines()) == len(TCP), shown


def test_by_policy_by_tap_with_filter_and_snaplen() -> None:
    with Lab(monitors=2, pairs=2) as lab:
        lab.open_wires()
        text = config(
            [inline("one"), inline("two", ["t2", "t3"])], monitors(2),
            [policy("web", ["mon0"], slice=50, **only("tcp")),
             policy("again", ["mon0"], taps=["one"], **only("tcp")),
             policy("dns", ["mon1"], **only("udp"))])
        cut = [frame[:50] for frame in TCP]
        picked = [frame for frame in UDP if frame[-1:] == b"7"]

        def captured(*words: str) -> bytes:
            capture = Capture(running, *words)
            carry(TCP, lab.left, lab.right, [lab.monitor(0)], cut)
            carry(UDP, lab.left, lab.right, [lab.monitor(1)])
            lab.left_of(1).send_all(UDP[:10])
            assert_frames(UDP[:10], lab.right_of(1).receive(10))
            lab.monitor(1).clear()
            count, dropped = capture.end()
            assert dropped == 0
            assert count == len(capture.frames())
            return capture.data

        with Broker(lab, text) as running:
            web = captured("--policy", "web")
            assert_frames(cut, [frame for frame, *_ in frames_of(web)])
            assert {original for _, original, *_ in frames_of(web)} == {len(f) for f in TCP}
            # What the monitor has already by another policy is of this one, too.
            assert_frames(TCP, [f for f, *_ in frames_of(captured("--policy", "again"))])
            assert_frames(UDP + UDP[:10], [f for f, *_ in frames_of(captured("--policy", "dns"))])
            two = captured("--tap", "two")
            assert interfaces(two) == ["t2", "t3"]
            assert_frames(UDP[:10], [f for f, *_ in frames_of(two)])
            filtered = captured("--tap", "one", "--filter", f"udp and ether[{len(UDP[7]) - 1}] = 55")
            short = [f for f in picked if len(f) == len(UDP[7])]
            assert short and set(short) <= {f for f, *_ in frames_of(filtered)} <= set(picked)
            short = frames_of(captured("--policy", "dns", "--snaplen", "20"))
            assert_frames([f[:20] for f in UDP + UDP[:10]], [f for f, *_ in short])
            assert short[0][1] == len(UDP[0])
            ended = Capture(running, "--policy", "web", "--frames", "7")
            carry(TCP, lab.left, lab.right, [lab.monitor(0)], cut)
            assert ended.end(None)[0] == 7
            assert_frames(cut[:7], ended.frames())


def test_refusals() -> None:
    with Lab(monitors=2, napi_ends=True, napi_monitors=True) as lab:
        kernel = policy("all", offload="require")
        text = config([inline(**CAPTURES["xdp"])], monitors(2),
                      [kernel, policy("ours", ["mon1"], offload="never")])
        with Broker(lab, text) as running:
            for query, status, words in (
                    ("policy=all", 422, "offload"),
                    ("policy=none", 422, "there is no policy none"),
                    ("tap=none", 422, "there is no tap none"), ("filter=nonsense+(", 400, "filter"),
                    ("policy=all&tap=wire", 400, "not both"), ("snaplen=0", 400, "snaplen"),
                    ("rate=x", 400, "rate"), ("what=1", 400, "takes no what"),
                    ("policy=a&policy=b", 400, "twice")):
                code, answer = running.api("GET", f"/v1/capture?{query}")
                assert code == status and words in answer["error"], (query, code, answer)
            assert Capture(running).end() == (0, 0)
            running.reload(config([inline(**CAPTURES["xdp"])], monitors(2), [kernel]))
            for query in ("", "?tap=wire"):
                code, answer = running.api("GET", f"/v1/capture{query}")
                assert code == 422 and "offload" in answer["error"], (query, code, answer)


def test_over_tcp() -> None:
    with Lab() as lab:
        lab.open_wires()
        with tempfile.TemporaryDirectory() as directory:
            token = Path(directory, "token")
            token.write_text("0123456789abcdef0123456789abcdef\n")
            token.chmod(0o600)
            text = config([inline()], monitors(1), [policy(offload="never")],
                          api="127.0.0.1:9470", api_token_file=str(token))
            with Broker(lab, text) as running:
                capture = Capture(running, address=("--url", "http://127.0.0.1:9470",
                                                    "--token-file", token))
                carry(TCP, lab.left, lab.right, lab.monitors)
                assert capture.end() == (len(TCP), 0)
                assert_frames(TCP, capture.frames())


def test_above_the_rate_it_drops_and_counts_and_nobody_else_loses() -> None:
    with Lab() as lab:
        lab.open_wires()
        with Broker(lab, config([inline()], monitors(1), [policy(offload="never")])) as running:
            before = running.settled()["monitors"][0]["tx_frames"]
            capture = Capture(running, "--rate", "200")
            with BothWays(lab, 2000) as traffic:
                time.sleep(1)
            traffic.assert_complete()
            captured, dropped = capture.end()
            after = running.settled()["monitors"][0]
            assert sum(after["dropped"].values()) == 0
            assert captured + dropped == after["tx_frames"] - before
            # A tenth of a second's worth at once, and then 200 a second for a second and a bit.
            assert 150 < captured < 800 and dropped > captured, (captured, dropped)
            assert captured == len(capture.frames())


def hung(running: Broker, query: str = "?rate=1000000") -> socket.socket:
    """A client that asks and never reads."""
    client = socket.socket(socket.AF_UNIX)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(str(running.socket))
    client.sendall(f"GET /v1/capture{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return client


def test_hung_readers_disturb_nothing_and_a_third_capture_is_refused() -> None:
    with Lab() as lab:
        lab.open_wires()
        with Broker(lab, config([inline()], monitors(1), [policy(offload="never")])) as running:
            with contextlib.ExitStack() as stack:
                for _ in range(2):
                    stack.enter_context(hung(running))
                assert eventually(lambda: running.api("GET", "/v1/capture?policy=none")[0] == 409)
                with BothWays(lab, 2500) as traffic:
                    for _ in range(10):
                        assert running.api("GET", "/v1/version")[0] == 200
                        time.sleep(0.1)
                    assert running.api("GET", "/v1/capture?policy=none")[0] == 409
                traffic.assert_complete()
                assert sum(running.settled()["monitors"][0]["dropped"].values()) == 0
            # They hung up: there is room again (422: it is looked at), and it works.
            assert eventually(lambda: running.api("GET", "/v1/capture?policy=none")[0] == 422)
            capture = Capture(running)
            lab.monitor(0).clear()
            carry(TCP, lab.left, lab.right, lab.monitors)
            assert capture.end() == (len(TCP), 0)


def test_follows_reloads_until_its_policy_goes() -> None:
    with Lab(monitors=2) as lab:
        lab.open_wires()

        def text(*policies: dict) -> str:
            return config([inline()], monitors(2), [*policies])

        web = policy("web", ["mon0"], **only("tcp"))
        dns = policy("dns", ["mon1"], **only("udp"))
        with Broker(lab, text(web)) as running:
            of_web, of_all = Capture(running, "--policy", "web"), Capture(running)
            carry(TCP, lab.left, lab.right, [lab.monitor(0)])
            running.reload(text(dns, web))  # web has another number now
            carry(TCP, lab.left, lab.right, [lab.monitor(0)])
            carry(UDP, lab.left, lab.right, [lab.monitor(1)])
            running.reload(text(dns))
            assert of_web.end(None) == (2 * len(TCP), 0)
            assert_frames(TCP + TCP, of_web.frames())
            carry(UDP, lab.left, lab.right, [lab.monitor(1)])
            assert of_all.end() == (2 * len(TCP + UDP), 0)
            assert_frames(TCP + TCP + UDP + UDP, of_all.frames())


def test_ends_with_the_broker_and_says_so() -> None:
    with Lab() as lab:
        lab.open_wires()
        with Broker(lab, config([inline()], monitors(1), [policy(offload="never")])) as running:
            capture = Capture(running)
            with hung(running):
                carry(TCP, lab.left, lab.right, lab.monitors)
                began = time.monotonic()
                assert running.stop() == 0
                assert time.monotonic() - began < 5
            assert capture.end(None) == (len(TCP), 0)
            assert_frames(TCP, capture.frames())


def test_into_a_pipe_that_closes_and_not_to_a_terminal() -> None:
    with Lab() as lab:
        lab.open_wires()
        with Broker(lab, config([inline()], monitors(1), [policy(offload="never")])) as running:
            with running.ns.entered():
                capture = subprocess.Popen(
                    [vtapctl_binary(), "--socket", running.socket, "capture", "-w", "-"],
                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                reader = subprocess.Popen(["tcpdump", "-nn", "-c", "5", "-r", "-"],
                                          stdin=capture.stdout, stdout=subprocess.PIPE, text=True,
                                          stderr=subprocess.PIPE)
                capture.stdout.close()
            assert "reading from file" in reader.stderr.readline()  # it has the capture's beginning
            carry(TCP, lab.left, lab.right, lab.monitors)
            assert len(reader.communicate(timeout=10)[0].splitlines()) == 5
            carry(TCP, lab.left, lab.right, lab.monitors)
            capture.wait(10)
            master, terminal = os.openpty()
            refused = subprocess.run([vtapctl_binary(), "--socket", running.socket, "capture"],
                                     stdout=terminal, stderr=subprocess.PIPE, text=True)
            os.close(master), os.close(terminal)
            assert refused.returncode == 2 and "terminal" in refused.stderr
