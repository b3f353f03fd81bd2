// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "config/config.hpp"
#include "support/frames.hpp"

/// Rule sets, and traffic for them, for the comparison of classifiers (policies_bench.cpp).
namespace vtap::bench {

inline constexpr std::uint32_t kNoPolicy = ~0U;

/// IPv4, host order.
struct Prefix {
  std::uint32_t address = 0;  ///< bits behind the prefix are zero
  std::uint32_t length = 0;   ///< 0: any

  [[nodiscard]] std::uint32_t mask() const noexcept {
    return length == 0 ? 0 : ~0U << (32 - length);
  }
  [[nodiscard]] bool covers(std::uint32_t other) const noexcept {
    return (other & mask()) == address;
  }
};

struct Ports {
  std::uint16_t first = 0;
  std::uint16_t last = 0xffff;

  [[nodiscard]] bool any() const noexcept { return first == 0 && last == 0xffff; }
  [[nodiscard]] bool cover(std::uint16_t port) const noexcept {
    return first <= port && port <= last;
  }
};

struct Packet {
  std::uint32_t src = 0, dst = 0;
  std::uint16_t sport = 0, dport = 0;
  std::uint8_t proto = 0;
  bool operator==(const Packet&) const = default;
};

/// What every contestant can express: a policy's only match, as a config, a pcap-filter(7)
/// expression and rte_acl's 5-tuples are made of it.
struct Rule {
  std::optional<Prefix> host;  ///< either end; then src and dst are any
  Prefix src, dst;
  Ports sport, dport;
  std::uint8_t proto = 0;  ///< 0: any

  [[nodiscard]] bool matches(const Packet& packet) const noexcept;
};

enum class Kind : std::uint8_t { mixed, tuples, pairs };

/// One word for tables, one line for readers.
const char* name_of(Kind kind);
const char* description_of(Kind kind);

/// Policy i is rules[i]. The same for the same seed, on every machine.
std::vector<Rule> make_rules(Kind kind, std::uint32_t policies, std::uint64_t seed);

/// One tap with one port, one policy per rule; the monitors take turns.
config::Config config_of(std::span<const Rule> rules, std::uint32_t monitors = 1);

/// What the policies of one frame are, in a form that is cheap to compare.
struct Answer {
  std::uint32_t first = kNoPolicy;  ///< in file order
  std::uint32_t count = 0;
  std::uint64_t digest = 0;  ///< of the set, in any order

  void add(std::uint32_t policy) noexcept;
  bool operator==(const Answer&) const = default;
};

/// The most naive classifier there is: every rule, one after the other.
Answer judge(std::span<const Rule> rules, const Packet& packet);

/// Frames in one memory, as a UMEM has them, and what is right for each. Distinct, 64 bytes, TCP or
/// UDP over IPv4.
class Traffic {
 public:
  static constexpr std::uint32_t kSlot = 128;   ///< bytes from frame to frame
  static constexpr std::uint32_t kLength = 64;  ///< bytes of a frame
  static constexpr std::uint32_t kIpAt = 14;    ///< offset of the IP header

  Traffic(std::string name, std::span<const Packet> packets, std::vector<Answer> answers);

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] std::uint32_t size() const noexcept {
    return static_cast<std::uint32_t>(answers_.size());
  }
  [[nodiscard]] const std::uint8_t* frame(std::uint32_t i) const noexcept {
    return bytes_.data() + std::size_t{i} * kSlot;
  }
  [[nodiscard]] std::uint8_t* memory() noexcept { return bytes_.data(); }
  [[nodiscard]] const Answer& answer(std::uint32_t i) const noexcept { return answers_[i]; }
  [[nodiscard]] std::uint32_t matching() const noexcept { return matching_; }
  /// Of a frame that has any, on average.
  [[nodiscard]] double policies_per_match() const noexcept {
    return matching_ == 0 ? 0 : static_cast<double>(policies_) / matching_;
  }

 private:
  std::string name_;
  std::vector<std::uint8_t> bytes_;
  std::vector<Answer> answers_;
  std::uint32_t matching_ = 0;
  std::uint64_t policies_ = 0;
};

/// Of ten frames nine belong to a policy, any with the same chance, some to more; the tenth to
/// none.
Traffic hitting_traffic(std::span<const Rule> rules, std::uint32_t frames, std::uint64_t seed);
/// No frame belongs to a policy; half of them nearly do.
Traffic missing_traffic(std::span<const Rule> rules, std::uint32_t frames, std::uint64_t seed);

/// The other extreme: one policy with a long list of hosts and prefixes.
struct LongList {
  config::Config config;
  std::vector<Traffic> traffic;  ///< hitting, missing; right by construction
};
LongList make_long_list(std::uint32_t hosts, std::uint32_t prefixes, std::uint32_t frames,
                        std::uint64_t seed);

}  // namespace vtap::bench
