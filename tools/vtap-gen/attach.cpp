// SPDX-License-Identifier: Apache-2.0
#include "attach.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace vtap::gen {
namespace {

bpf_tc_hook clsact(unsigned ifindex, bpf_tc_attach_point point) {
  bpf_tc_hook hook{};
  hook.sz = sizeof hook;
  hook.ifindex = static_cast<int>(ifindex);
  hook.attach_point = point;
  return hook;
}

}  // namespace

Error system_error(const std::string& what, int code) {
  const std::string message = what + ": " + std::strerror(code);
  switch (code) {
    case EPERM:
    case EACCES:
      return {message + " (needs root, or CAP_BPF and CAP_NET_ADMIN)", ErrorKind::unsupported};
    case EOPNOTSUPP:
    case ENOSYS:
      return {message + " (this kernel or driver cannot do it)", ErrorKind::unsupported};
    default:
      return {message, ErrorKind::runtime};
  }
}

Result<Port> find_port(const std::string& name) {
  const unsigned ifindex = if_nametoindex(name.c_str());
  if (ifindex == 0)
    return Error{"no port '" + name + "' in this network namespace", ErrorKind::usage};
  return Port{name, ifindex};
}

Result<std::vector<Port>> find_ports(const std::vector<std::string>& names) {
  std::vector<Port> ports;
  for (const std::string& name : names) {
    auto port = find_port(name);
    if (!port) return port.error();
    ports.push_back(std::move(port).value());
  }
  return ports;
}

Result<std::pair<Port, Port>> find_pair(const std::vector<std::string>& names) {
  if (names.size() != 2 || names[0] == names[1])
    return Error{"--ports takes two different ports: --ports A,B", ErrorKind::usage};
  auto a = find_port(names[0]);
  if (!a) return a.error();
  auto b = find_port(names[1]);
  if (!b) return b.error();
  return std::pair(*a, *b);
}

Result<XdpLink> XdpLink::open(const bpf_program* program, const Port& port) {
  bpf_link_create_opts options{};
  options.sz = sizeof options;
  options.flags = XDP_FLAGS_DRV_MODE;
  const int fd =
      bpf_link_create(bpf_program__fd(program), static_cast<int>(port.ifindex), BPF_XDP, &options);
  if (fd == -EBUSY || fd == -EEXIST)
    return Error{port.name + " has an XDP program already; see: ip link show " + port.name};
  if (fd < 0) return system_error("attach a native XDP program to " + port.name, -fd);
  return XdpLink(fd);
}

XdpLink::~XdpLink() {
  if (fd_ >= 0) close(fd_);
}

Result<TcIngress> TcIngress::open(const bpf_program* program, const Port& port) {
  auto hook = clsact(port.ifindex, BPF_TC_INGRESS);
  if (const int error = bpf_tc_hook_create(&hook); error < 0) {
    if (error == -EEXIST)
      return Error{port.name + " has a clsact or ingress qdisc already; see: tc qdisc show dev " +
                   port.name};
    return system_error("make a clsact qdisc on " + port.name, -error);
  }
  TcIngress owned(port.ifindex);
  bpf_tc_opts options{};
  options.sz = sizeof options;
  options.prog_fd = bpf_program__fd(program);
  options.handle = 1;
  options.priority = 1;
  if (const int error = bpf_tc_attach(&hook, &options); error < 0)
    return system_error("attach a TC program to " + port.name, -error);
  return owned;
}

TcIngress::~TcIngress() {
  if (ifindex_ == 0) return;
  // Both attach points: libbpf then removes the qdisc, not only the filters.
  auto hook = clsact(ifindex_, static_cast<bpf_tc_attach_point>(BPF_TC_INGRESS | BPF_TC_EGRESS));
  bpf_tc_hook_destroy(&hook);
}

}  // namespace vtap::gen
