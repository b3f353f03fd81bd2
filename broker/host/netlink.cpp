// SPDX-License-Identifier: Apache-2.0
#include "host/netlink.hpp"

#include <linux/genetlink.h>
#include <net/if.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <mutex>
#include <optional>
#include <system_error>

namespace vtap::host {
namespace {

constexpr int dump_attempts = 10;
/// The kernel's dump buffers are at most 32 KiB.
constexpr std::size_t receive_buffer = 65536;

/// Attributes of an acknowledgement: behind the echoed header, or behind the whole echoed request
/// where the kernel did not cap it.
std::string extended_ack(const Message& message) {
  const nlmsghdr header = message.header();
  if ((header.nlmsg_flags & NLM_F_ACK_TLVS) == 0 || (header.nlmsg_flags & NLM_F_CAPPED) == 0) {
    return {};
  }
  return message.attributes<nlmsgerr>().text(NLMSGERR_ATTR_MSG);
}

Outcome from_errno(int error) {
  return {error, std::error_code(error, std::generic_category()).message()};
}

Outcome acknowledged(const Message& message) {
  const int error = -message.body<nlmsgerr>().error;
  if (error == 0) return {};
  Outcome outcome = from_errno(error);
  if (std::string words = extended_ack(message); !words.empty()) outcome.reason = std::move(words);
  return outcome;
}

/// NLMSG_DONE carries the error of a dump that broke off.
Outcome done(const Message& message) {
  const int error = -message.body<int>();
  return error > 0 ? from_errno(error) : Outcome{};
}

}  // namespace

std::optional<std::span<const char>> Attributes::find(std::uint16_t type) const noexcept {
  std::optional<std::span<const char>> found;
  std::span<const char> rest = bytes_;
  while (rest.size() >= NLA_HDRLEN) {
    nlattr attribute{};
    std::memcpy(&attribute, rest.data(), sizeof attribute);
    if (attribute.nla_len < NLA_HDRLEN || attribute.nla_len > rest.size()) break;
    if ((attribute.nla_type & NLA_TYPE_MASK) == type) {
      found = rest.subspan(NLA_HDRLEN, attribute.nla_len - NLA_HDRLEN);
    }
    rest = rest.subspan(std::min<std::size_t>(NLA_ALIGN(attribute.nla_len), rest.size()));
  }
  return found;
}

std::string Attributes::text(std::uint16_t type) const {
  const auto bytes = find(type);
  if (!bytes) return {};
  return {bytes->data(), ::strnlen(bytes->data(), bytes->size())};
}

nlmsghdr Message::header() const noexcept {
  nlmsghdr header{};
  std::memcpy(&header, bytes_.data(), std::min(sizeof header, bytes_.size()));
  return header;
}

std::vector<Message> split_messages(std::span<const char> datagram) {
  std::vector<Message> messages;
  while (datagram.size() >= NLMSG_HDRLEN) {
    nlmsghdr header{};
    std::memcpy(&header, datagram.data(), sizeof header);
    if (header.nlmsg_len < NLMSG_HDRLEN || header.nlmsg_len > datagram.size()) break;
    messages.emplace_back(datagram.first(header.nlmsg_len));
    datagram =
        datagram.subspan(std::min<std::size_t>(NLMSG_ALIGN(header.nlmsg_len), datagram.size()));
  }
  return messages;
}

void Request::append(const void* data, std::size_t size) {
  const std::size_t offset = bytes_.size();
  bytes_.resize(offset + NLMSG_ALIGN(size));
  if (size != 0) std::memcpy(bytes_.data() + offset, data, size);
}

void Request::attribute(std::uint16_t type, const void* data, std::size_t size) {
  nlattr header{};
  header.nla_len = static_cast<std::uint16_t>(NLA_HDRLEN + size);
  header.nla_type = type;
  append(&header, sizeof header);
  append(data, size);
}

void Request::attribute(std::uint16_t type, std::string_view text) {
  const std::string terminated(text);
  attribute(type, terminated.c_str(), terminated.size() + 1);
}

std::size_t Request::nest(std::uint16_t type) {
  const std::size_t offset = bytes_.size();
  attribute(static_cast<std::uint16_t>(type | NLA_F_NESTED), nullptr, 0);
  return offset;
}

void Request::end(std::size_t nest) noexcept {
  const auto length = static_cast<std::uint16_t>(bytes_.size() - nest);
  std::memcpy(bytes_.data() + nest, &length, sizeof length);  // nla_len comes first
}

std::span<const char> Request::seal(std::uint32_t sequence) noexcept {
  nlmsghdr header{};
  header.nlmsg_len = static_cast<std::uint32_t>(bytes_.size());
  header.nlmsg_type = type_;
  header.nlmsg_flags =
      static_cast<std::uint16_t>(flags_ | NLM_F_REQUEST | (is_dump() ? 0 : NLM_F_ACK));
  header.nlmsg_seq = sequence;
  std::memcpy(bytes_.data(), &header, sizeof header);
  return bytes_;
}

Error failure(const std::string& what, const Outcome& outcome) {
  if (outcome.error == EPERM || outcome.error == EACCES) {
    return {what + ": " + outcome.reason +
                "; run as root or with CAP_NET_ADMIN, CAP_BPF and CAP_SYS_ADMIN",
            ErrorKind::unsupported};
  }
  const bool missing = outcome.error == EOPNOTSUPP || outcome.error == EPROTONOSUPPORT ||
                       outcome.error == EAFNOSUPPORT;
  return {what + ": " + outcome.reason, missing ? ErrorKind::unsupported : ErrorKind::runtime};
}

Error failure(const std::string& what, int error) { return failure(what, from_errno(error)); }

Result<Netlink> Netlink::open(int protocol, std::uint32_t groups) {
  UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
  if (!fd) return failure("cannot open a netlink socket", errno);
  // Both only make errors more readable.
  const int on = 1;
  ::setsockopt(fd.get(), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on);
  ::setsockopt(fd.get(), SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on);
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = groups;
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return failure("cannot bind a netlink socket", errno);
  }
  return Netlink(std::move(fd));
}

