// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "vtap/result.hpp"

/// The machine's network devices: what they are and what this broker changes on them. Knows no
/// policy. Everything here acts in the network namespace of the calling thread.
namespace vtap::host {

/// Where a program of ours sits on a port.
enum class Hook { xdp, tc };
enum class XdpMode { none, native, generic, hardware };

/// Device counters since the device exists (struct rtnl_link_stats64).
struct Counters {
  std::uint64_t rx_frames = 0;
  std::uint64_t rx_bytes = 0;
  std::uint64_t tx_frames = 0;
  std::uint64_t tx_bytes = 0;
  std::uint64_t rx_errors = 0;
  std::uint64_t tx_errors = 0;
  std::uint64_t rx_dropped = 0;
  std::uint64_t tx_dropped = 0;
};

/// Bits of `Link::xdp_features` (enum netdev_xdp_act of <linux/netdev.h>, kernel 6.3).
namespace xdp_act {
inline constexpr std::uint64_t basic = 0x1;        ///< native program, aborted/drop/pass/tx
inline constexpr std::uint64_t redirect = 0x2;     ///< XDP_REDIRECT from here
inline constexpr std::uint64_t ndo_xmit = 0x4;     ///< frames may be redirected to here
inline constexpr std::uint64_t zero_copy = 0x8;    ///< AF_XDP zero-copy
inline constexpr std::uint64_t hw_offload = 0x10;  ///< programs run in the device
inline constexpr std::uint64_t rx_sg = 0x20;       ///< multi-buffer frames reach the program
inline constexpr std::uint64_t ndo_xmit_sg =
    0x40;  ///< multi-buffer frames may be redirected to here
}  // namespace xdp_act

/// One network device, as it was when it was asked for.
struct Link {
  std::string name;
  int ifindex = 0;
  std::uint32_t mtu = 0;
  std::array<std::uint8_t, 6> mac{};
  bool ethernet = false;  ///< ARPHRD_ETHER: frames begin with a MAC header
  bool loopback = false;
  bool up = false;       ///< administratively
  bool carrier = false;  ///< the link works
  bool promisc = false;  ///< the interface flag; packet-socket memberships do not count
  std::string kind;      ///< rtnetlink kind ("veth", "bridge", ...); empty for hardware
  std::string driver;    ///< as `ethtool -i` names it, or the kind
  /// Queues in use (ETHTOOL_GCHANNELS); where the driver cannot tell, those the device has.
  std::uint32_t rx_queues = 1;
  std::uint32_t tx_queues = 1;
  bool has_queue = false;     ///< it has a queueing discipline, which may refuse a frame
  int master = 0;             ///< ifindex of the bridge, bond, ... that owns it; 0: none
  int lower = 0;              ///< ifindex of the device of this namespace that it sits on; 0: none
  bool far_end_here = false;  ///< one of a pair (veth) whose other end is in this namespace
  bool has_uppers = false;    ///< a VLAN, macvlan, ... of this namespace sits on it
  XdpMode xdp_mode = XdpMode::none;
  std::uint32_t xdp_prog_id = 0;  ///< 0: no XDP program
  /// What the `netdev` family reports; disengaged before kernel 6.3. `ndo_xmit` may appear only
  /// with the first program (virtio_net) or follow the peer (veth).
  std::optional<std::uint64_t> xdp_features;
  Counters counters;

  [[nodiscard]] bool has_master() const noexcept { return master != 0; }
  [[nodiscard]] bool ready() const noexcept { return up && carrier; }
};

/// All devices of this namespace. Uppers that were moved to another namespace are not seen.
Result<std::vector<Link>> links();

/// Error (usage): there is no such device.
Result<Link> find_link(const std::string& name);
Result<Link> find_link(int ifindex);

Result<Counters> link_counters(int ifindex);

/// XDP features by the `netdev` generic netlink family; disengaged where the kernel has none.
std::optional<std::uint64_t> xdp_features(int ifindex);

/// A device that a default route of the main table points to.
struct DefaultRoute {
  int ifindex = 0;
  std::string name;
  bool ipv4 = false, ipv6 = false;  ///< of which family
};
/// Devices of the IPv4 and IPv6 default routes, each once.
Result<std::vector<DefaultRoute>> default_route_links();

/// Native XDP with redirect: as the kernel reports it, else from a short list of known drivers.
bool has_native_xdp(const Link& link);

/// Whether the device transmits frames that XDP redirects to it: as the kernel reports it, else
/// from the list of drivers (a veth whose peer does not poll then says yes, and drops them).
bool takes_redirected(const Link& link);

/// The longest frame, in bytes from its MACs on, that XDP can redirect to the device now; 0: none
/// (xdp_ok_fwd_dev() of the kernel).
std::uint32_t longest_redirected(const Link& link);

/// Whether XDP loses, without a trace, frames of `input` that it redirects to `output`: they may be
/// longer than one buffer holds, and a kernel before 6.3 (which does not tell the features,
/// either), or the driver, transmits none that lie in several.
bool loses_long_frames(const Link& input, const Link& output);

/// The largest MTU whose frames lie in one buffer on usual drivers.
inline constexpr std::uint32_t kOneBufferMtu = 3400;

/// Whether `output` refuses frames that XDP redirects from a zero-copy queue of `input`: the kernel
/// copies those to memory without headroom (xdp_convert_zc_to_xdp_frame), and virtio_net, which
/// puts its own header there, takes none (EOVERFLOW; seen on 7.3).
bool refuses_zero_copy_frames(const Link& input, const Link& output);

/// What `hook = "auto"` means on this device (DESIGN 4): XDP where frames are complete there and
/// native XDP exists, that is hardware and virtio; TC on every virtual device and all others.
Hook natural_hook(const Link& link);

}  // namespace vtap::host
