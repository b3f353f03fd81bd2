# SPDX-License-Identifier: Apache-2.0
"""Bad input and bad surroundings: refused with the right exit code, a message that helps, and
nothing touched."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import packets
from broker import (CAPTURES, Broker, broker_binary, config, inline, monitors, policy, run_broker,
                    simple_config, vtapctl_binary)
from lab import Lab, assert_frames, carry, differences, snapshot

USAGE, RUNTIME, PRIVILEGE = 2, 1, 3
ADDED_LINES = 2  # Broker adds a name and a control socket behind the first line


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(monitors=2, pairs=2) as made:
        made.open_wires()
        yield made


def refused(lab: Lab, text: str, *, codes: tuple[int, ...], launcher: tuple[str, ...] = ()) -> str:
    """Runs a config that must be refused, with nothing touched; what it says."""
    attempt = Broker(lab, text)
    before = snapshot(lab.tap_ns)
    try:
        done = run_broker(lab, "-c", attempt.file, launcher=launcher)
        assert done.returncode in codes, f"exit {done.returncode}\n{done.stderr}"
        assert not differences(before, snapshot(lab.tap_ns))
        return done.stderr.replace(str(attempt.file), "FILE")
    finally:
        attempt.discard()


# --- the config ---------------------------------------------------------------------------------

GOOD = """\
[broker]

[[tap]]
name = "wire"
mode = "inline"
ports = ["t0", "t1"]

[[monitor]]
name = "ids"
port = "m0"

