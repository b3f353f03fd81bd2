// SPDX-License-Identifier: Apache-2.0
#include "host/link.hpp"

#include <linux/ethtool.h>
#include <linux/genetlink.h>
#include <linux/if.h>
#include <linux/if_arp.h>
#include <linux/if_link.h>

#include <algorithm>
#include <string_view>

#include "host/ethtool.hpp"
#include "host/netlink.hpp"

namespace vtap::host {
namespace {

/// <linux/netdev.h>, which the headers of 6.1 do not have.
constexpr std::uint8_t netdev_cmd_dev_get = 1;
constexpr std::uint16_t netdev_a_dev_ifindex = 1;
constexpr std::uint16_t netdev_a_dev_xdp_features = 3;

struct LinkMessage {
  ifinfomsg info{};
  Attributes attributes;
};

LinkMessage view(const Message& message) {
  return {message.body<ifinfomsg>(), message.attributes<ifinfomsg>()};
}

Result<std::vector<Message>> dump_links() {
  return route_query("cannot list the network devices",
                     Request(RTM_GETLINK, NLM_F_DUMP, ifinfomsg{}));
}

Counters counters_of(const Attributes& attributes) {
  const auto stats = attributes.value<rtnl_link_stats64>(IFLA_STATS64);
  return {.rx_frames = stats.rx_packets,
          .rx_bytes = stats.rx_bytes,
          .tx_frames = stats.tx_packets,
          .tx_bytes = stats.tx_bytes,
          .rx_errors = stats.rx_errors,
          .tx_errors = stats.tx_errors,
          .rx_dropped = stats.rx_dropped,
          .tx_dropped = stats.tx_dropped};
}

std::string kind_of(const Attributes& attributes) {
  return attributes.nested(IFLA_LINKINFO).text(IFLA_INFO_KIND);
}

/// Devices whose IFLA_LINK names the other end of a pair, not a device below.
bool is_pair(std::string_view kind) {
  return kind == "veth" || kind == "netkit" || kind == "vxcan";
}

/// The device of this namespace that this one sits on; 0: none.
int lower_of(const Attributes& attributes) {
  if (attributes.has(IFLA_LINK_NETNSID) || is_pair(kind_of(attributes))) return 0;
  return attributes.value<int>(IFLA_LINK);
}

void set_xdp(Link& link, const Attributes& xdp) {
  constexpr std::array<std::pair<std::uint16_t, XdpMode>, 3> modes{{
      {IFLA_XDP_HW_PROG_ID, XdpMode::hardware},
      {IFLA_XDP_SKB_PROG_ID, XdpMode::generic},
      {IFLA_XDP_DRV_PROG_ID, XdpMode::native},
  }};
  for (const auto& [attribute, mode] : modes) {
    if (const auto id = xdp.value<std::uint32_t>(attribute); id != 0) {
      link.xdp_prog_id = id;
      link.xdp_mode = mode;
    }
  }
}

/// What the kernel's link message tells.
Link basic_link(const LinkMessage& message) {
  const Attributes& attributes = message.attributes;
  Link link;
  link.name = attributes.text(IFLA_IFNAME);
  link.ifindex = message.info.ifi_index;
  link.mtu = attributes.value<std::uint32_t>(IFLA_MTU);
  link.mac = attributes.value<std::array<std::uint8_t, 6>>(IFLA_ADDRESS);
  link.ethernet = message.info.ifi_type == ARPHRD_ETHER;
  link.loopback = (message.info.ifi_flags & IFF_LOOPBACK) != 0;
  link.up = (message.info.ifi_flags & IFF_UP) != 0;
  link.carrier = (message.info.ifi_flags & IFF_LOWER_UP) != 0;
  link.promisc = (message.info.ifi_flags & IFF_PROMISC) != 0;
  link.kind = kind_of(attributes);
  link.far_end_here = is_pair(link.kind) && !attributes.has(IFLA_LINK_NETNSID);
  link.rx_queues = attributes.value<std::uint32_t>(IFLA_NUM_RX_QUEUES, 1);
  link.tx_queues = attributes.value<std::uint32_t>(IFLA_NUM_TX_QUEUES, 1);
  const std::string qdisc = attributes.text(IFLA_QDISC);
  link.has_queue = !qdisc.empty() && qdisc != "noqueue";
  link.master = attributes.value<int>(IFLA_MASTER);
  link.lower = lower_of(attributes);
  link.counters = counters_of(attributes);
  set_xdp(link, attributes.nested(IFLA_XDP));
  return link;
}

/// What only the driver and the netdev family tell.
void ask_driver(Link& link) {
  ethtool_drvinfo driver{};
  driver.cmd = ETHTOOL_GDRVINFO;
  const bool named = ethtool_ioctl(link.name, &driver) >= 0 && driver.driver[0] != '\0';
  link.driver = named ? std::string(driver.driver, ::strnlen(driver.driver, sizeof driver.driver))
                      : link.kind;
  ethtool_channels channels{};
  channels.cmd = ETHTOOL_GCHANNELS;
  if (ethtool_ioctl(link.name, &channels) >= 0) {
    const std::uint32_t rx = channels.rx_count + channels.combined_count;
    const std::uint32_t tx = channels.tx_count + channels.combined_count;
    if (rx != 0) link.rx_queues = rx;
    if (tx != 0) link.tx_queues = tx;
  }
  link.xdp_features = xdp_features(link.ifindex);
}

/// All links for which `wanted` holds; uppers and masters are looked for among all.
template <typename Wanted>
Result<std::vector<Link>> select_links(const Wanted& wanted) {
  const Result<std::vector<Message>> messages = dump_links();
  if (!messages) return messages.error();
  std::vector<Link> found;
  std::vector<int> lowers;
  for (const Message& message : messages.value()) {
    const LinkMessage link = view(message);
    lowers.push_back(lower_of(link.attributes));
    if (wanted(link)) found.push_back(basic_link(link));
  }
  for (Link& link : found) {
    link.has_uppers = std::find(lowers.begin(), lowers.end(), link.ifindex) != lowers.end();
    ask_driver(link);
  }
  return found;
}

Result<Link> only_one(Result<std::vector<Link>> found, const std::string& what) {
  if (!found) return found.error();
  if (found->empty()) {
    return Error{what + " does not exist in this network namespace; `ip link` lists those that do",
                 ErrorKind::usage};
  }
  return std::move(found->front());
}

void add_index(std::vector<int>& indexes, int ifindex) {
  if (ifindex != 0 && std::find(indexes.begin(), indexes.end(), ifindex) == indexes.end()) {
    indexes.push_back(ifindex);
  }
}

void add_next_hops(std::vector<int>& indexes, const Attributes& route) {
  add_index(indexes, route.value<int>(RTA_OIF));
  std::span<const char> hops = route.find(RTA_MULTIPATH).value_or(std::span<const char>{});
  while (hops.size() >= sizeof(rtnexthop)) {
    rtnexthop hop{};
    std::memcpy(&hop, hops.data(), sizeof hop);
    if (hop.rtnh_len < sizeof hop || hop.rtnh_len > hops.size()) break;
    add_index(indexes, hop.rtnh_ifindex);
    hops = hops.subspan(std::min<std::size_t>(RTNH_ALIGN(hop.rtnh_len), hops.size()));
  }
}

bool is_default_route(const rtmsg& route, const Attributes& attributes) {
  const auto table = attributes.value<std::uint32_t>(RTA_TABLE, route.rtm_table);
  return route.rtm_dst_len == 0 && route.rtm_type == RTN_UNICAST && table == RT_TABLE_MAIN &&
         (route.rtm_flags & RTM_F_CLONED) == 0;
}

Result<void> add_default_routes(std::vector<int>& indexes, std::uint8_t family) {
  rtmsg body{};
  body.rtm_family = family;
  const Result<std::vector<Message>> messages =
      route_query("cannot list the routes", Request(RTM_GETROUTE, NLM_F_DUMP, body));
  if (!messages) return messages.error();
  for (const Message& message : messages.value()) {
    const Attributes attributes = message.attributes<rtmsg>();
    // A kernel without IPv6 answers a question for its routes with those of IPv4.
    if (message.body<rtmsg>().rtm_family != family) continue;
    if (is_default_route(message.body<rtmsg>(), attributes)) add_next_hops(indexes, attributes);
  }
  return {};
}

/// Drivers with native XDP and redirect in 6.1, for kernels that cannot tell. Virtual ones only
/// when the config asks for it.
constexpr std::array<std::string_view, 25> xdp_drivers{
    "atlantic",      "bnxt_en",   "ena",    "fsl_dpa",   "fsl_dpaa2_eth", "fsl_enetc", "hv_netvsc",
    "i40e",          "ice",       "igb",    "igc",       "ixgbe",         "ixgbevf",   "mana",
    "mlx4_en",       "mlx5_core", "mvneta", "mvpp2",     "nfp",           "qede",      "sfc",
    "thunder-nicvf", "tun",       "veth",   "virtio_net"};

}  // namespace

Result<std::vector<Link>> links() {
  return select_links([](const LinkMessage&) { return true; });
}

Result<Link> find_link(const std::string& name) {
  return only_one(select_links([&name](const LinkMessage& link) {
                    return link.attributes.text(IFLA_IFNAME) == name;
                  }),
                  "network device " + name);
}

Result<Link> find_link(int ifindex) {
  return only_one(
      select_links([ifindex](const LinkMessage& link) { return link.info.ifi_index == ifindex; }),
      "network device number " + std::to_string(ifindex));
}

Result<Counters> link_counters(int ifindex) {
  ifinfomsg body{};
  body.ifi_index = ifindex;
  // By number: a thread that only reads counters may have no other socket to ask for the name.
  const Result<std::vector<Message>> replies =
      route_query("cannot read the counters of network device number " + std::to_string(ifindex),
                  Request(RTM_GETLINK, 0, body));
  if (!replies) return replies.error();
  if (replies.value().empty()) return Error{"the kernel sent no counters"};
  return counters_of(replies.value().front().attributes<ifinfomsg>());
}

std::optional<std::uint64_t> xdp_features(int ifindex) {
  Result<Netlink> socket = Netlink::open(NETLINK_GENERIC);
  if (!socket) return std::nullopt;
  const std::uint16_t family = netdev_family(*socket).id;
  if (family == 0) return std::nullopt;
  genlmsghdr command{};
  command.cmd = netdev_cmd_dev_get;
  command.version = 1;
  Request request(family, 0, command);
  request.value(netdev_a_dev_ifindex, static_cast<std::uint32_t>(ifindex));
  std::vector<Message> replies;
  if (!socket->query(std::move(request), replies).ok() || replies.empty()) return std::nullopt;
  const Attributes attributes = replies.front().attributes<genlmsghdr>();
  if (!attributes.has(netdev_a_dev_xdp_features)) return std::nullopt;
  return attributes.value<std::uint64_t>(netdev_a_dev_xdp_features);
}

Result<std::vector<DefaultRoute>> default_route_links() {
  std::vector<int> ipv4;
  std::vector<int> ipv6;
  if (Result<void> added = add_default_routes(ipv4, AF_INET); !added) return added.error();
  if (Result<void> added = add_default_routes(ipv6, AF_INET6); !added) return added.error();
  std::vector<DefaultRoute> routes;
  if (ipv4.empty() && ipv6.empty()) return routes;
  const Result<std::vector<Message>> messages = dump_links();
  if (!messages) return messages.error();
  for (const Message& message : messages.value()) {
    const LinkMessage link = view(message);
    const auto among = [&](const std::vector<int>& indexes) {
      return std::find(indexes.begin(), indexes.end(), link.info.ifi_index) != indexes.end();
    };
    if (!among(ipv4) && !among(ipv6)) continue;
    routes.push_back(
        {link.info.ifi_index, link.attributes.text(IFLA_IFNAME), among(ipv4), among(ipv6)});
  }
  return routes;
}

bool has_native_xdp(const Link& link) {
  if (link.xdp_features) {
    // Not ndo_xmit: virtio_net and others show it only once a program is attached.
    constexpr std::uint64_t needed = xdp_act::basic | xdp_act::redirect;
    return (*link.xdp_features & needed) == needed;
  }
  return std::find(xdp_drivers.begin(), xdp_drivers.end(), link.driver) != xdp_drivers.end();
}

bool takes_redirected(const Link& link) {
  return link.xdp_features ? (*link.xdp_features & xdp_act::ndo_xmit) != 0 : has_native_xdp(link);
}

std::uint32_t longest_redirected(const Link& link) {
  constexpr std::uint32_t kHeader = 14 + 4;  // of Ethernet, and a tag
  return link.up && takes_redirected(link) ? link.mtu + kHeader : 0;
}

bool loses_long_frames(const Link& input, const Link& output) {
  if (input.mtu <= kOneBufferMtu) return false;
  if (!output.xdp_features) return true;
  return takes_redirected(output) && (*output.xdp_features & xdp_act::ndo_xmit_sg) == 0;
}

bool refuses_zero_copy_frames(const Link& input, const Link& output) {
  return (input.xdp_features.value_or(0) & xdp_act::zero_copy) != 0 &&
         output.driver == "virtio_net";
}

Hook natural_hook(const Link& link) {
  const bool is_virtual = !link.kind.empty() || link.loopback || !link.ethernet;
  return !is_virtual && has_native_xdp(link) ? Hook::xdp : Hook::tc;
}

}  // namespace vtap::host
