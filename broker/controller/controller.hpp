// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "control/handlers.hpp"
#include "controller/prepare.hpp"
#include "doctor/finding.hpp"
#include "engine/engine.hpp"
#include "vtap/result.hpp"

namespace vtap::controller {

/// The config that runs, and how another one takes its place: by a reload of the file, or by a text
/// that was edited through the API. Both go the way of the first one: parse, resolve, compile,
/// switch.
class Controller {
 public:
  /// `file`: for messages, and read again by reload().
  Controller(std::string file, std::string text);

  /// Opens everything; see Engine::start. Once.
  Result<void> start(config::Config config, Prepared prepared, host::StateDir state,
                     std::function<void()> at_worker_start);
  /// Any thread. Null before start().
  [[nodiscard]] engine::Engine* engine() noexcept { return started_.load(); }

  // The control thread.
  /// Reads the file again. Returns the generation that runs then. Error: what ran goes on.
  Result<std::uint32_t> reload();
  /// See control::Handlers::apply.
  Result<std::uint32_t> apply(const std::string& text, std::uint32_t base, bool persist);
  /// See control::Handlers::doctor_json.
  std::string doctor_json(bool fix);
  /// See control::Handlers::detach.
  Result<std::string> detach(const std::vector<std::string>& ports);

  /// Schema Status of docs/openapi.json. Looks at the machine, once a second at most.
  std::string status_json(const std::string& version);

  // Any thread, once started.
  [[nodiscard]] control::RunningConfig running() const;
  /// How loads went, for metrics.
  struct Loads {
    bool last_ok = true;
    double last_good_s = 0;               ///< UNIX time of the last one that did
    std::uint64_t good = 0, refused = 0;  ///< reloads
  };
  [[nodiscard]] Loads loads() const;

 private:
  using Clock = std::chrono::system_clock;
  struct Attempt {
    bool ok = false;
    Clock::time_point at;
    std::string error;
  };

  Result<std::uint32_t> replace(Loaded loaded);
  Result<std::uint32_t> note(Result<std::uint32_t> result);
  void examine();

  const std::string file_;
  std::unique_ptr<engine::Engine> engine_;
  std::atomic<engine::Engine*> started_{nullptr};
  mutable std::mutex mutex_;  ///< all below
  std::string text_;          ///< of the config that runs
  std::string file_text_;     ///< of the file, when it was last read or written
  std::uint32_t generation_ = 1;
  Clock::time_point loaded_at_ = Clock::now();
  std::optional<Attempt> last_reload_;
  std::uint64_t reloads_ = 0, refused_ = 0;
  std::vector<doctor::Finding> findings_;  ///< warnings and errors for the config that runs
  std::chrono::steady_clock::time_point examined_at_;  ///< when they were found
};

}  // namespace vtap::controller
