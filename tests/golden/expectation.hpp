// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "config/config.hpp"
#include "pcap.hpp"
#include "support/memory_broker.hpp"

namespace vtap::test {

/// What a case comes to: the frames of each monitor, and the counters in the words of DESIGN 7.3.
struct Outcome {
  std::vector<std::vector<PcapFrame>> monitors;  ///< the time is that of the original
  nlohmann::ordered_json counters;
};

/// A frame of the input; `port` counts over all taps.
struct Input {
  std::uint64_t us = 0;
  Arrival arrival;
};

/// What must come out, by the oracle of support/reference.hpp and the words of DESIGN 7.1 alone:
/// one frame after the other, no bursts, none of the product's code but the config. Throws
/// std::runtime_error for a config with a flow sample, which has no simpler truth, or with a meter
/// whose tokens come back while the frames arrive, as then the size of the bursts counts.
Outcome expect(const config::Config& config, const std::vector<Input>& inputs);

}  // namespace vtap::test
