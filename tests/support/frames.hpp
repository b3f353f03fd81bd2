// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// Frames for tests: built header by header, or a corpus of many odd ones.
namespace vtap::test {

using Bytes = std::vector<std::uint8_t>;

/// The same numbers on every machine (the distributions of <random> are not), so that a seed in a
/// message is enough to see a failure again.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}

  /// 0 .. n - 1; n > 0.
  std::uint32_t below(std::uint32_t n) { return static_cast<std::uint32_t>(engine_() % n); }
  std::uint32_t between(std::uint32_t first, std::uint32_t last) {
    return first + below(last - first + 1);
  }
  bool percent(std::uint32_t chance) { return below(100) < chance; }
  std::uint8_t byte() { return static_cast<std::uint8_t>(below(256)); }

  template <typename Container>
  const auto& pick(const Container& from) {
    return from[below(static_cast<std::uint32_t>(std::size(from)))];
  }

 private:
  std::mt19937_64 engine_;
};

/// Values of which frames and random configs are made, few enough that they meet.
namespace pool {
std::array<std::uint8_t, 4> ipv4(Random& random);
std::array<std::uint8_t, 16> ipv6(Random& random);
std::array<std::uint8_t, 6> mac(Random& random);
std::uint16_t port(Random& random);
std::uint16_t vlan(Random& random);
std::uint8_t proto(Random& random);
std::uint16_t ethertype(Random& random);
std::uint8_t dscp(Random& random);
std::uint8_t tcp_flags(Random& random);
}  // namespace pool

/// Writes headers one behind the other. Nothing is computed or checked: what a header announces and
/// what follows it are up to the caller, so every kind of broken frame can be made.
class FrameBuilder {
 public:
  struct Ipv4 {
    std::array<std::uint8_t, 4> src{10, 0, 0, 1};
    std::array<std::uint8_t, 4> dst{10, 0, 0, 2};
    std::uint8_t proto = 17;
    std::uint8_t dscp = 0;
    std::uint8_t version = 4;
    std::uint8_t ihl = 5;            ///< words; the options that it announces are written as NOPs
    std::uint16_t offset = 0;        ///< of a fragment, in units of 8 bytes
    bool more = false;               ///< MF
    std::uint16_t total_length = 0;  ///< nobody looks at it
    std::uint16_t id = 0x1234;
  };
  struct Ipv6 {
    std::array<std::uint8_t, 16> src{0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
    std::array<std::uint8_t, 16> dst{0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2};
    std::uint8_t next = 17;
    std::uint8_t dscp = 0;
    std::uint8_t version = 6;
    std::uint16_t payload_length = 0;  ///< nobody looks at it
  };

  /// Destination and source address; a tag or type() follows.
  FrameBuilder& ethernet(std::array<std::uint8_t, 6> dst = {2, 0, 0, 0, 0, 2},
                         std::array<std::uint8_t, 6> src = {2, 0, 0, 0, 0, 1});
  FrameBuilder& tag(std::uint16_t tci, std::uint16_t tpid = 0x8100);
  FrameBuilder& type(std::uint16_t ethertype);
  FrameBuilder& ipv4(const Ipv4& header);
  FrameBuilder& ipv6(const Ipv6& header);
  /// Extension header with the generic layout, of 8 + 8 * more_words bytes.
  FrameBuilder& extension(std::uint8_t next, std::uint8_t more_words = 0);
  /// IPv6 authentication header of 4 * (words + 2) bytes.
  FrameBuilder& authentication(std::uint8_t next, std::uint8_t words = 4);
  /// IPv6 fragment header; offset in units of 8 bytes.
  FrameBuilder& fragment(std::uint8_t next, std::uint16_t offset, bool more);
  FrameBuilder& tcp(std::uint16_t sport, std::uint16_t dport, std::uint8_t flags);
  FrameBuilder& udp(std::uint16_t sport, std::uint16_t dport, std::uint16_t length = 8);
  FrameBuilder& sctp(std::uint16_t sport, std::uint16_t dport);
  FrameBuilder& bytes(std::span<const std::uint8_t> raw);
  /// n bytes of a pattern, never zero only.
  FrameBuilder& payload(std::size_t n);
  /// Zeros up to n bytes, as a sender pads to 60.
  FrameBuilder& pad(std::size_t n);
  /// Cuts to n bytes, if longer.
  FrameBuilder& cut(std::size_t n);

  [[nodiscard]] std::size_t size() const { return frame_.size(); }
  [[nodiscard]] Bytes build() const { return frame_; }

 private:
  FrameBuilder& be16(std::uint16_t value);

  Bytes frame_;
};

/// n frames, 0 to 2000 bytes: every header that the parser knows in every nesting, plain and
/// broken: cut off, with bits flipped, with lengths that lie, across the end of the window, all
/// random.
std::vector<Bytes> corpus(std::uint64_t seed, std::size_t n);

/// Hexadecimal, for messages.
std::string hex(std::span<const std::uint8_t> bytes);

}  // namespace vtap::test
