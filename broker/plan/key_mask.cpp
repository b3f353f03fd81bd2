// SPDX-License-Identifier: Apache-2.0
#include "plan/key_mask.hpp"

#include <cstring>

namespace vtap::plan {

KeyWords key_mask(std::uint32_t dims) noexcept {
  vtap_key mask{};
  const auto read = [](auto& part) { std::memset(&part, 0xff, sizeof(part)); };
  const bool ipv6 = (dims & (VTAP_DIM_HOST6 | VTAP_DIM_LPM6)) != 0;
  const auto read_address = [&](auto& address) {
    std::memset(address, 0xff, ipv6 ? sizeof(address) : 4);
  };
  // Each end is read for itself, or as either of them.
  const auto read_ends = [&](std::uint32_t shift, auto&& read_end, auto& src, auto& dst) {
    const std::uint32_t ends = dims >> shift & VTAP_ENDS_ANY;
    if ((ends & (VTAP_ENDS_SRC | VTAP_ENDS_EITHER)) != 0) read_end(src);
    if ((ends & (VTAP_ENDS_DST | VTAP_ENDS_EITHER)) != 0) read_end(dst);
    return ends != 0;
  };
  if (read_ends(VTAP_DIM_ADDR, read_address, mask.src, mask.dst)) read(mask.family);
  if (read_ends(VTAP_DIM_MAC, read, mask.smac, mask.dmac)) read(mask.mac);
  read_ends(VTAP_DIM_PORT, read, mask.sport, mask.dport);
  const auto read_field = [&](std::uint32_t dim, auto& field) {
    if ((dims & dim) != 0) read(field);
  };
  read_field(VTAP_DIM_PROTO, mask.proto);
  read_field(VTAP_DIM_VLAN, mask.vlan);
  read_field(VTAP_DIM_INNER_VLAN, mask.inner_vlan);
  read_field(VTAP_DIM_ETHERTYPE, mask.ethertype);
  read_field(VTAP_DIM_TCP_FLAGS, mask.tcp_flags);
  read_field(VTAP_DIM_DSCP, mask.dscp);
  read_field(VTAP_DIM_FRAGMENT, mask.fragment);
  read_field(VTAP_DIM_LENGTH, mask.length);
  KeyWords words;
  static_assert(sizeof(words) == sizeof(mask));
  std::memcpy(words.data(), &mask, sizeof(words));
  return words;
}

}  // namespace vtap::plan
