// SPDX-License-Identifier: Apache-2.0
// The cache of verdicts (docs/decisions/0020): frames that come again, in any order and at several
// taps, get the verdict that the classifier gives.
#include <bpf/bpf.h>
#include <vtap/parse.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "bpf/rig.hpp"
#include "filter/filter.hpp"
#include "plan/classifier.hpp"
#include "support/classified.hpp"

namespace vtap::test {
namespace {

using io::ProgramHook;

/// What frames differ in, two values each.
enum Field : std::uint8_t {
  kSourceMac,
  kDestinationMac,
  kTag,
  kInnerTag,
  kFamily,
  kSourceNet,
  kSourceHost,
  kDestinationNet,
  kDestinationHost,
  kTcp,
  kSourcePort,
  kDestinationPort,
  kFlags,
  kDscp,
  kFragment,
  kLength,
  kFields,
};
using Shape = std::array<bool, kFields>;

config::Mac mac_of(std::uint8_t end, bool other) {
  return {2, 0, 0, 0, end, static_cast<std::uint8_t>(other)};
}
std::array<std::uint8_t, 4> ipv4_of(std::uint8_t end, bool net, bool host) {
  return {10, static_cast<std::uint8_t>(2 * end + net), 0, static_cast<std::uint8_t>(host)};
}
/// Net and host are in different words of the key.
std::array<std::uint8_t, 16> ipv6_of(std::uint8_t end, bool net, bool host) {
  std::array<std::uint8_t, 16> address{0x20, 1, static_cast<std::uint8_t>(2 * end + net)};
  address[15] = host ? 1 : 0;
  return address;
}
config::Range just(std::uint32_t value) { return {value, value}; }

constexpr std::size_t kLongFrame = 300;

Bytes frame_of(const Shape& is) {
  FrameBuilder frame;
  frame.ethernet(mac_of(1, is[kDestinationMac]), mac_of(0, is[kSourceMac]));
  frame.tag(is[kTag] ? 11 : 10).tag(is[kInnerTag] ? 21 : 20);
  const std::uint8_t proto = is[kTcp] ? 6 : 17;
  const std::uint8_t dscp = is[kDscp] ? 46 : 0;
  if (is[kFamily]) {
    frame.type(0x86dd).ipv6({.src = ipv6_of(0, is[kSourceNet], is[kSourceHost]),
                             .dst = ipv6_of(1, is[kDestinationNet], is[kDestinationHost]),
                             .next = static_cast<std::uint8_t>(is[kFragment] ? 44 : proto),
                             .dscp = dscp});
    if (is[kFragment]) frame.fragment(proto, 0, true);
  } else {
    frame.type(0x0800).ipv4({.src = ipv4_of(0, is[kSourceNet], is[kSourceHost]),
                             .dst = ipv4_of(1, is[kDestinationNet], is[kDestinationHost]),
                             .proto = proto,
                             .dscp = dscp,
                             .more = is[kFragment]});
  }
  const std::uint16_t sport = is[kSourcePort] ? 1001 : 1000;
  const std::uint16_t dport = is[kDestinationPort] ? 54 : 53;
  if (is[kTcp])
    frame.tcp(sport, dport, is[kFlags] ? 0x02 : 0x10);
  else
    frame.udp(sport, dport);
  return frame.pad(is[kLength] ? kLongFrame : 120).build();
}

/// Makes a match ask for one value of a field.
void ask(config::Match& match, Field field, bool value) {
  const auto either_host = [&](auto& prefixes, std::uint8_t end) {
    for (const bool net : {false, true}) {
      const auto v4 = ipv4_of(end, net, value);
      const auto v6 = ipv6_of(end, net, value);
      prefixes.push_back({false, 32, {v4[0], v4[1], v4[2], v4[3]}});
      prefixes.push_back({true, 128, v6});
    }
  };
  const auto net = [&](auto& prefixes, std::uint8_t end) {
    const auto v4 = ipv4_of(end, value, false);
    prefixes.push_back({false, 16, {v4[0], v4[1]}});
    prefixes.push_back({true, 64, ipv6_of(end, value, false)});
  };
  switch (field) {
    case kSourceMac:
      match.src_mac = {mac_of(0, value)};
      break;
    case kDestinationMac:
      match.dst_mac = {mac_of(1, value)};
      break;
    case kTag:
      match.vlan = {just(value ? 11 : 10)};
      break;
    case kInnerTag:
      match.inner_vlan = {just(value ? 21 : 20)};
      break;
    case kFamily:
      match.ethertype = {just(value ? 0x86dd : 0x0800)};
      break;
    case kSourceNet:
      net(match.src, 0);
      break;
    case kSourceHost:
      either_host(match.src, 0);
      break;
    case kDestinationNet:
      net(match.dst, 1);
      break;
    case kDestinationHost:
      either_host(match.dst, 1);
      break;
    case kTcp:
      match.proto = {just(value ? 6 : 17)};
      break;
    case kSourcePort:
      match.src_port = {just(value ? 1001 : 1000)};
      break;
    case kDestinationPort:
      match.dst_port = {just(value ? 54 : 53)};
      break;
    case kFlags:
      match.tcp_flags = {{0x02, static_cast<std::uint8_t>(value ? 0x02 : 0)}};
      break;
    case kDscp:
      match.dscp = {just(value ? 46U : 0U)};
      break;
    case kFragment:
      match.fragment = value;
      break;
    case kLength:
      match.length = {value ? config::Range{kLongFrame, 2000} : config::Range{0, kLongFrame - 1}};
      break;
    case kFields:
      break;
  }
}

/// The policies of `rules` at the taps they name, and as many others, which take no frame, as it
/// takes for a paged plan.
config::Config paged(std::uint32_t taps,
                     const std::vector<std::pair<std::uint32_t, config::Match>>& rules) {
  config::Config config = no_policy();
  config.taps.resize(taps);
  const auto add = [&](std::uint32_t tap, config::Match match) {
    auto& policy = config.policies.emplace_back();
    policy.taps = {tap};
    policy.monitors = {0};
    policy.match = {std::move(match)};
  };
  for (const auto& [tap, match] : rules) add(tap, match);
  for (std::uint32_t i = 0; i < 200; ++i)
    add(i % taps, {.src_port = {just(40000 + i)}, .vlan = {just(4000)}});
  return config;
}

/// Policies of two taps that ask three keys each, so that each key decides about some frames.
config::Config random_rules(Random& random) {
  std::vector<std::pair<std::uint32_t, config::Match>> rules;
  for (std::uint32_t i = 0; i < 16; ++i) {
    config::Match match;
    std::uint32_t field = i;  // each is asked by somebody
    for (int keys = 0; keys < 3; ++keys, field += 1 + random.below(4))
      ask(match, static_cast<Field>(field % kFields), random.percent(50));
    rules.emplace_back(i % 2, match);
    rules.emplace_back(1 - i % 2, match);
    if (random.percent(50)) rules.pop_back();
  }
  return paged(2, rules);
}

Shape random_shape(Random& random) {
  Shape shape{};
  for (bool& field : shape) field = random.percent(50);
  return shape;
}

__sk_buff super_packet() {
  __sk_buff skb{};
  skb.gso_size = 50;
  skb.gso_segs = 3;
  return skb;
}

using Words = std::array<std::uint64_t, VTAP_KEY_WORDS>;

/// A plan, and a program for each of its taps; they share its maps.
class Taps {
 public:
  template <typename Change>
  Taps(ProgramHook hook, const config::Config& config, Change change)
      : plan_(config), classifier_(plan_.tables), found_(classifier_) {
    for (std::uint32_t tap = 0; tap < config.taps.size(); ++tap) {
      vtap_port_config port = constants(plan_.tables, tap, tee_);
      port.port = tap;
      change(port);
      programs_.emplace_back(hook, port, tee_, plan_, io::filters_of(config, plan_.tables, tap));
    }
  }

