// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "config/config.hpp"

namespace {

/// Not assert(): the invariant holds in release builds too.
void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

}  // namespace

/// Any text yields either a config or errors, and every finding is one printable line.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto parsed = vtap::config::parse({reinterpret_cast<const char*>(data), size}, "fuzz.toml");
  require(parsed.config.has_value() == parsed.errors.empty());
  for (const auto* findings : {&parsed.errors, &parsed.warnings}) {
    for (const auto& finding : *findings) {
      require(finding.at.line > 0 && finding.at.column > 0 && !finding.message.empty());
      require(vtap::config::format(finding, "fuzz.toml").find('\n') == std::string::npos);
    }
  }
  if (!parsed.config) {
    return 0;
  }
  require(!parsed.config->taps.empty() && !parsed.config->monitors.empty());
  for (const auto& policy : parsed.config->policies) {
    require(!policy.monitors.empty() && !policy.taps.empty());
  }
  return 0;
}
