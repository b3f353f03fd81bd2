// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace vtap::ctl {

/// Cuts the bytes of a pcapng stream into whole blocks, and counts what they tell.
class PcapngTally {
 public:
  /// Bytes of the blocks that are complete with these; what is left is kept for the next call.
  /// Throws std::runtime_error for what is no pcapng of this machine's byte order.
  std::string take(std::string_view bytes);

  [[nodiscard]] std::uint64_t captured() const noexcept { return captured_; }
  /// Of all interfaces, by the statistics so far.
  [[nodiscard]] std::uint64_t dropped() const noexcept { return dropped_; }

 private:
  void count(std::string_view block);

  std::string rest_;
  std::uint64_t captured_ = 0, dropped_ = 0;
};

}  // namespace vtap::ctl