[[policy]]
name = "web"
monitors = ["ids"]
"""

# A line of GOOD, what is written in its place, and words that the message must hold.
BAD_LINES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "unknown key of a tap": ('mode = "inline"', 'mode = "inline"\nports_ = 1', ("ports_",)),
    "unknown mode": ('mode = "inline"', 'mode = "inlne"', ("inlne", "inline")),
    "wrong type": ('ports = ["t0", "t1"]', "ports = 7", ("ports",)),
    "one port for inline": ('ports = ["t0", "t1"]', 'ports = ["t0"]', ("ports",)),
    "three ports for inline": ('ports = ["t0", "t1"]', 'ports = ["t0", "t1", "t2"]', ("ports",)),
    "a port twice": ('ports = ["t0", "t1"]', 'ports = ["t0", "t0"]', ("t0",)),
    "port is tap and monitor": ('port = "m0"', 'port = "t0"', ("t0",)),
    "unknown monitor": ('monitors = ["ids"]', 'monitors = ["idz"]', ("idz",)),
    "unknown tap": ('monitors = ["ids"]', 'monitors = ["ids"]\ntaps = ["nowhere"]', ("nowhere",)),
    "no monitors": ('monitors = ["ids"]', "monitors = []", ("monitors",)),
    "name missing": ('name = "web"\n', "", ("name",)),
    "unknown key of a match": ('monitors = ["ids"]',
                               'monitors = ["ids"]\nmatch = [{ sorce = "10.0.0.1" }]', ("sorce",)),
    "not an address": ('monitors = ["ids"]',
                       'monitors = ["ids"]\nmatch = [{ src = "10.0.0.256" }]', ("10.0.0.256",)),
    "prefix too long": ('monitors = ["ids"]',
                        'monitors = ["ids"]\nmatch = [{ src = "10.0.0.0/33" }]', ("33",)),
    "port number": ('monitors = ["ids"]',
                    'monitors = ["ids"]\nmatch = [{ port = 65536 }]', ("65536",)),
    "range backwards": ('monitors = ["ids"]',
                        'monitors = ["ids"]\nmatch = [{ port = "90-80" }]', ("90-80",)),
    "vlan id": ('monitors = ["ids"]', 'monitors = ["ids"]\nmatch = [{ vlan = 4096 }]', ("4096",)),
    "unknown flag": ('monitors = ["ids"]',
                     'monitors = ["ids"]\nmatch = [{ tcp_flags = "sin" }]', ("sin",)),
    "rate without unit": ('monitors = ["ids"]',
                          'monitors = ["ids"]\nmeter = { rate = "200", burst = "1MiB" }', ("200",)),
    "share of flows": ('monitors = ["ids"]',
                       'monitors = ["ids"]\nsample = { flows = 1.5 }', ("flows",)),
    "two samples": ('monitors = ["ids"]',
                    'monitors = ["ids"]\nsample = { flows = 0.5, one_in = 2 }', ("sample",)),
    "slice of nothing": ('monitors = ["ids"]', 'monitors = ["ids"]\nslice = 0', ("slice",)),
    "no filter": ('monitors = ["ids"]', 'monitors = ["ids"]\nfilter = "tcp port"',
                  ("filter", "pcap-filter")),
    "yellow that is dropped": (
        'monitors = ["ids"]',
        'monitors = ["ids"]\nmeter = { rate = "1Mbit/s", peak_rate = "2Mbit/s" }', ("exceed",)),
    "weight of nothing": ('monitors = ["ids"]', 'monitors = ["ids"]\nweight = 0', ("weight",)),
    "clone at xdp": ('mode = "inline"', 'mode = "inline"\ncapture = "clone"\nhook = "xdp"',
                     ("clone", "xdp")),
    "redirect at tc": ('mode = "inline"', 'mode = "inline"\ncapture = "redirect"\nhook = "tc"',
                       ("redirect", "tc")),
    "unmatched of an inline tap": ('mode = "inline"', 'mode = "inline"\nunmatched = "drop"',
                                   ("unmatched",)),
    "direction of an inline tap": ('mode = "inline"', 'mode = "inline"\ndirection = "ingress"',
                                   ("direction",)),
    "not TOML": ('mode = "inline"', 'mode = inline"', ()),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_finding_says_where_and_what(lab: Lab, case: str) -> None:
    line, instead, words = BAD_LINES[case]
    assert GOOD.count(line) == 1
    said = refused(lab, GOOD.replace(line, instead), codes=(USAGE,))
    found = re.findall(r"^.*FILE:(\d+):\d+: (.*)$", said, re.M)
    assert 1 <= len(found) <= 3, f"one fault is one finding, or two or three:\n{said}"
    for word in words:
        assert any(word in finding for _, finding in found), f"{word!r} is not in:\n{said}"
    plausible = _lines_of_fault(line, instead, words)
    assert any(int(number) in plausible for number, _ in found), \
        f"line {sorted(plausible)} expected:\n{said}"


def _lines_of_fault(line: str, instead: str, words: tuple[str, ...]) -> set[int]:
    """The changed lines, those that hold the first word, and the head of their table."""
    first = GOOD[:GOOD.index(line)].count("\n")
    lines = GOOD.replace(line, instead).splitlines()
    wanted = set(range(first, first + max(1, instead.count("\n") + 1)))
    wanted |= {number for number, text in enumerate(lines) if words and words[0] in text}
    head = max(number for number in range(first + 1) if lines[number].startswith("["))
    return {number + ADDED_LINES + 1 for number in wanted | {head}}


def _marked(text: str) -> tuple[str, list[tuple[int, str]]]:
    """Config text and (line, word) of each `# <- word`. Broker adds two lines at the top."""
    return text, [(number, match[1]) for number, line in
                  enumerate(text.splitlines(), 1 + ADDED_LINES)
                  if (match := re.search(r"# <- (\S+)", line))]


def test_all_findings_at_once(lab: Lab) -> None:
    text, wanted = _marked("""\
[broker]
worker = 1                                      # <- worker

[[tap]]
name = "wire"
mode = "inline"
ports = ["t0", "t1"]
hook = "egress"                                 # <- egress

[[monitor]]
name = "ids"
port = "m0"

[[monitor]]
name = "ids"                                    # <- ids
port = "m1"

