// SPDX-License-Identifier: Apache-2.0
#include "config/match.hpp"

#include <vtap/abi.h>

#include <span>

namespace vtap::config {
namespace {

/// A word that stands for field values.
struct Named {
  std::string_view name;
  Range values;
};

constexpr Named named(std::string_view name, std::uint32_t value) { return {name, {value, value}}; }

// Fixed tables rather than getprotobyname(): a config means the same on every machine.
// IANA "Assigned Internet Protocol Numbers"; last headers only, so no extension headers.
constexpr auto kProtocols = std::to_array<Named>(
    {named("icmp", 1),   named("igmp", 2),      named("ipip", 4),       named("ipv4", 4),
     named("tcp", 6),    named("egp", 8),       named("udp", 17),       named("dccp", 33),
     named("ipv6", 41),  named("rsvp", 46),     named("gre", 47),       named("esp", 50),
     named("ah", 51),    named("icmpv6", 58),   named("ipv6-icmp", 58), named("eigrp", 88),
     named("ospf", 89),  named("pim", 103),     named("vrrp", 112),     named("l2tp", 115),
     named("sctp", 132), named("udplite", 136), named("mpls", 137)});

// IEEE 802 EtherTypes. No VLAN tags: ethertype is what stands behind them.
constexpr auto kEthertypes =
    std::to_array<Named>({named("ip", 0x0800),
                          named("ipv4", 0x0800),
                          named("arp", 0x0806),
                          named("rarp", 0x8035),
                          named("ipv6", 0x86dd),
                          named("slow", 0x8809),
                          {"mpls", {0x8847, 0x8848}},   // unicast, multicast
                          {"pppoe", {0x8863, 0x8864}},  // discovery, session
                          named("eapol", 0x888e),
                          named("lldp", 0x88cc),
                          named("macsec", 0x88e5),
                          named("ptp", 0x88f7)});

constexpr auto kVlans = std::to_array<Named>({named("none", VTAP_NO_VLAN)});

/// How the values of a numeric key are written.
struct NumberForm {
  std::string_view expected;
  std::uint32_t max;
  bool ranges;
  std::span<const Named> names;
};

constexpr NumberForm kPort{R"(a port, "a-b" or a list of these)", 65535, true, {}};
constexpr NumberForm kProto{"a protocol name or number or a list of these", 255, false, kProtocols};
constexpr NumberForm kVlan{R"(a VLAN id, "a-b", "none" or a list of these)", 4095, true, kVlans};
constexpr NumberForm kEthertype{"an ethertype name or number or a list of these", 65535, false,
                                kEthertypes};
constexpr NumberForm kDscp{R"(a DSCP number, "a-b" or a list of these)", 63, true, {}};
constexpr NumberForm kLength{R"(frame bytes, "a-b" or a list of these)", VTAP_MAX_LENGTH, true, {}};

/// A word or an "a-b" of a numeric key.
Result<Range> parse_number_text(std::string_view text, const NumberForm& form) {
  const auto found = std::find_if(form.names.begin(), form.names.end(),
                                  [&](const Named& known) { return known.name == text; });
  if (found != form.names.end()) {
    return found->values;
  }
  if (form.ranges) {
    return parse_range(text, form.max);
  }
  const auto names = names_of(form.names);
  const auto hint = did_you_mean(text, names);
  return Error{"unknown name " + quoted(text) + "; a number goes without quotes" +
                   (hint.empty() ? ", names are " + join(names) : hint),
               ErrorKind::usage};
}

std::optional<Range> number_value(const Field& field, const NumberForm& form) {
  if (field.is_text()) {
    return field.parsed([&](std::string_view text) { return parse_number_text(text, form); });
  }
  const auto number = field.integer(0, form.max, form.expected);
  if (!number) {
    return std::nullopt;
  }
  const auto value = static_cast<std::uint32_t>(*number);
  return Range{value, value};
}

template <auto Member, const NumberForm& Form>
void read_numbers(const Field& field, Match& match) {
  field.each(Form.expected, [&](const Field& element) {
    if (const auto value = number_value(element, Form)) {
      (match.*Member).push_back(*value);
    }
  });
}

constexpr std::string_view kAddressForm = "an address, a prefix or a list of these";
constexpr std::string_view kMacForm = "a MAC address or a list of these";
constexpr std::string_view kTcpFlagsForm = R"(flags like "syn,!ack" or a list of these)";

template <auto Member, auto Parse, const std::string_view& Expected>
void read_texts(const Field& field, Match& match) {
  field.each(Expected, [&](const Field& element) {
    if (const auto value = element.parsed(Parse, Expected)) {
      (match.*Member).push_back(*value);
    }
  });
}

constexpr auto kMatchKeys = std::to_array<Key<Match>>({
    {"src", read_texts<&Match::src, parse_prefix, kAddressForm>},
    {"dst", read_texts<&Match::dst, parse_prefix, kAddressForm>},
    {"host", read_texts<&Match::host, parse_prefix, kAddressForm>},
    {"src_port", read_numbers<&Match::src_port, kPort>},
    {"dst_port", read_numbers<&Match::dst_port, kPort>},
    {"port", read_numbers<&Match::port, kPort>},
    {"proto", read_numbers<&Match::proto, kProto>},
    {"src_mac", read_texts<&Match::src_mac, parse_mac, kMacForm>},
    {"dst_mac", read_texts<&Match::dst_mac, parse_mac, kMacForm>},
    {"mac", read_texts<&Match::mac, parse_mac, kMacForm>},
    {"vlan", read_numbers<&Match::vlan, kVlan>},
    {"inner_vlan", read_numbers<&Match::inner_vlan, kVlan>},
    {"ethertype", read_numbers<&Match::ethertype, kEthertype>},
    {"tcp_flags", read_texts<&Match::tcp_flags, parse_tcp_flags, kTcpFlagsForm>},
    {"dscp", read_numbers<&Match::dscp, kDscp>},
    {"fragment", [](const Field& field, Match& match) { match.fragment = field.boolean(); }},
    {"length", read_numbers<&Match::length, kLength>},
});

}  // namespace

void read_matches(const Field& field, std::vector<Match>& matches) {
  field.each_table("a list of tables: [{ host = \"10.1.2.3\" }]", [&](const Field& element,
                                                                      const toml::table& table) {
    if (table.empty()) {
      element.error("an empty table stands for every frame; give it a key, or remove it");
    }
    read_keys(field.findings(), table, "a table of " + std::string(field.key()), kMatchKeys,
              matches.emplace_back());
  });
}

}  // namespace vtap::config
