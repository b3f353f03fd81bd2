// SPDX-License-Identifier: Apache-2.0
#include "host/offload.hpp"

#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <vector>

#include "host/ethtool.hpp"
#include "host/netlink.hpp"
#include "vtap/fd.hpp"

namespace vtap::host {
namespace {

/// An ethtool request: a header struct followed by an array whose length is only known now.
template <typename Header, typename Element>
class Block {
 public:
  explicit Block(std::size_t count) : words_((sizeof(Header) + count * sizeof(Element) + 7) / 8) {}

  [[nodiscard]] void* data() noexcept { return words_.data(); }
  [[nodiscard]] Header header() const noexcept { return read<Header>(0); }
  void set_header(const Header& header) noexcept { write(0, header); }
  [[nodiscard]] Element at(std::size_t i) const noexcept {
    return read<Element>(sizeof(Header) + i * sizeof(Element));
  }
  void set(std::size_t i, const Element& element) noexcept {
    write(sizeof(Header) + i * sizeof(Element), element);
  }

 private:
  template <typename T>
  [[nodiscard]] T read(std::size_t offset) const noexcept {
    T value{};
    std::memcpy(&value, reinterpret_cast<const char*>(words_.data()) + offset, sizeof value);
    return value;
  }
  template <typename T>
  void write(std::size_t offset, const T& value) noexcept {
    std::memcpy(reinterpret_cast<char*>(words_.data()) + offset, &value, sizeof value);
  }