  [[nodiscard]] const plan::Tables& tables() const { return plan_.tables; }
  [[nodiscard]] std::uint32_t cpu() const { return tee_.cpu_number(); }

  /// What the program says.
  bool wanted(const Bytes& frame, std::uint32_t tap, bool super = false) {
    const auto before = tee_.counters(tap).matched;
    const Fate fate = super ? programs_[tap].run(frame, super_packet()) : programs_[tap].run(frame);
    EXPECT_EQ(fate, Fate::passed);
    return tee_.counters(tap).matched != before;
  }
  /// What it should say.
  bool expected(const Bytes& frame, std::uint32_t tap, bool super = false) {
    return found_.classify(key_of(frame, super), tap);
  }

  static vtap_key key_of(const Bytes& frame, bool super = false) {
    vtap_key key;
    const auto length = static_cast<__u32>(frame.size());
    vtap_parse(frame.data(), length, length, &key);
    if (!super) return key;
    key.length = VTAP_ANY_LENGTH;
    if (key.tcp_flags != VTAP_NO_TCP_FLAGS) key.tcp_flags = VTAP_ANY_TCP_FLAGS;
    return key;
  }
  /// As the cache sees it.
  [[nodiscard]] Words words_of(const Bytes& frame) const {
    const vtap_key key = key_of(frame);
    Words words;
    std::memcpy(words.data(), &key, sizeof(words));
    for (std::size_t i = 0; i < words.size(); ++i) words[i] &= plan_.tables.config.key_mask[i];
    return words;
  }

