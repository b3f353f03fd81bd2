// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "host/link.hpp"
#include "vtap/result.hpp"

/// Attaching the stubs. All of it by netlink: what is attached stays when the process dies, and is
/// recognised later by its program's name. `Port` is the way to use it; nothing here is journalled.
namespace vtap::host {

/// How BPF programs are opened by id from now on, instead of by the thread that asks, which needs
/// CAP_SYS_ADMIN for it: a function that returns a descriptor, or -1 and errno. For the whole
/// process; call before there are threads.
void open_programs_with(std::function<int(std::uint32_t id)> open);

/// Programs of ours, in whatever version, have a name that begins so.
inline constexpr std::string_view program_prefix = "vtap_";
/// Handle of our TC filters ("vtap").
inline constexpr std::uint32_t tc_handle = 0x76746170;

enum class Direction { ingress, egress };

/// Attaches an XDP program in native mode. A program of ours is replaced without a gap, by
/// compare-and-replace. Returns the mode in use.
/// Errors: somebody else's program (named); unsupported: the driver has no native XDP.
/// `allow_generic`: falls back to generic mode then (span taps), and keeps to it when ours is there
/// in generic mode already.
Result<XdpMode> attach_xdp(int ifindex, int prog_fd, bool allow_generic = false);

/// Removes our XDP program, never somebody else's. True: there was one.
Result<bool> detach_xdp(int ifindex);

/// Whether a program of ours is attached to the port, at either hook.
bool carries_ours(const Link& link);

/// What to say about somebody else's XDP program on the port, if one is there. It would see frames
/// before a tap at either hook. Without CAP_SYS_ADMIN none is seen.
std::optional<std::string> strangers_xdp(const Link& link);

/// The qdisc that carries the filters of both directions, or of ingress alone.
enum class TcQdisc { none, ingress, clsact };
Result<TcQdisc> tc_qdisc(int ifindex);
/// Success also when the device has a clsact by now.
Result<void> create_clsact(int ifindex);
/// Removes the clsact unless a filter is on it, in either direction. True: removed.
Result<bool> remove_clsact_if_unused(int ifindex);

/// A filter in the first chain or any other of a direction.
struct TcFilter {
  std::uint32_t handle = 0;
  std::uint16_t priority = 0;
  std::uint16_t protocol = 0;  ///< ETH_P_*, host order
  std::string kind;            ///< "bpf", "u32", ...; or "tcx", which has no priority
  std::string program;         ///< name of the BPF program, if it is one
  bool ours = false;
};
/// Filters of a direction in the order in which they see a packet. None without a qdisc.
Result<std::vector<TcFilter>> tc_filters(int ifindex, Direction direction);

struct TcAttachment {
  std::uint16_t priority = 0;
  bool replaced = false;  ///< one of ours was there and was replaced without a gap
  /// Filters of others that see packets before ours and may keep them from it.
  std::vector<TcFilter> ahead;
};

/// Attaches a direct-action filter for all protocols; the qdisc must be there. It gets the first
/// priority, or the next one that no filter of another kind has; filters of others are untouched.
Result<TcAttachment> attach_tc(int ifindex, Direction direction, int prog_fd);

/// Removes all our filters of a direction, never somebody else's. True: there was one.
Result<bool> detach_tc(int ifindex, Direction direction);

}  // namespace vtap::host
