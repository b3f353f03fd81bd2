// SPDX-License-Identifier: Apache-2.0
#include "host/port.hpp"

#include <algorithm>
#include <functional>
#include <optional>

#include "host/offload.hpp"

namespace vtap::host {
namespace {

bool is_tap(Role role) { return role != Role::monitor; }
bool is_output_only_or_inline(Role role) {
  return role == Role::tap_inline || role == Role::monitor;
}

Error unusable(const std::string& port, const std::string& why) {
  return {"port " + port + " " + why, ErrorKind::usage};
}

Result<void> check_role(const Link& link, Role role) {
  if (link.loopback || !link.ethernet) return unusable(link.name, "does not carry Ethernet frames");
  if (!is_output_only_or_inline(role)) return {};
  const std::string as = role == Role::monitor ? " as a monitor" : " in an inline tap";
  if (link.has_master()) {
    return unusable(link.name, "belongs to a bridge, bond or other master and cannot be used" + as +
                                   "; take it out (`ip link set dev " + link.name + " nomaster`)");
  }
  if (link.has_uppers) {
    return unusable(link.name,
                    "has a VLAN, macvlan or other device on top and cannot be used" + as);
  }
  if (role != Role::monitor) return {};
  const Result<std::vector<DefaultRoute>> routes = default_route_links();
  if (!routes) return routes.error();
  for (const DefaultRoute& route : routes.value()) {
    if (route.ifindex == link.ifindex) {
      return unusable(link.name, "carries the default route and cannot be used as a monitor");
    }
  }
  return {};
}

constexpr const char* differ = "some copies may differ from the wire";

/// Sets a port up as demanded: looks first, stores the originals, then changes.
class Setup {
 public:
  Setup(const Link& link, Journal& journal, std::vector<std::string>& warnings)
      : link_(link), journal_(journal), warnings_(warnings) {}

  Result<void> apply(const Demand& demand);
  /// The same, only if the journal has all originals already: it is another process's.
  Result<void> apply_again(const Demand& demand);

 private:
  Result<void> look(const Demand& demand);
  Result<void> change_all();
  Result<void> look_at_features(const Demand& demand);
  Result<void> look_at_ipv6(const Demand& demand);
  void change();

  const Link& link_;
  Journal& journal_;
  std::vector<std::string>& warnings_;
  Changes originals_;  ///< of exactly what must be changed now
};

Result<void> Setup::look_at_features(const Demand& demand) {
  if (demand.features_off.empty()) return {};
  const Result<std::map<std::string, Feature>> found = features(link_.name);
  if (!found) return found.error();
  for (const std::string& name : demand.features_off) {
    const auto entry = found.value().find(name);
    if (entry == found.value().end()) continue;
    const Feature& feature = entry->second;
    if (feature.active && !feature.changeable) {
      warnings_.push_back(link_.name + ": " + name + " is on and cannot be turned off; " + differ);
    } else if (feature.active || (feature.requested && feature.changeable)) {
      originals_.features[name] = feature.requested;
    }
  }
  return {};
}

Result<void> Setup::look_at_ipv6(const Demand& demand) {
  if (!demand.no_ipv6) return {};
  const Result<std::optional<std::string>> found = disable_ipv6(link_.name);
  if (!found) return found.error();
  if (!found.value() || *found.value() == "1") return {};
  const Result<bool> in_use = has_global_ipv6(link_.ifindex);
  if (!in_use) return in_use.error();
  if (in_use.value()) {
    warnings_.push_back(link_.name +
                        " carries an IPv6 address, so IPv6 stays on: the host will send neighbour "
                        "discovery and router solicitations of its own there");
    return {};
  }
  originals_.disable_ipv6 = *found.value();
  return {};
}

void Setup::change() {
  for (const auto& [name, original] : originals_.features) {
    const Result<bool> off = set_feature(link_.name, name, false);
    if (!off) {
      warnings_.push_back(off.error().message + "; " + differ);
    } else if (!off.value()) {
      warnings_.push_back(link_.name + ": " + name + " stays on; " + differ);
    }
  }
  if (!originals_.disable_ipv6) return;
  if (Result<void> off = set_disable_ipv6(link_.name, "1"); !off) {
    warnings_.push_back(off.error().message + "; the host may send IPv6 frames of its own there");
  }
}

Result<void> Setup::look(const Demand& demand) {
  if (Result<void> looked = look_at_features(demand); !looked) return looked;
  if (Result<void> looked = look_at_ipv6(demand); !looked) return looked;
  if (demand.promisc && !link_.promisc) originals_.promisc = false;
  return {};
}

Result<void> Setup::change_all() {
  change();
  return originals_.promisc ? set_promisc(link_.ifindex, true) : Result<void>();
}

Result<void> Setup::apply(const Demand& demand) {
  if (Result<void> looked = look(demand); !looked) return looked;
  if (Result<void> stored = journal_.remember(originals_); !stored) return stored;
  return change_all();
}

Result<void> Setup::apply_again(const Demand& demand) {
  if (Result<void> looked = look(demand); !looked) return looked;
  if (!journal_.covers(originals_)) {
    return Error{"port " + link_.name +
                 " is held by a broker that has not noted how it was found; let that one mend it "
                 "(vtapctl doctor --fix)"};
  }
  return change_all();
}

/// Sets back what the journal knows and `keep` does not demand; forgets what is set back.
class Undo {
 public:
  Undo(const std::string& port, int ifindex, Journal& journal)
      : port_(port), ifindex_(ifindex), journal_(journal), rest_(journal.changes()) {}

