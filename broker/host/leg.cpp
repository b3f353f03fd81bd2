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
#include <functional>

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

Outcome set_link(ifinfomsg body, const std::function<void(Request&)>& add) {
  Result<Netlink> socket = Netlink::open();
  if (!socket) return {EIO, socket.error().message};
  Request request(RTM_NEWLINK, 0, body);
  add(request);
  return socket->execute(std::move(request));
}

/// While it is down: it gets its address when it goes up. A host without IPv6 has nothing to set.
Result<void> no_ipv6_address(int ifindex) {
  ifinfomsg body{};
  body.ifi_index = ifindex;
  const Outcome outcome = set_link(body, [](Request& request) {
    const std::size_t families = request.nest(IFLA_AF_SPEC);
    const std::size_t ipv6 = request.nest(AF_INET6);
    request.value(IFLA_INET6_ADDR_GEN_MODE, static_cast<std::uint8_t>(IN6_ADDR_GEN_MODE_NONE));
    request.end(ipv6);
    request.end(families);
  });
  if (outcome.ok() || outcome.error == EAFNOSUPPORT) return {};
  return failure("cannot keep " + device_name(ifindex) + " without an IPv6 address", outcome);
}

Result<void> set_up(int ifindex) {
  ifinfomsg body{};
  body.ifi_index = ifindex;
  body.ifi_flags = IFF_UP | IFF_NOARP;
  body.ifi_change = IFF_UP | IFF_NOARP;
  const Outcome outcome =
      set_link(body, [](Request& request) { request.value(IFLA_MTU, largest_mtu); });
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
  if (Result<void> done = no_ipv6_address(ifindex_); !done) return done;
  return set_up(ifindex_);
}

}  // namespace vtap::host