Outcome Netlink::execute(Request request) {
  std::vector<Message> ignored;
  return transact(request, ignored);
}

Outcome Netlink::query(Request request, std::vector<Message>& replies) {
  Outcome outcome;
  for (int attempt = 0; attempt < dump_attempts; ++attempt) {
    replies.clear();
    outcome = transact(request, replies);
    if (outcome.error != EINTR) break;
  }
  return outcome;
}

Outcome Netlink::transact(Request& request, std::vector<Message>& replies) {
  const std::uint32_t sequence = ++sequence_;
  const std::span<const char> bytes = request.seal(sequence);
  sockaddr_nl kernel{};
  kernel.nl_family = AF_NETLINK;
  if (::sendto(fd_.get(), bytes.data(), bytes.size(), 0, reinterpret_cast<const sockaddr*>(&kernel),
               sizeof kernel) < 0) {
    return from_errno(errno);
  }
  std::vector<char> buffer(receive_buffer);
  bool changed = false;  // the kernel's tables changed during the dump
  while (true) {
    const ssize_t size = ::recv(fd_.get(), buffer.data(), buffer.size(), MSG_TRUNC);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return from_errno(errno);
    if (static_cast<std::size_t>(size) > buffer.size()) return from_errno(EMSGSIZE);
    for (Message& message :
         split_messages(std::span(buffer).first(static_cast<std::size_t>(size)))) {
      const nlmsghdr header = message.header();
      if (header.nlmsg_seq != sequence) continue;  // rest of a broken-off dump
      changed = changed || (header.nlmsg_flags & NLM_F_DUMP_INTR) != 0;
      if (header.nlmsg_type == NLMSG_ERROR) return acknowledged(message);
      if (header.nlmsg_type == NLMSG_DONE) return changed ? from_errno(EINTR) : done(message);
      replies.push_back(std::move(message));
    }
  }
}

namespace {

/// Disengaged where the kernel did not tell.
std::optional<NetdevFamily> ask_for_netdev(Netlink& socket) {
  genlmsghdr command{};
  command.cmd = CTRL_CMD_GETFAMILY;
  command.version = 1;
  Request request(GENL_ID_CTRL, 0, command);
  request.attribute(CTRL_ATTR_FAMILY_NAME, "netdev");
  std::vector<Message> replies;
  const Outcome outcome = socket.query(std::move(request), replies);
  if (outcome.error == ENOENT) return NetdevFamily{};
  if (!outcome.ok() || replies.empty()) return std::nullopt;
  const Attributes family = replies.front().attributes<genlmsghdr>();
  NetdevFamily found{.id = family.value<std::uint16_t>(CTRL_ATTR_FAMILY_ID), .group = 0};
  const Attributes groups = family.nested(CTRL_ATTR_MCAST_GROUPS);
  for (std::uint16_t i = 1; groups.has(i); ++i) {
    const Attributes group = groups.nested(i);
    if (group.text(CTRL_ATTR_MCAST_GRP_NAME) == "mgmt") {
      found.group = group.value<std::uint32_t>(CTRL_ATTR_MCAST_GRP_ID);
    }
  }
  return found;
}

}  // namespace

NetdevFamily netdev_family(Netlink& socket) {
  static std::mutex mutex;
  static std::optional<NetdevFamily> known;
  const std::scoped_lock lock(mutex);
  if (!known) known = ask_for_netdev(socket);
  return known.value_or(NetdevFamily{});
}

std::string device_name(int ifindex) {
  std::array<char, IF_NAMESIZE> name{};
  if (::if_indextoname(static_cast<unsigned>(ifindex), name.data()) != nullptr) return name.data();
  return "network device number " + std::to_string(ifindex);
}

Result<std::vector<Message>> route_query(const std::string& what, Request request) {
  Result<Netlink> socket = Netlink::open();
  if (!socket) return socket.error();
  std::vector<Message> replies;
  const Outcome outcome = socket->query(std::move(request), replies);
  if (!outcome.ok()) return failure(what, outcome);
  return replies;
}

}  // namespace vtap::host
