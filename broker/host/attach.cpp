// SPDX-License-Identifier: Apache-2.0
#include "host/attach.hpp"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <set>

#include "host/bpf_program.hpp"
#include "host/netlink.hpp"
#include "host/tcx.hpp"

namespace vtap::host {
namespace {

/// Others may attach and detach at the same time; after so many surprises we give up.
constexpr int attach_attempts = 5;
constexpr std::uint32_t qdisc_parent = TC_H_CLSACT;  // the same for "ingress"

// --- XDP ---

struct XdpState {
  std::string port;
  std::uint32_t native = 0;  ///< program ids; 0: none
  std::uint32_t generic = 0;
  std::uint32_t hardware = 0;
};

Result<XdpState> xdp_state(int ifindex) {
  ifinfomsg body{};
  body.ifi_index = ifindex;
  const Result<std::vector<Message>> replies = route_query(
      "cannot ask for the XDP program of " + device_name(ifindex), Request(RTM_GETLINK, 0, body));
  if (!replies) return replies.error();
  if (replies.value().empty())
    return Error{"the kernel told nothing about " + device_name(ifindex)};
  const Attributes attributes = replies.value().front().attributes<ifinfomsg>();
  const Attributes xdp = attributes.nested(IFLA_XDP);
  return XdpState{.port = attributes.text(IFLA_IFNAME),
                  .native = xdp.value<std::uint32_t>(IFLA_XDP_DRV_PROG_ID),
                  .generic = xdp.value<std::uint32_t>(IFLA_XDP_SKB_PROG_ID),
                  .hardware = xdp.value<std::uint32_t>(IFLA_XDP_HW_PROG_ID)};
}

/// `expected`: the program that must be there now; -1: none must be. `prog_fd` -1 detaches.
Outcome set_xdp(int ifindex, int prog_fd, std::uint32_t mode, int expected) {
  Result<Netlink> socket = Netlink::open();
  if (!socket) return {EIO, socket.error().message};
  ifinfomsg body{};
  body.ifi_index = ifindex;
  Request request(RTM_SETLINK, 0, body);
  const std::size_t nest = request.nest(IFLA_XDP);
  request.value(IFLA_XDP_FD, static_cast<std::int32_t>(prog_fd));
  if (expected >= 0) {
    request.value(IFLA_XDP_FLAGS, mode | XDP_FLAGS_REPLACE);
    request.value(IFLA_XDP_EXPECTED_FD, static_cast<std::int32_t>(expected));
  } else {
    request.value(IFLA_XDP_FLAGS, mode | XDP_FLAGS_UPDATE_IF_NOEXIST);
  }
  request.end(nest);
  return socket->execute(std::move(request));
}

Error foreign_xdp(const XdpState& state, const Program& program) {
  const std::string remove = program.name == "xdp_dispatcher"
                                 ? "`xdp-loader unload " + state.port + " --all`"
                                 : "`ip link set dev " + state.port + " xdp" +
                                       (state.generic == program.id    ? "generic"
                                        : state.hardware == program.id ? "offload"
                                                                       : "") +
                                       " off`";
  return Error{"somebody else's XDP program \"" + program.name + "\" (id " +
               std::to_string(program.id) + ") is attached to " + state.port +
               "; it is left alone. Stop what uses it, or remove it with " + remove};
}

Error no_native_xdp(const XdpState& state, const Outcome& outcome) {
  return {state.port + " cannot take an XDP program in native mode: " + outcome.reason +
              "; use hook = \"tc\"",
          ErrorKind::unsupported};
}

bool means_changed_meanwhile(const Outcome& outcome) {
  return outcome.error == EEXIST || outcome.error == EBUSY || outcome.error == ENOENT;
}

/// One attempt with what is there now. Disengaged value: it changed under way, look again.
struct XdpAttempt {
  std::optional<XdpMode> mode;
  Outcome outcome;
};

Result<XdpAttempt> attach_where_free(const XdpState& state, int ifindex, int prog_fd,
                                     bool allow_generic) {
  Outcome outcome = set_xdp(ifindex, prog_fd, XDP_FLAGS_DRV_MODE, -1);
  if (outcome.ok()) return XdpAttempt{XdpMode::native, {}};
  if (outcome.error == EOPNOTSUPP && allow_generic) {
    outcome = set_xdp(ifindex, prog_fd, XDP_FLAGS_SKB_MODE, -1);
    if (outcome.ok()) return XdpAttempt{XdpMode::generic, {}};
  }
  if (outcome.error == EOPNOTSUPP) return no_native_xdp(state, outcome);
  if (means_changed_meanwhile(outcome)) return XdpAttempt{std::nullopt, outcome};
  return failure("cannot attach an XDP program to " + state.port, outcome);
}

Result<XdpAttempt> replace_ours(const XdpState& state, int ifindex, int prog_fd, const Program& old,
                                bool allow_generic) {
  const bool generic = state.generic == old.id;
  if (generic && !allow_generic) {  // modes cannot be exchanged: generic first has to go
    const Outcome outcome = set_xdp(ifindex, -1, XDP_FLAGS_SKB_MODE, old.fd.get());
    return XdpAttempt{std::nullopt, outcome};
  }
  const std::uint32_t mode = generic ? XDP_FLAGS_SKB_MODE : XDP_FLAGS_DRV_MODE;
  const Outcome outcome = set_xdp(ifindex, prog_fd, mode, old.fd.get());
  if (outcome.ok()) return XdpAttempt{generic ? XdpMode::generic : XdpMode::native, {}};
  if (means_changed_meanwhile(outcome)) return XdpAttempt{std::nullopt, outcome};
  return failure("cannot replace the XDP program of " + state.port, outcome);
}

Result<XdpAttempt> try_attach_xdp(int ifindex, int prog_fd, bool allow_generic) {
  const Result<XdpState> state = xdp_state(ifindex);
  if (!state) return state.error();
  std::optional<Program> ours;
  for (const std::uint32_t id :
       {state.value().hardware, state.value().generic, state.value().native}) {
    if (id == 0) continue;
    Result<std::optional<Program>> program = program_of_id(id);
    if (!program) return program.error();
    if (!program.value()) return XdpAttempt{std::nullopt, {ENOENT, "the program there has gone"}};
    if (!has_our_name(program.value()->name) || id == state.value().hardware) {
      return foreign_xdp(state.value(), *program.value());
    }
    ours = std::move(program.value());
  }
  if (!ours) return attach_where_free(state.value(), ifindex, prog_fd, allow_generic);
  return replace_ours(state.value(), ifindex, prog_fd, *ours, allow_generic);
}

/// True: there was one of ours in this mode.
Result<bool> detach_xdp_mode(int ifindex, const std::string& port, std::uint32_t id,
                             std::uint32_t mode) {
  if (id == 0) return false;
  const Result<std::optional<Program>> program = program_of_id(id);
  if (!program) return program.error();
  if (!program.value() || !has_our_name(program.value()->name)) return false;
  const Outcome outcome = set_xdp(ifindex, -1, mode, program.value()->fd.get());
  if (!outcome.ok()) return failure("cannot remove the XDP program of " + port, outcome);
  return true;
}

// --- TC ---

std::uint32_t filter_parent(Direction direction) {
  return TC_H_MAKE(TC_H_CLSACT,
                   direction == Direction::ingress ? TC_H_MIN_INGRESS : TC_H_MIN_EGRESS);
}

const char* name_of(Direction direction) {
  return direction == Direction::ingress ? "ingress" : "egress";
}

tcmsg qdisc_message(int ifindex) {
  tcmsg body{};
  body.tcm_family = AF_UNSPEC;
  body.tcm_ifindex = ifindex;
  body.tcm_handle = TC_H_MAKE(TC_H_CLSACT, 0);
  body.tcm_parent = qdisc_parent;
  return body;
}

tcmsg filter_message(int ifindex, Direction direction, std::uint16_t priority) {
  tcmsg body{};
  body.tcm_family = AF_UNSPEC;
  body.tcm_ifindex = ifindex;
  body.tcm_parent = filter_parent(direction);
  body.tcm_handle = tc_handle;
  body.tcm_info = TC_H_MAKE(static_cast<std::uint32_t>(priority) << 16, htons(ETH_P_ALL));
  return body;
}

Result<void> name_program(TcFilter& filter, const Attributes& options) {
  const auto id = options.value<std::uint32_t>(TCA_BPF_ID);
  if (id == 0) return {};  // classic BPF
  const Result<std::optional<Program>> program = program_of_id(id);
  if (!program) return program.error();
  if (program.value()) filter.program = program.value()->name;
  filter.ours = filter.handle == tc_handle && has_our_name(filter.program);
  return {};
}

/// Disengaged: the message only stands for the head of a priority.
Result<std::optional<TcFilter>> filter_of(const Message& message) {
  const auto body = message.body<tcmsg>();
  const Attributes attributes = message.attributes<tcmsg>();
  if (message.header().nlmsg_type != RTM_NEWTFILTER) return std::optional<TcFilter>();
  TcFilter filter;
  filter.handle = body.tcm_handle;
  filter.priority = static_cast<std::uint16_t>(body.tcm_info >> 16);
  filter.protocol = ntohs(static_cast<std::uint16_t>(body.tcm_info & 0xffff));
  filter.kind = attributes.text(TCA_KIND);
  if (filter.kind == "bpf" && filter.handle != 0) {
    Result<void> named = name_program(filter, attributes.nested(TCA_OPTIONS));
    if (!named) return named.error();
  }
  return std::optional<TcFilter>(std::move(filter));
}

/// The first priority where a filter of ours can be: free, or with nothing but BPF filters for all
/// protocols, none of which has our handle.
std::uint16_t free_priority(const std::vector<TcFilter>& filters) {
  std::set<std::uint16_t> taken;
  for (const TcFilter& filter : filters) {
    const bool shareable =
        filter.kind == "bpf" && filter.protocol == ETH_P_ALL && filter.handle != tc_handle;
    if (!shareable) taken.insert(filter.priority);
  }
  std::uint16_t priority = 1;
  while (taken.contains(priority)) ++priority;
  return priority;
}

Outcome put_filter(int ifindex, Direction direction, std::uint16_t priority, const Program& program,
                   bool replace) {
  Result<Netlink> socket = Netlink::open();
  if (!socket) return {EIO, socket.error().message};
  const auto mode =
      static_cast<std::uint16_t>(NLM_F_CREATE | (replace ? NLM_F_REPLACE : NLM_F_EXCL));
  Request request(RTM_NEWTFILTER, mode, filter_message(ifindex, direction, priority));
  request.attribute(TCA_KIND, "bpf");
  const std::size_t options = request.nest(TCA_OPTIONS);
  request.value(TCA_BPF_FD, static_cast<std::uint32_t>(program.fd.get()));
  request.attribute(TCA_BPF_NAME, program.name);
  request.value(TCA_BPF_FLAGS, std::uint32_t{TCA_BPF_FLAG_ACT_DIRECT});
  request.end(options);
  return socket->execute(std::move(request));
}

Outcome delete_filter(int ifindex, Direction direction, const TcFilter& filter) {
  Result<Netlink> socket = Netlink::open();
  if (!socket) return {EIO, socket.error().message};
  Request request(RTM_DELTFILTER, 0, filter_message(ifindex, direction, filter.priority));
  request.attribute(TCA_KIND, "bpf");
  return socket->execute(std::move(request));
}

/// Removes filters of ours other than the one at `keep` (0: all of them). True: there was one.
Result<bool> delete_ours(int ifindex, Direction direction, const std::vector<TcFilter>& filters,
                         std::uint16_t keep) {
  bool any = false;
  for (const TcFilter& filter : filters) {
    if (!filter.ours || filter.priority == keep) continue;
    const Outcome outcome = delete_filter(ifindex, direction, filter);
    if (!outcome.ok() && outcome.error != ENOENT) {
      return failure(std::string("cannot remove the ") + name_of(direction) + " filter of " +
                         device_name(ifindex),
                     outcome);
    }
    any = true;
  }
  return any;
}

/// Filters before ours, in the order in which they see packets.
std::vector<TcFilter> filters_ahead(const std::vector<TcFilter>& filters) {
  const auto ours =
      std::find_if(filters.begin(), filters.end(), [](const TcFilter& f) { return f.ours; });
  std::vector<TcFilter> ahead;
  std::copy_if(filters.begin(), ours, std::back_inserter(ahead),
               [](const TcFilter& filter) { return filter.handle != 0; });
  return ahead;
}

Error no_place_for_filter(int ifindex, Direction direction, TcQdisc qdisc) {
  if (qdisc == TcQdisc::ingress) {
    return Error{
        device_name(ifindex) +
        " has an ingress qdisc, which carries no egress filters, where a clsact is needed. "
        "Replace it (`tc qdisc del dev ... ingress`, `tc qdisc add dev ... clsact`) or tap "
        "ingress only"};
  }
  return Error{device_name(ifindex) + " has no clsact qdisc for an " + name_of(direction) +
               " filter"};
}

}  // namespace

Result<XdpMode> attach_xdp(int ifindex, int prog_fd, bool allow_generic) {
  Outcome last;
  for (int attempt = 0; attempt < attach_attempts; ++attempt) {
    const Result<XdpAttempt> result = try_attach_xdp(ifindex, prog_fd, allow_generic);
    if (!result) return result.error();
    if (result.value().mode) return *result.value().mode;
    last = result.value().outcome;
  }
  return failure("cannot attach an XDP program to " + device_name(ifindex), last);
}

Result<bool> detach_xdp(int ifindex) {
  const Result<XdpState> state = xdp_state(ifindex);
  if (!state) return state.error();
  const XdpState& s = state.value();
  Result<bool> native = detach_xdp_mode(ifindex, s.port, s.native, XDP_FLAGS_DRV_MODE);
  if (!native) return native;
  Result<bool> generic = detach_xdp_mode(ifindex, s.port, s.generic, XDP_FLAGS_SKB_MODE);
  if (!generic) return generic;
  return native.value() || generic.value();
}

bool carries_ours(const Link& link) {
  if (link.xdp_prog_id != 0) {
    const Result<std::optional<Program>> program = program_of_id(link.xdp_prog_id);
    if (program && program.value() && has_our_name(program.value()->name)) return true;
  }
  for (const Direction direction : {Direction::ingress, Direction::egress}) {
    const Result<std::vector<TcFilter>> filters = tc_filters(link.ifindex, direction);
    if (filters && std::ranges::any_of(filters.value(), &TcFilter::ours)) return true;
    if (carries_our_tcx(link.ifindex, direction)) return true;
  }
  return false;
}

std::optional<std::string> strangers_xdp(const Link& link) {
  const Result<XdpState> state = xdp_state(link.ifindex);
  if (!state) return std::nullopt;
  for (const std::uint32_t id :
       {state.value().hardware, state.value().generic, state.value().native}) {
    if (id == 0) continue;
    const Result<std::optional<Program>> program = program_of_id(id);
    if (!program || !program.value() || has_our_name(program.value()->name)) continue;
    return foreign_xdp(state.value(), *program.value()).message;
  }
  return std::nullopt;
}

Result<TcQdisc> tc_qdisc(int ifindex) {
  tcmsg body{};
  body.tcm_ifindex = ifindex;
  const Result<std::vector<Message>> messages = route_query(
      "cannot list the qdiscs of " + device_name(ifindex), Request(RTM_GETQDISC, NLM_F_DUMP, body));
  if (!messages) return messages.error();
  for (const Message& message : messages.value()) {
    const auto qdisc = message.body<tcmsg>();
    if (qdisc.tcm_ifindex != ifindex || qdisc.tcm_parent != qdisc_parent) continue;
    return message.attributes<tcmsg>().text(TCA_KIND) == "clsact" ? TcQdisc::clsact
                                                                  : TcQdisc::ingress;
  }
  return TcQdisc::none;
}

Result<void> create_clsact(int ifindex) {
  Result<Netlink> socket = Netlink::open();
  if (!socket) return socket.error();
  Request request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, qdisc_message(ifindex));
  request.attribute(TCA_KIND, "clsact");
  const Outcome outcome = socket->execute(std::move(request));
  if (outcome.ok() || outcome.error == EEXIST) return {};
  if (outcome.error == ENOENT) {
    return Error{"cannot add a clsact qdisc to " + device_name(ifindex) +
                     ": the kernel has none (CONFIG_NET_SCH_INGRESS)",
                 ErrorKind::unsupported};
  }
  return failure("cannot add a clsact qdisc to " + device_name(ifindex), outcome);
}

