#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tidy.sh SOURCE_DIR BUILD_DIR: clang-tidy over the product's sources, with .clang-tidy's checks.
set -euo pipefail
if ! command -v clang-tidy-14 >/dev/null; then
  echo "SKIPPED: clang-tidy-14 is not installed (tools/setup.sh --test)"
  exit 77
fi
cd -- "$1"
# Only what is compiled here; the generated sources of the build tree are not ours to read.
find broker tools -name '*.cpp' -print0 |
  xargs -0 -P "$(nproc)" -n 2 clang-tidy-14 --quiet -p "$2" 2> >(grep -v 'warnings\? generated' >&2)