[[policy]]
name = "web"
taps = ["wires"]                                # <- wires
monitors = ["ids", "recorder"]                  # <- recorder
match = [
  { src = "10.0.0.0/24", dst_port = "http" },   # <- http
  { colour = "red" },                           # <- colour
]
sample = { one_in = 0 }                         # <- one_in
slice = "many"                                  # <- slice
""")
    said = refused(lab, text, codes=(USAGE,))
    missing = [f"{line}: {word}" for line, word in wanted
               if not re.search(rf"FILE:{line}:\d+: .*{re.escape(word)}", said)]
    assert not missing, f"not found: {missing}\nin:\n{said}"


def test_column_points_at_the_fault(lab: Lab) -> None:
    said = refused(lab, GOOD.replace('"inline"', '"inlne"'), codes=(USAGE,))
    line = GOOD.splitlines().index('mode = "inline"') + 1 + ADDED_LINES
    assert re.search(rf"FILE:{line}:(1|8|9): ", said), said  # the key, the value, or inside it


@pytest.mark.parametrize("again", ["tap", "monitor", "policy"])
def test_duplicate_names(lab: Lab, again: str) -> None:
    more = {"tap": inline("wire", ("t2", "t3")), "monitor": {"name": "ids", "port": "m1"},
            "policy": policy("web", ["ids"])}[again]
    text = GOOD + config(*([more] if again == part else [] for part in ("tap", "monitor", "policy"))
                         ).partition("\n")[2]
    said = refused(lab, text, codes=(USAGE,))
    assert {"tap": "wire", "monitor": "ids", "policy": "web"}[again] in said


def test_two_monitors_on_one_port(lab: Lab) -> None:
    text = config([inline()], [{"name": "a", "port": "m0"}, {"name": "b", "port": "m0"}],
                  [policy(to=["a", "b"])])
    assert "m0" in refused(lab, text, codes=(USAGE,))


def test_one_port_in_two_taps(lab: Lab) -> None:
    text = config([inline(), inline("other", ("t1", "t2"))], monitors(1), [policy()])
    assert "t1" in refused(lab, text, codes=(USAGE,))


@pytest.mark.parametrize("words", [(), ("-c",), ("--nonsense",), ("-c", "/nowhere/tap.toml")],
                         ids=lambda words: " ".join(words) or "nothing")
def test_usage(lab: Lab, words: tuple[str, ...]) -> None:
    done = run_broker(lab, *words)
    assert done.returncode == USAGE
    assert done.stderr + done.stdout


def test_good_config_of_this_file_is_good(lab: Lab) -> None:
    """Else the tests above would prove nothing."""
    with Broker(lab, GOOD):
        pass


# --- --check, --version --------------------------------------------------------------------------

def test_check_prints_the_plan_and_touches_nothing(lab: Lab) -> None:
    checked = Broker(lab, simple_config(monitor_count=2))
    try:
        before = snapshot(lab.tap_ns)
        done = run_broker(lab, "--check", "-c", checked.file)
        assert done.returncode == 0, done.stderr
        for word in ("wire", "all", "mon0", "mon1", "broker"):
            assert word in done.stdout + done.stderr, word
        assert not differences(before, snapshot(lab.tap_ns))
        assert not checked.socket.exists()
    finally:
        checked.discard()


def test_check_of_a_bad_config(lab: Lab) -> None:
    bad = Broker(lab, GOOD.replace('"inline"', '"outline"'))
    try:
        done = run_broker(lab, "--check", "-c", bad.file)
        assert done.returncode == USAGE and "outline" in done.stderr
    finally:
        bad.discard()


def test_version(lab: Lab) -> None:
    done = run_broker(lab, "--version")
    assert done.returncode == 0 and re.search(r"\d+\.\d+\.\d+", done.stdout)


# --- privileges ----------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def copied_broker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where everybody may run it, whatever the rights of the build directory are."""
    directory = tmp_path_factory.mktemp("bin")
    for parent in (directory, directory.parent, directory.parent.parent):
        if parent.stat().st_uid == 0 and parent.name.startswith(("bin", "pytest-")):
            parent.chmod(0o755)
    return Path(shutil.copy(broker_binary(), directory))


