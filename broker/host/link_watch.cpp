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

/// News of the netdev family, if this kernel has any: not having them is no error, as links are
/// looked at once a second, too.
UniqueFd watch_features() {
  Result<Netlink> socket = Netlink::open(NETLINK_GENERIC);
  if (!socket) return {};
  const NetdevFamily family = netdev_family(*socket);
  UniqueFd fd = std::move(*socket).take_fd();
  if (family.group == 0 || ::setsockopt(fd.get(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP,
                                        &family.group, sizeof family.group) != 0) {
    return {};
  }
  return fd;
}

/// One message; 0: there is none.
Result<std::size_t> receive(const UniqueFd& fd, std::span<char> buffer, bool& lost) {
  while (true) {
    const ssize_t size = ::recv(fd.get(), buffer.data(), buffer.size(), MSG_DONTWAIT | MSG_TRUNC);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return std::size_t{0};
    if (size < 0 && errno != ENOBUFS) {
      return failure("cannot receive news about network devices", errno);
    }
    if (size >= 0 && static_cast<std::size_t>(size) <= buffer.size()) {
      return static_cast<std::size_t>(size);
    }
    lost = true;
  }
}

}  // namespace

Result<LinkWatch> LinkWatch::open() {
  Result<Netlink> socket = Netlink::open(NETLINK_ROUTE, RTMGRP_LINK);
  if (!socket) return socket.error();
  UniqueFd links = std::move(*socket).take_fd();
  UniqueFd features = watch_features();
  return LinkWatch(std::move(links), std::move(features));
}

Result<LinkNews> LinkWatch::drain() {
  LinkNews news;
  if (auto done = drain_links(news); !done) return done.error();
  if (auto done = drain_features(news); !done) return done.error();
  return news;
}

Result<void> LinkWatch::drain_links(LinkNews& news) const {
  std::vector<char> buffer(65536);
  while (true) {
    const auto size = receive(links_, buffer, news.resync);
    if (!size) return size.error();
    if (size.value() == 0) return {};
    for (const Message& message : split_messages(std::span(buffer).first(size.value()))) {
      if (std::optional<LinkEvent> event = event_of(message))
        news.events.push_back(std::move(*event));
    }
  }
}

Result<void> LinkWatch::drain_features(LinkNews& news) const {
  std::vector<char> buffer(65536);
  while (features_) {
    const auto size = receive(features_, buffer, news.features);
    if (!size) return size.error();
    if (size.value() == 0) return {};
    news.features = true;
  }
  return {};
}

}  // namespace vtap::host
