# SPDX-License-Identifier: Apache-2.0
"""The logic of tools/vm.sh: which kernel, which suites, what a guest says. No guest runs."""

from __future__ import annotations

import gzip
import json
import lzma
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "vm"))
sys.dont_write_bytecode = True

from vmlab import initrd, kernels, qemu, report, suites  # noqa: E402

# --- kernels ------------------------------------------------------------------------------------


def test_the_mirror_is_that_of_the_machine() -> None:
    deb822 = "# URIs: http://wrong.example\nTypes: deb\nURIs: http://a.example/debian\nSuites: x\n"
    security = "URIs: http://security.example/debian-security\n"
    assert kernels.mirror_of({"debian.sources": deb822}) == "http://a.example/debian"
    assert kernels.mirror_of({"a.sources": security, "b.sources": deb822}) == \
        "http://a.example/debian"
    line = "# deb http://wrong.example x main\ndeb [arch=amd64] https://b.example/debian x main\n"
    assert kernels.mirror_of({"sources.list": line}) == "https://b.example/debian"
    assert kernels.mirror_of({"sources.list": "deb cdrom:[x]/ y main\n"}) is None


OLD = {"linux-image-amd64": ["linux-image-6.1.0-9-amd64"],
       "linux-image-6.1.0-9-amd64": ["kmod", "linux-base", "<linux-initramfs-tool>"]}
NEW = {"linux-image-amd64": ["linux-base-amd64", "linux-image-7.3.4-amd64", "linux-modules-amd64"],
       "linux-image-7.3.4-amd64": ["linux-base-7.3.4-amd64", "linux-binary-7.3.4-amd64",
                                   "linux-modules-7.3.4-amd64"]}


def test_a_kernel_is_one_package_or_several() -> None:
    assert kernels.parts_of("linux-image-amd64", OLD.__getitem__) == ["linux-image-6.1.0-9-amd64"]
    assert kernels.parts_of("linux-image-amd64", NEW.__getitem__) == \
        NEW["linux-image-7.3.4-amd64"]
    with pytest.raises(kernels.Failed, match="no kernel package"):
        kernels.parts_of("linux-image-amd64", lambda _: ["linux-base"])


def test_dependencies_are_read_without_alternatives() -> None:
    text = "linux-image-amd64\n  PreDepends: a\n |Depends: <b>\n  Depends: c\n  Suggests: d\n"
    assert kernels.depends_of(text) == ["c"]


def test_apt_keeps_to_its_directory(tmp_path: Path) -> None:
    values = dict(line.rstrip(";").replace('"', "").split(" ", 1)
                  for line in kernels.apt_config(tmp_path).splitlines())
    for key in ("Dir::State", "Dir::State::status", "Dir::Cache", "Dir::Etc::SourceList"):
        assert values[key].startswith(str(tmp_path)), key
    assert values["Dir::Etc::SourceParts"] == "/dev/null"


@pytest.mark.parametrize("image", ["boot/vmlinuz-9.9", "usr/lib/modules/9.9/vmlinuz"])
def test_an_unpacked_kernel_is_found(tmp_path: Path, image: str) -> None:
    (tmp_path / "usr/lib/modules/9.9/kernel").mkdir(parents=True)
    with pytest.raises(kernels.Failed):
        kernels.unpacked(tmp_path)
    (tmp_path / image).parent.mkdir(exist_ok=True)
    (tmp_path / image).touch()
    assert kernels.unpacked(tmp_path) == kernels.Kernel(
        "9.9", tmp_path / image, tmp_path / "usr/lib/modules/9.9")


# --- the first file system ----------------------------------------------------------------------

def test_modules_are_loaded_in_the_order_of_their_needs() -> None:
    text = "builtin virtio_ring\ninsmod /m/netfs.ko.xz \ninsmod /m/9p.ko msize=1\n"
    assert initrd.insmods_of(text) == [Path("/m/netfs.ko.xz"), Path("/m/9p.ko")]


def test_modules_are_uncompressed(tmp_path: Path) -> None:
    for name, pack in (("a.ko", bytes), ("a.ko.xz", lzma.compress), ("a.ko.gz", gzip.compress)):
        (tmp_path / name).write_bytes(pack(b"module"))
        assert initrd.plain_module(tmp_path / name) == ("a.ko", b"module")


@pytest.mark.skipif(not shutil.which("cpio") and not shutil.which("busybox"), reason="no cpio")
def test_an_archive_is_what_cpio_reads(tmp_path: Path) -> None:
    files = [("d", stat.S_IFDIR | 0o755, b""), ("d/odd", stat.S_IFREG | 0o644, b"12345"),
             ("init", stat.S_IFREG | 0o755, b"#!x\n")]
    tool = ["cpio"] if shutil.which("cpio") else ["busybox", "cpio"]
    subprocess.run([*tool, "-i", "-d"], input=initrd.archive(files), cwd=tmp_path, check=True,
                   capture_output=True)
    assert (tmp_path / "d/odd").read_bytes() == b"12345"
    assert (tmp_path / "init").stat().st_mode & 0o777 == 0o755


