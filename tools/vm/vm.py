#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs tests in guests with other kernels, and with NICs that grant AF_XDP zero-copy.

Guest `old` is Debian 12's kernel, `new` the newest of trixie-backports. Both are emulated (no KVM),
run this machine's userland read-only, and have virtio NICs that are cabled back to back.
VTAP_VM_DIR: a directory that keeps kernels for the next run (default: a temporary one).
See docs/testing.md.

Exit codes: 0 every suite passed; 1 one did not, or a guest ended badly; 2 usage; 3 a tool, a
kernel or a privilege is missing.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

from vmlab import initrd, kernels, qemu, report, suites  # noqa: E402

FAILED, USAGE, MISSING = 1, 2, 3
CABLES = 4


def options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/vm.sh", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--guest", action="append", choices=[*suites.GUESTS],
                        help="only this guest")
    parser.add_argument("--only", action="append", default=[], metavar="NAME",
                        help="only this suite, or layer (bpf, integration, nics); repeatable")
    parser.add_argument("--all", action="store_true", help="all suites, not the quick selection")
    parser.add_argument("--list", action="store_true", help="list suites and end")
    parser.add_argument("--test", metavar="WORDS", help="pytest's -k, for suites of pytest")
    parser.add_argument("--build", type=Path, default=ROOT / "build/dev", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def say(text: str) -> None:
    print(f"vm: {text}", flush=True)


def listing(every: list[suites.Suite]) -> str:
    lines = []
    for suite in every:
        quick = [guest for guest, names in suites.QUICK.items() if suite.name in names]
        lines.append(f"{suite.name:28} {' '.join(quick) or '--all'}")
        lines += [f"    without {test}: {why}" for test, why in suite.left_out.items()]
    return "\n".join(lines)


def narrowed(suite: suites.Suite, words: str | None) -> suites.Suite:
    if words is None or "pytest" not in suite.argv:
        return suite
    return suites.Suite(suite.name, [*suite.argv, "-k", words], suite.limit_s, suite.left_out)


def run_guest(guest: suites.Guest, todo: list[suites.Suite], scratch: Path, build: Path) -> bool:
    """Boots one guest for its suites and prints what came of them."""
    kernel = kernels.fetch(scratch / guest.name, guest.suite, say)
    place = scratch / guest.name
    image, job, console, output = (place / name for name in
                                   ("initrd.gz", "job.json", "console.log", "output.log"))
    initrd.build(place / "root", kernel, image)
    environment = {"VTAP_BUILD_DIR": str(build), "VTAP_VM_ZERO_COPY": str(int(guest.zero_copy)),
                   "VTAP_TEST_PATIENCE": str(qemu.PATIENCE),
                   "VTAP_RELOADS": str(qemu.RELOADS)}
    qemu.write_job(job, todo, ROOT, environment)
    say(f"guest {guest.name}: kernel {kernel.release}, {len(todo)} suites; logs: {place}/*.log")
    for suite in todo:
        for test, why in suite.left_out.items():
            say(f"guest {guest.name}: {suite.name} without {test}: {why}")

    def tell(result: report.Result) -> None:
        say(f"guest {guest.name}: {result.name}: {result.verdict}, {result.seconds:.0f} s")
        skips = [line for line in result.output if line.startswith("SKIPPED")]
        print("".join(f"    {line}\n" for line in (skips if result.passed else result.output)),
              end="", flush=True)

    got = qemu.run(qemu.command(kernel, image, job, console, output, CABLES), output, todo, tell)
    got.faults += [f"kernel: {line}" for line in
                   report.kernel_faults(console.read_text(errors="replace")
                                        if console.exists() else "")]
    names = [suite.name for suite in todo]
    if got.unfinished is not None:
        print("\n".join(got.unfinished.output[-40:]))
    if not got.done and not got.faults:
        got.faults.append(f"it ended before all suites had: see {console}")
    print(report.table(f"{guest.name} {got.kernel}", report.complete(got, names)))
    for fault in got.faults:
        say(f"guest {guest.name}: {fault}")
    return report.good(got, names)


def main(argv: list[str]) -> int:
    chosen = options(argv)
    build = chosen.build.resolve()
    every = suites.every(ROOT, build)
    if chosen.list:
        print(listing(every))
        return 0
    if lacking := initrd.checked_tools():
        print(f"vm: missing: {', '.join(lacking)}; tools/setup.sh --vm installs them",
              file=sys.stderr)
        return MISSING
    if os.geteuid() != 0:
        print("vm: needs root, as a guest reads this machine's files as its own", file=sys.stderr)
        return MISSING
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("vm: ended by SIGTERM"))
    with ExitStack() as stack:
        kept = os.environ.get("VTAP_VM_DIR")
        scratch = Path(kept or stack.enter_context(tempfile.TemporaryDirectory(prefix="vtap-vm.")))
        scratch.mkdir(parents=True, exist_ok=True)
        good = True
        for name in dict.fromkeys(chosen.guest or suites.GUESTS):
            try:
                todo = [narrowed(suite, chosen.test)
                        for suite in suites.chosen(every, name, chosen.all, chosen.only)]
                good &= run_guest(suites.GUESTS[name], todo, scratch.resolve(), build)
            except suites.Unknown as error:
                print(f"vm: {error}", file=sys.stderr)
                return USAGE
            except (kernels.Failed, OSError, subprocess.SubprocessError) as error:
                print(f"vm: guest {name}: {error}", file=sys.stderr)
                return MISSING
        say("every suite passed" if good else "FAILED")
        return 0 if good else FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
