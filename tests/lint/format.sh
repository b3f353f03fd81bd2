#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# format.sh SOURCE_DIR: every C and C++ file is as clang-format would write it. To repair:
#   find include broker tools tests xdp -name '*.[ch]' -o -name '*.[ch]pp' | xargs clang-format-14 -i
set -euo pipefail
cd -- "$1"
if ! command -v clang-format-14 >/dev/null; then
  echo "SKIPPED: clang-format-14 is not installed (tools/setup.sh --test)"
  exit 77
fi
find include broker tools tests xdp \( -name '*.[ch]' -o -name '*.[ch]pp' \) -print0 |
  xargs -0 clang-format-14 --dry-run -Werror