@pytest.mark.parametrize("launcher", [
    ("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"),
    ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all"),
], ids=["nobody", "root without capabilities"])
def test_missing_privilege_is_named(lab: Lab, copied_broker: Path, launcher) -> None:
    attempt = Broker(lab, simple_config())
    before = snapshot(lab.tap_ns)
    try:
        done = lab.tap_ns.run(*launcher, copied_broker, "-c", attempt.file, check=False, timeout=15)
        assert done.returncode == PRIVILEGE, f"exit {done.returncode}\n{done.stderr}"
        assert re.search(r"CAP_|privilege|root", done.stderr, re.I), done.stderr
        assert not differences(before, snapshot(lab.tap_ns))
    finally:
        attempt.discard()


# --- the surroundings ----------------------------------------------------------------------------

def test_no_thread_to_be_had(lab: Lab) -> None:
    stacks_of_all_memory = ("prlimit", f"--stack={1 << 47}")
    said = refused(lab, simple_config(), codes=(RUNTIME,), launcher=stacks_of_all_memory)
    assert "cannot start a thread" in said and "ulimit" in said, said


@pytest.mark.parametrize("name", ["tap", "monitor"])
def test_unknown_port(lab: Lab, name: str) -> None:
    text = config([inline(ports=("t0", "nowhere") if name == "tap" else ("t0", "t1"))],
                  [{"name": "ids", "port": "nowhere" if name == "monitor" else "m0"}],
                  [policy(to=["ids"])])
    assert "nowhere" in refused(lab, text, codes=(RUNTIME, USAGE))


@pytest.mark.parametrize("workers", [[0, 1023], 64])
def test_cpus_that_are_not_there(lab: Lab, workers: object) -> None:
    """Found before anything is touched, beside everything else that is wrong with the machine."""
    text = config([inline(ports=("t0", "nowhere"))], monitors(1), [policy()], workers=workers)
    said = refused(lab, text, codes=(USAGE,))
    assert re.search(r"^FILE:\d+:11: workers: ", said, re.M) and "nowhere" in said


def test_json_log_is_json_to_its_end(fresh: Lab) -> None:
    """Warnings of the config before, and what ends the broker after."""
    tap = {"name": "server", "mode": "host", "ports": ["t0"]}
    text = config([tap], [{"name": "ids", "port": "nowhere"}],
                  [policy(to=["ids"], slice=9000)],  # longer than any copy: a warning
                  log={"level": "info", "format": "json"})
    lines = [json.loads(line) for line in refused(fresh, text, codes=(USAGE,)).splitlines()]
    assert [line["level"] for line in lines] == ["warning", "error"]
    assert "nowhere" in lines[1]["message"]


@pytest.fixture
def fresh() -> Iterator[Lab]:
    """A lab that a test may spoil."""
    with Lab(monitors=2) as made:
        made.open_wires()
        yield made


@pytest.mark.parametrize("capture", CAPTURES)
def test_foreign_xdp_program_is_named_and_stays(fresh: Lab, capture: str) -> None:
    fresh.port("t1").attach_xdp("xdp_foreign")
    said = refused(fresh, simple_config(CAPTURES[capture]), codes=(RUNTIME, USAGE, PRIVILEGE))
    assert "foreign_prog" in said and "t1" in said
    assert "prog/xdp" in fresh.tap_ns.run("ip", "link", "show", "t1").stdout


def test_foreign_xdp_program_on_a_monitor_port(fresh: Lab) -> None:
    fresh.port("m0").attach_xdp("xdp_foreign")
    said = refused(fresh, simple_config(), codes=(RUNTIME, USAGE, PRIVILEGE))
    assert "foreign_prog" in said and "m0" in said


