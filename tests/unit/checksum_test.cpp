// SPDX-License-Identifier: Apache-2.0
#include "pipeline/checksum.hpp"

#include <gtest/gtest.h>

#include <memory>

#include "support/frames.hpp"

namespace vtap::test {
namespace {

using pipeline::complete_checksum;
using pipeline::complete_if_unfinished;
using pipeline::ones_complement_sum;

using View = std::span<const std::uint8_t>;

/// RFC 1071, word by word in network order: the slowest way that can be right.
std::uint16_t naive_sum(View bytes) {
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i < bytes.size(); i += 2) {
    sum += static_cast<std::uint32_t>(bytes[i] << 8);
    if (i + 1 < bytes.size()) sum += bytes[i + 1];
    if (sum > 0xffff) sum -= 0xffff;
  }
  return static_cast<std::uint16_t>(sum);
}

void put16(Bytes& bytes, std::size_t at, std::size_t value) {
  bytes.at(at) = static_cast<std::uint8_t>(value >> 8);
  bytes.at(at + 1) = static_cast<std::uint8_t>(value);
}
std::uint16_t get16(View bytes, std::size_t at) {
  return static_cast<std::uint16_t>(bytes[at] << 8 | bytes[at + 1]);
}

struct Shape {
  bool v6 = false;
  bool tcp = false;
  std::uint32_t tags = 0;
  std::uint32_t option_words = 0;  ///< IPv4
  std::uint32_t payload = 0;
  std::uint32_t trailer = 0;  ///< bytes behind the IP packet, zero as a sender pads
};

/// A frame whose IP lengths are true, as its sender's stack left it and as it should be.
struct Pair {
  Bytes unfinished;
  Bytes complete;
  std::size_t transport = 0;  ///< offset
  std::size_t field = 0;      ///< offset of the checksum
};

Pair make(const Shape& shape, Random& random) {
  const std::uint8_t proto = shape.tcp ? 6 : 17;
  const std::size_t segment = (shape.tcp ? 20U : 8U) + shape.payload;
  const std::size_t ip_header = shape.v6 ? 40 : 20 + std::size_t{4} * shape.option_words;
  FrameBuilder builder;
  builder.ethernet();
  for (std::uint32_t i = 0; i < shape.tags; ++i) builder.tag(7, i == 0 ? 0x88a8 : 0x8100);
  Bytes addresses;
  if (shape.v6) {
    FrameBuilder::Ipv6 header{.src = pool::ipv6(random), .dst = pool::ipv6(random), .next = proto};
    header.payload_length = static_cast<std::uint16_t>(segment);
    addresses.assign(header.src.begin(), header.src.end());
    addresses.insert(addresses.end(), header.dst.begin(), header.dst.end());
    builder.type(0x86dd).ipv6(header);
  } else {
    FrameBuilder::Ipv4 header{.src = pool::ipv4(random), .dst = pool::ipv4(random), .proto = proto};
    header.ihl = static_cast<std::uint8_t>(5 + shape.option_words);
    header.total_length = static_cast<std::uint16_t>(ip_header + segment);
    addresses.assign(header.src.begin(), header.src.end());
    addresses.insert(addresses.end(), header.dst.begin(), header.dst.end());
    builder.type(0x0800).ipv4(header);
  }
  Pair pair;
  pair.transport = builder.size();
  pair.field = pair.transport + (shape.tcp ? 16 : 6);
  const auto port = static_cast<std::uint16_t>(random.below(65536));
  if (shape.tcp) {
    builder.tcp(port, 80, 0x18);
  } else {
    builder.udp(port, 53, static_cast<std::uint16_t>(segment));
  }
  Bytes payload(shape.payload);
  for (auto& byte : payload) byte = random.byte();
  pair.unfinished = builder.bytes(payload).pad(builder.size() + shape.trailer).build();

  // The pseudo-header (RFC 793, RFC 8200 8.1), written out.
  Bytes pseudo = addresses;
  pseudo.insert(pseudo.end(), {0, 0, 0, 0, 0, 0, 0, proto});
  put16(pseudo, addresses.size() + 2, segment);
  put16(pair.unfinished, pair.field, naive_sum(pseudo));

  pair.complete = pair.unfinished;
  put16(pair.complete, pair.field, 0);
  Bytes covered = pseudo;
  covered.insert(covered.end(), pair.complete.begin() + static_cast<long>(pair.transport),
                 pair.complete.begin() + static_cast<long>(pair.transport + segment));
  const auto sum = static_cast<std::uint16_t>(~naive_sum(covered));
  put16(pair.complete, pair.field, sum == 0 ? 0xffff : sum);
  return pair;
}

/// Every combination, payloads of all small lengths and some large ones.
template <typename Check>
void for_each_shape(Check&& check) {
  Random random(2);
  for (std::uint32_t bits = 0; bits < 4 * 3 * 3; ++bits) {
    Shape shape{.v6 = (bits & 1) != 0, .tcp = (bits & 2) != 0};
    shape.tags = bits / 4 % 3;
    shape.option_words = shape.v6 ? 0 : bits / 12 * 2;
    for (std::uint32_t n = 0; n < 80; ++n) {
      shape.payload = n < 64 ? n : random.below(1400);
      shape.trailer = random.percent(30) ? random.below(19) : 0;
      SCOPED_TRACE(testing::Message()
                   << (shape.v6 ? "IPv6 " : "IPv4 ") << (shape.tcp ? "TCP" : "UDP") << ", tags "
                   << shape.tags << ", option words " << shape.option_words << ", payload "
                   << shape.payload << ", trailer " << shape.trailer);
      check(make(shape, random));
      if (testing::Test::HasFailure()) return;
    }
  }
}

TEST(OnesComplementSum, AgreesWithTheNaiveOne) {
  Random random(3);
  Bytes bytes(1600);
  for (auto& byte : bytes) byte = random.byte();
  for (std::uint32_t length = 0; length <= 1500; length += random.between(1, 5)) {
    const View part = View(bytes).subspan(random.below(64), length);  // any alignment
    EXPECT_EQ(ones_complement_sum(part), naive_sum(part)) << length << " bytes";
  }
  const Bytes ones(65536, 0xff);  // the largest sum there is
  EXPECT_EQ(ones_complement_sum(ones), 0xffff);
  EXPECT_EQ(ones_complement_sum({}), 0);
}

TEST(CompleteChecksum, FinishesWhatTheKernelLeftUnfinished) {
  for_each_shape([](Pair pair) {
    EXPECT_TRUE(complete_checksum(pair.unfinished, static_cast<std::uint32_t>(pair.transport),
                                  static_cast<std::uint32_t>(pair.field - pair.transport)));
    EXPECT_EQ(hex(pair.unfinished), hex(pair.complete));
  });
}

/// To UDP a checksum of 0 says that there is none.
TEST(CompleteChecksum, NeverWritesZero) {
  Random random(8);
  for (const bool v6 : {false, true}) {
    Pair pair = make({.v6 = v6, .payload = 2}, random);
    const std::size_t payload = pair.transport + 8;
    const Bytes words{pair.complete[payload], pair.complete[payload + 1], pair.complete[pair.field],
                      pair.complete[pair.field + 1]};
    put16(pair.unfinished, payload, naive_sum(words));  // now everything adds up to 0xffff
    EXPECT_TRUE(complete_checksum(pair.unfinished, static_cast<std::uint32_t>(pair.transport), 6));
    EXPECT_EQ(get16(pair.unfinished, pair.field), 0xffff);
  }
}

TEST(CompleteChecksum, ChangesNothingWhereTheFieldIsOutside) {
  Random random(4);
  for (int i = 0; i < 2000; ++i) {
    Bytes frame(random.below(80), 0x5a);
    const auto start = random.percent(50) ? random.below(100) : random.below(65536);
    const auto offset = random.percent(50) ? random.below(100) : random.below(65536);
    const Bytes before = frame;
    const bool inside = start + offset + 2 <= frame.size();
    EXPECT_EQ(complete_checksum(frame, start, offset), inside) << start << " " << offset;
    Bytes expected = before;
    for (const std::size_t at : {start + offset, start + offset + 1}) {
      if (inside) expected[at] = frame[at];
    }
    EXPECT_EQ(frame, expected);
  }
}

TEST(CompleteIfUnfinished, CompletesAPseudoHeaderSum) {
  for_each_shape([](Pair pair) {
    EXPECT_TRUE(complete_if_unfinished(pair.unfinished));
    EXPECT_EQ(hex(pair.unfinished), hex(pair.complete));
  });
}

TEST(CompleteIfUnfinished, LeavesACompleteChecksumAlone) {
  for_each_shape([](Pair pair) {
    const Bytes before = pair.complete;
    complete_if_unfinished(pair.complete);
    EXPECT_EQ(hex(pair.complete), hex(before));
  });
}

TEST(CompleteIfUnfinished, LeavesWrongAndAbsentChecksumsAlone) {
  for_each_shape([](Pair pair) {
    const std::uint16_t pseudo = get16(pair.unfinished, pair.field);
    for (const std::uint16_t value : {std::uint16_t{0}, static_cast<std::uint16_t>(pseudo + 1),
                                      static_cast<std::uint16_t>(~pseudo)}) {
      if (value == pseudo) continue;
      put16(pair.unfinished, pair.field, value);
      const Bytes before = pair.unfinished;
      EXPECT_FALSE(complete_if_unfinished(pair.unfinished));
      EXPECT_EQ(pair.unfinished, before);
    }
  });
}

TEST(CompleteIfUnfinished, LeavesFragmentsAlone) {
  Random random(5);
  Pair pair = make({.payload = 100}, random);
  put16(pair.unfinished, 14 + 6, 0x2000);  // MF: the segment goes on in another frame
  const Bytes before = pair.unfinished;
  EXPECT_FALSE(complete_if_unfinished(pair.unfinished));
  EXPECT_EQ(pair.unfinished, before);
}

/// In memory of exactly its size, so that ASan sees a read of one byte too many.
TEST(CompleteIfUnfinished, ReadsNothingBehindTheFrame) {
  const auto run = [](View frame) {
    const auto copy = std::make_unique<std::uint8_t[]>(frame.size());
    std::copy(frame.begin(), frame.end(), copy.get());
    const bool changed = complete_if_unfinished({copy.get(), frame.size()});
    std::size_t different = 0;
    for (std::size_t i = 0; i < frame.size(); ++i) different += copy[i] != frame[i] ? 1 : 0;
    EXPECT_LE(different, changed ? 2U : 0U) << hex(frame);
    return changed;
  };
  for (const Bytes& frame : corpus(6, 5000)) run(frame);
  Random random(7);
  for (const bool v6 : {false, true}) {
    for (const bool tcp : {false, true}) {
      const Pair pair = make({.v6 = v6, .tcp = tcp, .tags = 2, .payload = 9}, random);
      for (std::size_t cut = 0; cut < pair.unfinished.size(); ++cut) {
        EXPECT_FALSE(run(View(pair.unfinished).first(cut))) << "cut to " << cut;
      }
    }
  }
}

}  // namespace
}  // namespace vtap::test
