// SPDX-License-Identifier: Apache-2.0
#include "support/reference.hpp"

#include <algorithm>
#include <set>

namespace vtap::test {
namespace {

using config::Match;
using config::Prefix;
using config::Range;
using View = std::span<const std::uint8_t>;

std::uint32_t be16(View bytes, std::size_t at) { return bytes[at] * 256U + bytes[at + 1]; }
std::uint32_t be32(View bytes, std::size_t at) {
  return be16(bytes, at) * 65536U + be16(bytes, at + 2);
}

/// The rest of `bytes` behind the first n; nothing if there are fewer.
View behind(View bytes, std::size_t n) { return bytes.size() < n ? View{} : bytes.subspan(n); }

std::vector<std::uint8_t> copy(View bytes) { return {bytes.begin(), bytes.end()}; }

config::Mac mac_at(View bytes, std::size_t at) {
  config::Mac mac{};
  std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), mac.size(), mac.begin());
  return mac;
}

void read_transport(Fields& fields, View header) {
  const bool tcp = fields.proto == 6U;
  if (!tcp && fields.proto != 17U && fields.proto != 132U) return;
  if (header.size() >= 4) fields.ports = {be16(header, 0), be16(header, 2)};
  if (tcp && header.size() >= 14) fields.tcp_flags = header[13];
}

void read_ipv4(Fields& fields, View packet) {
  if (packet.size() < 20 || packet[0] / 16 != 4 || packet[0] % 16 < 5) return;
  const std::uint32_t offset = be16(packet, 6) % 0x2000;
  const bool more = be16(packet, 6) / 0x2000 % 2 == 1;
  fields.addresses = {false, copy(packet.subspan(12, 4)), copy(packet.subspan(16, 4))};
  fields.proto = packet[9];
  fields.dscp = packet[1] / 4;
  fields.fragment = more || offset > 0;
  if (*fields.fragment) fields.fragment_id = be16(packet, 4);
  if (offset == 0) read_transport(fields, behind(packet, packet[0] % 16 * 4U));
}

void read_ipv6(Fields& fields, View packet) {
  static const std::set<std::uint32_t> extensions{0, 43, 44, 51, 60, 135, 139, 140};
  if (packet.size() < 40 || packet[0] / 16 != 6) return;
  fields.addresses = {true, copy(packet.subspan(8, 16)), copy(packet.subspan(24, 16))};
  fields.dscp = (packet[0] % 16 * 16U + packet[1] / 16U) / 4;
  fields.fragment = false;
  fields.proto = packet[6];
  View rest = packet.subspan(40);
  for (int walked = 0; extensions.contains(*fields.proto); ++walked) {
    if (walked == VTAP_MAX_EXT_HEADERS || rest.size() < 8) return;
    const std::uint32_t type = *fields.proto;
    std::size_t size = 8 + rest[1] * 8U;
    fields.proto = rest[0];
    if (type == 44) {
      size = 8;
      fields.fragment = true;
      fields.fragment_id = be32(rest, 4);
      if (be16(rest, 2) / 8 > 0) return;
    } else if (type == 51) {
      size = 8 + rest[1] * 4U;
    }
    rest = behind(rest, size);
  }
  read_transport(fields, rest);
}

bool in(const Prefix& prefix, bool v6, const std::vector<std::uint8_t>& address) {
  if (prefix.v6 != v6) return false;
  for (std::size_t bit = 0; bit < prefix.length; ++bit) {
    const std::uint32_t mask = 128U >> (bit % 8);
    if ((prefix.bytes[bit / 8] & mask) != (address[bit / 8] & mask)) return false;
  }
  return true;
}

bool in_any(const std::vector<Prefix>& prefixes, bool v6,
            const std::vector<std::uint8_t>& address) {
  return std::any_of(prefixes.begin(), prefixes.end(),
                     [&](const Prefix& prefix) { return in(prefix, v6, address); });
}

bool in_any(const std::vector<Range>& ranges, std::uint32_t value) {
  return std::any_of(ranges.begin(), ranges.end(),
                     [&](const Range& r) { return r.first <= value && value <= r.last; });
}

bool in_any(const std::vector<Range>& ranges, const std::optional<std::uint32_t>& value) {
  return value && in_any(ranges, *value);
}

bool in_any(const std::vector<config::Mac>& macs, const config::Mac& mac) {
  return std::find(macs.begin(), macs.end(), mac) != macs.end();
}

bool addresses_match(const Match& match, const std::optional<Fields::Addresses>& a) {
  if (match.src.empty() && match.dst.empty() && match.host.empty()) return true;
  if (!a) return false;
  if (!match.src.empty() && !in_any(match.src, a->v6, a->src)) return false;
  if (!match.dst.empty() && !in_any(match.dst, a->v6, a->dst)) return false;
  return match.host.empty() || in_any(match.host, a->v6, a->src) ||
         in_any(match.host, a->v6, a->dst);
}

bool ports_match(const Match& match, const std::optional<Fields::Ports>& p) {
  if (match.src_port.empty() && match.dst_port.empty() && match.port.empty()) return true;
  if (!p) return false;
  if (!match.src_port.empty() && !in_any(match.src_port, p->src)) return false;
  if (!match.dst_port.empty() && !in_any(match.dst_port, p->dst)) return false;
  return match.port.empty() || in_any(match.port, p->src) || in_any(match.port, p->dst);
}

bool macs_match(const Match& match, const std::optional<Fields::Macs>& m) {
  if (match.src_mac.empty() && match.dst_mac.empty() && match.mac.empty()) return true;
  if (!m) return false;
  if (!match.src_mac.empty() && !in_any(match.src_mac, m->src)) return false;
  if (!match.dst_mac.empty() && !in_any(match.dst_mac, m->dst)) return false;
  return match.mac.empty() || in_any(match.mac, m->src) || in_any(match.mac, m->dst);
}