Result<bool> remove_clsact_if_unused(int ifindex) {
  const Result<TcQdisc> qdisc = tc_qdisc(ifindex);
  if (!qdisc) return qdisc.error();
  if (qdisc.value() != TcQdisc::clsact) return false;
  for (const Direction direction : {Direction::ingress, Direction::egress}) {
    const Result<std::vector<TcFilter>> filters = tc_filters(ifindex, direction);
    if (!filters) return filters.error();
    if (!filters.value().empty()) return false;
  }
  Result<Netlink> socket = Netlink::open();
  if (!socket) return socket.error();
  const Outcome outcome = socket->execute(Request(RTM_DELQDISC, 0, qdisc_message(ifindex)));
  if (!outcome.ok())
    return failure("cannot remove the clsact qdisc of " + device_name(ifindex), outcome);
  return true;
}

Result<std::vector<TcFilter>> tc_filters(int ifindex, Direction direction) {
  const Result<TcQdisc> qdisc = tc_qdisc(ifindex);
  if (!qdisc) return qdisc.error();
  std::vector<TcFilter> filters;
  // An ingress qdisc answers a question for its egress filters with those of ingress.
  if (qdisc.value() == TcQdisc::none ||
      (qdisc.value() == TcQdisc::ingress && direction == Direction::egress)) {
    return filters;
  }
  tcmsg body{};
  body.tcm_ifindex = ifindex;
  body.tcm_parent = filter_parent(direction);
  const Result<std::vector<Message>> messages = route_query(
      std::string("cannot list the ") + name_of(direction) + " filters of " + device_name(ifindex),
      Request(RTM_GETTFILTER, NLM_F_DUMP, body));
  if (!messages) return messages.error();
  for (const Message& message : messages.value()) {
    Result<std::optional<TcFilter>> filter = filter_of(message);
    if (!filter) return filter.error();
    if (filter.value()) filters.push_back(std::move(*filter.value()));
  }
  return filters;
}

