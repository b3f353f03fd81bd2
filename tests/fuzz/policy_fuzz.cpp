// SPDX-License-Identifier: Apache-2.0
#include <vtap/parse.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "config/config.hpp"
#include "plan/classifier.hpp"
#include "plan/plan.hpp"
#include "support/classified.hpp"
#include "support/frames.hpp"
#include "support/reference.hpp"

namespace {

using vtap::test::Bytes;

/// Not assert(): the invariant holds in release builds too.
void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

std::vector<std::uint32_t> classify(const vtap::plan::Classifier& classifier, const Bytes& frame,
                                    std::uint32_t tap) {
  vtap_key key;
  vtap_parse(frame.data(), static_cast<__u32>(std::min<std::size_t>(frame.size(), VTAP_WINDOW)),
             static_cast<__u32>(frame.size()), &key);
  vtap::test::Found found(classifier);
  found.classify(key, tap);
  return found.policies();
}

}  // namespace

/// Any config that is accepted compiles or is refused with a message, and then selects what the
/// oracle selects.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::vector<Bytes> frames = vtap::test::corpus(1, 32);

  const auto parsed = vtap::config::parse({reinterpret_cast<const char*>(data), size}, "fuzz.toml");
  if (!parsed.config) return 0;
  const vtap::config::Config& config = *parsed.config;
  const auto tables = vtap::plan::compile(config);
  if (!tables) {
    require(!tables.error().message.empty());
    return 0;
  }

  const vtap::plan::Classifier classifier(tables.value());
  for (std::uint32_t tap = 0; tap < config.taps.size(); ++tap) {
    for (const Bytes& frame : frames) {
      require(classify(classifier, frame, tap) == vtap::test::policies(config, tap, frame));
    }
  }
  return 0;
}
