// SPDX-License-Identifier: Apache-2.0
#include "bpf/netns.hpp"

#include <arpa/inet.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <thread>

namespace vtap::test {
namespace {

using namespace std::chrono_literals;

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

int index_of(const std::string& device) {
  const unsigned index = ::if_nametoindex(device.c_str());
  if (index == 0) fail(device);
  return static_cast<int>(index);
}

UniqueFd packet_socket(int ifindex) {
  // Protocol 0: receives nothing.
  UniqueFd opened(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_ifindex = ifindex;
  if (!opened ||
      ::bind(opened.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    fail("packet socket");
  }
  return opened;
}

}  // namespace

Namespace::Namespace() : home_(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)) {
  if (!home_ || ::unshare(CLONE_NEWNET) != 0) fail("network namespace");
  std::ofstream("/proc/sys/net/ipv6/conf/default/disable_ipv6") << 1;
}

Namespace::~Namespace() { ::setns(home_.get(), CLONE_NEWNET); }

void command(const std::string& line) {
  FILE* const pipe = ::popen((line + " 2>&1").c_str(), "re");
  if (pipe == nullptr) fail(line);
  std::string text;
  std::array<char, 512> buffer{};
  while (std::fgets(buffer.data(), buffer.size(), pipe) != nullptr) text += buffer.data();
  if (::pclose(pipe) != 0) throw std::runtime_error(line + ": " + text);
}

Veth::Veth(std::string one_name, std::string other_name, unsigned mtu)
    : one(std::move(one_name)), other(std::move(other_name)) {
  const std::string bytes = std::to_string(mtu);
  command("ip link add " + one + " mtu " + bytes + " type veth peer name " + other + " mtu " +
          bytes);
  command("ip link set " + one + " up");
  command("ip link set " + other + " up");
}

int Veth::ifindex() const { return index_of(one); }
int Veth::other_ifindex() const { return index_of(other); }

Sender::Sender(int ifindex) : plain_(packet_socket(ifindex)), offloading_(packet_socket(ifindex)) {
  const int on = 1;
  if (::setsockopt(offloading_.get(), SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) != 0)
    fail("PACKET_VNET_HDR");
}

int Sender::send(const Bytes& frame) const {
  return ::send(plain_.get(), frame.data(), frame.size(), 0) < 0 ? errno : 0;
}

namespace {

int write_both(int fd, const Offload& offload, const Bytes& frame) {
  std::array<iovec, 2> parts{
      iovec{const_cast<Offload*>(&offload), sizeof(offload)},
      iovec{const_cast<std::uint8_t*>(frame.data()), frame.size()},
  };
  return ::writev(fd, parts.data(), parts.size()) < 0 ? errno : 0;
}

}  // namespace

int Sender::send(const Offload& offload, const Bytes& frame) const {
  return write_both(offloading_.get(), offload, frame);
}

VmPort::VmPort(const std::string& name) : guest_(::open("/dev/net/tun", O_RDWR | O_CLOEXEC)) {
  ifreq request{};
  name.copy(request.ifr_name, sizeof(request.ifr_name) - 1);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  if (!guest_ || ::ioctl(guest_.get(), TUNSETIFF, &request) != 0) fail("/dev/net/tun");
  command("ip link set " + name + " up");
  ifindex_ = index_of(name);
}

int VmPort::send(const Offload& offload, const Bytes& frame) const {
  return write_both(guest_.get(), offload, frame);
}

void attach_native_xdp(int ifindex, int program_fd) {
  errno = -::bpf_xdp_attach(ifindex, program_fd, XDP_FLAGS_DRV_MODE, nullptr);
  if (errno != 0) fail("attaching XDP");
}

void attach_tc_ingress(int ifindex, int program_fd) {
  LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifindex, .attach_point = BPF_TC_INGRESS);
  LIBBPF_OPTS(bpf_tc_opts, options, .prog_fd = program_fd);
  errno = -::bpf_tc_hook_create(&hook);
  if (errno == 0) errno = -::bpf_tc_attach(&hook, &options);
  if (errno != 0) fail("attaching TC");
}

bool eventually(const std::function<bool()>& holds) {
  const auto give_up = std::chrono::steady_clock::now() + 2s;
  while (!holds()) {
    if (std::chrono::steady_clock::now() > give_up) return false;
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

}  // namespace vtap::test
