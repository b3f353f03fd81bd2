// SPDX-License-Identifier: Apache-2.0
#include "host/leg.hpp"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/pkt_sched.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>

#include "host/link.hpp"
#include "host/netlink.hpp"

namespace vtap::host {
namespace {

constexpr const char* device_file = "/dev/net/tun";
constexpr std::uint32_t largest_mtu = 65521;  ///< of a tun device in tap mode

/// Without a queueing discipline a packet is cut and seen before its sender goes on.
Result<void> remove_queue(int ifindex) {
  Result<Netlink> socket = Netlink::open();
  if (!socket) return socket.error();
  tcmsg body{};
  body.tcm_family = AF_UNSPEC;
  body.tcm_ifindex = ifindex;
  body.tcm_parent = TC_H_ROOT;
  Request request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, body);
  request.attribute(TCA_KIND, "noqueue");
  const Outcome outcome = socket->execute(std::move(request));
  if (outcome.ok()) return {};
  return failure("cannot take the queue away from " + device_name(ifindex), outcome);
}

/// Up, with nothing of its own to say (no ARP, no IPv6 address).
Result<void> set_up(int ifindex) {
  Result<Netlink> socket = Netlink::open();
  if (!socket) return socket.error();
  ifinfomsg body{};
  body.ifi_index = ifindex;
  body.ifi_flags = IFF_UP | IFF_NOARP;
  body.ifi_change = IFF_UP | IFF_NOARP;
  Request request(RTM_NEWLINK, 0, body);
  request.value(IFLA_MTU, largest_mtu);
  const std::size_t families = request.nest(IFLA_AF_SPEC);
  const std::size_t ipv6 = request.nest(AF_INET6);
  request.value(IFLA_INET6_ADDR_GEN_MODE, static_cast<std::uint8_t>(IN6_ADDR_GEN_MODE_NONE));
  request.end(ipv6);
  request.end(families);
  const Outcome outcome = socket->execute(std::move(request));
  if (outcome.ok()) return {};
  return failure("cannot bring " + device_name(ifindex) + " up", outcome);
}

}  // namespace

Result<Leg> Leg::create() {
  UniqueFd fd(::open(device_file, O_RDWR | O_CLOEXEC));
  if (!fd) {
    const int error = errno;
    return Error{std::string("cannot open ") + device_file + ": " + ::strerror(error) +
                     " (load the module: modprobe tun; in a container, pass the device in)",
                 ErrorKind::unsupported};
  }
  ifreq request{};
  std::strncpy(request.ifr_name, "vtapleg%d", sizeof(request.ifr_name) - 1);
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  if (::ioctl(fd.get(), TUNSETIFF, &request) != 0)
    return failure("cannot make a tun device", errno);
  const Result<Link> link = find_link(request.ifr_name);
  if (!link) return link.error();
  return Leg(std::move(fd), request.ifr_name, link.value().ifindex);
}

Result<void> Leg::start(int filter_fd) {
  if (::ioctl(fd_.get(), TUNSETFILTEREBPF, &filter_fd) != 0) {
    return failure("cannot give " + name_ + " its filter", errno);
  }
  if (Result<void> done = remove_queue(ifindex_); !done) return done;
  return set_up(ifindex_);
}

}  // namespace vtap::host
