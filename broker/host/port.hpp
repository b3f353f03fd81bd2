// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "host/attach.hpp"
#include "host/link.hpp"
#include "host/state.hpp"
#include "host/tcx.hpp"
#include "vtap/result.hpp"

namespace vtap::host {

enum class Role { tap_inline, tap_host, tap_span, monitor };

struct PortSpec {
  std::string name;
  Role role = Role::tap_host;
  Hook hook = Hook::tc;  ///< where the program of this port sits
  /// Copies come here by bpf_clone_redirect: the kernel must cut them, complete their checksums and
  /// put their tags in place before the device gets them.
  bool skb_output = false;
  bool by_stack = false;           ///< inline at XDP: what the program passes goes through, at TC
  bool tcx = has_tcx();            ///< programs at TC by tcx instead of as filters
  std::string owner = "a broker";  ///< who claims it, for the message that another one gets
};

/// What a role needs of its port.
struct Demand {
  std::vector<std::string> features_off;
  bool promisc = false;
  bool no_ipv6 = false;
};
Demand demand_of(const PortSpec& spec);

/// A port in use: claimed, and set up as its role demands (DESIGN 4, "Attachment"):
/// - taps at XDP: VLAN RX offload, LRO and hardware GRO off;
/// - inline and span taps at TC, or inline by the stack: GRO, LRO and hardware GRO off (a host's
/// own port keeps them, its
///   super-packets count as missed);
/// - inline at TC, or by the stack: VLAN TX offload off; skb outputs: every TX offload off;
/// - inline and span: promiscuous; inline and monitor: no IPv6 of its own.
/// Originals are journalled before they are changed. The destructor gives up only the claim: the
/// stubs and settings stay, so a wire stays a wire.
class Port {
 public:
  /// Errors, before anything is touched: no such device, held by another broker, not usable in
  /// this role (a master or uppers as inline or monitor port, a monitor on the default route). On a
  /// later error the port is left as it was found.
  static Result<Port> open(const StateDir& state, const PortSpec& spec);

  /// The device as it was found when the port was opened.
  [[nodiscard]] const Link& link() const noexcept { return link_; }
  /// For the log: what could not be set up as wished, and what follows from it.
  [[nodiscard]] const std::vector<std::string>& warnings() const noexcept { return warnings_; }

  /// Sets the port up for a role that asks for more than it was opened with.
  Result<void> set_up(const PortSpec& spec);

  Result<XdpMode> attach_xdp(int prog_fd, bool allow_generic = false);
  /// By tcx as the spec says; else as a filter, and creates (and journals) the clsact qdisc where
  /// there is none.
  Result<TcAttachment> attach_tc(Direction direction, int prog_fd);
  /// For a hook that the config no longer uses: after the new one is attached.
  Result<bool> detach_xdp();
  Result<bool> detach_tc(Direction direction);

  /// Takes our programs away and sets everything back. Goes on after a failure; the first one is
  /// returned, and what could not be set back stays in the journal. Returns what was undone.
  Result<std::vector<std::string>> restore();

 private:
  Port(PortClaim claim, Journal journal, Link link, bool tcx)
      : claim_(std::move(claim)), journal_(std::move(journal)), link_(std::move(link)), tcx_(tcx) {}

  PortClaim claim_;
  Journal journal_;
  Link link_;
  bool tcx_;
  std::vector<std::string> warnings_;
};

/// Sets a port up as demanded, where somebody has turned it away since; originals are journalled
/// before. Returns warnings, as Port has them. `held_here`: this process holds the port. Error: the
/// port is held by another process, whose journal lacks an original.
Result<std::vector<std::string>> set_up_again(const StateDir& state, const std::string& name,
                                              const Demand& demand, bool held_here);

/// `--detach` for one port: everything of ours undone, also what a killed broker left. Returns what
/// was undone; nothing there is success. Error: a live broker holds the port.
Result<std::vector<std::string>> detach_port(const StateDir& state, const std::string& name);

}  // namespace vtap::host