# --- the guest ----------------------------------------------------------------------------------

def test_cables_have_two_ends_on_a_hub_of_their_own() -> None:
    words = qemu.cable_options(2)
    hubs = [word.split("hubid=")[1] for word in words if word.startswith("hubport")]
    macs = [word.split("mac=")[1].split(",")[0] for word in words if "mac=" in word]
    assert hubs == ["0", "0", "1", "1"] and len(set(macs)) == 4
    assert all("disable-legacy=on,iommu_platform=on" in word for word in words if "mac=" in word)

    text = (ROOT / "tests/vm/guest/cables.py").read_text()
    pattern = re.search(r're\.compile\(r"(02:76[^"]+)"\)', text)[1]
    assert all(re.fullmatch(pattern, mac) for mac in macs), "the tests know the cables by these"


def test_the_guest_cannot_write_to_the_host(tmp_path: Path) -> None:
    kernel = kernels.Kernel("9.9", tmp_path / "image", tmp_path / "modules")
    files = [tmp_path / name for name in ("initrd", "job", "console", "output")]
    words = qemu.command(kernel, *files, 0)
    share, = (word for word in words if word.startswith("local,"))
    assert "readonly=on" in share.split(",")
    assert f"vtap.modules={kernel.modules}" in words[words.index("-append") + 1]


def test_a_job_says_what_to_run(tmp_path: Path) -> None:
    qemu.write_job(tmp_path / "job", [suites.Suite("a.b", ["x", "y"], 5)], ROOT, {"K": "V"})
    job = json.loads((tmp_path / "job").read_text())
    assert job == {"directory": str(ROOT), "env": {"K": "V"},
                   "suites": [{"name": "a.b", "argv": ["x", "y"], "limit_s": 5}]}


# --- the choice of suites -----------------------------------------------------------------------

@pytest.fixture
def every(tmp_path: Path) -> list[suites.Suite]:
    """The suites of this tree, with a build that has a program for each BPF test."""
    programs = tmp_path / "tests/bpf"
    programs.mkdir(parents=True)
    for file in (ROOT / "tests/bpf").glob("*_test.cpp"):
        (programs / f"bpf_{file.stem}").touch()
    (tmp_path / "tests/integration").mkdir()
    (tmp_path / "tests/integration/host_test").touch()
    return suites.every(ROOT, tmp_path)


def test_all_files_of_tests_are_suites(every: list[suites.Suite]) -> None:
    names = {suite.name for suite in every}
    assert len(names) == len(every)
    for file in (ROOT / "tests/integration").glob("test_*.py"):
        assert f"integration.{file.stem[5:]}" in names
    for file in (ROOT / "tests/bpf").glob("*_test.cpp"):
        assert f"bpf.{file.stem[:-5]}" in names
    assert {"nics.zero_copy", "integration.host_devices"} <= names
    assert {suite.name for suite in suites.chosen(every, "new", True)} == names


def test_the_quick_selection_exists_and_has_the_nics(every: list[suites.Suite]) -> None:
    for guest in suites.GUESTS:
        names = [suite.name for suite in suites.chosen(every, guest, False)]
        assert sorted(names) == sorted(suites.QUICK[guest])
        assert "nics.zero_copy" in names
    with pytest.raises(suites.Unknown, match="not built"):
        suites.chosen(every[:1], "new", False)


def test_suites_are_chosen_by_name_and_by_layer(every: list[suites.Suite]) -> None:
    def names(*only: str) -> list[str]:
        return [suite.name for suite in suites.chosen(every, "old", False, only)]
    assert names("bpf.stub", "nics") == ["nics.modules", "nics.zero_copy", "bpf.stub"]
    assert set(names("bpf")) == {s.name for s in every if s.name.startswith("bpf.")}
    with pytest.raises(suites.Unknown, match="no suite is called stub"):
        names("stub")


def test_what_is_left_out_is_named_with_a_reason(every: list[suites.Suite]) -> None:
    by_name = {suite.name: suite for suite in every}
    for name, tests in suites.LEFT_OUT.items():
        text = Path(by_name[name].argv[-1]).read_text()
        for test, why in tests.items():
            assert f"def {test.split('[')[0]}(" in text, "it is there to be left out"
            assert len(why) > 10 and "--deselect" in by_name[name].argv


# --- what a guest says --------------------------------------------------------------------------

GOOD = """
VTAP-VM kernel 9.9-amd64 cpus=2 booted=3.5

VTAP-VM begin bpf.stub
[==========] 4 tests from 1 test suite ran. (1 ms total)
[  PASSED  ] 4 tests.

VTAP-VM end bpf.stub result=0 seconds=1.5

VTAP-VM begin integration.span
......                                                                   [100%]
5 passed, 1 skipped in 23.13s

VTAP-VM end integration.span result=0 seconds=27.0

VTAP-VM done
"""
NAMES = ["bpf.stub", "integration.span"]


