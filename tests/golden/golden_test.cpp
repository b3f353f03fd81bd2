// SPDX-License-Identifier: Apache-2.0
// Runs one case: its frames through the pipeline, with sinks in memory. What comes out must be what
// the oracle says, whatever the size of the bursts, and what was reviewed and stored.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <stdexcept>

#include "expectation.hpp"
#include "inputs.hpp"

namespace vtap::test {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kNsPerUs = 1000;

std::vector<std::string> port_names(const config::Config& config) {
  std::vector<std::string> names;
  for (const auto& tap : config.taps) names.insert(names.end(), tap.ports.begin(), tap.ports.end());
  return names;
}

config::Config load_config(const fs::path& folder) {
  auto parsed = config::load((folder / "tap.toml").string());
  for (const auto& error : parsed.errors) std::cerr << config::format(error, "tap.toml") << '\n';
  if (!parsed.config) throw std::runtime_error("tap.toml was refused");
  return std::move(*parsed.config);
}

/// The frames of all ports, in order of time.
std::vector<Input> load_inputs(const fs::path& folder, const std::vector<std::string>& ports) {
  std::vector<Input> inputs;
  for (std::size_t port = 0; port < ports.size(); ++port) {
    for (PcapFrame& frame : read_pcap(folder / (ports[port] + ".pcap"))) {
      inputs.push_back({frame.us, {std::move(frame.bytes), static_cast<std::uint8_t>(port)}});
    }
  }
  std::ranges::stable_sort(inputs, {}, &Input::us);
  return inputs;
}

void store_inputs(const fs::path& folder, const std::vector<std::string>& ports,
                  const std::vector<Input>& inputs) {
  for (std::size_t port = 0; port < ports.size(); ++port) {
    std::vector<PcapFrame> frames;
    for (const Input& input : inputs) {
      if (input.arrival.port == port) frames.push_back({input.us, input.arrival.bytes});
    }
    write_pcap(folder / (ports[port] + ".pcap"), frames);
  }
}

nlohmann::ordered_json counters_of(MemoryBroker& broker) {
  nlohmann::ordered_json json;
  const config::Config& config = broker.config();
  for (std::size_t p = 0; p < config.policies.size(); ++p) {
    const auto& count = broker.pipeline().policy_counters()[p];
    nlohmann::ordered_json policy{
        {"name", config.policies[p].name},
        {"matched_frames", count.matched_frames.read()},
        {"matched_bytes", count.matched_bytes.read()},
        {"dropped",
         {{"sample", count.dropped_sample.read()}, {"meter", count.dropped_meter.read()}}}};
    if (config.policies[p].head) policy["dropped"]["head"] = count.dropped_head.read();
    if (config.policies[p].meter) {
      policy["metered"] = {{"green_frames", count.green_frames.read()},
                           {"yellow_frames", count.yellow_frames.read()},
                           {"red_frames", count.red_frames.read()}};
    }
    for (std::size_t m = 0; m < count.monitors.size(); ++m) {
      const std::uint32_t monitor = config.policies[p].monitors[m];
      policy["monitors"].push_back({{"name", config.monitors[monitor].name},
                                    {"sent_frames", count.monitors[m].sent_frames.read()},
                                    {"sent_bytes", count.monitors[m].sent_bytes.read()},
                                    {"already_sent", count.monitors[m].already_sent.read()}});
    }
    json["policies"].push_back(std::move(policy));
  }
  for (std::size_t m = 0; m < config.monitors.size(); ++m) {
    const auto& dropped = broker.pipeline().monitor_counters()[m];
    std::uint64_t bytes = 0;
    for (const Bytes& frame : broker.sink(m).sent()) bytes += frame.size();
    json["monitors"].push_back({{"name", config.monitors[m].name},
                                {"tx_frames", broker.sink(m).sent().size()},
                                {"tx_bytes", bytes},
                                {"dropped",
                                 {{"ring_full", dropped.ring_full.read()},
                                  {"queue_full", dropped.queue_full.read()},
                                  {"down", dropped.down.read()}}}});
  }
  return json;
}

/// The product: bursts of so many frames.
Outcome run(const config::Config& config, const std::vector<Input>& inputs,
            std::size_t burst_size) {
  MemoryBroker broker(config);
  Outcome outcome;
  outcome.monitors.resize(broker.sinks());
  for (std::size_t first = 0; first < inputs.size(); first += burst_size) {
    const std::size_t count = std::min(burst_size, inputs.size() - first);
    std::vector<Arrival> arrivals;
    for (std::size_t i = 0; i < count; ++i) arrivals.push_back(inputs[first + i].arrival);
    pipeline::Burst burst = broker.receive(arrivals);
    if (burst.size != count) throw std::runtime_error("frames were lost: the pool ran out");
    std::map<pipeline::FrameNumber, std::uint64_t> us;
    for (std::uint32_t i = 0; i < burst.size; ++i) {
      us[broker.umem().view().number(burst.address[i])] = inputs[first + i].us;
    }
    broker.pipeline().process(burst, inputs[first].us * kNsPerUs);
    broker.release(burst);
    for (std::size_t m = 0; m < broker.sinks(); ++m) {
      auto& frames = outcome.monitors[m];
      for (const pipeline::FrameNumber frame : broker.sink(m).held()) {
        frames.push_back({us.at(frame), broker.sink(m).sent().at(frames.size())});
      }
    }
    broker.complete_all();
  }
  if (broker.pool().available() != broker.pool().total()) {
    throw std::runtime_error("the frame ledger does not add up");
  }
  outcome.counters = counters_of(broker);
  return outcome;
}

Outcome load_outcome(const fs::path& folder, const config::Config& config) {
  Outcome outcome;
  for (const auto& monitor : config.monitors) {
    outcome.monitors.push_back(read_pcap(folder / (monitor.name + ".pcap")));
  }
  std::ifstream in(folder / "counters.json");
  if (!in) throw std::runtime_error("cannot read counters.json");
  outcome.counters = nlohmann::ordered_json::parse(in);
  return outcome;
}

void store_outcome(const fs::path& folder, const config::Config& config, const Outcome& outcome) {
  fs::create_directories(folder);
  for (std::size_t m = 0; m < config.monitors.size(); ++m) {
    write_pcap(folder / (config.monitors[m].name + ".pcap"), outcome.monitors[m]);
  }
  std::ofstream out(folder / "counters.json");
  out << outcome.counters.dump(2) << '\n';
  if (!out.flush()) throw std::runtime_error("cannot write counters.json");
}

std::string text(const std::vector<PcapFrame>& frames, std::size_t at) {
  if (at >= frames.size()) return "nothing";
  return std::to_string(frames[at].us) + " us: " + hex(frames[at].bytes);
}

/// Says where the two part. Returns whether they are the same.
bool same(const config::Config& config, const Outcome& outcome, const Outcome& expected,
          const std::string& by) {
  bool good = true;
  for (std::size_t m = 0; m < config.monitors.size(); ++m) {
    const auto& have = outcome.monitors[m];
    const auto& want = expected.monitors[m];
    if (have == want) continue;
    good = false;
    std::size_t at = 0;
    while (at < have.size() && at < want.size() && have[at] == want[at]) ++at;
    std::cerr << "monitor " << config.monitors[m].name << ": " << have.size() << " frames, "
              << want.size() << " by " << by << "; the first difference is frame " << at + 1
              << "\n  came:     " << text(have, at) << "\n  expected: " << text(want, at) << '\n';
  }
  if (outcome.counters != expected.counters) {
    good = false;
    std::cerr << "counters are not those by " << by << ":\n"
              << nlohmann::ordered_json::diff(expected.counters, outcome.counters).dump(2) << '\n';
  }
  return good;
}

bool run_case(const fs::path& folder, bool update) {
  const config::Config config = load_config(folder);
  const auto ports = port_names(config);
  if (update) {
    const auto made = make_inputs(fs::weakly_canonical(folder).filename().string());
    if (made) store_inputs(folder, ports, *made);
  }
  const std::vector<Input> inputs = load_inputs(folder, ports);
  if (inputs.empty()) throw std::runtime_error("no frames: nothing would be tested");

  const Outcome expected = expect(config, inputs);
  bool good = true;
  for (const std::size_t burst_size : {1, 7, 64}) {
    good &= same(config, run(config, inputs, burst_size), expected,
                 "the oracle (bursts of " + std::to_string(burst_size) + ")");
  }
  if (good && update) store_outcome(folder / "expected", config, expected);
  return good && same(config, expected, load_outcome(folder / "expected", config), "the golden");
}

}  // namespace
}  // namespace vtap::test

int main(int argc, char** argv) {
  const bool update = argc == 3 && std::string(argv[1]) == "--update";
  if (argc != 2 && !update) {
    std::cerr << "usage: golden_test [--update] FOLDER\n";
    return 2;
  }
  try {
    return vtap::test::run_case(argv[argc - 1], update) ? 0 : 1;
  } catch (const std::exception& error) {
    std::cerr << argv[argc - 1] << ": " << error.what() << '\n';
    return 1;
  }
}
