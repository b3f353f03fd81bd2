// SPDX-License-Identifier: Apache-2.0
#include "plan/layout.hpp"

#include <vtap/abi.h>

#include <algorithm>
#include <span>
#include <string>

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

/// `match` absent means every frame: one rule without keys.
std::span<const config::Match> rules_of(const config::Policy& policy) {
  static const config::Match every_frame;
  if (policy.match.empty()) return {&every_frame, 1};
  return policy.match;
}

}  // namespace

Result<Layout> lay_out(const config::Config& config) {
  Layout layout;
  std::size_t next = 0;  // first free bit
  std::size_t tables = 0;
  const auto place = [&](std::span<const config::Match> rules, std::size_t first,
                         std::uint32_t policy, bool except) {
    for (const config::Match& match : rules)
      layout.rules.push_back({&match, policy, static_cast<std::uint32_t>(first++), except});
  };

  for (std::uint32_t index = 0; index < config.policies.size(); ++index) {
    const config::Policy& policy = config.policies[index];
    if (policy.except.size() > kWordBits) return too_many_excepts(config, policy);
    if (!policy.except.empty()) layout.except_words = 1;
    tables += rules_of(policy).size() + policy.except.size();

    for (auto rest = rules_of(policy); !rest.empty();) {
      const auto part = rest.first(std::min(rest.size(), kWordBits));
      rest = rest.subspan(part.size());
      const std::size_t width = std::max(part.size(), policy.except.size());
      if (next % kWordBits + width > kWordBits) next += kWordBits - next % kWordBits;
      place(part, next, index, false);
      place(policy.except, next, index, true);
      next += width;
      layout.segments.push_back({index, static_cast<std::uint32_t>(next - 1)});
    }
  }

  const std::size_t words = (next + kWordBits - 1) / kWordBits;
  if (words > VTAP_MAX_WORDS) return too_many_rules(config, tables, words);
  layout.match_words = static_cast<std::uint32_t>(words);
  if (layout.except_words != 0) layout.except_words = layout.match_words;
  return layout;
}

}  // namespace vtap::plan
