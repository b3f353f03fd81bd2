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
  /// What never changes of it.
  struct Identity {
    std::string name;          ///< of the monitor
    std::string port;          ///< of the device
    std::string owner;         ///< who claims it
    std::uint32_t number = 0;  ///< for the counters of its device
    std::uint32_t target = 0;  ///< its ring in every worker
  };
  /// Who makes copies for it.
  struct Makers {
    bool broker = false;                 ///< workers: it needs sockets
    bool at_tc = false;                  ///< the kernel, at TC
    std::vector<io::CloneMaps*> kernel;  ///< by which the tap programs find its port
    std::vector<std::uint32_t> index;    ///< of the monitor in each of them
  };

  /// `queues`: the workers that own a ring each.
  MonitorPort(const host::StateDir& state, Identity identity, std::vector<worker::Worker*> queues,
              pipeline::UmemView umem, io::RedirectErrors& errors);

  /// From now on these make copies for it. Those that it had may still do so.
  Result<void> serve(Makers makers);
  /// Only these still do.
  void serve_only(Makers makers);

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
  /// Of the device.
  [[nodiscard]] const std::string& port() const noexcept { return identity_.port; }
  [[nodiscard]] const std::string& name() const noexcept { return identity_.name; }
  [[nodiscard]] std::uint32_t number() const noexcept { return identity_.number; }
  [[nodiscard]] const std::vector<worker::Worker*>& owners() const noexcept { return owners_; }
  [[nodiscard]] std::uint32_t target() const noexcept { return identity_.target; }

  /// How its copies are scheduled, before they get to the ring: in a queue on owners()[0].
  struct Queue {
    std::uint32_t target = 0;
    pipeline::Scheduler::Spec schedule;
  };
  std::optional<Queue> queue;
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
  Result<void> open_sockets();
  void close_sockets();
  Result<void> tell_programs(const host::Link& link);
  Result<void> tell(vtap_monitor_link link);
  [[nodiscard]] host::PortSpec spec() const;

  const host::StateDir& state_;
  Identity identity_;
  std::vector<worker::Worker*> owners_;
  pipeline::UmemView umem_;
  io::RedirectErrors& errors_;
  Makers makers_;
  std::vector<vtap_monitor_link> told_;  ///< to the tap programs, as makers_.kernel
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
