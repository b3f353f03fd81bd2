# SPDX-License-Identifier: Apache-2.0
"""The guest's first file system: busybox, a few modules, and a script that mounts the real one."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import stat
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from .kernels import Failed, Kernel

BUSYBOX = Path("/bin/busybox")
INIT = Path(__file__).resolve().parents[1] / "guest" / "init"
# Enough to mount the host's files; all else is loaded from there.
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")


def insmods_of(text: str) -> list[Path]:
    """Module files in the order of loading, from `modprobe --show-depends`."""
    lines = (line.split() for line in text.splitlines())
    return [Path(words[1]) for words in lines if words[:1] == ["insmod"]]


def module_files(root: Path, kernel: Kernel, names: Sequence[str] = MODULES) -> list[Path]:
    """Files of modules and of what they need, each once; built-in ones have none."""
    files: dict[Path, None] = {}
    for name in names:
        done = subprocess.run(["modprobe", "-d", root, "-S", kernel.release, "--show-depends",
                               name], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failed(f"kernel {kernel.release} has no module {name}: {done.stderr.strip()}")
        files.update(dict.fromkeys(insmods_of(done.stdout)))
    return list(files)


def plain_module(file: Path) -> tuple[str, bytes]:
    """Name and content of a module, uncompressed: busybox's insmod takes no other."""
    data = file.read_bytes()
    if file.suffix == ".xz":
        return file.name[:-len(".xz")], lzma.decompress(data)
    if file.suffix == ".gz":
        return file.name[:-len(".gz")], gzip.decompress(data)
    return file.name, data


# --- cpio, as the kernel unpacks it ("newc"; Documentation/driver-api/early-userspace) ----------

def _entry(name: str, mode: int, data: bytes, number: int) -> bytes:
    words = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % word for word in words) + name.encode() + b"\0"
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)


def archive(files: Iterable[tuple[str, int, bytes]]) -> bytes:
    """A newc archive of (path, mode with its type, content)."""
    out = [_entry(name, mode, data, number) for number, (name, mode, data) in enumerate(files, 1)]
    return b"".join(out) + _entry("TRAILER!!!", 0, b"", 0)


def build(root: Path, kernel: Kernel, out: Path) -> None:
    if not BUSYBOX.exists():
        raise Failed(f"{BUSYBOX} is missing: tools/setup.sh --vm installs busybox-static")
    files: list[tuple[str, int, bytes]] = []
    for name in ("bin", "dev", "proc", "sys", "modules", "host", "upper", "root"):
        files.append((name, stat.S_IFDIR | 0o755, b""))
    files.append(("bin/busybox", stat.S_IFREG | 0o755, BUSYBOX.read_bytes()))
    files.append(("init", stat.S_IFREG | 0o755, INIT.read_bytes()))
    order: list[str] = []
    for file in module_files(root, kernel):
        name, data = plain_module(file)
        order.append(name)
        files.append((f"modules/{name}", stat.S_IFREG | 0o644, data))
    files.append(("modules/list", stat.S_IFREG | 0o644, "".join(f"{n}\n" for n in order).encode()))
    with gzip.open(out, "wb", compresslevel=1) as stream:
        stream.write(archive(files))


def checked_tools() -> list[str]:
    """Programs that are missing, each with its Debian package."""
    wanted = {"qemu-system-x86_64": "qemu-system-x86", "modprobe": "kmod", "depmod": "kmod",
              "apt-get": "apt", "dpkg-deb": "dpkg"}
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [f"{program} (package {package})" for program, package in wanted.items()
            if shutil.which(program, path=path) is None]
