// SPDX-License-Identifier: Apache-2.0
#include "expectation.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <tuple>

#include "support/reference.hpp"

namespace vtap::test {
namespace {

struct MonitorCount {
  std::uint64_t sent_frames = 0, sent_bytes = 0, already_sent = 0;
};
struct PolicyCount {
  std::uint64_t matched_frames = 0, matched_bytes = 0, sampled_away = 0;
  std::uint64_t behind_head = 0, metered_away = 0, green = 0, yellow = 0, red = 0;
  std::vector<MonitorCount> monitors;
};

/// Address or MAC, with a port if it has one.
using End = std::vector<std::uint8_t>;
/// Both ends in no order, and the protocol or ethertype.
using FlowName = std::pair<std::multiset<End>, std::optional<std::uint32_t>>;

/// To which flow each frame belongs, fragments included.
class Flows {
 public:
  FlowName flow_of(const Fields& fields) {
    if (!fields.addresses) {
      if (!fields.macs) return {};
      const auto& [src, dst] = *fields.macs;
      return {{End(src.begin(), src.end()), End(dst.begin(), dst.end())}, fields.ethertype};
    }
    const auto [ports, proto] = transport_of(fields);
    return {{end(fields.addresses->src, ports.src), end(fields.addresses->dst, ports.dst)}, proto};
  }

 private:
  using Transport = std::pair<Fields::Ports, std::optional<std::uint32_t>>;
  using Packet = std::tuple<End, End, std::uint32_t, std::optional<std::uint32_t>>;

  static End end(const std::vector<std::uint8_t>& address, std::uint32_t port) {
    End end = address;
    end.push_back(static_cast<std::uint8_t>(port / 256));
    end.push_back(static_cast<std::uint8_t>(port % 256));
    return end;
  }

  Transport transport_of(const Fields& fields) {
    Transport own{fields.ports.value_or(Fields::Ports{}), fields.proto};
    if (!*fields.fragment) return own;
    const auto& addresses = *fields.addresses;
    const Packet packet{addresses.src, addresses.dst, *fields.fragment_id,
                        addresses.v6 ? std::nullopt : fields.proto};
    if (fields.ports) packets_[packet] = own;
    const auto found = packets_.find(packet);
    return found == packets_.end() ? own : found->second;
  }

  std::map<Packet, Transport> packets_;
};

/// What is left in a meter's buckets, of which there is one for each owner. No token comes back.
class Buckets {
 public:
  explicit Buckets(std::uint64_t burst) : burst_(burst) {}

  bool take(const FlowName& owner, std::uint64_t units) {
    std::uint64_t& left = left_.emplace(owner, burst_).first->second;
    if (left < units) return false;
    left -= units;
    return true;
  }

 private:
  std::uint64_t burst_;
  std::map<FlowName, std::uint64_t> left_;
};

/// RFC 2698 where there is a peak rate.
class Metering {
 public:
  explicit Metering(const config::Meter& meter)
      : meter_(meter), rate_(meter.burst), peak_(meter.peak_burst) {}

  /// Whether the frame goes on; shortens it.
  bool passes(const Fields& fields, const FlowName& flow, std::size_t& length, PolicyCount& count) {
    const FlowName owner = owner_of(fields, flow);
    const std::uint64_t units = meter_.packets_per_second != 0 ? 1 : fields.length;
    if (meter_.peak_per_second != 0 && !peak_.take(owner, units)) {
      ++count.red;
      return false;
    }
    if (rate_.take(owner, units)) {
      ++count.green;
      return true;
    }
    const std::uint64_t number = count.yellow++;
    if (meter_.exceed_slice != 0) {
      length = std::min<std::size_t>(length, meter_.exceed_slice);
      return true;
    }
    return meter_.exceed_one_in != 0 && number % meter_.exceed_one_in == 0;
  }

 private:
  [[nodiscard]] FlowName owner_of(const Fields& fields, const FlowName& flow) const {
    if (meter_.per == config::Per::policy) return {};
    if (meter_.per == config::Per::flow) return flow;
    const bool src = meter_.per == config::Per::src;
    if (fields.addresses) return {{src ? fields.addresses->src : fields.addresses->dst}, {}};
    if (!fields.macs) return {{End(6)}, {}};  // runts, as MAC 0
    const config::Mac& mac = src ? fields.macs->src : fields.macs->dst;
    return {{End(mac.begin(), mac.end())}, {}};
  }

