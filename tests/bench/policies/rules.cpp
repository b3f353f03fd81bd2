// SPDX-License-Identifier: Apache-2.0
#include "bench/policies/rules.hpp"

#include <algorithm>
#include <array>
#include <unordered_set>
#include <utility>

namespace vtap::bench {
namespace {

using test::Random;

constexpr std::uint8_t kTcp = 6;
constexpr std::uint8_t kUdp = 17;
constexpr std::uint16_t kFirstEphemeral = 49152;  // no rule names a port from here on
constexpr Prefix kNobodys{0xc6120000, 15};        // 198.18.0.0/15 (RFC 2544): in no rule

std::uint32_t any_word(Random& random) { return random.between(0, 0xfffffffeU); }

std::uint32_t address_in(Prefix prefix, Random& random) {
  return prefix.address | (any_word(random) & ~prefix.mask());
}

Prefix prefix_of(std::uint32_t address, std::uint32_t length) {
  const Prefix prefix{address, length};
  return {address & prefix.mask(), length};
}

std::uint16_t ephemeral(Random& random) {
  return static_cast<std::uint16_t>(random.between(kFirstEphemeral, 65535));
}

/// `n` different addresses of a prefix.
std::vector<std::uint32_t> hosts_in(Prefix prefix, std::uint32_t n, Random& random) {
  std::unordered_set<std::uint32_t> seen;
  std::vector<std::uint32_t> hosts;
  while (hosts.size() < n) {
    const std::uint32_t host = address_in(prefix, random);
    if (seen.insert(host).second) hosts.push_back(host);
  }
  return hosts;
}

// ---- a third each of hosts, prefixes and ports

std::vector<Rule> mixed_rules(std::uint32_t policies, Random& random) {
  const auto hosts = hosts_in({0x0a000000, 8}, policies, random);
  std::vector<Rule> rules(policies);
  for (std::uint32_t i = 0; i < policies; ++i) {
    Rule& rule = rules[i];
    if (i % 3 == 0) rule.host = Prefix{hosts[i], 32};
    if (i % 3 == 1) rule.dst = {0xac000000 + ((i / 3) << 8), 24};  // 172.0.0.0 and on
    if (i % 3 == 2) {
      const auto port = static_cast<std::uint16_t>(1000 + i / 3);
      rule.dport = {port, port};
    }
  }
  return rules;
}

// ---- 5-tuples as in a firewall

/// Shares are in the manner of the seeds of ClassBench (Taylor and Turner, 2007), not taken from
/// one.
struct TupleMaker {
  explicit TupleMaker(Random& from) : random(from) {
    for (std::uint32_t& net : nets) net = address_in({0, 0}, random) & 0x7fffffff;
    for (Ports& range : ranges) {
      const auto first = static_cast<std::uint16_t>(random.between(1, 30000));
      const auto last = static_cast<std::uint16_t>(first + random.between(1, 15000));
      range = {first, last};
    }
  }

  /// In one of a few networks and of few subnets there, so that prefixes lie in one another.
  Prefix prefix(bool may_be_any) {
    static constexpr std::array<std::uint32_t, 12> kLengths{8,  16, 16, 20, 24, 24,
                                                            24, 26, 28, 30, 32, 32};
    if (may_be_any && random.percent(25)) return {};
    const std::uint32_t subnet = random.below(8) << 12 | random.below(4) << 8 | random.below(16);
    return prefix_of(random.pick(nets) ^ subnet, random.pick(kLengths));
  }

  Ports ports(std::uint32_t percent_any) {
    static constexpr std::array<std::uint16_t, 16> kServices{
        20, 21, 22, 23, 25, 53, 80, 110, 123, 143, 161, 389, 443, 3306, 5060, 8080};
    if (random.percent(percent_any)) return {};
    switch (random.below(5)) {
      case 0:
        return {1024, kFirstEphemeral - 1};
      case 1:
        return {0, 1023};
      case 2:
        return random.pick(ranges);
      default: {
        const std::uint16_t service = random.pick(kServices);
        return {service, service};
      }
    }
  }

  Rule rule() {
    Rule rule;
    rule.src = prefix(true);
    rule.dst = prefix(rule.src.length != 0);
    const std::uint32_t kind = random.below(100);
    rule.proto = kind < 65 ? kTcp : kind < 90 ? kUdp : std::uint8_t{0};
    if (rule.proto == 0) return rule;
    rule.sport = ports(85);
    rule.dport = ports(15);
    return rule;
  }

