# SPDX-License-Identifier: Apache-2.0
"""The commands of the documents do what the documents say; so neither can drift from the other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import pytest

import packets
from lab import Lab, Port, Wire, assert_frames, eventually
from stranger import ROOT, Machine, commands, fences, run_commands

API_FIRST = '''# what was there before
[[tap]]
name  = "wan"
mode  = "inline"
ports = ["t0", "t1"]

[[monitor]]
name = "mon0"   # nobody sends to it
port = "m0"
'''


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        made.open_wires()
        yield made


def web(source: str = "10.0.0.5", port: int = 80) -> bytes:
    return packets.ip_frame("tcp", src=source, dst="10.1.2.3", dport=port)


def syn() -> bytes:
    return packets.ip_frame("tcp", src="172.16.0.1", dst="10.1.2.3", dport=22, flags="syn")


class Copies:
    """What arrives at a monitor's far end of frames that a machine sends."""

    def __init__(self, source: Wire, monitor: Wire) -> None:
        self.source, self.monitor = source, monitor

    def of(self, frames: list[bytes], expected: list[bytes]) -> None:
        self.source.send_all(frames)
        assert_frames(expected, self.monitor.receive(len(expected)), f"at {self.monitor}")

    def checked(self, frames: list[bytes], expected: list[bytes]) -> Callable[[], None]:
        return lambda: self.of(frames, expected)


def test_api_curl_lines(lab: Lab) -> None:
    """docs/api.md from its first line of curl to its last, with frames after each change."""
    lab.link("eth3", Port(lab.mon_ns, "ids"))
    lab.link("eth4", Port(lab.mon_ns, "rec"))
    lab.link("tap17", Port(lab.left_ns, "vm17"))
    copies = Copies(lab.wire(Port(lab.left_ns, "vm17")), lab.wire(Port(lab.mon_ns, "ids")))
    function, *blocks, keep, wrong, _ = fences("docs/api.md", "sh")
    define, show_version = commands(function)
    assert define.text.startswith("api() {")
    with Machine(lab) as machine:
        machine.write("/etc/vtap/tap.toml", API_FIRST)
        machine.start("vtap-broker -c /etc/vtap/tap.toml")

        def run(block: str, then: dict[str, Callable[[], None]] | None = None) -> None:
            run_commands(machine, block, first=define.text, then=then)

        run(show_version.text)
        both = [web(), syn(), web("10.9.9.9"), web(port=8080)]
        run(blocks[0], {"/v1/monitors": copies.checked(both, []),
                        '"name":"web"': copies.checked(both, [web()]),
                        '"name":"syn"': copies.checked(both, [web(), syn()[:128]])})
        seventh = web("10.0.0.7", 9999)
        run(blocks[1], {"web -X PUT": copies.checked([*both, seventh], [syn()[:128], seventh]),
                        "syn -X DELETE": copies.checked([*both, seventh], [seventh])})
        run(blocks[2])
        assert '"rec"' in machine.run("vtapctl monitor list --json").stdout
        again = machine.run(f"{define.text}\napi /v1/config -X PUT -d @new.json")
        assert "another change came first" in json.loads(again.stdout)["error"]
        run(keep, {"web?persist=true": copies.checked([seventh], [])})
        file = machine.run("cat /etc/vtap/tap.toml").stdout
        assert file.startswith(API_FIRST[:API_FIRST.index("[[monitor]]")])
        assert 'port = "eth3"' in file and 'port = "eth4"' in file and "policy" not in file
        assert machine.run("vtap-broker --check -c /etc/vtap/tap.toml").returncode == 0
        run(wrong)
        done = machine.run("vtapctl status --json")
        assert json.loads(done.stdout)["config"]["persisted"] is True


def certificate(machine: Machine, address: str) -> None:
    """An authority in ca.pem, and what it signed for `address` in /etc/vtap."""
    done = machine.run(f"""set -e
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority \
  -keyout ca.key -out ca.pem
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=broker \
  -keyout /etc/vtap/key.pem -out broker.csr
echo subjectAltName=IP:{address} > names
openssl x509 -req -in broker.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
  -extfile names -out /etc/vtap/cert.pem
chmod 640 /etc/vtap/key.pem""")
    assert done.returncode == 0, done.stderr


