#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds and runs the benchmarks; nothing here decides whether a change may land.
#
#   tools/bench.sh [ROUNDS]     default 5; results as docs/performance.md shows them; the last one writes
#                               docs/bench.md, bench.json and bench-*.png
#
# Run it on a machine that does nothing else, and read the ratios.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

rounds=${1:-5}
tools/setup.sh --bench
cmake --preset bench >/dev/null
cmake --build --preset bench
echo "== the pipeline, memory to memory"
build/bench/tests/bench/pipeline_bench
echo "== 10 to 10,000 policies, side by side with libpcap and, where it is installed, DPDK"
build/bench/tests/bench/policies_bench
echo "== end to end, $rounds rounds, $(uname -r), $(nproc) CPUs"
tests/bench/e2e/bench.py --build-dir build/bench --rounds "$rounds"
echo "== the TCP of a tapped host"
tests/bench/e2e/tcp.py --build-dir build/bench --rounds "$rounds"
echo "== latency of the high priority while the low one is overloaded"
tests/bench/e2e/priority.py --build-dir build/bench --rounds "$rounds"
echo "== whether copies grow with the workers, on ports of four queues"
tests/bench/e2e/scale.py --build-dir build/bench --rounds "$rounds"
echo "== beside the peers, and what a tap adds to the latency of originals: docs/bench.md"
tests/bench/e2e/peers.py --build-dir build/bench --rounds "$rounds" --latency-rounds "$rounds" \
  --output docs
