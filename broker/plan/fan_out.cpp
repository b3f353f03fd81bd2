// SPDX-License-Identifier: Apache-2.0
#include "plan/fan_out.hpp"

#include <algorithm>
#include <set>

namespace vtap::plan {
namespace {

template <typename T>
bool contains(const std::vector<T>& values, const T& value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

/// All unions of the sets of some policies: which of them take a frame is not known before. No more
/// than `limit`; what is beyond is left out.
std::vector<std::uint64_t> unions(const std::vector<std::uint64_t>& of, std::size_t limit) {
  std::vector<std::uint64_t> found;
  std::set<std::uint64_t> known;
  const auto add = [&](std::uint64_t set) {
    if (found.size() < limit && known.insert(set).second) found.push_back(set);
  };
  for (const std::uint64_t set : of) {
    if (known.count(set) != 0) continue;  // and its unions with the others are, too
    const std::size_t before = found.size();
    add(set);
    for (std::size_t i = 0; i < before && found.size() < limit; ++i) add(found[i] | set);
  }
  return found;
}

}  // namespace

std::uint64_t set_of(const std::vector<std::uint32_t>& numbers) {
  std::uint64_t set = 0;
  for (const std::uint32_t number : numbers) set |= std::uint64_t{1} << number;
  return set;
}

Result<FanOut> fan_out(const config::Config& config, const std::vector<Placement>& placements,
                       const std::vector<bool>& at_xdp) {
  FanOut out;
  out.sets.resize(config.taps.size());
  std::size_t broadcasts = 0;
  for (std::uint32_t tap = 0; tap < config.taps.size(); ++tap) {
    if (!at_xdp[tap]) continue;
    std::vector<std::uint64_t> wanted;
    for (std::size_t i = 0; i < config.policies.size(); ++i) {
      const config::Policy& policy = config.policies[i];
      if (placements[i] != Placement::kernel || !contains(policy.taps, tap)) continue;
      wanted.push_back(set_of(policy.monitors));
      if (!policy.slice) continue;
      for (const std::uint32_t monitor : policy.monitors) {
        if (!contains(out.sliced, monitor)) out.sliced.push_back(monitor);
      }
    }
    out.sets[tap] = unions(wanted, VTAP_MAX_BROADCASTS + 1);
    broadcasts += out.sets[tap].size() * config.taps[tap].ports.size();
  }
  if (broadcasts > VTAP_MAX_BROADCASTS) {
    return Error{"frames could go to more than " + std::to_string(VTAP_MAX_BROADCASTS) +
                 " sets of monitors, over all ports of taps at xdp"};
  }
  if (out.sliced.size() > VTAP_EDIT_SLOTS) {
    return Error{"policies of the kernel send slices to more than " +
                 std::to_string(VTAP_EDIT_SLOTS) + " monitors"};
  }
  return out;
}

}  // namespace vtap::plan
