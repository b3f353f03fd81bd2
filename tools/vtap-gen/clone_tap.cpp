// SPDX-License-Identifier: Apache-2.0
#include <arpa/inet.h>
#include <bpf/bpf.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iostream>

#include "attach.hpp"
#include "clone_tap.skel.h"
#include "commands.hpp"
#include "signals.hpp"

namespace vtap::gen {

Result<void> clone_tap(const CloneTapOptions& options) {
  if (options.first_host.v6())
    return Error{"--first-host: this tap knows IPv4 only", ErrorKind::usage};
  auto pair = find_pair(options.ports);
  if (!pair) return pair.error();
  auto monitor = find_port(options.monitor);
  if (!monitor) return monitor.error();
  const auto& [a, b] = *pair;

  Skeleton<clone_tap_bpf, clone_tap_bpf::destroy> bpf(clone_tap_bpf::open());
  if (!bpf) return system_error("open the clone tap's programs", errno);
  bpf->rodata->ifindex_a = a.ifindex;
  bpf->rodata->ifindex_b = b.ifindex;
  bpf->rodata->ifindex_monitor = monitor->ifindex;
  bpf->rodata->everything = options.hosts == 0 ? 1 : 0;
  bpf_map__set_max_entries(bpf->maps.hosts, std::max(options.hosts, 1U));
  if (const int error = clone_tap_bpf::load(bpf.get()); error < 0)
    return system_error("load the clone tap's programs", -error);

  std::uint32_t first = 0;
  std::memcpy(&first, options.first_host.bytes.data(), sizeof first);
  for (std::uint32_t i = 0; i < options.hosts; ++i) {
    const std::uint32_t host = htonl(ntohl(first) + i);
    const std::uint32_t value = 1;
    const int map = bpf_map__fd(bpf->maps.hosts);
    if (const int error = bpf_map_update_elem(map, &host, &value, BPF_ANY); error < 0)
      return system_error("put a host into the map", -error);
  }

  const StopSignals stop;
  auto at_a = TcIngress::open(bpf->progs.to_b, a);
  if (!at_a) return at_a.error();
  auto at_b = TcIngress::open(bpf->progs.to_a, b);
  if (!at_b) return at_b.error();
  std::cerr << "ready" << std::endl;
  stop.wait();
  return {};
}

}  // namespace vtap::gen
