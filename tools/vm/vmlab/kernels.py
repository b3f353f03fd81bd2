# SPDX-License-Identifier: Apache-2.0
"""Guest kernels from Debian's packages: downloaded by apt and unpacked, never installed.

apt gets a state, a cache and a source list of its own below the scratch directory; mirror, proxy
and keys are those of this machine.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

META = "linux-image-amd64"  # the generic kernel: the cloud one has no 9p
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# What holds a kernel: before 7.x one package, then several.
_PART = re.compile(r"^linux-(?:image|binary|modules|base)-\d\S*$")


class Failed(Exception):
    """Something outside this program went wrong; the text says what, and what helps."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel. `modules` holds modules.dep."""
    release: str
    image: Path
    modules: Path


# --- what apt says ------------------------------------------------------------------------------

def mirror_of(sources: dict[str, str]) -> str | None:
    """The first archive in apt's source files, by name: one-line (.list) or deb822 (.sources)."""
    for name in sorted(sources):
        for line in sources[name].splitlines():
            words = line.split("#", 1)[0].split()
            if name.endswith(".sources"):
                found = words[1:] if words[:1] == ["URIs:"] else []
            else:
                found = words[1:] if words[:1] == ["deb"] else []
            for word in found:
                if re.match(r"https?://", word) and "security" not in word:
                    return word
    return None


def depends_of(text: str) -> list[str]:
    """The packages in the output of `apt-cache depends`, without alternatives."""
    return [line.split(":", 1)[1].strip() for line in text.splitlines()
            if line.startswith("  Depends: ")]


def parts_of(meta: str, depends) -> list[str]:
    """The packages that hold the kernel which a meta package stands for.

    `depends`: from a package to those that it depends on."""
    images = [name for name in depends(meta) if _PART.match(name)]
    parts: list[str] = []
    for image in images:
        inner = [name for name in depends(image) if _PART.match(name)]
        parts += inner or [image]
    if not parts:
        raise Failed(f"{meta} depends on no kernel package: {depends(meta)}")
    return list(dict.fromkeys(parts))


def apt_config(directory: Path) -> str:
    """An apt.conf that keeps all of apt's files below a directory."""
    values = {"Dir::State": directory / "state", "Dir::State::status": directory / "status",
              "Dir::Cache": directory / "cache", "Dir::Etc::SourceList": directory / "sources.list",
              "Dir::Etc::SourceParts": "/dev/null", "Dir::Etc::Preferences": "/dev/null",
              "Dir::Etc::PreferencesParts": "/dev/null", "APT::Sandbox::User": "root"}
    return "".join(f'{key} "{value}";\n' for key, value in values.items())


# --- fetching -----------------------------------------------------------------------------------

class Apt:
    """apt on one suite of Debian, beside the machine's own."""

    def __init__(self, directory: Path, suite: str) -> None:
        self.directory = directory
        self.suite = suite
        for sub in ("state/lists/partial", "cache/archives/partial"):
            (directory / sub).mkdir(parents=True, exist_ok=True)
        (directory / "status").touch()
        mirror = mirror_of(_machine_sources())
        if mirror is None:
            raise Failed("no Debian mirror in /etc/apt: add one to sources.list")
        (directory / "sources.list").write_text(f"deb [signed-by={KEYS}] {mirror} {suite} main\n")
        (directory / "apt.conf").write_text(apt_config(directory))

    def run(self, *argv: str, cwd: Path | None = None) -> str:
        done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False,
                              env={**os.environ, "APT_CONFIG": str(self.directory / "apt.conf"),
                                   "LC_ALL": "C"})
        if done.returncode != 0:
            raise Failed(f"{' '.join(argv)} for {self.suite}: exit {done.returncode}\n"
                         f"{done.stderr.strip()}")
        return done.stdout

    def depends(self, package: str) -> list[str]:
        return depends_of(self.run("apt-cache", "depends", package))


def _machine_sources() -> dict[str, str]:
    files = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*.list"),
             *Path("/etc/apt/sources.list.d").glob("*.sources")]
    return {str(file): file.read_text() for file in files if file.exists()}


def unpacked(root: Path) -> Kernel:
    """The kernel below a directory into which its packages were unpacked."""
    for modules in (root / "usr/lib/modules", root / "lib/modules"):
        for release in sorted(modules.iterdir()) if modules.is_dir() else ():
            for image in (root / "boot" / f"vmlinuz-{release.name}", release / "vmlinuz",
                          root / "usr/lib/modules" / release.name / "vmlinuz"):
                if image.is_file() and (release / "kernel").is_dir():
                    return Kernel(release.name, image, release)
    raise Failed(f"no kernel image with modules below {root}")


def fetch(scratch: Path, suite: str, say) -> Kernel:
    """The newest kernel of a suite; what a previous run left in the scratch directory is taken."""
    root = scratch / "root"
    if (scratch / "complete").exists():
        return unpacked(root)
    shutil.rmtree(scratch, ignore_errors=True)
    apt = Apt(scratch / "apt", suite)
    apt.run("apt-get", "-q", "update")
    parts = parts_of(META, apt.depends)
    say(f"fetching {' '.join(parts)} of {suite}")
    debs = scratch / "debs"
    debs.mkdir()
    root.mkdir()
    apt.run("apt-get", "-q", "download", *parts, cwd=debs)
    for deb in sorted(debs.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", deb, root], check=True)
    shutil.rmtree(debs)
    kernel = unpacked(root)
    # depmod wants lib/modules, wherever the packages have it.
    if not (root / "lib").exists():
        (root / "lib").symlink_to("usr/lib")
    subprocess.run(["depmod", "-b", root, kernel.release], check=True)
    (scratch / "complete").touch()
    return kernel
