// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/recorder.hpp"

namespace vtap::engine {

/// Which copies a capture is of: those of a policy, those of frames from a tap, or all.
struct CaptureSpec {
  std::optional<std::string> policy, tap;
  std::uint32_t most = 0;          ///< bytes of a frame
  std::uint64_t frames_per_s = 0;  ///< by all workers together
  std::uint64_t bytes_per_s = 0;
};

/// A capture that runs: a recorder for each worker. One thread reads it.
class Capture {
 public:
  Capture(CaptureSpec its_spec, std::size_t workers);

  const CaptureSpec& spec() const noexcept { return spec_; }
  [[nodiscard]] const std::vector<std::unique_ptr<pipeline::Recorder>>& recorders() const noexcept {
    return recorders_;
  }

  /// What it was of is gone: what is in the rings now is the last. Any thread.
  void end() noexcept { ended_.store(true, std::memory_order_release); }
  [[nodiscard]] bool ended() const noexcept { return ended_.load(std::memory_order_acquire); }

  /// Names of ports, by tap port index; empty: not of this capture. Any thread.
  [[nodiscard]] std::vector<std::string> ports() const;
  void set_ports(std::vector<std::string> ports);

 private:
  const CaptureSpec spec_;
  pipeline::RecordLimit limit_;
  std::vector<std::unique_ptr<pipeline::Recorder>> recorders_;  ///< by worker
  std::atomic<bool> ended_{false};
  mutable std::mutex mutex_;
  std::vector<std::string> ports_;
};

}  // namespace vtap::engine
