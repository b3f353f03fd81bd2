// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <optional>
#include <string>

#include "vtap/result.hpp"

/// The switches of a device that the broker turns: each can be read, set, and set back.
namespace vtap::host {

/// One feature of `ethtool -k`, by the kernel's own name: "rx-gro", "rx-lro", "rx-gro-hw",
/// "rx-vlan-hw-parse", "rx-vlan-stag-hw-parse", "tx-vlan-hw-insert", "tx-vlan-stag-hw-insert".
struct Feature {
  bool requested = false;  ///< what was asked for; this is what a restore must bring back
  bool active = false;     ///< what is in effect
  bool changeable = false;
};

/// All features by name. A name that the kernel does not know is absent.
Result<std::map<std::string, Feature>> features(const std::string& port);

/// Asks for a feature to be on or off. True: it is so now, or the kernel does not know the name;
/// false: the request is noted, but the device keeps the other state.
Result<bool> set_feature(const std::string& port, const std::string& feature, bool on);

/// The interface flag IFF_PROMISC, which outlives the process.
Result<void> set_promisc(int ifindex, bool on);

/// Content of net.ipv6.conf.<port>.disable_ipv6; disengaged where the kernel has no IPv6 there.
Result<std::optional<std::string>> disable_ipv6(const std::string& port);
Result<void> set_disable_ipv6(const std::string& port, const std::string& value);

/// True when the port carries an IPv6 address other than a link-local one.
Result<bool> has_global_ipv6(int ifindex);

}  // namespace vtap::host
