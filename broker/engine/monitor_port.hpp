// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "config/config.hpp"
#include "host/port.hpp"
#include "io/programs.hpp"
#include "io/xsk.hpp"
#include "worker/worker.hpp"

namespace vtap::engine {

/// One monitor while the broker runs: its port comes and goes, the monitor stays. Used by the
/// engine's thread only.
class MonitorPort {
 public:
  /// Of a monitor that the kernel serves: where the tap programs look for its port, and who counts
  /// what the port refuses.
  struct Kernel {
    io::CloneMaps& clones;
    io::RedirectErrors& errors;
    bool at_tc;  ///< copies come by TC, too
  };

  /// `target`: number of the monitor, and index of its sink in every worker. `queues`: the workers
  /// that own one each. `kernel`: if the kernel serves this monitor.
  MonitorPort(const host::StateDir& state, std::string owner, std::string port,
              std::uint32_t target, std::vector<worker::Worker*> queues, std::uint32_t ring_size,
              pipeline::UmemView umem, std::optional<Kernel> kernel);

  /// The port is there: claims it and drops what arrives on it; if it carries, opens a TX socket
  /// per owning worker and hands them over, or tells the tap programs. No change if it is up
  /// already.
  Result<void> bring_up(const host::Link& link);
  /// The port is up and may have changed: tells the tap programs what it takes.
  void follow(const host::Link& link);
  /// Takes the sockets away and the frames back. No change if it is down already.
  void take_down();
  /// As take_down(), and the device is gone: nothing on it is to be restored.
  void forget();

  /// Whether this trouble is another than last time; what is tried every second is logged once.
  bool is_news(const std::string& trouble) {
    return std::exchange(last_trouble_, trouble) != trouble;
  }
  [[nodiscard]] bool up() const noexcept { return up_; }
  [[nodiscard]] int ifindex() const noexcept { return port_ ? port_->link().ifindex : 0; }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] const std::vector<worker::Worker*>& owners() const noexcept { return owners_; }
  [[nodiscard]] std::uint32_t target() const noexcept { return target_; }
  [[nodiscard]] std::vector<std::unique_ptr<io::XskSocket>>& sockets() noexcept { return sockets_; }
  /// Frames that devices of this name dropped on output while they were this monitor's port.
  [[nodiscard]] std::uint64_t device_drops() const;
  /// The host port, for a rollback; null: never claimed.
  [[nodiscard]] host::Port* host_port() noexcept { return port_ ? &*port_ : nullptr; }
  /// A program of an earlier broker was attached when this one came.
  [[nodiscard]] bool ours_before() const noexcept { return ours_before_; }
  /// Frames that arrived here and were dropped.
  [[nodiscard]] std::uint64_t arrived() const { return program_ ? program_->arrived() : 0; }

 private:
  Result<void> claim(const host::Link& link);
  Result<void> open_sockets(const host::Link& link);
  Result<void> tell_programs(const host::Link& link);

  const host::StateDir& state_;
  std::string owner_;  ///< who claims the port
  std::string name_;
  std::uint32_t target_;
  std::vector<worker::Worker*> owners_;
  std::uint32_t ring_size_;
  pipeline::UmemView umem_;
  std::optional<Kernel> kernel_;
  vtap_monitor_link told_{};  ///< to the tap programs
  std::optional<host::Port> port_;
  std::optional<io::MonitorProgram> program_;
  std::vector<std::unique_ptr<io::XskSocket>> sockets_;  ///< by owner
  bool up_ = false;
  std::string last_trouble_;
  bool ours_before_ = false;
  std::uint64_t drops_before_ = 0;        ///< the device's counter when it became ours
  std::uint64_t drops_of_others_ = 0;     ///< of devices that are gone
  mutable std::uint64_t drops_seen_ = 0;  ///< device_drops() when last read
};

}  // namespace vtap::engine
