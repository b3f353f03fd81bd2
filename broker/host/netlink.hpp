// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vtap/fd.hpp"
#include "vtap/result.hpp"

/// As much netlink as this folder needs. Internal to it.
namespace vtap::host {

/// The attributes behind a message's fixed header, or inside a nested attribute. Views memory of
/// the message.
class Attributes {
 public:
  Attributes() = default;
  explicit Attributes(std::span<const char> bytes) noexcept : bytes_(bytes) {}

  /// Payload of the (last) attribute of that type.
  [[nodiscard]] std::optional<std::span<const char>> find(std::uint16_t type) const noexcept;
  [[nodiscard]] bool has(std::uint16_t type) const noexcept { return find(type).has_value(); }
  [[nodiscard]] std::string text(std::uint16_t type) const;
  [[nodiscard]] Attributes nested(std::uint16_t type) const noexcept {
    return Attributes(find(type).value_or(std::span<const char>{}));
  }
  /// The attribute as a plain value; missing bytes are zero.
  template <typename T>
  [[nodiscard]] T value(std::uint16_t type, T absent = T{}) const noexcept {
    const auto bytes = find(type);
    if (!bytes) return absent;
    T result{};
    std::memcpy(&result, bytes->data(), std::min(sizeof result, bytes->size()));
    return result;
  }

 private:
  std::span<const char> bytes_;
};

/// One received message.
class Message {
 public:
  explicit Message(std::span<const char> bytes) : bytes_(bytes.begin(), bytes.end()) {}

  [[nodiscard]] nlmsghdr header() const noexcept;
  /// The fixed header behind nlmsghdr (ifinfomsg, tcmsg, ...); missing bytes are zero.
  template <typename T>
  [[nodiscard]] T body() const noexcept {
    T result{};
    if (bytes_.size() > NLMSG_HDRLEN) {
      std::memcpy(&result, bytes_.data() + NLMSG_HDRLEN,
                  std::min(sizeof result, bytes_.size() - NLMSG_HDRLEN));
    }
    return result;
  }
  /// Attributes behind a fixed header of type T.
  template <typename T>
  [[nodiscard]] Attributes attributes() const noexcept {
    return attributes_at(NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(T)));
  }

 private:
  [[nodiscard]] Attributes attributes_at(std::size_t offset) const noexcept {
    if (bytes_.size() <= offset) return {};
    return Attributes(std::span(bytes_).subspan(offset));
  }

  std::vector<char> bytes_;
};

/// Splits what one recv() returned.
std::vector<Message> split_messages(std::span<const char> datagram);

/// A message to send. Attributes are appended in order; nest() is closed by end().
class Request {
 public:
  template <typename T>
  Request(std::uint16_t type, std::uint16_t flags, const T& body) : bytes_(NLMSG_HDRLEN) {
    type_ = type;
    flags_ = flags;
    append(&body, sizeof body);
  }

  void attribute(std::uint16_t type, const void* data, std::size_t size);
  void attribute(std::uint16_t type, std::string_view text);  ///< with its terminating zero
  template <typename T>
  void value(std::uint16_t type, T number) {
    attribute(type, &number, sizeof number);
  }
  [[nodiscard]] std::size_t nest(std::uint16_t type);
  void end(std::size_t nest) noexcept;

  /// The finished message.
  [[nodiscard]] std::span<const char> seal(std::uint32_t sequence) noexcept;
  [[nodiscard]] bool is_dump() const noexcept { return (flags_ & NLM_F_DUMP) == NLM_F_DUMP; }

 private:
  void append(const void* data, std::size_t size);

  std::vector<char> bytes_;
  std::uint16_t type_ = 0;
  std::uint16_t flags_ = 0;
};

/// How a request ended, for callers that decide by the errno.
struct Outcome {
  int error = 0;       ///< errno value; 0: success
  std::string reason;  ///< the kernel's own words, or those for the errno

  [[nodiscard]] bool ok() const noexcept { return error == 0; }
};

/// The Error for a failed Outcome; a lack of privilege or support is `unsupported`.
Error failure(const std::string& what, const Outcome& outcome);
/// The same for a system call that set errno.
Error failure(const std::string& what, int error);

/// A netlink socket for requests and their replies, one at a time.
class Netlink {
 public:
  /// `groups`: bit mask of multicast groups (RTMGRP_*), for subscriptions.
  static Result<Netlink> open(int protocol = NETLINK_ROUTE, std::uint32_t groups = 0);

  /// Sends, and waits for the acknowledgement.
  Outcome execute(Request request);
  /// Sends, and collects the replies. A dump that changed under way is repeated.
  Outcome query(Request request, std::vector<Message>& replies);

  [[nodiscard]] UniqueFd take_fd() && noexcept { return std::move(fd_); }

 private:
  explicit Netlink(UniqueFd fd) noexcept : fd_(std::move(fd)) {}
  Outcome transact(Request& request, std::vector<Message>& replies);

  UniqueFd fd_;
  std::uint32_t sequence_ = 0;
};

/// The `netdev` generic netlink family, which tells of XDP features (kernel 6.3).
struct NetdevFamily {
  std::uint16_t id = 0;     ///< 0: this kernel has none
  std::uint32_t group = 0;  ///< of news about devices; 0: none
};
/// `socket`: of NETLINK_GENERIC. The kernel is asked once: one without the family runs modprobe
/// each time it is asked for it.
NetdevFamily netdev_family(Netlink& socket);

/// For messages: the name of a device, or its number when it has gone.
std::string device_name(int ifindex);

/// A query with its own rtnetlink socket.
Result<std::vector<Message>> route_query(const std::string& what, Request request);

}  // namespace vtap::host