  /// The slots in use, by number.
  [[nodiscard]] std::vector<std::uint32_t> used() const {
    std::vector<std::uint32_t> used;
    vtap_verdict verdict;
    for (std::uint32_t slot = 0; read(slot, verdict); ++slot)
      if (verdict.owner != 0) used.push_back(slot);
    return used;
  }
  /// Has a slot say the opposite.
  void lie(std::uint32_t slot) {
    vtap_verdict verdict;
    ASSERT_TRUE(read(slot, verdict));
    verdict.wanted ^= 1;
    std::vector<std::byte> bytes(2 * sizeof(verdict));
    std::memcpy(bytes.data(), &verdict, sizeof(verdict));
    ASSERT_EQ(bpf_map_update_elem(map(), &slot, bytes.data(), BPF_ANY), 0);
  }

 private:
  [[nodiscard]] int map() const { return plan_.maps.maps().fd("verdicts"); }
  bool read(std::uint32_t slot, vtap_verdict& to) const {
    std::vector<std::byte> bytes(2 * sizeof(to));  // whole lines
    if (bpf_map_lookup_elem(map(), &slot, bytes.data()) != 0) return false;
    std::memcpy(&to, bytes.data(), sizeof(to));
    return true;
  }

  Compiled plan_;
  plan::Classifier classifier_;
  Found found_;
  Tee tee_;  ///< no frames: what is wanted is only counted
  std::vector<Tap> programs_;
};

struct Case {
  ProgramHook hook;
  std::uint32_t slots;
  bool alike;  ///< seeds of which many different keys have the same hash
};
std::ostream& operator<<(std::ostream& to, const Case& is) {
  return to << name_of(is.hook) << ", " << is.slots << " slots";
}

class Cache : public BpfTest, public testing::WithParamInterface<Case> {
 protected:
  static Taps taps(const config::Config& config) {
    return {GetParam().hook, config, [](vtap_port_config& port) {
              ASSERT_EQ(port.classes.cache_slots, std::uint32_t{VTAP_CACHE_SLOTS});
              port.classes.cache_slots = GetParam().slots;
              if (!GetParam().alike) return;
              std::ranges::fill(port.classes.cache_seeds, 0);
              port.classes.cache_multiplier = 1;
            }};
  }
};

INSTANTIATE_TEST_SUITE_P(Slots, Cache,
                         testing::Values(Case{ProgramHook::xdp, 1, false},
                                         Case{ProgramHook::xdp, 8, false},
                                         Case{ProgramHook::xdp, VTAP_CACHE_SLOTS, false},
                                         Case{ProgramHook::xdp, VTAP_CACHE_SLOTS, true},
                                         Case{ProgramHook::tc, 8, false},
                                         Case{ProgramHook::tc, VTAP_CACHE_SLOTS, true}),
                         [](const auto& made) {
                           return std::string(name_of(made.param.hook)) + "_" +
                                  std::to_string(made.param.slots) +
                                  (made.param.alike ? "_alike" : "");
                         });

TEST_P(Cache, FramesInAnyOrderAtTwoTaps) {
  constexpr std::uint32_t kShapes = 400;
  constexpr std::uint32_t kTimes = 3;
  Random random(1);
  Taps taps = Cache::taps(random_rules(random));
  std::vector<std::pair<Bytes, std::uint32_t>> runs;
  std::size_t wanted = 0;
  std::size_t taps_differ = 0;
  for (std::uint32_t i = 0; i < kShapes; ++i) {
    const Bytes frame = frame_of(random_shape(random));
    for (std::uint32_t tap : {0U, 1U}) {
      wanted += taps.expected(frame, tap) ? 1 : 0;
      runs.insert(runs.end(), kTimes, {frame, tap});
    }
    taps_differ += taps.expected(frame, 0) != taps.expected(frame, 1) ? 1 : 0;
  }
  ASSERT_GT(wanted, kShapes / 2);
  ASSERT_LT(wanted, kShapes * 3 / 2);
  ASSERT_GT(taps_differ, kShapes / 10);
  for (std::size_t i = runs.size(); i > 1; --i)
    std::swap(runs[i - 1], runs[random.below(static_cast<std::uint32_t>(i))]);
  for (const auto& [frame, tap] : runs)
    ASSERT_EQ(taps.wanted(frame, tap), taps.expected(frame, tap)) << tap << ": " << hex(frame);
}

TEST_P(Cache, FramesThatDifferInOneField) {
  Random random(2);
  Taps taps = Cache::taps(random_rules(random));
  std::array<std::size_t, VTAP_KEY_WORDS> decided{};  ///< by the one word in which the keys differ
  std::size_t decided_by_tap = 0;
  for (int i = 0; i < 150; ++i) {
    const Shape shape = random_shape(random);
    for (std::uint32_t field = 0; field < kFields; ++field) {
      Shape near = shape;
      near[field] = !near[field];
      const Bytes frames[] = {frame_of(shape), frame_of(near)};
      const Words words[] = {taps.words_of(frames[0]), taps.words_of(frames[1])};
      std::size_t different = 0;
      std::size_t last = 0;
      for (std::size_t word = 0; word < words[0].size(); ++word) {
        if (words[0][word] == words[1][word]) continue;
        ++different;
        last = word;
      }
      for (const std::uint32_t tap : {0U, 1U}) {
        for (const Bytes& frame : {frames[0], frames[1], frames[0]})
          ASSERT_EQ(taps.wanted(frame, tap), taps.expected(frame, tap))
              << tap << ": " << hex(frame);
        if (different == 1 && taps.expected(frames[0], tap) != taps.expected(frames[1], tap))
          ++decided[last];
      }
      decided_by_tap += taps.expected(frames[0], 0) != taps.expected(frames[0], 1) ? 1 : 0;
    }
  }
  for (const std::size_t times : decided) EXPECT_GT(times, 3U) << "a word that decides nothing";
  EXPECT_GT(decided_by_tap, 100U);
}

TEST_P(Cache, SuperPacketsHaveKeysOfTheirOwn) {
  if (GetParam().hook != ProgramHook::tc) return;
  config::Match length;
  config::Match flags;
  ask(length, kLength, true);
  ask(flags, kFlags, true);
  Taps taps = Cache::taps(paged(1, {{0, length}, {0, flags}}));
  std::size_t differ = 0;
  for (const bool tcp : {false, true}) {
    Shape shape{};
    shape[kTcp] = tcp;
    const Bytes frame = frame_of(shape);
    for (const bool super : {true, false, true, false})
      EXPECT_EQ(taps.wanted(frame, 0, super), taps.expected(frame, 0, super)) << super;
    differ += taps.expected(frame, 0, true) != taps.expected(frame, 0, false) ? 1 : 0;
  }
  EXPECT_GT(differ, 0U);
}

class CacheUse : public BpfTest {
 protected:
  static Taps taps(const config::Config& config) {
    return {ProgramHook::xdp, config, [](auto&) {}};
  }
};

/// One policy for VLAN 10 and port 1000: both are parts of words with other fields.
config::Config two_keys() {
  config::Match match;
  ask(match, kTag, false);
  ask(match, kSourcePort, false);
  return paged(1, {{0, match}});
}

TEST_F(CacheUse, AVerdictIsAskedForWhereItWasKept) {
  Taps taps = CacheUse::taps(two_keys());
  EXPECT_TRUE(taps.used().empty());
  Shape shape{};
  for (const bool port : {false, true}) {
    shape[kSourcePort] = port;
    EXPECT_EQ(taps.wanted(frame_of(shape), 0), !port);
    const auto before = taps.used();
    ASSERT_FALSE(before.empty());
    for (const std::uint32_t slot : before) {
      EXPECT_EQ(slot / VTAP_CACHE_SLOTS, taps.cpu()) << "the part of another CPU";
      taps.lie(slot);
    }
    EXPECT_EQ(taps.wanted(frame_of(shape), 0), port) << "classified anew";
    for (const std::uint32_t slot : before) taps.lie(slot);
  }
}

TEST_F(CacheUse, WhatNoRuleReadsIsNotPartOfTheKey) {
  Taps taps = CacheUse::taps(two_keys());
  const Shape shape{};
  EXPECT_TRUE(taps.wanted(frame_of(shape), 0));
  for (std::uint32_t field = 0; field < kFields; ++field) {
    if (field == kTag || field == kSourcePort) continue;
    Shape other{};
    other[field] = true;
    EXPECT_TRUE(taps.wanted(frame_of(other), 0));
    EXPECT_EQ(taps.used().size(), 1U) << field;
  }
}

/// Ports in a row, as a sender takes them, under seeds of several plans.
TEST_F(CacheUse, ManyFramesUseManySlots) {
  constexpr int kPlans = 8;
  constexpr std::uint32_t kFrames = 2000;
  for (int i = 0; i < kPlans; ++i) {
    Taps taps = CacheUse::taps(two_keys());
    for (std::uint32_t port = 0; port < kFrames; ++port) {
      taps.wanted(FrameBuilder()
                      .ethernet()
                      .tag(10)
                      .type(0x0800)
                      .ipv4({})
                      .udp(static_cast<std::uint16_t>(port), 53)
                      .pad(80)
                      .build(),
                  0);
    }
    // Thrown at random they would meet 1580, give or take 20.
    const auto used = taps.used();
    ASSERT_GT(used.size(), 1400U);
    EXPECT_EQ(used.front() / VTAP_CACHE_SLOTS, taps.cpu());
    EXPECT_EQ(used.back() / VTAP_CACHE_SLOTS, taps.cpu());
  }
}

TEST_F(CacheUse, VerdictsOfFiltersAreNotKept) {
  config::Config config = paged(1, {{0, {}}});
  config.policies[0].filter = require(filter::Filter::compile("ether[100] = 1"));
  Taps taps(ProgramHook::xdp, config, [](auto& port) {
    port.match_all = 0;
    port.filters = 1;
  });
  for (const bool takes : {false, true, false, true}) {
    Bytes frame = udp_frame(200);
    frame[100] = takes ? 1 : 0;
    EXPECT_EQ(taps.wanted(frame, 0), takes);
  }
}

TEST_F(CacheUse, AFlatPlanHasNone) {
  const Compiled plan(one_policy({{.dst_port = {{53, 53}}}}));
  EXPECT_EQ(plan.tables.config.cache_slots, 0U);
}

}  // namespace
}  // namespace vtap::test