  Random& random;
  std::array<std::uint32_t, 24> nets{};
  std::array<Ports, 48> ranges{};
};

std::vector<Rule> tuple_rules(std::uint32_t policies, Random& random) {
  TupleMaker maker(random);
  std::vector<Rule> rules(policies);
  for (Rule& rule : rules) rule = maker.rule();
  return rules;
}

// ---- pairs of hosts

std::vector<Rule> pair_rules(std::uint32_t policies, Random& random) {
  const auto sources = hosts_in({0x0a000000, 8}, policies, random);
  const auto targets = hosts_in({0xac100000, 12}, policies, random);
  std::vector<Rule> rules(policies);
  for (std::uint32_t i = 0; i < policies; ++i) {
    rules[i].src = {sources[i], 32};
    rules[i].dst = {targets[i], 32};
  }
  return rules;
}

// ---- traffic

Packet far_packet(Random& random) {
  return {address_in(kNobodys, random), address_in(kNobodys, random), ephemeral(random),
          ephemeral(random), random.percent(50) ? kTcp : kUdp};
}

std::uint16_t port_in(Ports ports, Random& random) {
  return static_cast<std::uint16_t>(random.between(ports.first, ports.last));
}

/// Sets what the rule asks for; `packet` keeps the rest.
void fit(Packet& packet, const Rule& rule, Random& random) {
  if (rule.host) (random.percent(50) ? packet.src : packet.dst) = address_in(*rule.host, random);
  if (rule.src.length != 0) packet.src = address_in(rule.src, random);
  if (rule.dst.length != 0) packet.dst = address_in(rule.dst, random);
  if (!rule.sport.any()) packet.sport = port_in(rule.sport, random);
  if (!rule.dport.any()) packet.dport = port_in(rule.dport, random);
  if (rule.proto != 0) packet.proto = rule.proto;
}

Packet packet_for(const Rule& rule, Random& random) {
  Packet packet = far_packet(random);
  fit(packet, rule, random);
  return packet;
}

/// To a policy, and in one case of three to another one as well, where the two can be met.
Packet hitting_packet(std::span<const Rule> rules, Random& random) {
  Packet packet = far_packet(random);
  if (random.percent(33)) fit(packet, random.pick(rules), random);
  fit(packet, random.pick(rules), random);
  return packet;
}

/// A packet to a policy with one field changed.
Packet near_packet(const Rule& rule, Random& random) {
  Packet packet = packet_for(rule, random);
  const Packet other = far_packet(random);
  switch (random.below(5)) {
    case 0:
      packet.src = other.src;
      break;
    case 1:
      packet.dst = other.dst;
      break;
    case 2:
      packet.sport = other.sport;
      break;
    case 3:
      packet.dport = other.dport;
      break;
    default:
      packet.proto = packet.proto == kTcp ? kUdp : kTcp;
      break;
  }
  return packet;
}

struct PacketHash {
  std::size_t operator()(const Packet& p) const noexcept {
    const std::uint64_t addresses = std::uint64_t{p.src} << 32 | p.dst;
    const std::uint64_t rest = std::uint64_t{p.sport} << 24 | std::uint64_t{p.dport} << 8 | p.proto;
    return (addresses * 0x9e3779b97f4a7c15U) ^ (rest * 0xc2b2ae3d27d4eb4fU);
  }
};

/// Different packets; `make` may return any, and is asked again.
template <typename Make>
std::vector<Packet> distinct(std::uint32_t n, Make&& make) {
  std::unordered_set<Packet, PacketHash> seen;
  std::vector<Packet> packets;
  while (packets.size() < n) {
    const Packet packet = make();
    if (seen.insert(packet).second) packets.push_back(packet);
  }
  return packets;
}

Packet missing_packet(std::span<const Rule> rules, Random& random) {
  if (random.percent(50)) {
    const Packet near = near_packet(random.pick(rules), random);
    const auto matches = [&](const Rule& rule) { return rule.matches(near); };
    if (std::ranges::none_of(rules, matches)) return near;
  }
  return far_packet(random);
}

std::array<std::uint8_t, 4> bytes_of(std::uint32_t address) {
  return {static_cast<std::uint8_t>(address >> 24), static_cast<std::uint8_t>(address >> 16),
          static_cast<std::uint8_t>(address >> 8), static_cast<std::uint8_t>(address)};
}

test::Bytes frame_of(const Packet& packet) {
  test::FrameBuilder frame;
  frame.ethernet().type(0x0800).ipv4(
      {.src = bytes_of(packet.src), .dst = bytes_of(packet.dst), .proto = packet.proto});
  if (packet.proto == kTcp)
    frame.tcp(packet.sport, packet.dport, 0x10);
  else
    frame.udp(packet.sport, packet.dport);
  return frame.pad(Traffic::kLength).build();
}

std::vector<Answer> judge_all(std::span<const Rule> rules, std::span<const Packet> packets) {
  std::vector<Answer> answers;
  answers.reserve(packets.size());
  for (const Packet& packet : packets) answers.push_back(judge(rules, packet));
  return answers;
}

// ---- configs

config::Prefix config_prefix(Prefix prefix) {
  config::Prefix result;
  result.length = static_cast<std::uint8_t>(prefix.length);
  std::ranges::copy(bytes_of(prefix.address), result.bytes.begin());
  return result;
}

config::Match match_of(const Rule& rule) {
  config::Match match;
  if (rule.host) match.host = {config_prefix(*rule.host)};
  if (rule.src.length != 0) match.src = {config_prefix(rule.src)};
  if (rule.dst.length != 0) match.dst = {config_prefix(rule.dst)};
  if (!rule.sport.any()) match.src_port = {{rule.sport.first, rule.sport.last}};
  if (!rule.dport.any()) match.dst_port = {{rule.dport.first, rule.dport.last}};
  if (rule.proto != 0) match.proto = {{rule.proto, rule.proto}};
  return match;
}

config::Config empty_config() {
  config::Config config;
  config.file = "bench";
  config.taps.resize(1);
  config.taps[0].ports = {"a"};
  config.monitors.resize(1);
  return config;
}

void add_policy(config::Config& config, config::Match match) {
  config::Policy policy;
  policy.taps = {0};
  policy.monitors = {0};
  policy.match.push_back(std::move(match));
  config.policies.push_back(std::move(policy));
}

}  // namespace

bool Rule::matches(const Packet& packet) const noexcept {
  if (host && !host->covers(packet.src) && !host->covers(packet.dst)) return false;
  return src.covers(packet.src) && dst.covers(packet.dst) && sport.cover(packet.sport) &&
         dport.cover(packet.dport) && (proto == 0 || proto == packet.proto);
}

const char* name_of(Kind kind) {
  return kind == Kind::mixed ? "mixed" : kind == Kind::tuples ? "5-tuples" : "pairs";
}

const char* description_of(Kind kind) {
  if (kind == Kind::mixed) return "a third each of hosts (either end), /24 and destination ports";
  if (kind == Kind::tuples)
    return "prefixes, port ranges and protocol that overlap, as firewalls do";
  return "a source and a destination host each, none named twice";
}

std::vector<Rule> make_rules(Kind kind, std::uint32_t policies, std::uint64_t seed) {
  Random random(seed);
  if (kind == Kind::mixed) return mixed_rules(policies, random);
  return kind == Kind::tuples ? tuple_rules(policies, random) : pair_rules(policies, random);
}

config::Config config_of(std::span<const Rule> rules, std::uint32_t monitors) {
  config::Config config = empty_config();
  config.monitors.resize(monitors);
  for (const Rule& rule : rules) {
    const auto monitor = static_cast<std::uint32_t>(config.policies.size()) % monitors;
    add_policy(config, match_of(rule));
    config.policies.back().monitors = {monitor};
  }
  return config;
}

void Answer::add(std::uint32_t policy) noexcept {
  first = std::min(first, policy);
  ++count;
  digest += (policy + 1) * 0x9e3779b97f4a7c15U;
}

Answer judge(std::span<const Rule> rules, const Packet& packet) {
  Answer answer;
  for (std::uint32_t i = 0; i < rules.size(); ++i) {
    if (rules[i].matches(packet)) answer.add(i);
  }
  return answer;
}

Traffic::Traffic(std::string name, std::span<const Packet> packets, std::vector<Answer> answers)
    : name_(std::move(name)),
      bytes_(packets.size() * kSlot),
      answers_(std::move(answers)),
      matching_(static_cast<std::uint32_t>(
          std::ranges::count_if(answers_, [](const Answer& a) { return a.count != 0; }))) {
  for (const Answer& answer : answers_) policies_ += answer.count;
  for (std::size_t i = 0; i < packets.size(); ++i)
    std::ranges::copy(frame_of(packets[i]), bytes_.data() + i * kSlot);
}

Traffic hitting_traffic(std::span<const Rule> rules, std::uint32_t frames, std::uint64_t seed) {
  Random random(seed);
  const auto packets = distinct(frames, [&] {
    return random.percent(90) ? hitting_packet(rules, random) : missing_packet(rules, random);
  });
  return {"90% match", packets, judge_all(rules, packets)};
}

Traffic missing_traffic(std::span<const Rule> rules, std::uint32_t frames, std::uint64_t seed) {
  Random random(seed);
  const auto packets = distinct(frames, [&] { return missing_packet(rules, random); });
  return {"none match", packets, judge_all(rules, packets)};
}

LongList make_long_list(std::uint32_t hosts, std::uint32_t prefixes, std::uint32_t frames,
                        std::uint64_t seed) {
  Random random(seed);
  std::vector<Prefix> list;
  for (const std::uint32_t host : hosts_in({0x0a000000, 8}, hosts, random))
    list.push_back({host, 32});
  for (std::uint32_t i = 0; i < prefixes; ++i) list.push_back({0xac000000 + (i << 8), 24});

  LongList result;
  result.config = empty_config();
  config::Match match;
  for (const Prefix& entry : list) match.host.push_back(config_prefix(entry));
  add_policy(result.config, std::move(match));

  Answer taken;
  taken.add(0);
  std::vector<Answer> answers;
  const auto packets = distinct(frames, [&] {
    Rule rule;
    rule.host = random.pick(list);
    return packet_for(rule, random);
  });
  // One in ten is replaced by a frame that no entry has.
  std::vector<Packet> some = packets;
  for (Packet& packet : some) {
    const bool far = random.percent(10);
    if (far) packet = far_packet(random);
    answers.push_back(far ? Answer{} : taken);
  }
  result.traffic.emplace_back("90% match", some, std::move(answers));
  const auto none = distinct(frames, [&] { return far_packet(random); });
  result.traffic.emplace_back("none match", none, std::vector<Answer>(frames));
  return result;
}

}  // namespace vtap::bench
