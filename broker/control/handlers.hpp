// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
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

/// A response that comes bit by bit. One thread uses it.
class Stream {
 public:
  Stream() = default;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  virtual ~Stream() = default;

  /// What there is by now, perhaps nothing; none: that was all. `last`: the client wants no more,
  /// so that this is the last call. Does not wait.
  virtual std::optional<std::string> next(bool last) = 0;
};

/// Which copies to capture: those of a policy, those of frames from a tap, or all.
struct CaptureRequest {
  std::optional<std::string> policy, tap;
  std::optional<std::string> filter;    ///< pcap-filter(7); it compiles
  std::uint32_t snaplen = 65535;        ///< bytes of a frame
  std::uint64_t frames = 0;             ///< the capture ends with so many; 0: by the client
  std::uint64_t frames_per_s = 20'000;  ///< what is above is dropped, and counted
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
  /// A live capture, as pcapng. conflict: there are as many as there can be.
  std::function<Result<std::unique_ptr<Stream>>(const CaptureRequest&)> capture = {};
  std::function<std::string()> metrics_text = {};  ///< Prometheus text format
  std::function<void()> at_thread_start = {};      ///< first on each of the server's threads
};

}  // namespace vtap::control
