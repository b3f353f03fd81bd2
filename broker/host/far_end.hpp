// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <optional>
#include <string>

#include "host/link.hpp"
#include "host/offload.hpp"

namespace vtap::host {

/// The other end of a veth pair, also in another namespace.
struct FarEnd {
  int ifindex = 0;
  std::string name;  ///< empty: not to be learnt
  std::string
      netns;  ///< its namespace by the name that `ip netns` has for it; empty: ours, or none
  bool here = false;  ///< in the namespace of the calling thread
  bool up = false;    ///< administratively
  /// Its switches; none where its namespace has no name or may not be entered.
  std::map<std::string, Feature> features;

  /// A command line that has its effect in that namespace.
  [[nodiscard]] std::string command(const std::string& words) const;
};

/// Disengaged: the device is not one end of a pair.
std::optional<FarEnd> far_end(const Link& link);

/// Ring sizes of a network card, in descriptors (ETHTOOL_GRINGPARAM).
struct Rings {
  std::uint32_t rx = 0, rx_max = 0;
  std::uint32_t tx = 0, tx_max = 0;
};
/// Disengaged: the driver has none.
std::optional<Rings> ring_sizes(const std::string& port);

}  // namespace vtap::host
