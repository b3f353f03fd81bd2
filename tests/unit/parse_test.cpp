// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <vtap/parse.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "support/frames.hpp"
#include "support/reference.hpp"

namespace vtap::test {
namespace {

/// Parses with only `avail` bytes at hand, in a heap block of exactly that size so that a sanitizer
/// sees a read behind it.
int parse_first(const Bytes& frame, std::size_t avail, vtap_key& key) {
  const auto buffer = std::make_unique<unsigned char[]>(avail);
  std::copy_n(frame.begin(), avail, buffer.get());
  std::memset(&key, 0xa5, sizeof(key));  // all of it must be written
  return vtap_parse(buffer.get(), static_cast<__u32>(avail), static_cast<__u32>(frame.size()),
                    &key);
}

vtap_key parse(const Bytes& frame) {
  vtap_key key;
  const int more = parse_first(frame, std::min<std::size_t>(frame.size(), VTAP_WINDOW), key);
  EXPECT_EQ(more, VTAP_PARSE_DONE) << hex(frame);
  return key;
}

bool same(const vtap_key& a, const vtap_key& b) { return std::memcmp(&a, &b, sizeof(a)) == 0; }

FrameBuilder ipv4(const FrameBuilder::Ipv4& header) {
  return FrameBuilder().ethernet().type(0x0800).ipv4(header);
}
FrameBuilder ipv6(std::uint8_t next) {
  return FrameBuilder().ethernet().type(0x86dd).ipv6({.next = next});
}

void expect_ports(const vtap_key& key, std::uint32_t sport, std::uint32_t dport) {
  EXPECT_EQ(key.sport, sport);
  EXPECT_EQ(key.dport, dport);
}
void expect_no_ports(const vtap_key& key) {
  expect_ports(key, VTAP_NO_PORT, VTAP_NO_PORT);
  EXPECT_EQ(key.tcp_flags, VTAP_NO_TCP_FLAGS);
}
void expect_no_ip(const vtap_key& key) {
  static constexpr unsigned char kZeros[32] = {};
  EXPECT_EQ(key.family, VTAP_L3_NONE);
  EXPECT_EQ(std::memcmp(key.src, kZeros, sizeof(kZeros)), 0);  // src and dst
  EXPECT_EQ(key.proto, VTAP_NO_PROTO);
  EXPECT_EQ(key.dscp, VTAP_NO_DSCP);
  EXPECT_EQ(key.fragment, VTAP_NO_FRAGMENT);
  expect_no_ports(key);
}

TEST(Parse, ReadsPlainTcp) {
  const Bytes frame =
      FrameBuilder()
          .ethernet({2, 0, 0, 0, 0, 9}, {2, 0, 0, 0, 0, 8})
          .type(0x0800)
          .ipv4({.src = {10, 1, 2, 3}, .dst = {10, 4, 5, 6}, .proto = 6, .dscp = 46})
          .tcp(1234, 443, 0x12)
          .build();
  const vtap_key key = parse(frame);
  EXPECT_EQ(hex({key.smac, 8}), "0200000000080000");
  EXPECT_EQ(hex({key.dmac, 8}), "0200000000090000");
  EXPECT_EQ(hex({key.src, 16}), "0a010203000000000000000000000000");
  EXPECT_EQ(hex({key.dst, 16}), "0a040506000000000000000000000000");
  EXPECT_EQ(key.mac, 1);
  EXPECT_EQ(key.family, VTAP_L3_IPV4);
  EXPECT_EQ(key.ethertype, 0x0800U);
  EXPECT_EQ(key.length, frame.size());
  EXPECT_EQ(key.vlan, VTAP_NO_VLAN);
  EXPECT_EQ(key.inner_vlan, VTAP_NO_VLAN);
  EXPECT_EQ(key.proto, 6);
  EXPECT_EQ(key.dscp, 46);
  EXPECT_EQ(key.fragment, 0);
  EXPECT_EQ(key.tcp_flags, 0x12);
  expect_ports(key, 1234, 443);
}

TEST(Parse, ReadsIpv6BehindTwoTags) {
  const vtap_key key = parse(FrameBuilder()
                                 .ethernet()
                                 .tag(0x6064, 0x88a8)
                                 .tag(0xe00b)
                                 .type(0x86dd)
                                 .ipv6({.next = 17, .dscp = 34})
                                 .udp(53, 5353)
                                 .build());
  EXPECT_EQ(key.vlan, 100);
  EXPECT_EQ(key.inner_vlan, 11);
  EXPECT_EQ(key.ethertype, 0x86ddU);
  EXPECT_EQ(key.family, VTAP_L3_IPV6);
  EXPECT_EQ(hex({key.src, 16}), "20010db8000000000000000000000001");
  EXPECT_EQ(hex({key.dst, 16}), "20010db8000000000000000000000002");
  EXPECT_EQ(key.dscp, 34);
  EXPECT_EQ(key.proto, 17);
  EXPECT_EQ(key.fragment, 0);
  EXPECT_EQ(key.tcp_flags, VTAP_NO_TCP_FLAGS);
  expect_ports(key, 53, 5353);
}

TEST(Parse, RuntHasNothingButItsLength) {
  for (std::size_t n = 0; n < 14; ++n) {
    const vtap_key key = parse(FrameBuilder().payload(n).build());
    EXPECT_EQ(key.length, n);
    EXPECT_EQ(key.mac, 0);
    EXPECT_EQ(hex({key.smac, 8}), "0000000000000000");
    EXPECT_EQ(hex({key.dmac, 8}), "0000000000000000");
    EXPECT_EQ(key.ethertype, VTAP_NO_ETHERTYPE);
    EXPECT_EQ(key.vlan, VTAP_NO_VLAN);
    expect_no_ip(key);
  }
}

TEST(Parse, PriorityTagHasIdZero) {
  const vtap_key key = parse(FrameBuilder().ethernet().tag(0xe000).type(0x0806).pad(60).build());
  EXPECT_EQ(key.vlan, 0);
  EXPECT_EQ(key.inner_vlan, VTAP_NO_VLAN);
  EXPECT_EQ(key.ethertype, 0x0806U);
}

TEST(Parse, ThirdTagIsTheEthertype) {
  const auto frame =
      FrameBuilder().ethernet().tag(1).tag(2, 0x88a8).tag(3, 0x88a8).type(0x0800).ipv4({});
  const vtap_key key = parse(frame.build());
  EXPECT_EQ(key.vlan, 1);
  EXPECT_EQ(key.inner_vlan, 2);
  EXPECT_EQ(key.ethertype, 0x88a8U);
  expect_no_ip(key);
}

TEST(Parse, TagThatIsCutOffIsTheEthertype) {
  const auto frame = FrameBuilder().ethernet().tag(5).type(0x0800).ipv4({});
  for (std::size_t n = 14; n < 18; ++n) {
    const vtap_key key = parse(FrameBuilder(frame).cut(n).build());
    EXPECT_EQ(key.vlan, VTAP_NO_VLAN);
    EXPECT_EQ(key.ethertype, 0x8100U);
  }
  const vtap_key key = parse(FrameBuilder(frame).cut(18).build());
  EXPECT_EQ(key.vlan, 5);
  EXPECT_EQ(key.ethertype, 0x0800U);
  expect_no_ip(key);
}

TEST(Parse, Ipv4NeedsVersionIhlAndTwentyBytes) {
  expect_no_ip(parse(ipv4({.version = 5}).udp(1, 2).build()));
  expect_no_ip(parse(ipv4({.ihl = 4}).udp(1, 2).build()));
  expect_no_ip(parse(ipv4({}).cut(33).build()));
  const vtap_key key = parse(ipv4({}).cut(34).build());
  EXPECT_EQ(key.family, VTAP_L3_IPV4);
  EXPECT_EQ(key.proto, 17);
  expect_no_ports(key);
}

TEST(Parse, Ipv4OptionsAreSteppedOver) {
  expect_ports(parse(ipv4({.ihl = 15}).udp(7, 8).build()), 7, 8);
  const vtap_key key = parse(ipv4({.ihl = 15}).udp(7, 8).cut(60).build());  // inside the options
  EXPECT_EQ(key.family, VTAP_L3_IPV4);
  EXPECT_EQ(key.proto, 17);
  EXPECT_EQ(key.fragment, 0);
  expect_no_ports(key);
}

TEST(Parse, Ipv4Fragments) {
  const vtap_key first = parse(ipv4({.more = true}).udp(7, 8).build());
  EXPECT_EQ(first.fragment, 1);
  expect_ports(first, 7, 8);
  for (const bool more : {false, true}) {
    const vtap_key later =
        parse(ipv4({.proto = 6, .offset = 1, .more = more}).tcp(7, 8, 2).build());
    EXPECT_EQ(later.fragment, 1);
    EXPECT_EQ(later.proto, 6);
    expect_no_ports(later);
  }
}

TEST(Parse, LiesAboutLengthsChangeNothing) {
  const vtap_key v4 = parse(ipv4({.total_length = 3}).udp(7, 8, 0xffff).build());
  expect_ports(v4, 7, 8);
  const vtap_key v6 = parse(
      FrameBuilder().ethernet().type(0x86dd).ipv6({.payload_length = 0}).udp(7, 8, 1).build());
  expect_ports(v6, 7, 8);
}

TEST(Parse, PortsNeedFourBytesAndFlagsFourteen) {
  const auto frame = ipv4({.proto = 6}).tcp(7, 8, 0x02);
  expect_no_ports(parse(FrameBuilder(frame).cut(34 + 3).build()));
  const vtap_key ports = parse(FrameBuilder(frame).cut(34 + 13).build());
  expect_ports(ports, 7, 8);
  EXPECT_EQ(ports.tcp_flags, VTAP_NO_TCP_FLAGS);
  EXPECT_EQ(parse(FrameBuilder(frame).cut(34 + 14).build()).tcp_flags, 0x02);
}

TEST(Parse, OnlyTcpUdpAndSctpHavePorts) {
  for (int proto = 0; proto < 256; ++proto) {
    const auto number = static_cast<std::uint8_t>(proto);
    const vtap_key key = parse(ipv4({.proto = number}).sctp(7, 8).payload(20).build());
    EXPECT_EQ(key.proto, proto);
    EXPECT_EQ(key.sport != VTAP_NO_PORT, proto == 6 || proto == 17 || proto == 132) << proto;
    EXPECT_EQ(key.tcp_flags != VTAP_NO_TCP_FLAGS, proto == 6) << proto;
  }
}

TEST(Parse, ArpAndMplsHaveNoAddresses) {
  for (const std::uint16_t type : std::to_array<std::uint16_t>({0x0806, 0x8847})) {
    const vtap_key key = parse(FrameBuilder().ethernet().type(type).ipv4({}).udp(1, 2).build());
    EXPECT_EQ(key.ethertype, type);
    expect_no_ip(key);
  }
}

TEST(Parse, Ipv6NeedsVersionAndFortyBytes) {
  expect_no_ip(parse(FrameBuilder().ethernet().type(0x86dd).ipv6({.version = 4}).build()));
  expect_no_ip(parse(ipv6(17).cut(53).build()));
  EXPECT_EQ(parse(ipv6(17).cut(54).build()).family, VTAP_L3_IPV6);
}

TEST(Parse, EveryExtensionHeaderIsWalked) {
  for (const std::uint8_t type : std::to_array<std::uint8_t>({0, 43, 60, 135, 139, 140})) {
    const vtap_key key = parse(ipv6(type).extension(17, 3).udp(7, 8).build());
    EXPECT_EQ(key.proto, 17) << int{type};
    expect_ports(key, 7, 8);
  }
  expect_ports(parse(ipv6(51).authentication(17, 5).udp(7, 8).build()), 7, 8);
  const vtap_key esp = parse(ipv6(50).extension(17).udp(7, 8).build());
  EXPECT_EQ(esp.proto, 50);
  expect_no_ports(esp);
}

TEST(Parse, WalkEndsAfterEightExtensionHeaders) {
  for (int count = 0; count <= 9; ++count) {
    auto frame = ipv6(count == 0 ? 6 : 60);
    for (int i = 1; i <= count; ++i) frame.extension(i == count ? 6 : 60);
    const vtap_key key = parse(frame.tcp(7, 8, 2).build());
    EXPECT_EQ(key.proto, count <= 8 ? 6 : 60) << count;
    EXPECT_EQ(int(key.sport), count <= 8 ? 7 : VTAP_NO_PORT) << count;
  }
}

TEST(Parse, ExtensionHeaderThatIsCutOffIsTheProto) {
  const auto frame = ipv6(0).extension(60).extension(6).tcp(7, 8, 2);
  EXPECT_EQ(parse(FrameBuilder(frame).cut(54 + 7).build()).proto, 0);
  EXPECT_EQ(parse(FrameBuilder(frame).cut(54 + 8).build()).proto, 60);
  EXPECT_EQ(parse(FrameBuilder(frame).cut(54 + 15).build()).proto, 60);
  const vtap_key key = parse(FrameBuilder(frame).cut(54 + 16).build());
  EXPECT_EQ(key.proto, 6);
  expect_no_ports(key);
}

TEST(Parse, ExtensionHeaderLongerThanTheFrame) {
  const vtap_key key = parse(ipv6(0).extension(6, 255).cut(54 + 200).build());
  EXPECT_EQ(key.proto, 6);
  EXPECT_EQ(key.family, VTAP_L3_IPV6);
  expect_no_ports(key);
}

TEST(Parse, Ipv6Fragments) {
  const vtap_key first = parse(ipv6(44).fragment(17, 0, true).udp(7, 8).build());
  EXPECT_EQ(first.fragment, 1);
  EXPECT_EQ(first.proto, 17);
  expect_ports(first, 7, 8);

  const vtap_key atomic = parse(ipv6(44).fragment(17, 0, false).udp(7, 8).build());
  EXPECT_EQ(atomic.fragment, 1);
  expect_ports(atomic, 7, 8);

  const vtap_key later = parse(ipv6(44).fragment(17, 1, false).udp(7, 8).build());
  EXPECT_EQ(later.fragment, 1);
  EXPECT_EQ(later.proto, 17);
  expect_no_ports(later);

  const vtap_key behind = parse(ipv6(44).fragment(60, 1, false).extension(17).udp(7, 8).build());
  EXPECT_EQ(behind.proto, 60);  // payload is not walked
  expect_no_ports(behind);

  const vtap_key cut = parse(ipv6(44).fragment(17, 0, true).cut(54 + 7).build());
  EXPECT_EQ(cut.fragment, 0);
  EXPECT_EQ(cut.proto, 44);
}

TEST(Parse, NothingIsReadBehindTheWindow) {
  // 54 bytes of headers, then one extension header up to where the UDP header shall begin.
  for (const std::size_t at : {VTAP_WINDOW - 4, VTAP_WINDOW - 2, VTAP_WINDOW + 4}) {
    const std::size_t first = (at - 54) % 8 == 0 ? 54 : 54 + (at - 54) % 8;
    auto frame = FrameBuilder().ethernet();
    if (first != 54) frame.tag(1);  // 4 bytes more
    frame.type(0x86dd).ipv6({.next = 60});
    const std::size_t rest = at - frame.size();
    frame.extension(17, static_cast<std::uint8_t>(rest / 8 - 1));
    const std::size_t l4 = frame.size();
    const vtap_key key = parse(frame.udp(7, 8).payload(100).build());
    EXPECT_EQ(key.proto, 17);
    EXPECT_EQ(key.sport != VTAP_NO_PORT, l4 + 4 <= VTAP_WINDOW) << l4;
  }
}

TEST(Parse, AgreesWithTheOracle) {
  std::size_t with_ports = 0;
  std::size_t fragments = 0;
  for (const Bytes& frame : corpus(1, 50000)) {
    const Fields fields = read_fields(frame);
    ASSERT_TRUE(same(parse(frame), expected_key(fields))) << hex(frame);
    with_ports += fields.ports.has_value();
    fragments += fields.fragment.value_or(false);
  }
  EXPECT_GT(with_ports, 15000U);  // the corpus has something in it
  EXPECT_GT(fragments, 3000U);
}

TEST(Parse, FewerBytesEitherGiveTheSameKeyOrAskForMore) {
  std::size_t asked = 0;
  Random random(2);
  for (const Bytes& frame : corpus(2, 20000)) {
    const std::size_t full = std::min<std::size_t>(frame.size(), VTAP_WINDOW);
    const std::size_t first = random.percent(50) ? 128 : random.below(200);
    vtap_key key;
    if (parse_first(frame, std::min(first, full), key) == VTAP_PARSE_MORE) {
      EXPECT_LT(first, full);
      ++asked;
    } else {
      ASSERT_TRUE(same(key, parse(frame))) << first << " of " << hex(frame);
    }
  }
  EXPECT_GT(asked, 1000U);
}

TEST(Parse, FirstLookIsEnoughForOrdinaryFrames) {
  vtap_key key;
  const Bytes v4 = ipv4({.proto = 6, .ihl = 15}).tcp(1, 2, 3).payload(1000).build();
  EXPECT_EQ(parse_first(v4, 128, key), VTAP_PARSE_DONE);
  const Bytes v6 = ipv6(0).extension(6, 1).tcp(1, 2, 3).payload(1000).build();
  EXPECT_EQ(parse_first(v6, 128, key), VTAP_PARSE_DONE);
  const Bytes other = FrameBuilder().ethernet().type(0x88cc).payload(1000).build();
  EXPECT_EQ(parse_first(other, 128, key), VTAP_PARSE_DONE);
}

}  // namespace
}  // namespace vtap::test
