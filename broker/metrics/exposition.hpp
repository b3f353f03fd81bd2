// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "stats/snapshot.hpp"

namespace vtap::metrics {

/// What the metrics say of the process itself, beside the counters of its snapshot.
struct Service {
  std::string version;
  /// Whether the last load of the config, at the start or by a reload, did what it should.
  bool last_reload_ok = true;
  double last_load_s = 0.0;  ///< UNIX time of the last load that did; 0: not known
  std::uint64_t reloads_ok = 0, reloads_failed = 0;
};

/// Everything of the snapshot in Prometheus's text format (version 0.0.4), as docs/metrics.md has
/// it. Values are floating-point numbers there: counters are exact up to 2^53.
std::string to_prometheus(const stats::Snapshot& snapshot, const Service& service);

/// The Content-Type of that.
inline constexpr const char* kContentType = "text/plain; version=0.0.4; charset=utf-8";

}  // namespace vtap::metrics
