// SPDX-License-Identifier: Apache-2.0
#include "support/frames.hpp"

#include <algorithm>

namespace vtap::test {

namespace pool {

std::array<std::uint8_t, 4> ipv4(Random& random) {
  static constexpr std::array<std::uint8_t, 3> kNets{10, 192, 224};
  return {random.pick(kNets), static_cast<std::uint8_t>(random.below(2)),
          static_cast<std::uint8_t>(random.below(3)), static_cast<std::uint8_t>(random.below(6))};
}

std::array<std::uint8_t, 16> ipv6(Random& random) {
  std::array<std::uint8_t, 16> address{0x20, 0x01, 0x0d, 0xb8};
  address[5] = static_cast<std::uint8_t>(random.below(2));
  address[7] = static_cast<std::uint8_t>(random.below(3));
  address[15] = static_cast<std::uint8_t>(random.below(6));
  if (random.percent(10)) address[0] = 0xfe;
  return address;
}

std::array<std::uint8_t, 6> mac(Random& random) {
  if (random.percent(5)) return {};
  if (random.percent(10)) return {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
  return {2,
          0,
          0,
          0,
          static_cast<std::uint8_t>(random.below(2)),
          static_cast<std::uint8_t>(random.below(4))};
}

std::uint16_t port(Random& random) {
  static constexpr std::array<std::uint16_t, 10> kPorts{0,    22,   53,   80,    443,
                                                        8000, 8050, 8100, 32768, 65535};
  return random.percent(90) ? random.pick(kPorts) : static_cast<std::uint16_t>(random.below(65536));
}

std::uint16_t vlan(Random& random) {
  static constexpr std::array<std::uint16_t, 6> kVlans{0, 1, 10, 11, 100, 4095};
  return random.pick(kVlans);
}

std::uint8_t proto(Random& random) {
  static constexpr std::array<std::uint8_t, 22> kProtos{
      6, 17, 132, 6, 17, 6, 1, 58, 47, 50, 51, 89, 0, 43, 44, 59, 60, 2, 135, 139, 140, 255};
  return random.pick(kProtos);
}

std::uint16_t ethertype(Random& random) {
  static constexpr std::array<std::uint16_t, 16> kTypes{
      0x0800, 0x86dd, 0x0806, 0x8847, 0x8848, 0x88cc, 0x8863, 0x8864,
      0x0026, 0x05dc, 0x8100, 0x88a8, 0x9100, 0x22f0, 0x0000, 0xffff};
  return random.pick(kTypes);
}

std::uint8_t dscp(Random& random) {
  static constexpr std::array<std::uint8_t, 5> kCodes{0, 10, 34, 46, 63};
  return random.pick(kCodes);
}

std::uint8_t tcp_flags(Random& random) {
  static constexpr std::array<std::uint8_t, 8> kFlags{0x02, 0x12, 0x10, 0x18,
                                                      0x11, 0x04, 0x00, 0xff};
  return random.pick(kFlags);
}

}  // namespace pool

FrameBuilder& FrameBuilder::be16(std::uint16_t value) {
  frame_.push_back(static_cast<std::uint8_t>(value >> 8));
  frame_.push_back(static_cast<std::uint8_t>(value & 0xff));
  return *this;
}

FrameBuilder& FrameBuilder::bytes(std::span<const std::uint8_t> raw) {
  frame_.insert(frame_.end(), raw.begin(), raw.end());
  return *this;
}

FrameBuilder& FrameBuilder::payload(std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) frame_.push_back(static_cast<std::uint8_t>(i * 7 + 1));
  return *this;
}

FrameBuilder& FrameBuilder::pad(std::size_t n) {
  if (frame_.size() < n) frame_.resize(n);
  return *this;
}

FrameBuilder& FrameBuilder::cut(std::size_t n) {
  if (frame_.size() > n) frame_.resize(n);
  return *this;
}

FrameBuilder& FrameBuilder::ethernet(std::array<std::uint8_t, 6> dst,
                                     std::array<std::uint8_t, 6> src) {
  return bytes(dst).bytes(src);
}

FrameBuilder& FrameBuilder::tag(std::uint16_t tci, std::uint16_t tpid) {
  return be16(tpid).be16(tci);
}

FrameBuilder& FrameBuilder::type(std::uint16_t ethertype) { return be16(ethertype); }

FrameBuilder& FrameBuilder::ipv4(const Ipv4& header) {
  frame_.push_back(static_cast<std::uint8_t>(header.version << 4 | (header.ihl & 15)));
  frame_.push_back(static_cast<std::uint8_t>(header.dscp << 2 | 1));  // ECN must not matter
  be16(header.total_length).be16(header.id);
  be16(static_cast<std::uint16_t>((header.more ? 0x2000 : 0x4000) | (header.offset & 0x1fff)));
  frame_.push_back(64);
  frame_.push_back(header.proto);
  be16(0).bytes(header.src).bytes(header.dst);
  for (int word = 5; word < header.ihl; ++word) be16(0x0101).be16(0x0101);
  return *this;
}

FrameBuilder& FrameBuilder::ipv6(const Ipv6& header) {
  const auto traffic_class = static_cast<std::uint8_t>(header.dscp << 2 | 2);
  be16(static_cast<std::uint16_t>(header.version << 12 | traffic_class << 4 | 5)).be16(0x4321);
  be16(header.payload_length);
  frame_.push_back(header.next);
  frame_.push_back(64);
  return bytes(header.src).bytes(header.dst);
}

FrameBuilder& FrameBuilder::extension(std::uint8_t next, std::uint8_t more_words) {
  frame_.push_back(next);
  frame_.push_back(more_words);
  return payload(6 + std::size_t{8} * more_words);
}

FrameBuilder& FrameBuilder::authentication(std::uint8_t next, std::uint8_t words) {
  frame_.push_back(next);
  frame_.push_back(words);
  return payload(std::size_t{4} * (words + 2U) - 2);
}

FrameBuilder& FrameBuilder::fragment(std::uint8_t next, std::uint16_t offset, bool more) {
  frame_.push_back(next);
  frame_.push_back(0xee);  // reserved: must not be taken for a length
  be16(static_cast<std::uint16_t>(offset << 3 | 6 | (more ? 1 : 0)));
  return payload(4);
}

FrameBuilder& FrameBuilder::tcp(std::uint16_t sport, std::uint16_t dport, std::uint8_t flags) {
  be16(sport).be16(dport).payload(8);
  frame_.push_back(0x50);
  frame_.push_back(flags);
  return payload(6);
}

FrameBuilder& FrameBuilder::udp(std::uint16_t sport, std::uint16_t dport, std::uint16_t length) {
  return be16(sport).be16(dport).be16(length).be16(0);
}

FrameBuilder& FrameBuilder::sctp(std::uint16_t sport, std::uint16_t dport) {
  return be16(sport).be16(dport).payload(8);
}

namespace {

/// One random frame of the corpus.
class RandomFrame {
 public:
  explicit RandomFrame(Random& random) : random_(random) {}

