// SPDX-License-Identifier: Apache-2.0
#include "inputs.hpp"

#include <functional>
#include <map>

namespace vtap::test {
namespace {

using Frames = std::vector<Bytes>;
using V4 = FrameBuilder::Ipv4;
using V6 = FrameBuilder::Ipv6;

constexpr std::uint64_t kGapUs = 10;

template <typename T>
using list = std::initializer_list<T>;

/// Odd frames of every kind; a runt of no bytes does not travel.
Frames odd(std::uint64_t seed, std::size_t n) {
  Frames frames = corpus(seed, n);
  std::erase_if(frames, [](const Bytes& frame) { return frame.empty(); });
  return frames;
}

void add(Frames& to, const Frames& more) { to.insert(to.end(), more.begin(), more.end()); }

Bytes udp(const V4& ip, std::uint16_t sport, std::uint16_t dport, std::size_t payload = 20) {
  return FrameBuilder()
      .ethernet()
      .type(0x0800)
      .ipv4(ip)
      .udp(sport, dport)
      .payload(payload)
      .pad(60)
      .build();
}

Bytes tcp(const V4& ip, std::uint16_t sport, std::uint16_t dport, std::uint8_t flags,
          std::size_t payload = 0) {
  V4 header = ip;
  header.proto = 6;
  return FrameBuilder()
      .ethernet()
      .type(0x0800)
      .ipv4(header)
      .tcp(sport, dport, flags)
      .payload(payload)
      .pad(60)
      .build();
}

Frames addresses() {
  Frames frames;
  for (const std::uint8_t net : list<std::uint8_t>({0, 1, 2})) {
    for (const std::uint8_t host : list<std::uint8_t>({1, 2, 3})) {
      frames.push_back(udp({.src = {10, 0, net, host}, .dst = {192, 0, net, 5}}, 1000, 53));
      frames.push_back(udp({.src = {192, 0, net, 5}, .dst = {10, 0, net, host}}, 53, 1000));
      V6 ip;
      ip.src[15] = host;
      ip.dst[7] = net;
      frames.push_back(
          FrameBuilder().ethernet().type(0x86dd).ipv6(ip).udp(1, 2).payload(9).pad(60).build());
    }
  }
  // Addresses of ARP are none.
  frames.push_back(FrameBuilder().ethernet().type(0x0806).payload(28).pad(60).build());
  add(frames, odd(1, 150));
  return frames;
}

Frames ports() {
  Frames frames;
  for (const std::uint16_t port :
       list<std::uint16_t>({22, 53, 79, 80, 81, 443, 7999, 8000, 8050, 8100, 8101})) {
    frames.push_back(tcp({}, 40000, port, 0x02));
    frames.push_back(tcp({}, port, 40000, 0x12));
    frames.push_back(udp({}, 40000, port));
  }
  for (const std::uint8_t flags :
       list<std::uint8_t>({0x00, 0x02, 0x10, 0x12, 0x18, 0x11, 0x04, 0xff})) {
    frames.push_back(tcp({}, 1, 2, flags));
  }
  add(frames, odd(2, 150));
  return frames;
}

Frames link_layer() {
  Frames frames;
  constexpr std::array<std::uint8_t, 6> kLldp{0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e};
  frames.push_back(FrameBuilder().ethernet(kLldp).type(0x88cc).payload(46).build());
  frames.push_back(FrameBuilder().ethernet().type(0x0806).payload(46).build());
  for (const std::size_t size : {60, 64, 127, 128, 129, 1514}) {
    frames.push_back(FrameBuilder().ethernet().type(0x22f0).pad(size).build());
  }
  frames.push_back(FrameBuilder().ethernet().build());                       // 12 bytes
  frames.push_back(FrameBuilder().ethernet().type(0x0800).build());          // 14
  frames.push_back(FrameBuilder().ethernet().tag(10).type(0x0800).build());  // 18
  add(frames, odd(3, 150));
  return frames;
}

Frames tags_and_fragments() {
  Frames frames;
  const auto tagged = [](std::vector<std::pair<std::uint16_t, std::uint16_t>> tags) {
    FrameBuilder builder;
    builder.ethernet();
    for (const auto& [tci, tpid] : tags) builder.tag(tci, tpid);
    return builder.type(0x0800).ipv4({}).udp(7, 53).payload(30).pad(60).build();
  };
  frames.push_back(tagged({}));
  frames.push_back(tagged({{0xe000, 0x8100}}));  // a priority tag has id 0
  frames.push_back(tagged({{10, 0x8100}}));
  frames.push_back(tagged({{10, 0x88a8}}));
  frames.push_back(tagged({{100, 0x88a8}, {10, 0x8100}}));
  frames.push_back(tagged({{10, 0x8100}, {100, 0x8100}}));
  frames.push_back(tagged({{100, 0x88a8}, {10, 0x8100}, {11, 0x8100}}));  // ethertype 0x8100
  for (const std::uint16_t offset : list<std::uint16_t>({0, 1, 185})) {
    for (const bool more : {false, true}) {
      V4 ip4;
      ip4.offset = offset;
      ip4.more = more;
      frames.push_back(udp(ip4, 7, 53, 64));
      frames.push_back(FrameBuilder()
                           .ethernet()
                           .tag(100, 0x88a8)
                           .tag(10)
                           .type(0x86dd)
                           .ipv6({.next = 44})
                           .fragment(17, offset, more)
                           .udp(7, 53)
                           .payload(64)
                           .build());
    }
  }
  for (const std::uint8_t words : list<std::uint8_t>({0, 3, 100})) {
    frames.push_back(FrameBuilder()
                         .ethernet()
                         .type(0x86dd)
                         .ipv6({.next = 0, .dscp = 46})
                         .extension(60, words)
                         .extension(51)
                         .authentication(6)
                         .tcp(7, 53, 0x02)
                         .payload(20)
                         .build());
  }
  add(frames, odd(4, 150));
  return frames;
}

Frames excepted() {
  Frames frames;
  for (const std::uint8_t host : list<std::uint8_t>({1, 2, 3, 4})) {
    for (const std::uint16_t port : list<std::uint16_t>({22, 53, 443})) {
      frames.push_back(udp({.src = {10, 0, 0, host}}, 5000, port));
      frames.push_back(tcp({.src = {10, 0, 1, host}}, 5000, port, 0x18, 40));
      frames.push_back(tcp({.dst = {10, 0, 1, host}}, port, 5000, 0x18, 40));
    }
  }
  add(frames, odd(5, 120));
  return frames;
}

/// Enough of them for several bursts.
Frames traffic(std::size_t n) {
  Frames frames;
  Random random(6);
  static constexpr std::array<std::uint16_t, 4> kPorts{53, 80, 443, 8080};
  for (std::size_t i = 0; i < n; ++i) {
    const V4 ip{.src = {10, 0, 0, static_cast<std::uint8_t>(random.below(4))}};
    const std::uint16_t port = random.pick(kPorts);
    const std::size_t payload = random.below(300);
    frames.push_back(port == 53 ? udp(ip, 5000, port, payload)
                                : tcp(ip, 5000, port, 0x18, payload));
  }
  return frames;
}

/// A packet of the conversation between 10.0.0.`host` and 10.0.0.2 (or 2001:db8::`host` and ::2),
/// there or back; each third in fragments. Neighbours share their identification.
Frames packet(std::uint8_t host, std::uint16_t port, std::uint16_t number, bool v6) {
  const bool back = number % 2 == 1;
  const bool fragmented = number % 3 == 2;
  Frames frames;
  for (const std::uint16_t offset : list<std::uint16_t>({0, 12, 24})) {
    const bool more = fragmented && offset < 24;
    FrameBuilder frame;
    frame.ethernet();
    if (v6) {
      V6 ip;
      ip.src[15] = host;
      if (back) std::swap(ip.src, ip.dst);
      if (fragmented) ip.next = 44;
      frame.type(0x86dd).ipv6(ip);
      if (fragmented) frame.fragment(17, offset, more);
    } else {
      V4 ip{.src = {10, 0, 0, host}, .offset = offset, .more = more};
      ip.id = static_cast<std::uint16_t>(number / 2);
      if (back) std::swap(ip.src, ip.dst);
      frame.type(0x0800).ipv4(ip);
    }
    if (offset == 0) frame.udp(back ? 53 : port, back ? port : 53);
    frames.push_back(frame.payload(100).build());
    if (!fragmented) break;
  }
  return frames;
}

Frames conversations(std::uint64_t seed) {
  Frames frames;
  for (std::uint16_t number = 0; number < 9; ++number) {
    for (const std::uint8_t host : list<std::uint8_t>({3, 4, 5})) {
      for (const std::uint16_t port : list<std::uint16_t>({1000, 1001})) {
        for (const bool v6 : {false, true}) add(frames, packet(host, port, number, v6));
      }
    }
  }
  add(frames, odd(seed, 100));
  return frames;
}

/// One frame after the other, from the ports in turn.
std::vector<Input> at_ports(const Frames& frames, std::uint8_t count) {
  std::vector<Input> inputs;
  for (std::size_t i = 0; i < frames.size(); ++i) {
    inputs.push_back({i * kGapUs, {frames[i], static_cast<std::uint8_t>(i % count)}});
  }
  return inputs;
}

}  // namespace

std::optional<std::vector<Input>> make_inputs(const std::string& name) {
  static const std::map<std::string, std::function<std::vector<Input>()>> kCases{
      {"match_addresses", [] { return at_ports(addresses(), 2); }},
      {"match_ports_and_flags", [] { return at_ports(ports(), 2); }},
      {"match_link_layer", [] { return at_ports(link_layer(), 2); }},
      {"tags_and_fragments", [] { return at_ports(tags_and_fragments(), 2); }},
      {"except", [] { return at_ports(excepted(), 2); }},
      {"slice", [] { return at_ports(traffic(100), 2); }},
      {"one_in", [] { return at_ports(traffic(300), 2); }},
      {"several_monitors", [] { return at_ports(traffic(200), 2); }},
      {"head_and_slice_after", [] { return at_ports(conversations(7), 2); }},
      {"meter_exceed", [] { return at_ports(conversations(8), 2); }},
      {"two_taps", [] { return at_ports(traffic(200), 4); }},
  };
  const auto found = kCases.find(name);
  if (found == kCases.end()) return std::nullopt;
  return found->second();
}

}  // namespace vtap::test
