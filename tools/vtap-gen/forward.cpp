// SPDX-License-Identifier: Apache-2.0
#include <bpf/bpf.h>

#include <cerrno>
#include <iostream>

#include "attach.hpp"
#include "commands.hpp"
#include "forward.skel.h"
#include "signals.hpp"

namespace vtap::gen {
namespace {

template <typename Attachment>
Result<void> run(const bpf_program* to_b, const bpf_program* to_a, const Port& a, const Port& b) {
  const StopSignals stop;
  auto at_a = Attachment::open(to_b, a);
  if (!at_a) return at_a.error();
  auto at_b = Attachment::open(to_a, b);
  if (!at_b) return at_b.error();
  std::cerr << "ready" << std::endl;
  stop.wait();
  return {};
}

/// Fills a map with ports, in order.
Result<void> fill(const bpf_map* map, const std::vector<Port>& ports) {
  std::uint32_t slot = 0;
  for (const Port& port : ports) {
    if (const int error = bpf_map_update_elem(bpf_map__fd(map), &slot, &port.ifindex, BPF_ANY);
        error < 0)
      return system_error(port.name + " as the output of a redirect", -error);
    ++slot;
  }
  return {};
}

}  // namespace

Result<void> forward(const ForwardOptions& options) {
  auto pair = find_pair(options.ports);
  if (!pair) return pair.error();
  const auto& [a, b] = *pair;

  Skeleton<forward_bpf, forward_bpf::destroy> bpf(forward_bpf::open());
  if (!bpf) return system_error("open the forwarder's programs", errno);
  bpf->rodata->ifindex_a = a.ifindex;
  bpf->rodata->ifindex_b = b.ifindex;
  if (const int error = forward_bpf::load(bpf.get()); error < 0)
    return system_error("load the forwarder's programs", -error);

  if (options.hook == Hook::tc && !options.monitor.empty())
    return Error{"--monitor: at XDP only; see clone-tap", ErrorKind::usage};
  if (options.hook == Hook::tc) return run<TcIngress>(bpf->progs.tc_to_b, bpf->progs.tc_to_a, a, b);

  if (options.monitor.empty()) {
    if (auto done = fill(bpf->maps.ports, {a, b}); !done) return done;
    return run<XdpLink>(bpf->progs.xdp_to_b, bpf->progs.xdp_to_a, a, b);
  }
  auto monitor = find_port(options.monitor);
  if (!monitor) return monitor.error();
  if (auto done = fill(bpf->maps.fan_a, {a, *monitor}); !done) return done;
  if (auto done = fill(bpf->maps.fan_b, {b, *monitor}); !done) return done;
  return run<XdpLink>(bpf->progs.xdp_fan_to_b, bpf->progs.xdp_fan_to_a, a, b);
}

}  // namespace vtap::gen
