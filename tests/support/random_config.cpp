// SPDX-License-Identifier: Apache-2.0
#include "support/random_config.hpp"

#include <vtap/abi.h>

#include <algorithm>

#include "support/frames.hpp"

namespace vtap::test {
namespace {

using config::Match;
using config::Prefix;
using config::Range;

/// 1 to 3 entries.
template <typename Make>
auto some(Random& random, Make&& make) {
  std::vector<decltype(make(random))> list;
  const std::uint32_t count = random.percent(60) ? 1 : random.between(2, 3);
  for (std::uint32_t i = 0; i < count; ++i) list.push_back(make(random));
  return list;
}

Prefix prefix(Random& random) {
  Prefix result;
  result.v6 = random.percent(45);
  if (result.v6) {
    result.bytes = pool::ipv6(random);
  } else {
    const auto address = pool::ipv4(random);
    std::copy(address.begin(), address.end(), result.bytes.begin());
  }
  const std::uint32_t bits = result.v6 ? 128 : 32;
  result.length =
      static_cast<std::uint8_t>(random.percent(45) ? bits : bits - random.below(bits / 4) * 4);
  if (random.percent(10)) result.length = static_cast<std::uint8_t>(random.below(bits + 1));
  for (std::uint32_t bit = result.length; bit < 128; ++bit)
    result.bytes[bit / 8] &= static_cast<std::uint8_t>(~(0x80U >> (bit % 8)));
  return result;
}

/// A value or, one time in three, a range that begins or ends there.
template <typename Value>
Range range(Random& random, Value value, std::uint32_t max) {
  const std::uint32_t first = value(random);
  if (random.percent(67)) return {first, first};
  if (random.percent(50)) return {first, random.between(first, max)};
  return {random.below(first + 1), first};
}

Range port(Random& random) { return range(random, pool::port, 65535); }
Range exact_proto(Random& random) {
  const std::uint32_t value = pool::proto(random);
  return {value, value};
}
Range exact_ethertype(Random& random) {
  const std::uint32_t value = pool::ethertype(random);
  return {value, value};
}
Range vlan(Random& random) {
  if (random.percent(30)) return {VTAP_NO_VLAN, VTAP_NO_VLAN};
  return range(random, pool::vlan, 4095);
}
Range dscp(Random& random) { return range(random, pool::dscp, 63); }
Range length(Random& random) {
  return range(
      random, [](Random& r) { return r.between(14, 400); }, VTAP_MAX_LENGTH);
}
config::TcpFlags flags(Random& random) {
  const std::uint8_t mask =
      random.percent(70) ? static_cast<std::uint8_t>(random.below(32)) : random.byte();
  return {mask, static_cast<std::uint8_t>(mask & pool::tcp_flags(random))};
}

void add_key(Random& random, Match& match) {
  switch (random.below(20)) {
    case 0:
      match.src = some(random, prefix);
      break;
    case 1:
      match.dst = some(random, prefix);
      break;
    case 2:
    case 3:
      match.host = some(random, prefix);
      break;
    case 4:
      match.src_port = some(random, port);
      break;
    case 5:
      match.dst_port = some(random, port);
      break;
    case 6:
    case 7:
      match.port = some(random, port);
      break;
    case 8:
    case 9:
      match.proto = some(random, exact_proto);
      break;
    case 10:
      match.src_mac = some(random, pool::mac);
      break;
    case 11:
      match.dst_mac = some(random, pool::mac);
      break;
    case 12:
      match.mac = some(random, pool::mac);
      break;
    case 13:
      match.vlan = some(random, vlan);
      break;
    case 14:
      match.inner_vlan = some(random, vlan);
      break;
    case 15:
      match.ethertype = some(random, exact_ethertype);
      break;
    case 16:
      match.tcp_flags = some(random, flags);
      break;
    case 17:
      match.dscp = some(random, dscp);
      break;
    case 18:
      match.fragment = random.percent(50);
      break;
    default:
      match.length = some(random, length);
      break;
  }
}

Match table(Random& random) {
  Match match;
  for (std::uint32_t keys = random.between(1, 3); keys > 0; --keys) add_key(random, match);
  return match;
}

config::Policy policy(Random& random, std::uint32_t number, std::uint32_t taps) {
  config::Policy result;
  result.name = "policy" + std::to_string(number);
  result.monitors = {0};
  for (std::uint32_t tap = 0; tap < taps; ++tap)
    if (random.percent(70)) result.taps.push_back(tap);
  if (result.taps.empty()) result.taps.push_back(random.below(taps));

  std::uint32_t matches = random.percent(8) ? 0 : random.between(1, 4);
  std::uint32_t excepts = random.percent(60) ? 0 : random.between(1, 3);
  if (random.percent(4)) matches = random.between(60, 140);  // several segments
  if (random.percent(4)) excepts = random.between(30, 64);   // segments as wide as words
  for (std::uint32_t i = 0; i < matches; ++i) result.match.push_back(table(random));
  for (std::uint32_t i = 0; i < excepts; ++i) result.except.push_back(table(random));
  return result;
}

}  // namespace

config::Config random_config(std::uint64_t seed) {
  Random random(seed);
  config::Config result;
  result.file = "random" + std::to_string(seed) + ".toml";
  const std::uint32_t taps = random.between(1, 4);
  for (std::uint32_t tap = 0; tap < taps; ++tap) {
    auto& added = result.taps.emplace_back();
    added.name = "tap" + std::to_string(tap);
    added.mode = config::Mode::span;
    added.ports = {"port" + std::to_string(tap)};
  }
  auto& monitor = result.monitors.emplace_back();
  monitor.name = "monitor";
  monitor.port = "port9";

  // Of the largest, some 15 bits wide on average, about 200 fit VTAP_MAX_WORDS.
  const std::uint32_t policies = random.percent(5)    ? 0
                                 : random.percent(10) ? random.between(50, 150)
                                                      : random.between(1, 12);
  for (std::uint32_t i = 0; i < policies; ++i) result.policies.push_back(policy(random, i, taps));
  return result;
}

void scatter_monitors(config::Config& config, std::uint32_t monitors, Random& random) {
  config.monitors.resize(monitors);
  for (auto& policy : config.policies) {
    policy.monitors.clear();
    for (std::uint32_t monitor = 0; monitor < monitors; ++monitor) {
      if (random.percent(40)) policy.monitors.push_back(monitor);
    }
    if (policy.monitors.empty()) policy.monitors = {random.below(monitors)};
    if (random.percent(50)) std::ranges::reverse(policy.monitors);
  }
}

}  // namespace vtap::test