def test_api_over_tcp(lab: Lab) -> None:
    """The block of config and the lines below it; vtapctl the same way; and who is not let in."""
    block = next(text for text in fences("docs/api.md", "toml") if "api_cert" in text)
    address = re.search(r'^api += "(.*):9470"$', block, re.M)[1]
    make_token, show_status = commands(fences("docs/api.md", "sh")[-1])
    with Machine(lab) as machine:
        assert machine.run(f"ip address add {address}/32 dev lo").returncode == 0
        assert machine.run(make_token.text).returncode == 0
        certificate(machine, address)
        without = [line for line in block.splitlines() if not re.match("api_(cert|key)", line)]
        for missing, text in (("api_cert and api_key", "\n".join(without) + "\n"),
                              ("api_token_file", f'[broker]\napi = "{address}:9470"\n')):
            machine.write("/etc/vtap/tap.toml", text + API_FIRST)
            refused = machine.run("vtap-broker -c /etc/vtap/tap.toml")
            assert refused.returncode == 2 and missing in refused.stderr, refused
        machine.write("/etc/vtap/tap.toml", block + API_FIRST)
        machine.start("vtap-broker -c /etc/vtap/tap.toml")
        assert machine.run("cp /etc/vtap/token .").returncode == 0
        shown = machine.run(show_status.text)
        assert json.loads(shown.stdout)["ready"] is True, shown
        url = f"https://{address}:9470"
        given = f"--url {url} --token-file token --cacert ca.pem"
        by_url = machine.run(f"vtapctl {given} status")
        assert by_url.returncode == 0 and "Nothing is wrong." in by_url.stdout, by_url
        by_variables = machine.run(f"VTAP_URL={url} VTAP_TOKEN_FILE=token vtapctl policy list "
                                   "--json --cacert ca.pem")
        assert json.loads(by_variables.stdout) == {"policies": []}, by_variables
        machine.run("echo wrong > other")
        for words, code, why in ((given.replace(" token", " other"), 1, "token"),
                                 (f"--url {url} --cacert ca.pem", 1, "token"),
                                 (f"--url {url} --token-file token", 1, "certificate"),
                                 (given.replace("https:", "http:").replace(" --cacert ca.pem", ""),
                                  2, "https"),
                                 (given.replace("9470", "9471"), 1, "no vtap-broker"),
                                 (given.replace(" token", " none"), 2, "none")):
            refused = machine.run(f"vtapctl {words} status")
            assert refused.returncode == code and why in refused.stderr, (words, refused)
            assert not refused.stdout


def ethernet(lab: Lab, *names: str) -> None:
    """Ports by the names that documents give them; an end of each in the left namespace."""
    for name in names:
        lab.link(name, Port(lab.left_ns, f"far-{name}"))


def test_readme(lab: Lab) -> None:
    """The config and the commands below it, and web traffic on the wire."""
    ethernet(lab, "eth1", "eth2", "eth3")
    near, far, ids = (lab.wire(Port(lab.left_ns, f"far-eth{n}")) for n in (1, 2, 3))
    config = next(text for text in fences("README.md", "toml") if "# tap.toml" in text)
    block = next(text for text in fences("README.md", "sh") if "--check" in text)
    check, examine, start, show_status, capture, detach = commands(block)
    with Machine(lab) as machine:
        machine.write("tap.toml", config)
        for command in (check, examine):
            done = machine.run(command.text)
            assert done.returncode == 0 and not done.stderr, done
        machine.start(start.text.partition(" #")[0])
        done = machine.run(show_status.text)
        assert done.returncode == 0 and "Nothing is wrong." in done.stdout, done
        near.send_all([web(), syn()])
        assert_frames([web(), syn()], far.receive(2), "originals")
        assert_frames([web()], ids.receive(1), "copies")
        said = machine.interrupted(capture.text, lambda: near.send_all([web(), syn()]))
        assert "1 frames captured, 0 dropped" in said.stderr, said
        assert len(said.stdout.strip().splitlines()) == 1, said
        far.receive(2)
        machine.stop()
        near.send_all([web()])
        assert_frames([web()], far.receive(1), "originals after the stop")
        done = machine.run(detach.text)
        assert done.returncode == 0 and "eth1" in done.stdout, done
        near.send_all([web()])
        assert not far.receive(0), "the wire is cut now"


