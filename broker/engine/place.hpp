// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "config/config.hpp"
#include "engine/resolve.hpp"

/// Who serves which policy (docs/decisions/0013 and 0021).
namespace vtap::engine {

/// A policy whose `offload = "require"` is impossible, and why.
struct Refusal {
  config::Position at;
  std::string message;
};

/// Fills in `policies` and `fan`, and the capture of span taps that the kernel serves. Taps and
/// monitors are resolved; ports that do not exist are not among their links.
std::vector<Refusal> place_policies(const config::Config& config, Resolved& resolved);

}  // namespace vtap::engine
