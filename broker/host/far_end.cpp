// SPDX-License-Identifier: Apache-2.0
#include "host/far_end.hpp"

#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/net_namespace.h>
#include <sched.h>

#include <filesystem>

#include "host/ethtool.hpp"
#include "host/netlink.hpp"
#include "vtap/fd.hpp"
#include "vtap/thread.hpp"

namespace vtap::host {
namespace {

namespace fs = std::filesystem;
constexpr const char* named_namespaces = "/run/netns";

struct Named {
  std::string name;
  UniqueFd fd;
};

/// The namespace that this one knows by number `id`, if `ip netns` has a name for it.
Named namespace_of(std::int32_t id) {
  Result<Netlink> socket = Netlink::open();
  std::error_code error;
  if (!socket) return {};
  for (const auto& entry : fs::directory_iterator(named_namespaces, error)) {
    UniqueFd fd(::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) continue;
    rtgenmsg body{};
    Request request(RTM_GETNSID, 0, body);
    request.value(NETNSA_FD, static_cast<std::uint32_t>(fd.get()));
    std::vector<Message> replies;
    if (!socket->query(std::move(request), replies).ok() || replies.empty()) continue;
    const Attributes attributes = replies.front().attributes<rtgenmsg>();
    if (attributes.value<std::int32_t>(NETNSA_NSID, -1) == id) {
      return {entry.path().filename(), std::move(fd)};
    }
  }
  return {};
}

/// What its link message tells; `id` -1: it is in our namespace.
void describe(FarEnd& end, std::int32_t id) {
  ifinfomsg body{};
  body.ifi_index = end.ifindex;
  Request request(RTM_GETLINK, 0, body);
  if (id >= 0) request.value(IFLA_TARGET_NETNSID, id);
  const auto replies = route_query("cannot look at the other end", std::move(request));
  if (!replies || replies.value().empty()) return;
  end.name = replies.value().front().attributes<ifinfomsg>().text(IFLA_IFNAME);
  end.up = (replies.value().front().body<ifinfomsg>().ifi_flags & IFF_UP) != 0;
}

std::map<std::string, Feature> features_or_none(const std::string& port) {
  auto found = features(port);
  return found ? std::move(*found) : std::map<std::string, Feature>{};
}

/// By a thread of its own, which alone goes there. None if there is no thread to be had.
std::map<std::string, Feature> features_in(const UniqueFd& where, const std::string& port) {
  std::map<std::string, Feature> found;
  auto thread = start_thread([&] {
    if (::setns(where.get(), CLONE_NEWNET) == 0) found = features_or_none(port);
  });
  if (thread) thread->join();
  return found;
}

}  // namespace

std::string FarEnd::command(const std::string& words) const {
  return netns.empty() ? words : "ip netns exec " + netns + " " + words;
}

std::optional<FarEnd> far_end(const Link& link) {
  if (link.kind != "veth" && link.kind != "netkit") return std::nullopt;
  ifinfomsg body{};
  body.ifi_index = link.ifindex;
  const auto replies = route_query("cannot look at " + link.name, Request(RTM_GETLINK, 0, body));
  if (!replies || replies.value().empty()) return std::nullopt;
  const Attributes attributes = replies.value().front().attributes<ifinfomsg>();
  FarEnd end;
  end.ifindex = attributes.value<int>(IFLA_LINK);
  if (end.ifindex == 0) return std::nullopt;
  const auto id = attributes.value<std::int32_t>(IFLA_LINK_NETNSID, -1);
  end.here = id < 0;
  describe(end, id);
  if (end.name.empty()) return end;
  if (end.here) {
    end.features = features_or_none(end.name);
    return end;
  }
  Named where = namespace_of(id);
  end.netns = std::move(where.name);
  if (where.fd) end.features = features_in(where.fd, end.name);
  return end;
}

std::optional<Rings> ring_sizes(const std::string& port) {
  ethtool_ringparam rings{};
  rings.cmd = ETHTOOL_GRINGPARAM;
  if (ethtool_ioctl(port, &rings) < 0) return std::nullopt;
  return Rings{.rx = rings.rx_pending,
               .rx_max = rings.rx_max_pending,
               .tx = rings.tx_pending,
               .tx_max = rings.tx_max_pending};
}

}  // namespace vtap::host
