#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs tests in emulated guests: other kernels, NICs with AF_XDP zero-copy. See docs/testing.md.
#
#   tools/vm.sh [--guest old|new] [--only SUITE]... [--all] [--list]
#
# Installs the packages it needs and builds build/dev if that is not there. VTAP_VM_DIR keeps the
# guests' kernels for the next run; without it they are downloaded each time.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

tools/setup.sh --vm
if [[ ! -x build/dev/broker/vtap-broker ]]; then
  echo "vm: building dev"
  output=$(cmake --preset dev 2>&1) || { echo "$output" >&2; exit 1; }
  cmake --build --preset dev --target all
fi
exec /usr/bin/python3 -B tools/vm/vm.py "$@"
