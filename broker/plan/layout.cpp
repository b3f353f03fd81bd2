// SPDX-License-Identifier: Apache-2.0
#include "plan/layout.hpp"

#include <vtap/abi.h>

#include <algorithm>
#include <array>
#include <span>
#include <string>
#include <tuple>
#include <utility>

#include "plan/kernel_filters.hpp"

namespace vtap::plan {
namespace {

constexpr std::size_t kWordBits = 64;

Error too_many_excepts(const config::Config& config, const config::Policy& policy) {
  const config::Diagnostic finding{
      policy.at, "policy \"" + policy.name + "\" has " + std::to_string(policy.except.size()) +
                     " except tables, at most " + std::to_string(kWordBits) +
                     " are possible; lists inside one table are not limited"};
  return {config::format(finding, config.file), ErrorKind::usage};
}

Error too_many_rules(const config::Config& config, std::size_t rules, std::size_t words) {
  return {config.file + ": the policies have " + std::to_string(rules) +
              " match and except tables, which take " + std::to_string(words) +
              " words of 64 rules; at most " + std::to_string(VTAP_MAX_WORDS) + " words (" +
              std::to_string(VTAP_MAX_WORDS * kWordBits) +
              " rules) are possible; lists inside one table are not limited",
          ErrorKind::usage};
}

Error too_many_in_kernel(const config::Config& config, std::size_t words) {
  return {config.file + ": the policies with offload = \"require\" take " + std::to_string(words) +
              " words of 64 match tables; the kernel serves at most " +
              std::to_string(VTAP_EARLY_WORDS) + " (" +
              std::to_string(VTAP_EARLY_WORDS * kWordBits) +
              " tables); leave some to the broker (offload = \"never\")",
          ErrorKind::usage};
}

/// `match` absent means every frame: one rule without keys.
std::span<const config::Match> rules_of(const config::Policy& policy) {
  static const config::Match every_frame;
  if (policy.match.empty()) return {&every_frame, 1};
  return policy.match;
}

/// What a policy's first rule asks, so that like ones can be put side by side: which keys, and the
/// first value of each. What else it asks only costs time.
struct Likeness {
  std::uint32_t group = 0;  ///< early ones first
  std::uint32_t keys = 0;
  std::array<std::uint8_t, 3> widths{};  ///< of the addresses: a wide prefix lets most frames pass
  std::array<std::pair<bool, std::array<std::uint8_t, 16>>, 3> addresses{};
  std::array<config::Mac, 3> macs{};
  std::array<std::uint32_t, 9> numbers{};

  bool operator<(const Likeness& other) const {
    return std::tie(group, keys, widths, addresses, macs, numbers) <
           std::tie(other.group, other.keys, other.widths, other.addresses, other.macs,
                    other.numbers);
  }