Result<TcAttachment> attach_tc(int ifindex, Direction direction, int prog_fd) {
  const Result<TcQdisc> qdisc = tc_qdisc(ifindex);
  if (!qdisc) return qdisc.error();
  if (qdisc.value() == TcQdisc::none ||
      (qdisc.value() == TcQdisc::ingress && direction == Direction::egress)) {
    return no_place_for_filter(ifindex, direction, qdisc.value());
  }
  UniqueFd copy(::fcntl(prog_fd, F_DUPFD_CLOEXEC, 0));
  if (!copy) return failure("cannot use the BPF program", errno);
  const Result<Program> program = program_of_fd(std::move(copy));
  if (!program) return program.error();
  const Result<std::vector<TcFilter>> before = tc_filters(ifindex, direction);
  if (!before) return before.error();
  const auto ours = std::find_if(before.value().begin(), before.value().end(),
                                 [](const TcFilter& f) { return f.ours; });
  TcAttachment attachment;
  attachment.replaced = ours != before.value().end();
  attachment.priority = attachment.replaced ? ours->priority : free_priority(before.value());
  const Outcome outcome =
      put_filter(ifindex, direction, attachment.priority, program.value(), attachment.replaced);
  if (!outcome.ok()) {
    return failure(std::string("cannot attach an ") + name_of(direction) + " filter to " +
                       device_name(ifindex),
                   outcome);
  }
  if (Result<bool> rest = delete_ours(ifindex, direction, before.value(), attachment.priority);
      !rest) {
    return rest.error();
  }
  const Result<std::vector<TcFilter>> after = tc_filters(ifindex, direction);
  if (!after) return after.error();
  attachment.ahead = filters_ahead(after.value());
  return attachment;
}

Result<bool> detach_tc(int ifindex, Direction direction) {
  const Result<std::vector<TcFilter>> filters = tc_filters(ifindex, direction);
  if (!filters) return filters.error();
  return delete_ours(ifindex, direction, filters.value(), 0);
}

}  // namespace vtap::host
