// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "vtap/result.hpp"

struct bpf_program;

namespace vtap::gen {

/// Owns a skeleton: Skeleton<gen_bpf, gen_bpf__destroy>.
template <typename T, void (*destroy)(T*)>
struct SkeletonDelete {
  void operator()(T* skeleton) const noexcept { destroy(skeleton); }
};
template <typename T, void (*destroy)(T*)>
using Skeleton = std::unique_ptr<T, SkeletonDelete<T, destroy>>;

/// An Error for a failed libbpf or system call; `code` is a positive errno. Missing privilege and
/// missing kernel features become ErrorKind::unsupported.
Error system_error(const std::string& what, int code);

struct Port {
  std::string name;
  unsigned ifindex = 0;
};

Result<Port> find_port(const std::string& name);

Result<std::vector<Port>> find_ports(const std::vector<std::string>& names);

/// Two ports from "A,B" as CLI11 splits it.
Result<std::pair<Port, Port>> find_pair(const std::vector<std::string>& names);

/// A native XDP program on a port. The kernel takes it away with the last descriptor of the link:
/// also after a kill -9. Where a program is attached already: an Error.
class XdpLink {
 public:
  static Result<XdpLink> open(const bpf_program* program, const Port& port);
  XdpLink(XdpLink&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  XdpLink& operator=(XdpLink&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~XdpLink();

 private:
  explicit XdpLink(int fd) : fd_(fd) {}
  int fd_;
};

/// A TC program as the only filter at the ingress of a port, under a clsact qdisc of our own that
/// goes when this goes. Where there is such a qdisc already: an Error.
class TcIngress {
 public:
  static Result<TcIngress> open(const bpf_program* program, const Port& port);
  TcIngress(TcIngress&& other) noexcept : ifindex_(std::exchange(other.ifindex_, 0)) {}
  TcIngress& operator=(TcIngress&& other) noexcept {
    std::swap(ifindex_, other.ifindex_);
    return *this;
  }
  ~TcIngress();

 private:
  explicit TcIngress(unsigned ifindex) : ifindex_(ifindex) {}
  unsigned ifindex_;
};

}  // namespace vtap::gen