  config::Meter meter_;
  Buckets rate_, peak_;
};

/// The steps of a policy that remember something.
struct PolicyState {
  std::map<FlowName, std::uint64_t> packets;
  std::optional<Metering> meter;
};

void refuse_what_has_no_oracle(const config::Policy& policy, const std::vector<Input>& inputs) {
  if (policy.sample && policy.sample->flows) {
    throw std::runtime_error("policy " + policy.name + ": no oracle for flow samples");
  }
  if (!policy.meter || inputs.empty()) return;
  const config::Meter& meter = *policy.meter;
  const std::uint64_t fastest =
      std::max({meter.bits_per_second / 8, meter.packets_per_second,
                meter.packets_per_second != 0 ? meter.peak_per_second : meter.peak_per_second / 8});
  if (fastest * (inputs.back().us - inputs.front().us) >= 1'000'000) {
    throw std::runtime_error("policy " + policy.name + ": tokens come back to its meter");
  }
}

std::uint32_t tap_of_port(const config::Config& config, std::size_t port) {
  std::uint32_t tap = 0;
  while (port >= config.taps.at(tap).ports.size()) port -= config.taps[tap++].ports.size();
  return tap;
}

nlohmann::ordered_json to_json(const config::Config& config,
                               const std::vector<PolicyCount>& policies,
                               const std::vector<std::vector<PcapFrame>>& monitors) {
  auto json = nlohmann::ordered_json::object();
  for (std::size_t p = 0; p < policies.size(); ++p) {
    const PolicyCount& count = policies[p];
    nlohmann::ordered_json policy{
        {"name", config.policies[p].name},
        {"matched_frames", count.matched_frames},
        {"matched_bytes", count.matched_bytes},
        {"dropped", {{"sample", count.sampled_away}, {"meter", count.metered_away}}}};
    if (config.policies[p].head) policy["dropped"]["head"] = count.behind_head;
    if (config.policies[p].meter) {
      policy["metered"] = {{"green_frames", count.green},
                           {"yellow_frames", count.yellow},
                           {"red_frames", count.red}};
    }
    for (std::size_t m = 0; m < count.monitors.size(); ++m) {
      const std::uint32_t monitor = config.policies[p].monitors[m];
      policy["monitors"].push_back({{"name", config.monitors[monitor].name},
                                    {"sent_frames", count.monitors[m].sent_frames},
                                    {"sent_bytes", count.monitors[m].sent_bytes},
                                    {"already_sent", count.monitors[m].already_sent}});
    }
    json["policies"].push_back(std::move(policy));
  }
  for (std::size_t m = 0; m < monitors.size(); ++m) {
    std::uint64_t bytes = 0;
    for (const PcapFrame& frame : monitors[m]) bytes += frame.bytes.size();
    json["monitors"].push_back({{"name", config.monitors[m].name},
                                {"tx_frames", monitors[m].size()},
                                {"tx_bytes", bytes},
                                {"dropped", {{"ring_full", 0}, {"queue_full", 0}, {"down", 0}}}});
  }
  return json;
}

}  // namespace

Outcome expect(const config::Config& config, const std::vector<Input>& inputs) {
  Outcome outcome;
  outcome.monitors.resize(config.monitors.size());
  std::vector<PolicyCount> counts(config.policies.size());
  std::vector<PolicyState> states(config.policies.size());
  Flows flows;
  for (std::size_t p = 0; p < counts.size(); ++p) {
    const config::Policy& policy = config.policies[p];
    counts[p].monitors.resize(policy.monitors.size());
    refuse_what_has_no_oracle(policy, inputs);
    if (policy.meter) states[p].meter.emplace(*policy.meter);
  }
  for (const Input& input : inputs) {
    const Bytes& frame = input.arrival.bytes;
    const Fields fields = read_fields(frame);
    const FlowName flow = flows.flow_of(fields);
    std::set<std::uint32_t> have;  // monitors that got this frame
    for (const std::uint32_t p : policies(config, tap_of_port(config, input.arrival.port), frame)) {
      const config::Policy& policy = config.policies[p];
      PolicyCount& count = counts[p];
      const std::uint64_t number = count.matched_frames++;
      count.matched_bytes += frame.size();
      if (policy.sample && number % policy.sample->one_in != 0) {
        ++count.sampled_away;
        continue;
      }
      const std::uint64_t packet = states[p].packets[flow]++;
      if (policy.head && packet >= *policy.head) {
        ++count.behind_head;
        continue;
      }
      std::size_t length = frame.size();
      if (policy.slice && packet >= policy.slice_after) {
        length = std::min<std::size_t>(length, *policy.slice);
      }
      if (states[p].meter && !states[p].meter->passes(fields, flow, length, count)) {
        ++count.metered_away;
        continue;
      }
      for (std::size_t m = 0; m < policy.monitors.size(); ++m) {
        if (!have.insert(policy.monitors[m]).second) {
          ++count.monitors[m].already_sent;
          continue;
        }
        ++count.monitors[m].sent_frames;
        count.monitors[m].sent_bytes += length;
        outcome.monitors[policy.monitors[m]].push_back(
            {input.us, Bytes(frame.begin(), frame.begin() + static_cast<long>(length))});
      }
    }
  }
  outcome.counters = to_json(config, counts, outcome.monitors);
  return outcome;
}

}  // namespace vtap::test
