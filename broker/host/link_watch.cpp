// SPDX-License-Identifier: Apache-2.0
#include "host/link_watch.hpp"

#include <linux/if.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <optional>

#include "host/netlink.hpp"

namespace vtap::host {
namespace {

std::optional<LinkEvent> event_of(const Message& message) {
  const std::uint16_t type = message.header().nlmsg_type;
  const auto info = message.body<ifinfomsg>();
  // Bridges tell of their ports in the same group, with their own family: such a "deletion" means
  // that the device left the bridge.
  if ((type != RTM_NEWLINK && type != RTM_DELLINK) || info.ifi_family != AF_UNSPEC) {
    return std::nullopt;
  }
  constexpr unsigned ready = IFF_UP | IFF_LOWER_UP;
  const bool deleted = type == RTM_DELLINK;
  return LinkEvent{.ifindex = info.ifi_index,
                   .name = message.attributes<ifinfomsg>().text(IFLA_IFNAME),
                   .up = !deleted && (info.ifi_flags & ready) == ready,
                   .created = !deleted && info.ifi_change == ~0U,
                   .deleted = deleted};
}

}  // namespace

Result<LinkWatch> LinkWatch::open() {
  Result<Netlink> socket = Netlink::open(NETLINK_ROUTE, RTMGRP_LINK);
  if (!socket) return socket.error();
  return LinkWatch(std::move(socket).value().take_fd());
}

Result<LinkNews> LinkWatch::drain() {
  LinkNews news;
  std::vector<char> buffer(65536);
  while (true) {
    const ssize_t size = ::recv(fd_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT | MSG_TRUNC);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return news;
    if (size < 0 && errno == ENOBUFS) {
      news.resync = true;
      continue;
    }
    if (size < 0) return failure("cannot receive news about network devices", errno);
    if (static_cast<std::size_t>(size) > buffer.size()) {
      news.resync = true;
      continue;
    }
    for (const Message& message :
         split_messages(std::span(buffer).first(static_cast<std::size_t>(size)))) {
      if (std::optional<LinkEvent> event = event_of(message))
        news.events.push_back(std::move(*event));
    }
  }
}

}  // namespace vtap::host