  /// Whether it asks the same keys, about as narrowly.
  [[nodiscard]] bool asks_the_same(const Likeness& other) const {
    return std::tie(group, keys, widths) == std::tie(other.group, other.keys, other.widths);
  }
};

enum Group : std::uint8_t { kInKernel, kWithFilter, kOthers };

Likeness likeness(const config::Match& match) {
  Likeness like;
  std::uint32_t key = 1;
  const auto note = [&](const auto& values, auto&& keep) {
    if (!values.empty()) {
      like.keys |= key;
      keep(values.front());
    }
    key <<= 1;
  };
  const auto note_address = [&](const std::vector<config::Prefix>& values, std::size_t i) {
    note(values, [&](const config::Prefix& prefix) {
      like.widths[i] = static_cast<std::uint8_t>(prefix.length / (prefix.v6 ? 32 : 8));
      like.addresses[i] = {prefix.v6, prefix.bytes};
    });
  };
  const auto note_mac = [&](const std::vector<config::Mac>& values, config::Mac& first) {
    note(values, [&](const config::Mac& mac) { first = mac; });
  };
  note_address(match.src, 0);
  note_address(match.dst, 1);
  note_address(match.host, 2);
  note_mac(match.src_mac, like.macs[0]);
  note_mac(match.dst_mac, like.macs[1]);
  note_mac(match.mac, like.macs[2]);
  std::size_t number = 0;
  for (const auto* ranges :
       {&match.proto, &match.dst_port, &match.src_port, &match.port, &match.vlan, &match.inner_vlan,
        &match.ethertype, &match.dscp, &match.length})
    note(*ranges, [&](const config::Range& range) { like.numbers[number++] = range.first; });
  return like;
}

/// By policy, whether it has a filter that the kernel judges.
std::vector<bool> judged_filters(const config::Config& config) {
  const auto filters = kernel_filters(config);
  std::vector<bool> judged;
  for (std::size_t i = 0; i < filters.size(); ++i)
    judged.push_back(config.policies[i].filter && filters[i]);
  return judged;
}

std::vector<Group> groups_of(std::span<const Placement> placements,
                             const std::vector<bool>& judged) {
  std::vector<Group> groups;
  for (std::size_t i = 0; i < judged.size(); ++i) {
    groups.push_back(placements[i] == Placement::kernel ? kInKernel
                     : judged[i]                        ? kWithFilter
                                                        : kOthers);
  }
  return groups;
}

/// A policy in the order of the bits.
struct Place {
  std::uint32_t policy;
  bool starts_word;  ///< many come that ask the same: they do not share a word with others
};

/// So many policies that ask the same are worth words of their own, in a plan of so many policies.
constexpr std::ptrdiff_t kMany = 64;
constexpr std::size_t kManyInAll = 512;

/// Flat plans: in file order, so that a pipeline need not sort what it finds.
std::vector<Place> in_file_order(const std::vector<Group>& groups) {
  std::vector<Place> order;
  for (std::uint32_t i = 0; i < groups.size(); ++i) order.push_back({i, false});
  std::ranges::stable_sort(
      order, [&](const Place& a, const Place& b) { return groups[a.policy] < groups[b.policy]; });
  return order;
}

std::vector<Place> by_likeness(const config::Config& config, const std::vector<Group>& groups) {
  std::vector<Likeness> like;
  like.reserve(config.policies.size());
  for (std::uint32_t i = 0; i < config.policies.size(); ++i) {
    const config::Policy& policy = config.policies[i];
    like.push_back(groups[i] == kInKernel ? Likeness{} : likeness(rules_of(policy).front()));
    like.back().group = groups[i];
  }
  std::vector<Place> order;
  for (std::uint32_t i = 0; i < like.size(); ++i) order.push_back({i, false});
  std::ranges::stable_sort(
      order, [&](const Place& a, const Place& b) { return like[a.policy] < like[b.policy]; });
  if (order.size() < kManyInAll) return order;
  for (auto first = order.begin(); first != order.end();) {
    const auto end = std::find_if_not(first, order.end(), [&](const Place& place) {
      return like[place.policy].asks_the_same(like[first->policy]);
    });
    first->starts_word = end - first >= kMany;
    if (first->starts_word && end != order.end()) end->starts_word = true;
    first = end;
  }
  return order;
}

/// How policies follow each other. Apart: those that ask the same are neighbours, and have words of
/// their own, which may take twice the room.
enum class Order : std::uint8_t { file, like, like_apart };

Result<Layout> lay_out(const config::Config& config, std::span<const Placement> placements,
                       const std::vector<bool>& judged, Order order) {
  Layout layout;
  std::size_t next = 0;  // first free bit
  std::size_t tables = 0;
  const auto place = [&](std::span<const config::Match> rules, std::size_t first,
                         std::uint32_t policy, bool except) {
    for (const config::Match& match : rules)
      layout.rules.push_back({&match, policy, static_cast<std::uint32_t>(first++), except});
  };

  std::size_t in_kernel = 0;  // bits up to the end of those policies
  std::size_t early = 0;      // and of those with a filter, too
  const auto start_word = [&] { next = (next + kWordBits - 1) / kWordBits * kWordBits; };
  layout.judged = judged;
  const std::vector<Group> groups = groups_of(placements, judged);
  for (const auto& [index, starts_word] :
       order == Order::file ? in_file_order(groups) : by_likeness(config, groups)) {
    const config::Policy& policy = config.policies[index];
    if (starts_word && order == Order::like_apart) start_word();
    if (policy.except.size() > kWordBits) return too_many_excepts(config, policy);
    if (!policy.except.empty()) layout.except_words = 1;
    tables += rules_of(policy).size() + policy.except.size();

    for (auto rest = rules_of(policy); !rest.empty();) {
      const auto part = rest.first(std::min(rest.size(), kWordBits));
      rest = rest.subspan(part.size());
      const std::size_t width = std::max(part.size(), policy.except.size());
      if (next % kWordBits + width > kWordBits) start_word();
      place(part, next, index, false);
      place(policy.except, next, index, true);
      next += width;
      layout.segments.push_back({index, static_cast<std::uint32_t>(next - 1)});
    }
    if (groups[index] == kInKernel) in_kernel = next;
    if (groups[index] != kOthers) early = next;
  }

  const auto words_of = [](std::size_t bits) { return (bits + kWordBits - 1) / kWordBits; };
  const std::size_t words = words_of(next);
  if (words > VTAP_FLAT_WORDS && order == Order::file)
    return lay_out(config, placements, judged, Order::like_apart);
  if (words > VTAP_MAX_WORDS && order == Order::like_apart)
    return lay_out(config, placements, judged, Order::like);
  if (words > VTAP_MAX_WORDS) return too_many_rules(config, tables, words);
  if (words_of(in_kernel) > VTAP_EARLY_WORDS)
    return too_many_in_kernel(config, words_of(in_kernel));
  layout.match_words = static_cast<std::uint32_t>(words);
  layout.early_words =
      std::min(static_cast<std::uint32_t>(words_of(early)), std::uint32_t{VTAP_EARLY_WORDS});
  if (layout.paged()) layout.match_words = static_cast<std::uint32_t>(words_of(words) * kWordBits);
  if (layout.except_words != 0) layout.except_words = layout.match_words;
  return layout;
}

}  // namespace

Result<Layout> lay_out(const config::Config& config, std::span<const Placement> placements) {
  return lay_out(config, placements, judged_filters(config), Order::file);
}

}  // namespace vtap::plan
