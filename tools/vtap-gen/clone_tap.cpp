// SPDX-License-Identifier: Apache-2.0
#include "clone_tap.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <iostream>
#include <vector>

#include "attach.hpp"
#include "clone_tap.skel.h"
#include "commands.hpp"
#include "signals.hpp"

namespace vtap::gen {

Result<void> clone_tap(const CloneTapOptions& options) {
  if (options.first_host.v6())
    return Error{"--first-host: this tap knows IPv4 only", ErrorKind::usage};
  auto ports = find_ports(options.ports);
  if (!ports) return ports.error();
  if (ports->empty() || ports->size() > 2)
    return Error{"--ports: one of a host, or two that are joined", ErrorKind::usage};
  auto monitors = find_ports(options.monitors);
  if (!monitors) return monitors.error();
  if (monitors->empty() || monitors->size() > CLONE_TAP_MONITORS)
    return Error{"--monitor: one to " + std::to_string(CLONE_TAP_MONITORS), ErrorKind::usage};

  Skeleton<clone_tap_bpf, clone_tap_bpf::destroy> bpf(clone_tap_bpf::open());
  if (!bpf) return system_error("open the clone tap's programs", errno);
  bpf->rodata->ifindex_a = ports->front().ifindex;
  bpf->rodata->ifindex_b = ports->size() == 2 ? ports->back().ifindex : 0;
  for (std::size_t i = 0; i < monitors->size(); ++i)
    bpf->rodata->ifindex_monitors[i] = (*monitors)[i].ifindex;
  bpf->rodata->monitors = static_cast<std::uint32_t>(monitors->size());
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
  const std::array programs{bpf->progs.to_b, bpf->progs.to_a};
  std::vector<TcIngress> attached;
  for (std::size_t i = 0; i < ports->size(); ++i) {
    auto at = TcIngress::open(programs[i], (*ports)[i]);
    if (!at) return at.error();
    attached.push_back(std::move(at).value());
  }
  std::cerr << "ready" << std::endl;
  stop.wait();
  return {};
}

}  // namespace vtap::gen
