// SPDX-License-Identifier: Apache-2.0
#include "pipeline/usual_frame.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>

#include "support/frames.hpp"

namespace vtap::test {
namespace {

using pipeline::kUsualBytes;
using pipeline::parse_usual;

vtap_key general(const Bytes& frame) {
  vtap_key key;
  const auto length = static_cast<__u32>(frame.size());
  vtap_parse(frame.data(), std::min<__u32>(length, VTAP_WINDOW), length, &key);
  return key;
}

/// Nothing of the key may be what was there before, and no byte behind the frame may count.
bool usual(const Bytes& frame, vtap_key& key) {
  const auto exact = std::make_unique<std::uint8_t[]>(frame.size());
  std::copy(frame.begin(), frame.end(), exact.get());
  std::memset(&key, 0xa5, sizeof(key));
  return parse_usual(exact.get(), static_cast<std::uint32_t>(frame.size()), key);
}

Bytes frame_of(std::uint8_t proto, std::size_t length = 64) {
  FrameBuilder frame;
  frame.ethernet().type(0x0800).ipv4({.proto = proto});
  if (proto == VTAP_PROTO_TCP)
    frame.tcp(1234, 443, 0x12);
  else
    frame.udp(1234, 443);
  return frame.pad(length).build();
}

void expect_same(const Bytes& frame) {
  vtap_key key;
  ASSERT_TRUE(usual(frame, key)) << hex(frame);
  const vtap_key right = general(frame);
  ASSERT_EQ(std::memcmp(&key, &right, sizeof(key)), 0) << hex(frame);
}

TEST(UsualFrame, EveryProtocolIsReadAsTheParserDoes) {
  for (std::uint32_t proto = 0; proto < 256; ++proto)
    expect_same(frame_of(static_cast<std::uint8_t>(proto)));
}

TEST(UsualFrame, FromTheFlagsOnAnyLength) {
  for (const std::uint8_t proto : std::initializer_list<std::uint8_t>{6, 17, 132, 1}) {
    Bytes frame = frame_of(proto, kUsualBytes);
    frame.resize(kUsualBytes);
    expect_same(frame);
    for (const std::size_t length : {60U, 1514U, 9000U, 65535U})
      expect_same(frame_of(proto, length));
    vtap_key key;
    frame.resize(65536);
    EXPECT_FALSE(usual(frame, key));
    for (std::size_t length = 0; length < kUsualBytes; ++length) {
      frame.resize(length);
      EXPECT_FALSE(usual(frame, key)) << length;
    }
  }
}

TEST(UsualFrame, WhatIsOddIsLeftToTheParser) {
  vtap_key key;
  const Bytes plain = frame_of(VTAP_PROTO_TCP);
  const auto with = [&](std::size_t at, std::uint8_t value) {
    Bytes frame = plain;
    frame[at] = value;
    return frame;
  };
  for (const auto& [at, value] :
       std::initializer_list<std::pair<std::size_t, std::uint8_t>>{{12, 0x81},
                                                                   {12, 0x88},
                                                                   {13, 0x06},
                                                                   {13, 0x01},
                                                                   {14, 0x46},
                                                                   {14, 0x44},
                                                                   {14, 0x55},
                                                                   {14, 0x65},
                                                                   {20, 0x20},
                                                                   {20, 0x01},
                                                                   {20, 0x10},
                                                                   {21, 0x01},
                                                                   {21, 0x80}})
    EXPECT_FALSE(usual(with(at, value), key)) << at << " is " << int{value};
  expect_same(with(20, 0x40));  // DF
  expect_same(with(20, 0x80));  // the reserved bit
  expect_same(with(15, 0xff));  // DSCP and ECN
}

/// Frames of all kinds, and the same with a few bytes changed: never another key.
TEST(UsualFrame, AgreesWithTheParserOnWhateverComes) {
  Random random(5);
  std::size_t taken = 0, left = 0;
  for (Bytes frame : corpus(5, 60000)) {
    for (int change = 0; change < 4; ++change) {
      vtap_key key;
      if (usual(frame, key)) {
        const vtap_key right = general(frame);
        ASSERT_EQ(std::memcmp(&key, &right, sizeof(key)), 0) << hex(frame);
        ++taken;
      } else {
        ++left;
      }
      if (frame.empty()) break;
      const auto within = static_cast<std::uint32_t>(std::min<std::size_t>(frame.size(), 54));
      frame[random.below(within)] = static_cast<std::uint8_t>(random.below(256));
    }
  }
  EXPECT_GT(taken, 10000U);
  EXPECT_GT(left, 10000U);
}

}  // namespace
}  // namespace vtap::test
