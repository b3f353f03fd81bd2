#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Becomes systemd, on this machine's files, without changing them: an overlay whose upper layer is
# DIRECTORY/upper. To be run with namespaces of its own: mount, pid, cgroup, uts, ipc (machine.py).
# No udev, no login, nothing that looks at devices: what is started is asked for.
#
#   machine.sh DIRECTORY
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$1" # overlayfs wants an upper layer that is no overlay itself
cd "$1"
mkdir upper work root
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay root
mkdir -p root/.layer
mount --bind upper root/.layer # so that what changed can be read from inside
cd root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/shm dev/net dev/pts
mount -t devpts -o ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
for node in null zero full random urandom tty; do cp -a /dev/$node dev/; done
mknod -m 666 dev/net/tun c 10 200
for name in stdin:0 stdout:1 stderr:2; do ln -s "/proc/self/fd/${name#*:}" "dev/${name%:*}"; done

# What a machine starts of its own accord stays away; the journal is there.
find usr/lib/systemd/system etc/systemd/system -path '*.wants/*' -type l -delete
cat > etc/systemd/system/default.target <<X
[Unit]
Description=Nothing but the journal
Wants=systemd-journald.socket
X
rm -f usr/sbin/policy-rc.d # container images have one that starts nothing
: > etc/machine-id
mkdir -p .old
pivot_root . .old
umount -l /.old
rmdir /.old
exec env -i container=vtap-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
     /lib/systemd/systemd --system --log-level=notice --show-status=no
