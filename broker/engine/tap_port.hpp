// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "config/config.hpp"
#include "engine/generation.hpp"
#include "engine/resolve.hpp"
#include "host/port.hpp"
#include "io/programs.hpp"
#include "io/xsk.hpp"

namespace vtap::engine {

/// Age at which an inline redirect falls back to the plain path, and at which an original that was
/// held up is no longer sent.
inline constexpr std::uint64_t kStaleNs = 500'000'000;

/// Everything that belongs to one port of a tap while the broker runs.
class TapPort {
 public:
  struct Place {
    std::uint32_t tap = 0;             ///< index in the config
    std::uint8_t index = 0;            ///< number of the port: that of its counters
    std::optional<host::Link> output;  ///< inline: the other port
    std::uint8_t output_index = 0;     ///< and its index
  };

  /// Claims and prepares the port, and loads its programs. Nothing is attached.
  static Result<std::unique_ptr<TapPort>> open(const host::StateDir& state, const Generation& plan,
                                               const Place& place, const host::Link& link,
                                               const io::TeeMemory& memory);

  /// Whether another plan can have this port behind the stubs that are attached.
  [[nodiscard]] bool fits(const Generation& plan, const Place& place, const host::Link& link) const;
  /// Loads the programs of that plan, which fits.
  Result<void> prepare(const Generation& plan, const Place& place, const io::TeeMemory& memory);
  /// From now on the prepared programs decide. Each packet has one plan or the other.
  Result<void> switch_over();
  /// Its place in the plan that runs.
  void move_to(const Place& place) { place_ = place; }
  /// A grace period later: lets the programs of the plan before go. Or, without switch_over(),
  /// those that were prepared.
  void settle();

  /// Gives up the claim, for the one that comes in its place: its device is gone, or the other
  /// device of its pair. Programs that are attached stay.
  void close();
  [[nodiscard]] bool is_open() const noexcept { return port_.has_value(); }

  /// Attaches the stubs, which are wires until engage(), and takes away what an earlier broker left
  /// where this one has none.
  Result<void> attach();
  /// Once all stubs are attached: logs if the other port would not take what XDP redirects to it. A
  /// veth does so only while its peer polls (an XDP program, or GRO on), which may still change.
  void warn_of_output() const;
  Result<void> engage();
  Result<void> disengage();

  [[nodiscard]] const Place& place() const noexcept { return place_; }
  /// The device as it was when it was taken.
  [[nodiscard]] const host::Link& link() const noexcept { return link_; }
  /// The host port, for a rollback; null: given up.
  [[nodiscard]] host::Port* host_port() noexcept { return port_ ? &*port_ : nullptr; }
  /// Frames that devices of this name dropped on output while they were this port. Of a device
  /// that is gone: as far as was read before.
  [[nodiscard]] std::uint64_t device_drops() const;
  /// To be told when the other port's device goes or comes, with the frames sent to it so far: at
  /// TC the kernel drops in silence what is sent to a device that is gone.
  void output_is(bool there, std::uint64_t forwarded);
  [[nodiscard]] std::uint64_t lost_without_output(std::uint64_t forwarded) const;
  /// Goes on with the counters of this port's earlier device.
  void take_over_counters(const TapPort& old, std::uint64_t forwarded);
  /// Whether this trouble is another than last time; what is tried every second is logged once.
  bool is_news(const std::string& trouble) {
    return std::exchange(last_trouble_, trouble) != trouble;
  }
  /// The programs of ingress, for redirect.
  [[nodiscard]] io::TapPrograms& programs() noexcept { return stations_.front().programs; }
  /// A program of an earlier broker was attached when this one came.
  [[nodiscard]] bool ours_before() const noexcept { return ours_before_; }
  /// Of ingress, if that is observed.
  [[nodiscard]] host::Hook hook() const noexcept { return stations_.front().hook; }
  [[nodiscard]] config::Capture capture() const noexcept { return capture_; }
  [[nodiscard]] config::Mode mode() const noexcept { return mode_; }

  bool carries = false;  ///< as was last seen

  /// AF_XDP sockets by RX queue (redirect); empty for tee.
  std::vector<std::unique_ptr<io::XskSocket>> sockets;
  /// Inline redirect: index of the sinks by which originals leave through this port.
  std::optional<std::uint32_t> exit_target;

 private:
  /// A direction that is observed, and the programs that do it.
  struct Station {
    host::Direction direction;
    host::Hook hook;
    io::TapPrograms programs;
  };

  TapPort(host::Port port, std::vector<Station> stations, std::optional<io::WireProgram> wire,
          Place place, const ResolvedTap& how, config::Mode mode, bool ours_before)
      : carries(port.link().ready()),
        link_(port.link()),
        port_(std::move(port)),
        stations_(std::move(stations)),
        wire_(std::move(wire)),
        place_(std::move(place)),
        capture_(how.capture),
        mode_(mode),
        ours_before_(ours_before) {}

  Result<void> attach(const Station& station);
  void warn_of_filters(const host::TcAttachment& attached) const;
  [[nodiscard]] bool has(host::Direction direction, host::Hook hook) const noexcept;

  host::Link link_;
  std::optional<host::Port> port_;
  std::vector<Station> stations_;  ///< one or two; ingress first
  /// At TC, where the plain path of an XDP program is the stack.
  std::optional<io::WireProgram> wire_;
  Place place_;
  Place next_place_;  ///< of the prepared plan
  config::Capture capture_;
  config::Capture next_capture_ = capture_;
  config::Mode mode_;
  bool ours_before_;
  std::string last_trouble_;
  std::uint64_t drops_of_others_ = 0;     ///< of devices of this name that are gone
  mutable std::uint64_t drops_seen_ = 0;  ///< device_drops() when last read
  std::uint64_t lost_without_output_ = 0;
  std::optional<std::uint64_t> output_gone_at_;  ///< frames sent to it by then
};

}  // namespace vtap::engine