/// "none" is written as the value VTAP_NO_VLAN.
std::uint32_t vlan_at(const Fields& fields, std::size_t depth) {
  return depth < fields.vlans.size() ? fields.vlans[depth] : std::uint32_t{VTAP_NO_VLAN};
}

bool flags_match(const Match& match, const std::optional<std::uint32_t>& flags) {
  if (match.tcp_flags.empty()) return true;
  return flags && std::any_of(match.tcp_flags.begin(), match.tcp_flags.end(),
                              [&](const auto& f) { return (*flags & f.mask) == f.value; });
}

bool any_matches(const std::vector<Match>& list, const Fields& fields) {
  return std::any_of(list.begin(), list.end(),
                     [&](const Match& match) { return matches(match, fields); });
}

}  // namespace

Fields read_fields(View frame) {
  Fields fields;
  fields.length = static_cast<std::uint32_t>(frame.size());
  const View window = frame.first(std::min<std::size_t>(frame.size(), VTAP_WINDOW));
  if (window.size() < 14) return fields;
  fields.macs = {mac_at(window, 6), mac_at(window, 0)};

  View rest = window.subspan(12);  // begins with a type
  while (fields.vlans.size() < 2 && rest.size() >= 6 &&
         (be16(rest, 0) == 0x8100 || be16(rest, 0) == 0x88a8)) {
    fields.vlans.push_back(be16(rest, 2) % 4096);
    rest = rest.subspan(4);
  }
  fields.ethertype = be16(rest, 0);
  if (fields.ethertype == 0x0800U) read_ipv4(fields, rest.subspan(2));
  if (fields.ethertype == 0x86ddU) read_ipv6(fields, rest.subspan(2));
  return fields;
}

vtap_key expected_key(const Fields& fields) {
  vtap_key key{};
  if (fields.addresses) {
    std::copy(fields.addresses->src.begin(), fields.addresses->src.end(), key.src);
    std::copy(fields.addresses->dst.begin(), fields.addresses->dst.end(), key.dst);
    key.family = fields.addresses->v6 ? VTAP_L3_IPV6 : VTAP_L3_IPV4;
  }
  if (fields.macs) {
    std::copy(fields.macs->src.begin(), fields.macs->src.end(), key.smac);
    std::copy(fields.macs->dst.begin(), fields.macs->dst.end(), key.dmac);
    key.mac = 1;
  }
  key.sport = fields.ports ? fields.ports->src : std::uint32_t{VTAP_NO_PORT};
  key.dport = fields.ports ? fields.ports->dst : std::uint32_t{VTAP_NO_PORT};
  key.ethertype = fields.ethertype.value_or(VTAP_NO_ETHERTYPE);
  key.length = fields.length;
  key.vlan = static_cast<std::uint16_t>(vlan_at(fields, 0));
  key.inner_vlan = static_cast<std::uint16_t>(vlan_at(fields, 1));
  key.proto = static_cast<std::uint16_t>(fields.proto.value_or(VTAP_NO_PROTO));
  key.tcp_flags = static_cast<std::uint16_t>(fields.tcp_flags.value_or(VTAP_NO_TCP_FLAGS));
  key.dscp = static_cast<std::uint8_t>(fields.dscp.value_or(VTAP_NO_DSCP));
  key.fragment = fields.fragment ? static_cast<std::uint8_t>(*fields.fragment)
                                 : std::uint8_t{VTAP_NO_FRAGMENT};
  key.fragment_id = fields.fragment_id.value_or(0);
  return key;
}

bool matches(const Match& match, const Fields& fields) {
  const auto length = std::min<std::uint32_t>(fields.length, VTAP_MAX_LENGTH);
  return addresses_match(match, fields.addresses) && ports_match(match, fields.ports) &&
         macs_match(match, fields.macs) && flags_match(match, fields.tcp_flags) &&
         (match.proto.empty() || in_any(match.proto, fields.proto)) &&
         (match.vlan.empty() || in_any(match.vlan, vlan_at(fields, 0))) &&
         (match.inner_vlan.empty() || in_any(match.inner_vlan, vlan_at(fields, 1))) &&
         (match.ethertype.empty() || in_any(match.ethertype, fields.ethertype)) &&
         (match.dscp.empty() || in_any(match.dscp, fields.dscp)) &&
         (!match.fragment || fields.fragment == match.fragment) &&
         (match.length.empty() || in_any(match.length, length));
}

bool matches(const Match& match, View frame) { return matches(match, read_fields(frame)); }

std::vector<std::uint32_t> policies(const config::Config& config, std::uint32_t tap,
                                    const Fields& fields) {
  std::vector<std::uint32_t> taken;
  for (std::uint32_t i = 0; i < config.policies.size(); ++i) {
    const config::Policy& policy = config.policies[i];
    const bool here = std::count(policy.taps.begin(), policy.taps.end(), tap) > 0;
    if (here && (policy.match.empty() || any_matches(policy.match, fields)) &&
        !any_matches(policy.except, fields))
      taken.push_back(i);
  }
  return taken;
}

std::vector<std::uint32_t> policies(const config::Config& config, std::uint32_t tap, View frame) {
  std::vector<std::uint32_t> taken = policies(config, tap, read_fields(frame));
  std::erase_if(taken, [&](std::uint32_t policy) {
    const auto& filter = config.policies[policy].filter;
    return filter && !filter->matches(frame);
  });
  return taken;
}

}  // namespace vtap::test