  std::vector<std::uint64_t> words_;
};

/// The fixed parts of ethtool's requests. (The kernel's structs end in arrays of no size, which
/// clang refuses to initialise.)
struct SetInfo {
  std::uint32_t cmd = ETHTOOL_GSSET_INFO;
  std::uint32_t reserved = 0;
  std::uint64_t mask = 0;
};
static_assert(sizeof(SetInfo) == sizeof(ethtool_sset_info));
struct Strings {
  std::uint32_t cmd = ETHTOOL_GSTRINGS;
  std::uint32_t set = 0;
  std::uint32_t count = 0;
};
static_assert(sizeof(Strings) == sizeof(ethtool_gstrings));
struct FeatureBits {
  std::uint32_t cmd = 0;
  std::uint32_t blocks = 0;
};
static_assert(sizeof(FeatureBits) == sizeof(ethtool_gfeatures));
static_assert(sizeof(FeatureBits) == sizeof(ethtool_sfeatures));

using Name = std::array<char, ETH_GSTRING_LEN>;

Error ethtool_failure(const std::string& what, const std::string& port, int result) {
  return failure("cannot " + what + " of " + port, -result);
}

Result<std::uint32_t> feature_count(const std::string& port) {
  Block<SetInfo, std::uint32_t> info(1);
  info.set_header({.mask = 1ULL << ETH_SS_FEATURES});
  const int result = ethtool_ioctl(port, info.data());
  if (result < 0) return ethtool_failure("count the offload features", port, result);
  return info.header().mask == 0 ? 0 : info.at(0);
}

/// Names in the order of their bits.
Result<std::vector<std::string>> feature_names(const std::string& port) {
  const Result<std::uint32_t> count = feature_count(port);
  if (!count) return count.error();
  Block<Strings, Name> strings(count.value());
  strings.set_header({.set = ETH_SS_FEATURES, .count = count.value()});
  const int result = ethtool_ioctl(port, strings.data());
  if (result < 0) return ethtool_failure("name the offload features", port, result);
  std::vector<std::string> names;
  for (std::size_t i = 0; i < count.value(); ++i) {
    const Name name = strings.at(i);
    names.emplace_back(name.data(), ::strnlen(name.data(), name.size()));
  }
  return names;
}

constexpr std::uint32_t blocks_for(std::size_t features) {
  return static_cast<std::uint32_t>((features + 31) / 32);
}

constexpr bool bit(std::uint32_t word, std::size_t i) { return (word >> (i % 32) & 1U) != 0; }

std::string sysctl_path(const std::string& port) {
  return "/proc/sys/net/ipv6/conf/" + port + "/disable_ipv6";
}

}  // namespace

Result<std::map<std::string, Feature>> features(const std::string& port) {
  const Result<std::vector<std::string>> names = feature_names(port);
  if (!names) return names.error();
  const std::uint32_t blocks = blocks_for(names.value().size());
  Block<FeatureBits, ethtool_get_features_block> bits(blocks);
  bits.set_header({.cmd = ETHTOOL_GFEATURES, .blocks = blocks});
  const int result = ethtool_ioctl(port, bits.data());
  if (result < 0) return ethtool_failure("read the offload features", port, result);
  std::map<std::string, Feature> found;
  for (std::size_t i = 0; i < names.value().size(); ++i) {
    const ethtool_get_features_block block = bits.at(i / 32);
    if (names.value()[i].empty()) continue;
    found[names.value()[i]] = {
        .requested = bit(block.requested, i),
        .active = bit(block.active, i),
        .changeable = bit(block.available, i) && !bit(block.never_changed, i)};
  }
  return found;
}

Result<bool> set_feature(const std::string& port, const std::string& feature, bool on) {
  const Result<std::vector<std::string>> names = feature_names(port);
  if (!names) return names.error();
  const auto name = std::find(names.value().begin(), names.value().end(), feature);
  if (name == names.value().end()) return true;
  const auto index = static_cast<std::size_t>(name - names.value().begin());
  const std::uint32_t blocks = blocks_for(names.value().size());
  Block<FeatureBits, ethtool_set_features_block> bits(blocks);
  bits.set_header({.cmd = ETHTOOL_SFEATURES, .blocks = blocks});
  const std::uint32_t mask = 1U << (index % 32);
  bits.set(index / 32, {.valid = mask, .requested = on ? mask : 0});
  const int result = ethtool_ioctl(port, bits.data());
  if (result < 0) return ethtool_failure("change " + feature, port, result);
  if (result == 0) return true;
  // ETHTOOL_F_UNSUPPORTED or ETHTOOL_F_WISH: not, or not now. Fine if it is so anyway.
  const Result<std::map<std::string, Feature>> now = features(port);
  if (!now) return now.error();
  return now.value().at(feature).active == on;
}

Result<void> set_promisc(int ifindex, bool on) {
  Result<Netlink> socket = Netlink::open();
  if (!socket) return socket.error();
  ifinfomsg body{};
  body.ifi_index = ifindex;
  body.ifi_flags = on ? IFF_PROMISC : 0;
  body.ifi_change = IFF_PROMISC;  // other flags are not read, so not raced for
  const Outcome outcome = socket->execute(Request(RTM_NEWLINK, 0, body));
  if (!outcome.ok()) {
    return failure(
        "cannot turn promiscuous mode of " + device_name(ifindex) + (on ? " on" : " off"), outcome);
  }
  return {};
}

Result<std::optional<std::string>> disable_ipv6(const std::string& port) {
  const UniqueFd fd(::open(sysctl_path(port).c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd && errno == ENOENT) return std::optional<std::string>();
  if (!fd) return failure("cannot open " + sysctl_path(port), errno);
  std::array<char, 32> buffer{};
  const ssize_t size = ::read(fd.get(), buffer.data(), buffer.size());
  if (size < 0) return failure("cannot read " + sysctl_path(port), errno);
  std::string value(buffer.data(), static_cast<std::size_t>(size));
  value.erase(value.find_last_not_of('\n') + 1);
  return std::optional<std::string>(std::move(value));
}

Result<void> set_disable_ipv6(const std::string& port, const std::string& value) {
  const UniqueFd fd(::open(sysctl_path(port).c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd && errno == ENOENT) return {};
  if (!fd) return failure("cannot open " + sysctl_path(port), errno);
  if (::write(fd.get(), value.data(), value.size()) != static_cast<ssize_t>(value.size())) {
    return failure("cannot write " + sysctl_path(port), errno);
  }
  return {};
}

Result<bool> has_global_ipv6(int ifindex) {
  ifaddrmsg body{};
  body.ifa_family = AF_INET6;
  const Result<std::vector<Message>> messages =
      route_query("cannot list the IPv6 addresses", Request(RTM_GETADDR, NLM_F_DUMP, body));
  if (!messages) return messages.error();
  return std::any_of(messages.value().begin(), messages.value().end(), [&](const Message& message) {
    const auto address = message.body<ifaddrmsg>();
    return address.ifa_family == AF_INET6 && address.ifa_index == static_cast<unsigned>(ifindex) &&
           address.ifa_scope != RT_SCOPE_LINK;
  });
}

}  // namespace vtap::host