  Bytes make() {
    if (random_.percent(3)) return noise();
    frame_.ethernet(pool::mac(random_), pool::mac(random_));
    tags();
    const std::uint32_t kind = random_.below(100);
    if (kind < 45) {
      frame_.type(0x0800);
      ipv4();
    } else if (kind < 85) {
      frame_.type(0x86dd);
      ipv6();
    } else {
      other();
    }
    return damaged(frame_.build());
  }

 private:
  std::uint8_t upper_proto() {
    static constexpr std::array<std::uint8_t, 5> kWithPorts{6, 17, 6, 17, 132};
    return random_.percent(65) ? random_.pick(kWithPorts) : pool::proto(random_);
  }

  std::uint16_t any16() { return static_cast<std::uint16_t>(random_.below(65536)); }

  Bytes noise() {
    Bytes bytes(random_.below(200));
    for (auto& byte : bytes) byte = random_.byte();
    return bytes;
  }

  void tags() {
    static constexpr std::array<std::uint16_t, 2> kTpids{0x8100, 0x88a8};
    const std::uint32_t kind = random_.below(20);
    const std::uint32_t count = kind < 10 ? 0 : kind < 15 ? 1 : kind < 19 ? 2 : 3;
    for (std::uint32_t i = 0; i < count; ++i) {
      const auto priority = static_cast<std::uint16_t>(random_.below(16) << 12);
      frame_.tag(static_cast<std::uint16_t>(priority | pool::vlan(random_)), random_.pick(kTpids));
    }
  }

  void ipv4() {
    FrameBuilder::Ipv4 header{.src = pool::ipv4(random_),
                              .dst = pool::ipv4(random_),
                              .proto = upper_proto(),
                              .dscp = pool::dscp(random_),
                              .total_length = any16()};
    if (random_.percent(20)) header.ihl = static_cast<std::uint8_t>(random_.below(16));
    if (random_.percent(3)) header.version = static_cast<std::uint8_t>(random_.below(16));
    if (random_.percent(15)) {
      header.more = random_.percent(50);
      header.offset = static_cast<std::uint16_t>(random_.percent(50) ? 0 : any16());
    }
    frame_.ipv4(header);
    upper(header.proto);
  }