def test_operations_by_vtapctl(lab: Lab) -> None:
    """The lines of docs/operations.md: changes, the shell's completion, captures."""
    ethernet(lab, "eth1", "eth2", "eth3", "eth4")
    near, ids = (lab.wire(Port(lab.left_ns, f"far-eth{n}")) for n in (1, 3))
    config = next(text for text in fences("README.md", "toml") if "# tap.toml" in text)
    blocks = fences("docs/operations.md", "sh")
    changes = next(text for text in blocks if "policy add web" in text)
    captures = next(text for text in blocks if "vtapctl capture" in text)
    copies = Copies(near, ids)
    mine = web("10.0.0.5", 443)
    other = web("172.16.0.1", 443)

    with Machine(lab) as machine:
        machine.write("tap.toml", config.partition("[[policy]]")[0])
        machine.write("policy.json", '{"monitors": ["ids"], "match": [{"proto": "icmp"}]}')
        machine.start("vtap-broker -c tap.toml")
        run_commands(machine, changes, then={
            "add web": copies.checked([mine, other], [mine]),
            "replace web": copies.checked([mine, other], [mine])})
        text = machine.run("cat tap.toml").stdout
        assert "rare" in text and "web" in text and "eth4" not in text, text
        until_interrupt, dns, into_wireshark = commands(captures)
        machine.tool("wireshark", 'test "$*" = "-k -i -" && exec tcpdump -nnr -')
        query = packets.ip_frame("udp", src="10.0.0.5", dst="10.0.0.9", dport=53)
        machine.run("vtapctl policy add dns --monitor ids --proto udp")
        for command, sent, lines in ((until_interrupt, [mine] * 3, 0), (dns, [mine, query], 1),
                                     (into_wireshark, [mine] * 2, 2)):
            said = machine.interrupted(command.text, lambda: near.send_all(sent))
            assert len(said.stdout.strip().splitlines()) == lines, (command, said)
            assert f"{lines or 3} frames captured, 0 dropped" in said.stderr, (command, said)
        file = machine.run("tcpdump -nnr web.pcapng")
        assert len(file.stdout.splitlines()) == 3, file


# What a machine without a service manager cannot run: the package's test does (tests/package).
NOT_HERE = re.compile(r"(systemctl|journalctl|apt|cmake|install -m|tools/)")


def literal(man: str) -> list[str]:
    """The commands that a manual displays."""
    text = (ROOT / "docs/man" / man).read_text()
    return [line for part in re.findall(r"^\.Bd -literal.*?\n(.*?)^\.Ed", text, re.M | re.S)
            for line in part.splitlines()]


def test_services_manuals_and_doctor(lab: Lab) -> None:
    ethernet(lab, "eth1", "eth2", "eth3", "eth4", "eth5")
    service = next(text for text in fences("docs/operations.md", "sh") if "--check" in text)
    lines = [command.text for command in commands(service)]
    with Machine(lab) as machine:
        ran = 0
        for line in [*lines, *literal("vtap-broker.8")]:
            if NOT_HERE.match(line):
                continue
            done = machine.run(line)
            assert done.returncode == 0, (line, done)
            ran += 1
        assert ran == 4, "cp and --check, in either"
        machine.run("cp /etc/vtap/edge.toml tap.toml")
        for command in commands(fences("docs/doctor.md", "sh")[0]):
            done = machine.run(command.text)
            assert done.returncode == 0, done
            assert re.search(r'^(hint|ok): |"findings": *\[\s*\{', done.stdout, re.M), done
        machine.start("vtap-broker -c /etc/vtap/edge.toml")
        machine.run("mv /run/vtap/vnf.sock /run/vtap/edge.sock; "
                    "vtapctl policy add web --monitor analyser --proto tcp --persist")
        for line in literal("vtapctl.8"):
            endless = "--watch" in line or "capture" in line
            done = machine.interrupted(line, lambda: None) if endless else machine.run(line)
            assert done.returncode == 0 and done.stdout + done.stderr, (line, done)


def test_manual_has_every_command_and_option(lab: Lab) -> None:
    """vtapctl(8) against vtapctl itself, by what it offers for completion."""
    manual = (ROOT / "docs/man/vtapctl.8").read_text().replace("\\-", "-")
    named = set(re.findall(r"(?:^\.(?:It|Op|Fl|Cm)|[ ,]|Fl) -([a-z-]+)", manual, re.M))
    with Machine(lab) as machine:
        def offered(*words: str) -> list[str]:
            done = machine.run(f"vtapctl __complete {' '.join(words)} ''")
            return [line.partition("\t")[0] for line in done.stdout.splitlines()]

        seen: set[str] = set()
        paths: list[tuple[str, ...]] = [()]
        while paths:
            path = paths.pop()
            options = machine.run(f"vtapctl __complete {' '.join(path)} -").stdout
            seen |= {word[2:] for word in re.findall(r"^--[a-z-]+", options, re.M)}
            inner = machine.run(f"vtapctl {' '.join(path)} --help").stdout
            for word in re.findall(r"^  ([a-z]+) +[A-Z]", inner.partition("Subcommands:")[2], re.M):
                assert re.search(rf"\b{word}\b", manual), f"{path} {word} is not in the manual"
                paths.append((*path, word))
        assert {"persist", "filter", "cacert", "fix", "watch", "snaplen"} <= seen
        assert not seen - named, "options that the manual does not name"
        of_the_broker = {"doctor"}
        assert not named - seen - {"version", "help"} - of_the_broker, "options that there are not"
