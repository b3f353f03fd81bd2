// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vtap/abi.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "io/maps.hpp"
#include "plan/fan_out.hpp"
#include "vtap/fd.hpp"
#include "vtap/result.hpp"

namespace vtap::io {

/// Where XDP tap programs broadcast to (xdp/fan.bpf.h): a DEVMAP for each tap port and set of
/// monitors, and what the output ports take. Devices come and go in them while programs run. All of
/// it is for the calling thread's network namespace.
class FanMaps {
 public:
  /// Of a port number that is not used.
  static constexpr std::uint32_t kNoTap = ~0U;
  /// `tap_of_port`: by number of the tap port.
  static Result<FanMaps> load(const plan::FanOut& fan,
                              const std::vector<std::uint32_t>& tap_of_port);
  FanMaps(FanMaps&&) noexcept;
  FanMaps& operator=(FanMaps&&) noexcept;
  ~FanMaps();

  /// From now on copies for the monitor go to that device; 0: to none.
  Result<void> set_monitor(std::uint32_t monitor, int ifindex);
  /// From now on originals of the inline tap port that are broadcast go to that device.
  Result<void> set_output(std::uint32_t port, int ifindex);
  /// The longest frame that this device takes of a broadcast; 0: none.
  Result<void> set_output_longest(std::uint32_t port, std::uint32_t longest);

  /// Fills in what the program of the port has to know.
  void describe(std::uint32_t port, vtap_port_config& config) const;
  /// Program for entries of output ports in any DEVMAP; 0: none is needed.
  [[nodiscard]] int output_program() const noexcept;

  [[nodiscard]] const SharedMaps& maps() const noexcept { return maps_; }

 private:
  struct Broadcast {
    std::uint32_t port = 0;
    std::uint64_t monitors = 0;
    UniqueFd map;
  };
  struct Editor;

  FanMaps();
  Result<void> add(std::uint32_t port, std::uint64_t monitors);
  Result<void> load_editors();
  [[nodiscard]] int program_of(std::uint32_t monitor) const noexcept;

  SharedMaps maps_;
  std::vector<Broadcast> broadcasts_;             ///< by number
  std::vector<std::uint32_t> sliced_;             ///< monitors by slot
  std::vector<std::unique_ptr<Editor>> editors_;  ///< by slot, and one for all without
};

}  // namespace vtap::io
