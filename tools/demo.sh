#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the broker and shows it at work in a lab of network namespaces.
#
#   tools/demo.sh [--seconds N | --forever]
#
# Installs what is missing (tools/setup.sh), builds into build/release, and touches nothing else: the
# lab is taken away at the end, on Ctrl-C too. Exit code 0: all ledgers and counts agree.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

if [[ $EUID -ne 0 ]]; then
  echo "demo: network namespaces and BPF need root; run tools/demo.sh as root" >&2
  exit 1
fi
tools/setup.sh
echo "demo: building into build/release"
configured=$(cmake --preset release 2>&1) || { printf '%s\n' "$configured" >&2; exit 1; }
cmake --build --preset release --target vtap-broker vtapctl
exec python3 -B tools/demo/demo.py --build build/release "$@"
