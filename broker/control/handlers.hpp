// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "vtap/result.hpp"

namespace vtap::control {

/// The config that runs, as text.
struct RunningConfig {
  std::string text;  ///< TOML: the file as it was loaded, or as changed through the API since
  std::string file;  ///< where it came from
  std::uint32_t generation = 0;
};

/// What the API can ask of the broker. The functions run on the server's own threads, several at
/// once: they must be thread-safe, and must not wait for the thread that calls ControlServer::stop.
/// What they throw becomes a 500, an empty one a 501. The kind of an Error decides the status:
/// usage 422 (a config that does not load), conflict 409, unsupported 501, runtime 500.
struct Handlers {
  std::string version = {};                       ///< of the broker
  std::function<std::string()> stats_json = {};   ///< the JSON of DESIGN 7.3, on one line
  std::function<std::string()> status_json = {};  ///< schema Status of docs/openapi.json
  std::function<RunningConfig()> config = {};
  /// Reads the file again; the generation that runs then. Called once at a time.
  std::function<Result<std::uint32_t>()> reload = {};
  /// Makes `text` the running config, all or nothing; the generation that runs then. `base` is the
  /// generation that the text was edited from: conflict if another runs. `persist` writes the text
  /// to the file as well: conflict if that has changed since it was loaded.
  std::function<Result<std::uint32_t>(const std::string& text, std::uint32_t base, bool persist)>
      apply = {};
  /// {"findings":[...]}; `fix` mends first what is safe to mend.
  std::function<std::string(bool fix)> doctor_json = {};
  /// Takes away what earlier configs left on `ports`, all of them if empty: {"undone":["..."]}.
  std::function<Result<std::string>(const std::vector<std::string>& ports)> detach = {};
  std::function<std::string()> metrics_text = {};  ///< Prometheus text format
  std::function<void()> at_thread_start = {};      ///< first on each of the server's threads
};

}  // namespace vtap::control
