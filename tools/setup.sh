#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that this project needs, as far as they are missing.
#
#   tools/setup.sh          to build and to run the demo
#   tools/setup.sh --test   and to run all tests, sanitizers, fuzzers and linters
#   tools/setup.sh --vm     and to run tests in guests (tools/vm.sh)
#   tools/setup.sh --bench  and the peers that the bench sets it beside, and its plots
set -euo pipefail

build=(
  g++ cmake ninja-build pkg-config        # the broker
  clang llvm bpftool                      # its BPF programs
  libc6-dev linux-libc-dev libbpf-dev libxdp-dev libcap-ng-dev libsystemd-dev
  libspdlog-dev libseccomp-dev libtomlplusplus-dev libcli11-dev libboost-dev
  nlohmann-json3-dev libcpp-httplib-dev libssl-dev prometheus-cpp-dev libxxhash-dev libpcap-dev
  iproute2 util-linux python3             # the demo's lab and traffic
)
test=(
  libgtest-dev libbenchmark-dev python3-pytest
  python3-scapy                           # traffic of tools/ids
  libasan8 libubsan1 libtsan2             # sanitizers of g++
  libclang-rt-14-dev                      # libFuzzer and sanitizers of clang++
  clang-format-14 clang-tidy-14
  procps ethtool tcpdump iperf3
  curl jq openssl                         # the commands that documents show
  systemd man-db mandoc lintian           # the package's tests
)
vm=(
  python3-pytest libgtest-dev ethtool procps  # what runs in a guest
  qemu-system-x86 kmod xz-utils busybox-static
)
# Where services run, openvswitch-switch starts one; the bench has a switch of its own and leaves
# that alone.
bench=(
  nftables openvswitch-switch dpdk-dev    # peers; tc is in iproute2
  libdpdk-dev                             # rte_acl beside the classifier
  python3-matplotlib linux-perf
)

case "${1-}" in
  "") wanted=("${build[@]}") ;;
  --test) wanted=("${build[@]}" "${test[@]}") ;;
  --vm) wanted=("${build[@]}" "${vm[@]}") ;;
  --bench) wanted=("${build[@]}" "${test[@]}" "${bench[@]}") ;;
  *) sed -n '3,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

# Installed, Prometheus would start as a service, now and at every boot. The tests need its two
# programs alone: they are unpacked, where nobody finds them by chance.
test_programs=/usr/local/lib/vtap-tests
has_prometheus() {
  PATH=$PATH:$test_programs command -v prometheus >/dev/null &&
    PATH=$PATH:$test_programs command -v promtool >/dev/null
}
unpack_prometheus() {
  local scratch
  scratch=$(mktemp -d)
  chown _apt "$scratch" 2>/dev/null || true  # the user that apt downloads as
  (cd "$scratch" && apt-get -q download prometheus)
  mkdir -p "$test_programs"
  dpkg-deb --fsys-tarfile "$scratch"/prometheus_*.deb |
    tar -x -C "$test_programs" --strip-components=3 ./usr/bin/prometheus ./usr/bin/promtool
  rm -rf "$scratch"
}
prometheus=no
case "${1-}" in --test | --vm | --bench) has_prometheus || prometheus=yes ;; esac

installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "${wanted[@]}" 2>/dev/null || true)
missing=()
for package in "${wanted[@]}"; do
  grep -qxF "installed $package" <<<"$installed" || missing+=("$package")
done
[[ ${#missing[@]} -eq 0 && $prometheus == no ]] && exit 0

[[ ${#missing[@]} -eq 0 ]] || echo "setup: installing ${missing[*]}"
[[ $prometheus == no ]] || echo "setup: unpacking prometheus into $test_programs"
if [[ $EUID -ne 0 ]]; then
  echo "setup: needs root; run it as root, or with sudo" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
[[ ${#missing[@]} -eq 0 ]] || apt-get -q install --yes --no-install-recommends "${missing[@]}"
[[ $prometheus == no ]] || unpack_prometheus
