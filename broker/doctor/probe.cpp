// SPDX-License-Identifier: Apache-2.0
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <sys/socket.h>

#include <array>

#include "doctor/facts.hpp"
#include "host/tcx.hpp"
#include "io/tee.hpp"
#include "vtap/fd.hpp"

namespace vtap::doctor {
namespace {

template <typename Type>
struct Named {
  Type type;
  const char* name;
  const char* why;
};

constexpr std::array map_types = {
    Named<bpf_map_type>{BPF_MAP_TYPE_ARRAY, "array", "frames and rings"},
    Named<bpf_map_type>{BPF_MAP_TYPE_HASH, "hash", "classification"},
    Named<bpf_map_type>{BPF_MAP_TYPE_LPM_TRIE, "lpm_trie", "classification of prefixes"},
    Named<bpf_map_type>{BPF_MAP_TYPE_PERCPU_ARRAY, "percpu_array", "counters"},
    Named<bpf_map_type>{BPF_MAP_TYPE_PROG_ARRAY, "prog_array", "the stub, which fails open"},
    Named<bpf_map_type>{BPF_MAP_TYPE_ARRAY_OF_MAPS, "array_of_maps", "waking a worker"},
    Named<bpf_map_type>{BPF_MAP_TYPE_RINGBUF, "ringbuf", "waking a worker"},
    Named<bpf_map_type>{BPF_MAP_TYPE_DEVMAP, "devmap", "sending on at XDP"},
    Named<bpf_map_type>{BPF_MAP_TYPE_XSKMAP, "xskmap", "capture = \"redirect\""}};

constexpr std::array program_types = {
    Named<bpf_prog_type>{BPF_PROG_TYPE_XDP, "xdp", "taps at XDP"},
    Named<bpf_prog_type>{BPF_PROG_TYPE_SCHED_CLS, "sched_cls", "taps at TC"},
    Named<bpf_prog_type>{BPF_PROG_TYPE_SOCKET_FILTER, "socket_filter", "cutting super-packets"},
    Named<bpf_prog_type>{BPF_PROG_TYPE_RAW_TRACEPOINT, "raw_tracepoint",
                         "counting what XDP could not send"}};

/// libbpf: 1 yes, 0 no, negative: it could not be tried.
bool not_refused(int answer) { return answer != 0; }

Probe map_memory() {
  constexpr std::uint32_t frames = 64;
  constexpr std::uint32_t frame_size = 2048;
  const auto memory = io::TeeMemory::create(frames, frame_size);
  const bool works = memory && memory.value().umem().base == memory.value().copies().base;
  return {.what = "memory of BPF arrays as UMEM",
          .works = works,
          .needed = false,
          .why = "without it the broker copies each frame once more"};
}

}  // namespace

std::vector<Probe> probe_kernel() {
  std::vector<Probe> probes;
  for (const auto& each : map_types) {
    probes.push_back({.what = std::string("BPF map type ") + each.name,
                      .works = not_refused(libbpf_probe_bpf_map_type(each.type, nullptr)),
                      .why = each.why});
  }
  for (const auto& each : program_types) {
    probes.push_back({.what = std::string("BPF program type ") + each.name,
                      .works = not_refused(libbpf_probe_bpf_prog_type(each.type, nullptr)),
                      .why = each.why});
  }
  const int bytes = libbpf_probe_bpf_helper(BPF_PROG_TYPE_XDP, BPF_FUNC_xdp_load_bytes, nullptr);
  probes.push_back({.what = "BPF helper xdp_load_bytes",
                    .works = not_refused(bytes),
                    .why = "copies at XDP (kernel 5.18)"});
  const UniqueFd xsk(::socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0));
  probes.push_back({.what = "AF_XDP sockets",
                    .works = static_cast<bool>(xsk),
                    .why = "sending copies (CONFIG_XDP_SOCKETS)"});
  probes.push_back(map_memory());
  probes.push_back({.what = "tcx",
                    .works = host::has_tcx(),
                    .needed = false,
                    .why = "without it (kernel 6.6), adding and removing a clsact loses packets "
                           "that a tapped host is about to send"});
  probes.push_back(
      {.what = "netdev netlink",
       .works = host::xdp_features(static_cast<int>(::if_nametoindex("lo"))).has_value(),
       .needed = false,
       .why = "without it (kernel 6.3), what a driver can do at XDP is known from a "
              "list alone"});
  return probes;
}

}  // namespace vtap::doctor
