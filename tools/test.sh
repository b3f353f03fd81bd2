#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds and runs every test: format, lint, all layers, sanitizers, fuzzers. See docs/testing.md.
#
#   tools/test.sh           everything
#   tools/test.sh --quick   the layers alone, from build/dev
#
# The last thing printed is ctest's summary. With CI=true a skipped test is a failure.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

quick=false
case "${1-}" in
  "") ;;
  --quick) quick=true ;;
  *) sed -n '3,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
if [[ $EUID -ne 0 ]]; then
  echo "test: no root: the bpf and integration layers will be SKIPPED" >&2
fi

# build PRESET TARGET...: configures quietly and builds.
build() {
  local preset=$1 output
  shift
  echo "test: building $preset ($*)"
  output=$(cmake --preset "$preset" -D VTAP_IMPORT_TESTS= 2>&1) || { echo "$output" >&2; exit 1; }
  cmake --build --preset "$preset" --target "$@"
}

tools/setup.sh --test
build dev all
if $quick; then
  ctest --test-dir build/dev --label-exclude lint --output-on-failure --parallel "$(nproc)"
  exit
fi
build dev vtap_headers
build asan tests_unit tests_golden
build tsan tests_threads
build fuzz tests_fuzz
output=$(cmake --preset dev -D 'VTAP_IMPORT_TESTS=asan;tsan;fuzz' 2>&1) ||
  { echo "$output" >&2; exit 1; }

# A name of its own: the file must be this run's.
results=build/dev/test-results.xml
rm -f "$results"
ctest --test-dir build/dev --output-on-failure --parallel "$(nproc)" \
      --output-junit "$PWD/$results"
if [[ ${CI-} == true ]] && ! grep -q '[[:space:]]skipped="0"' "$results"; then
  echo "test: tests were skipped, which in CI is a failure" >&2
  exit 1
fi
