// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "config/config.hpp"
#include "engine/resolve.hpp"
#include "plan/plan.hpp"
#include "vtap/result.hpp"

/// From a text to what it means on this machine: the way of every config, at the start and later.
namespace vtap::controller {

/// A config's text, and what it says.
struct Loaded {
  std::string text;
  config::Config config;
  std::vector<std::string> warnings;  ///< "file:line:column: ..."
};

/// Error kind usage: all findings, one a line; and warnings, marked as such.
Result<Loaded> load_text(std::string text, const std::string& file);
/// Reads the file, then as above.
Result<Loaded> load_file(const std::string& file);

struct Prepared {
  plan::Tables tables;
  engine::Resolved resolved;
};

/// What a config means on this machine. Reads only; all that is wrong at once.
Result<Prepared> prepare(const config::Config& config);

}  // namespace vtap::controller