  void ipv6() {
    FrameBuilder::Ipv6 header{.src = pool::ipv6(random_),
                              .dst = pool::ipv6(random_),
                              .next = upper_proto(),
                              .dscp = pool::dscp(random_),
                              .payload_length = any16()};
    if (random_.percent(3)) header.version = static_cast<std::uint8_t>(random_.below(16));
    // A chain from below: the last entry is the upper layer.
    std::vector<std::uint8_t> chain;
    const std::uint32_t kind = random_.below(100);
    const std::uint32_t length = kind < 55   ? 0
                                 : kind < 90 ? random_.between(1, 3)
                                             : random_.between(4, 11);
    static constexpr std::array<std::uint8_t, 8> kExtensions{0, 43, 44, 51, 60, 135, 139, 140};
    for (std::uint32_t i = 0; i < length; ++i) chain.push_back(random_.pick(kExtensions));
    chain.push_back(header.next);
    header.next = chain.front();
    frame_.ipv6(header);
    for (std::size_t i = 0; i + 1 < chain.size(); ++i) extension(chain[i], chain[i + 1]);
    upper(chain.back());
  }

  void extension(std::uint8_t type, std::uint8_t next) {
    // Long ones carry the rest over the end of the window.
    const auto words = static_cast<std::uint8_t>(random_.percent(10)   ? random_.below(130)
                                                 : random_.percent(50) ? 0
                                                                       : random_.below(5));
    if (type == 44) {
      static constexpr std::array<std::uint16_t, 4> kOffsets{0, 0, 1, 0x1fff};
      frame_.fragment(next, random_.pick(kOffsets), random_.percent(50));
    } else if (type == 51) {
      frame_.authentication(next, words);
    } else {
      frame_.extension(next, words);
    }
  }

  void upper(std::uint8_t proto) {
    const std::uint16_t sport = pool::port(random_);
    const std::uint16_t dport = pool::port(random_);
    if (proto == 6) {
      frame_.tcp(sport, dport, pool::tcp_flags(random_));
    } else if (proto == 132) {
      frame_.sctp(sport, dport);
    } else {
      frame_.udp(sport, dport, any16());  // looks like ports also where there are none
    }
    frame_.payload(random_.percent(10) ? random_.below(900) : random_.below(40));
    if (random_.percent(50)) frame_.pad(60);
  }

  void other() {
    const std::uint16_t type = pool::ethertype(random_);
    frame_.type(type);
    if (type == 0x8847 && random_.percent(80)) {
      static constexpr std::array<std::uint8_t, 4> kLabel{0x00, 0x01, 0x01, 0x40};
      frame_.bytes(kLabel);
      ipv4();  // an IP header that no key may read
    } else if (type == 0x0026) {
      static constexpr std::array<std::uint8_t, 7> kStp{0x42, 0x42, 0x03, 0, 0, 0, 0};
      frame_.bytes(kStp).payload(31);
    } else {
      frame_.payload(random_.below(80));
    }
    if (random_.percent(50)) frame_.pad(60);
  }

  Bytes damaged(Bytes bytes) {
    if (random_.percent(12)) bytes.resize(random_.below(static_cast<std::uint32_t>(bytes.size())));
    if (random_.percent(8) && !bytes.empty()) {
      const std::uint32_t flips = random_.between(1, 4);
      const auto headers = static_cast<std::uint32_t>(std::min<std::size_t>(bytes.size(), 100));
      for (std::uint32_t i = 0; i < flips; ++i)
        bytes[random_.below(headers)] ^= static_cast<std::uint8_t>(1U << random_.below(8));
    }
    if (bytes.size() > 2000) bytes.resize(2000);
    return bytes;
  }

  Random& random_;
  FrameBuilder frame_;
};

}  // namespace

std::vector<Bytes> corpus(std::uint64_t seed, std::size_t n) {
  Random random(seed);
  std::vector<Bytes> frames;
  frames.reserve(n);
  while (frames.size() < n) frames.push_back(RandomFrame(random).make());
  return frames;
}

std::string hex(std::span<const std::uint8_t> bytes) {
  static constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const std::uint8_t byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

}  // namespace vtap::test