def test_foreign_tc_filter_keeps_working(fresh: Lab) -> None:
    """A filter of others on the port stays, before and after."""
    fresh.tap_ns.run("tc", "qdisc", "add", "dev", "t0", "clsact")
    fresh.tap_ns.run("tc", "filter", "add", "dev", "t0", "egress", "protocol", "all", "u32",
                     "match", "u32", "0", "0", "action", "mirred", "egress", "mirror", "dev", "m1")
    before = snapshot(fresh.tap_ns)
    frames = [packets.sized(60, n) for n in range(100)]
    running = Broker(fresh, simple_config(CAPTURES["tc"]))
    with running:
        carry(frames, fresh.right, fresh.left, [fresh.monitor(0)])
        assert_frames(frames, fresh.monitor(1).receive(len(frames)), "copies of the other's filter")
    left = [line for line in differences(before, snapshot(fresh.tap_ns))
            if line.startswith(("tc", "bpf"))]
    assert not left


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_default_route_is_refused_unless_allowed(fresh: Lab, family: str) -> None:
    if family == "ipv4":
        fresh.port("t0").address("10.0.0.254/24")
        fresh.tap_ns.ip("route add default via 10.0.0.1 dev t0")
    else:
        fresh.port("t0").address("fd00::254/64")
        fresh.tap_ns.ip("route add ::/0 via fd00::1 dev t0")
    keys = {"mode": "host", "ports": ["t0"], "direction": "ingress"}
    said = refused(fresh, config([{"name": "wire", **keys}], monitors(1), [policy()]),
                   codes=(USAGE, RUNTIME))
    assert "allow_management" in said and "t0" in said
    allowed = config([{"name": "wire", **keys, "allow_management": True}], monitors(1), [policy()])
    with Broker(fresh, allowed):
        frame = packets.ip_frame()
        fresh.left.send(frame)
        assert_frames([frame], fresh.monitor(0).receive(1), "copy")


def test_monitor_on_the_default_route_is_refused(fresh: Lab) -> None:
    fresh.port("m0").address("10.0.0.254/24")
    fresh.tap_ns.ip("route add default via 10.0.0.1 dev m0")
    tapped = simple_config().replace('name = "wire"', 'name = "wire"\nallow_management = true')
    assert "m0" in refused(fresh, tapped, codes=(USAGE, RUNTIME))


@pytest.mark.parametrize("port", ["t0", "m0"])
@pytest.mark.parametrize("kind", ["master", "upper"])
def test_port_with_master_or_upper_is_refused(fresh: Lab, port: str, kind: str) -> None:
    if kind == "master":
        fresh.tap_ns.ip("link add other type bridge", f"link set {port} master other")
    else:
        fresh.tap_ns.ip(f"link add other link {port} type macvlan")
    said = refused(fresh, simple_config(), codes=(USAGE, RUNTIME))
    assert port in said and "other" in said


# --- vtapctl -------------------------------------------------------------------------------------

def test_vtapctl_without_a_broker(lab: Lab, tmp_path: Path) -> None:
    done = lab.tap_ns.run(vtapctl_binary(), "--socket", tmp_path / "none.sock", "stats", "--json",
                          check=False)
    assert done.returncode == RUNTIME
    assert "none.sock" in done.stderr


def test_vtapctl_usage(lab: Lab) -> None:
    assert lab.tap_ns.run(vtapctl_binary(), "nonsense", check=False).returncode == USAGE


def test_vtapctl_status_is_for_people(lab: Lab) -> None:
    with Broker(lab, simple_config(monitor_count=2)) as running:
        shown = running.vtapctl("status").stdout
        for word in ("wire", "t0", "t1", "mon0", "mon1", "all"):
            assert word in shown, word
