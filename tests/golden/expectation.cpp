// SPDX-License-Identifier: Apache-2.0
#include "expectation.hpp"

#include <algorithm>
#include <set>
#include <stdexcept>

#include "support/reference.hpp"

namespace vtap::test {
namespace {

struct MonitorCount {
  std::uint64_t sent_frames = 0, sent_bytes = 0, already_sent = 0;
};
struct PolicyCount {
  std::uint64_t matched_frames = 0, matched_bytes = 0, sampled_away = 0;
  std::vector<MonitorCount> monitors;
};

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
    nlohmann::ordered_json policy{{"name", config.policies[p].name},
                                  {"matched_frames", count.matched_frames},
                                  {"matched_bytes", count.matched_bytes},
                                  {"dropped", {{"sample", count.sampled_away}, {"meter", 0}}}};
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
  for (std::size_t p = 0; p < counts.size(); ++p) {
    const config::Policy& policy = config.policies[p];
    counts[p].monitors.resize(policy.monitors.size());
    if (policy.meter || (policy.sample && policy.sample->flows)) {
      throw std::runtime_error("policy " + policy.name + ": no oracle for meters and flow samples");
    }
  }
  for (const Input& input : inputs) {
    const Bytes& frame = input.arrival.bytes;
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
      const std::size_t length = std::min<std::size_t>(frame.size(), policy.slice.value_or(~0U));
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