  void settings(const Demand& keep);
  void clsact();
  void note(const Result<bool>& removed, const std::string& what);
  Result<std::vector<std::string>> finish();

 private:
  bool done(const Result<void>& result, const std::string& what);
  [[nodiscard]] Result<void> ipv6_back(const std::string& value) const;

  std::string port_;
  int ifindex_;
  Journal& journal_;
  Changes rest_;
  std::vector<std::string> undone_;
  std::optional<Error> first_error_;
};

bool Undo::done(const Result<void>& result, const std::string& what) {
  if (result) {
    undone_.push_back(port_ + ": " + what);
  } else if (!first_error_) {
    first_error_ = result.error();
  }
  return result.ok();
}

void Undo::note(const Result<bool>& removed, const std::string& what) {
  if (!removed) {
    done(removed.error(), what);
  } else if (removed.value()) {
    done({}, what);
  }
}

void Undo::settings(const Demand& keep) {
  const auto kept = [&keep](const std::string& name) {
    return std::find(keep.features_off.begin(), keep.features_off.end(), name) !=
           keep.features_off.end();
  };
  for (const auto& [name, on] : journal_.changes().features) {
    if (kept(name)) continue;
    // Asking is all there is to bring back: it need not have been in effect.
    const Result<bool> asked = set_feature(port_, name, on);
    if (done(asked ? Result<void>() : asked.error(), name + (on ? " on again" : " off again"))) {
      rest_.features.erase(name);
    }
  }
  if (rest_.promisc && !keep.promisc &&
      done(set_promisc(ifindex_, *rest_.promisc), "promiscuous mode as it was")) {
    rest_.promisc.reset();
  }
  if (rest_.disable_ipv6 && !keep.no_ipv6 &&
      done(ipv6_back(*rest_.disable_ipv6), "IPv6 as it was")) {
    rest_.disable_ipv6.reset();
  }
}

/// Writes only what differs: where /proc/sys is read-only nothing was changed either.
Result<void> Undo::ipv6_back(const std::string& value) const {
  const Result<std::optional<std::string>> now = disable_ipv6(port_);
  if (!now) return now.error();
  if (now.value() == value) return {};
  return set_disable_ipv6(port_, value);
}

void Undo::clsact() {
  if (!rest_.clsact) return;
  const Result<bool> removed = remove_clsact_if_unused(ifindex_);
  note(removed, "clsact qdisc removed");
  if (removed) rest_.clsact = false;  // still there: others use it now, so it is theirs
}

Result<std::vector<std::string>> Undo::finish() {
  if (Result<void> stored = journal_.keep_only(std::move(rest_)); !stored && !first_error_) {
    first_error_ = stored.error();
  }
  if (first_error_) return *first_error_;
  return std::move(undone_);
}

/// Ours at TC, however it is attached. True: there was one.
Result<bool> detach_both(int ifindex, Direction direction) {
  const Result<bool> program = detach_tcx(ifindex, direction);
  const Result<bool> filter = host::detach_tc(ifindex, direction);
  if (!program || !filter) return program ? filter : program;
  return program.value() || filter.value();
}

/// Programs first: a driver may hold features back while one is attached.
Result<std::vector<std::string>> undo_all(const std::string& port, int ifindex, Journal& journal) {
  Undo undo(port, ifindex, journal);
  undo.note(host::detach_xdp(ifindex), "XDP program removed");
  undo.note(detach_both(ifindex, Direction::ingress), "ingress filter removed");
  undo.note(detach_both(ifindex, Direction::egress), "egress filter removed");
  undo.clsact();
  undo.settings({});
  return undo.finish();
}

Result<std::optional<Link>> if_present(Result<Link> found) {
  if (found) return std::optional<Link>(std::move(*found));
  if (found.error().kind == ErrorKind::usage) return std::optional<Link>();
  return found.error();
}

/// The device that the port's journal means; it may have been renamed since. Otherwise the one with
/// the name. Disengaged: there is no such device any more.
Result<std::optional<Link>> device_to_restore(const StateDir& state, const std::string& name) {
  const Result<std::optional<int>> stored = Journal::stored_ifindex(state, name);
  if (!stored) return stored.error();
  if (stored.value()) {
    Result<std::optional<Link>> same = if_present(find_link(*stored.value()));
    if (!same || same.value()) return same;
  }
  return if_present(find_link(name));
}

}  // namespace

Demand demand_of(const PortSpec& spec) {
  Demand demand;
  const auto off = [&demand](std::initializer_list<const char*> names) {
    demand.features_off.insert(demand.features_off.end(), names.begin(), names.end());
  };
  const bool through_here = spec.role == Role::tap_inline || spec.role == Role::tap_span;
  if (is_tap(spec.role) && spec.hook == Hook::xdp) {
    off({"rx-vlan-hw-parse", "rx-vlan-stag-hw-parse", "rx-lro", "rx-gro-hw"});
  }
  const bool as_skbs = spec.hook == Hook::tc || spec.by_stack;
  if (through_here && as_skbs) off({"rx-gro", "rx-lro", "rx-gro-hw"});
  if (spec.skb_output || (spec.role == Role::tap_inline && as_skbs)) {
    off({"tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"});
  }
  if (spec.skb_output) {
    off({"tx-checksum-ipv4",
         "tx-checksum-ip-generic",
         "tx-checksum-ipv6",
         "tx-checksum-fcoe-crc",
         "tx-checksum-sctp",
         "tx-tcp-segmentation",
         "tx-tcp-ecn-segmentation",
         "tx-tcp-mangleid-segmentation",
         "tx-tcp-accecn-segmentation",
         "tx-tcp6-segmentation",
         "tx-fcoe-segmentation",
         "tx-gre-segmentation",
         "tx-gre-csum-segmentation",
         "tx-ipxip4-segmentation",
         "tx-ipxip6-segmentation",
         "tx-udp_tnl-segmentation",
         "tx-udp_tnl-csum-segmentation",
         "tx-gso-partial",
         "tx-tunnel-remcsum-segmentation",
         "tx-sctp-segmentation",
         "tx-esp-segmentation",
         "tx-udp-segmentation",
         "tx-gso-list"});
  }
  demand.promisc = through_here;
  demand.no_ipv6 = is_output_only_or_inline(spec.role);
  return demand;
}

Result<Port> Port::open(const StateDir& state, const PortSpec& spec) {
  Result<PortClaim> claim = PortClaim::acquire(state, spec.name, spec.owner);
  if (!claim) return claim.error();
  Result<Link> link = find_link(spec.name);
  if (!link) return link.error();
  if (Result<void> usable = check_role(*link, spec.role); !usable) return usable.error();
  Result<Journal> journal = Journal::load(state, spec.name, link->ifindex);
  if (!journal) return journal.error();

  const bool fresh = journal->changes().empty();
  const Demand demand = demand_of(spec);
  Port port(std::move(*claim), std::move(*journal), std::move(*link), spec.tcx);
  // A killed broker may have left changes that this role does not need.
  Undo leftovers(port.link_.name, port.link_.ifindex, port.journal_);
  leftovers.settings(demand);
  if (const auto undone = leftovers.finish(); !undone)
    port.warnings_.push_back(undone.error().message);
  const Result<void> applied = Setup(port.link_, port.journal_, port.warnings_).apply(demand);
  if (applied) return port;
  if (fresh) {
    Undo undo(port.link_.name, port.link_.ifindex, port.journal_);
    undo.settings({});
    (void)undo.finish();  // the first failure is the one to tell
  }
  return applied.error();
}

Result<void> Port::set_up(const PortSpec& spec) {
  return Setup(link_, journal_, warnings_).apply(demand_of(spec));
}

Result<XdpMode> Port::attach_xdp(int prog_fd, bool allow_generic) {
  return host::attach_xdp(link_.ifindex, prog_fd, allow_generic);
}

Result<TcAttachment> Port::attach_tc(Direction direction, int prog_fd) {
  if (tcx_) {
    Result<TcAttachment> attachment = attach_tcx(link_.ifindex, direction, prog_fd);
    if (!attachment) return attachment;
    // A filter of ours may be left of a broker from before the kernel had this.
    const Result<bool> filter = host::detach_tc(link_.ifindex, direction);
    if (!filter) return filter.error();
    attachment->replaced |= filter.value();
    return attachment;
  }
  const Result<TcQdisc> qdisc = tc_qdisc(link_.ifindex);
  if (!qdisc) return qdisc.error();
  if (qdisc.value() == TcQdisc::none) {
    Changes made;
    made.clsact = true;
    if (Result<void> stored = journal_.remember(made); !stored) return stored.error();
    if (Result<void> created = create_clsact(link_.ifindex); !created) return created.error();
  }
  return host::attach_tc(link_.ifindex, direction, prog_fd);
}

Result<bool> Port::detach_xdp() { return host::detach_xdp(link_.ifindex); }

Result<bool> Port::detach_tc(Direction direction) { return detach_both(link_.ifindex, direction); }

Result<std::vector<std::string>> set_up_again(const StateDir& state, const std::string& name,
                                              const Demand& demand, bool held_here) {
  std::optional<PortClaim> mine;
  const bool held_elsewhere = !held_here && PortClaim::holder(state, name);
  if (!held_here && !held_elsewhere) {
    Result<PortClaim> claim = PortClaim::acquire(state, name, "a doctor");
    if (!claim) return claim.error();
    mine.emplace(std::move(*claim));
  }
  const Result<Link> link = find_link(name);
  if (!link) return link.error();
  Result<Journal> journal = Journal::load(state, name, link.value().ifindex);
  if (!journal) return journal.error();
  std::vector<std::string> warnings;
  Setup setup(link.value(), *journal, warnings);
  const Result<void> done = held_elsewhere ? setup.apply_again(demand) : setup.apply(demand);
  if (!done) return done.error();
  return warnings;
}

Result<std::vector<std::string>> Port::restore() {
  if (Result<void> read = journal_.refresh(); !read) return read.error();
  return undo_all(link_.name, link_.ifindex, journal_);
}

Result<std::vector<std::string>> detach_port(const StateDir& state, const std::string& name) {
  std::vector<std::string> undone;
  {
    const Result<PortClaim> claim = PortClaim::acquire(state, name, "a detach");
    if (!claim) return claim.error();
    const Result<std::optional<Link>> link = device_to_restore(state, name);
    if (!link) return link.error();
    Result<Journal> journal = Journal::load(state, name, link.value() ? link.value()->ifindex : 0);
    if (!journal) return journal.error();
    if (link.value()) {
      Result<std::vector<std::string>> result =
          undo_all(link.value()->name, link.value()->ifindex, *journal);
      if (!result) return result;
      undone = std::move(*result);
    }
    if (Result<void> erased = journal->erase(); !erased) return erased.error();
  }
  state.remove_if_empty();  // after the claim's own file has gone
  return undone;
}

}  // namespace vtap::host