def test_a_good_run() -> None:
    got = report.parse(GOOD.replace("\n", "\r\n"))
    assert got.kernel == "9.9-amd64" and got.done and got.running is None
    assert [result.counts for result in got.results] == [{"passed": 4}, {"passed": 5, "skipped": 1}]
    assert report.good(got, NAMES)
    assert "| old | integration.span | ok | 5 | 0 | 1 | 0 | 27 |" in \
        report.table("old", report.complete(got, NAMES))


@pytest.mark.parametrize(("cut", "why"), [
    (GOOD.replace("result=0 seconds=27.0", "result=1 seconds=27.0"), "FAILED (exit 1)"),
    (GOOD.replace("result=0 seconds=27.0", "result=timeout seconds=27.0"), "out of time"),
    (GOOD.replace("5 passed, 1 skipped in", "1 skipped in"), "nothing ran"),
    (GOOD.replace("5 passed, 1 skipped in 23.13s", ""), "nothing ran"),
    (GOOD.partition("VTAP-VM end integration")[0], "never ended"),
    (GOOD.partition("VTAP-VM begin integration")[0], "never ended"),
    (GOOD.replace("VTAP-VM end integration.span result=0 seconds=27.0", "VTAP-VM end integ"),
     "never ended"),
], ids=["exit code", "timeout", "only skips", "no summary", "cut", "never began", "half a line"])
def test_all_else_is_a_failure(cut: str, why: str) -> None:
    got = report.parse(cut)
    assert not report.good(got, NAMES)
    assert report.complete(got, NAMES)[1].verdict == why


def test_a_good_run_needs_its_end_and_no_fault() -> None:
    got = report.parse(GOOD.replace("VTAP-VM done", ""))
    assert all(result.passed for result in got.results) and not report.good(got, NAMES)
    got = report.parse(GOOD)
    got.faults.append("kernel: BUG: something")
    assert not report.good(got, NAMES)
    assert not report.good(report.parse(GOOD), []), "nothing asked is nothing tested"
    failed = report.parse(GOOD.replace("5 passed, 1 skipped", "1 failed, 4 passed, 1 error"))
    assert failed.results[1].counts == {"failed": 2, "passed": 4}
    assert not report.good(failed, NAMES), "whatever its exit code"


def test_what_a_test_prints_is_no_summary_and_no_mark() -> None:
    lines = ["it said: 7 passed in the street", "x VTAP-VM done", "3 passed in 1.00s (0:00:01)"]
    assert report.counts_of(lines) == {"passed": 3}
    assert not report.parse("\n".join(lines)).done


def test_faults_of_the_kernel_are_seen() -> None:
    console = "[    1.0] usb: warning about nothing\r\n[    2.0] WARNING: CPU: 1 at net/xdp\r\n" \
              "[    3.0] BUG: kernel NULL pointer\r\n[   4.0] reboot: Power down\r\n"
    assert [line.partition("] ")[2] for line in report.kernel_faults(console)] == \
        ["WARNING: CPU: 1 at net/xdp", "BUG: kernel NULL pointer"]
    assert not report.kernel_faults("[    1.0] reboot: Power down\n")


def test_when_a_guest_is_given_up() -> None:
    limits = {"a": 100.0}
    booting, running, done = (report.parse(text) for text in
                              ("", "VTAP-VM begin a\n", "VTAP-VM done\n"))
    assert qemu.overdue(booting, limits, qemu.BOOT_S - 1) is None
    assert qemu.overdue(booting, limits, qemu.BOOT_S + 1) == "does not boot"
    assert qemu.overdue(running, limits, 100 + qemu.GRACE_S - 1) is None
    assert qemu.overdue(running, limits, 100 + qemu.GRACE_S + 1) == "hangs in a"
    assert qemu.overdue(done, limits, qemu.GRACE_S + 1) == "does not power off"


def fake_guest(tmp_path: Path, script: str, limit: float = 1.0) -> report.Report:
    """Runs a shell script in place of QEMU; it writes to $1."""
    output = tmp_path / "output"
    return qemu.run(["sh", "-c", script, "sh", str(output)], output,
                    [suites.Suite("a", [], limit)], lambda result: None)


def test_a_guest_that_ends(tmp_path: Path) -> None:
    got = fake_guest(tmp_path, "printf 'VTAP-VM begin a\\n1 passed in 0.1s\\n"
                               "VTAP-VM end a result=0 seconds=1\\nVTAP-VM done\\n' >$1")
    assert report.good(got, ["a"])


def test_a_guest_that_does_not_start(tmp_path: Path) -> None:
    got = fake_guest(tmp_path, "echo no such machine >&2; exit 1")
    assert got.faults == ["QEMU: no such machine"]


def test_a_guest_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "GRACE_S", 0.2)
    got = fake_guest(tmp_path, "echo VTAP-VM begin a >$1; echo $$ >$1.pid; exec sleep 60", 0.2)
    assert "hangs in a" in got.faults[0]
    assert not Path("/proc", (tmp_path / "output.pid").read_text().strip()).exists()
