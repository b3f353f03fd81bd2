// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "address.hpp"
#include "frame.hpp"
#include "vtap/result.hpp"

/// The commands of vtap-gen, one source file each. Each runs to its end and leaves nothing
/// attached.
namespace vtap::gen {

struct GenerateOptions {
  std::string port;
  FrameSpec frame;
  std::uint32_t flows = 1;
  std::uint32_t flows_per_address = 16384;  ///< power of two
  std::optional<std::uint32_t> count;       ///< frames
  std::optional<double> seconds;
  std::optional<std::uint32_t> rate;  ///< frames per second
  std::optional<unsigned> cpu;
  bool stamp = false;  ///< time of sending in the payload, for a sink with `latency`
  bool json = false;
};
Result<void> generate(const GenerateOptions& options);

struct SinkOptions {
  std::string port;
  bool latency = false;  ///< the frames are stamped
  std::optional<double> seconds;
  bool json = false;
};
Result<void> sink(const SinkOptions& options);

enum class Hook { xdp, tc };

struct ForwardOptions {
  Hook hook = Hook::xdp;
  std::vector<std::string> ports;
  std::string monitor;  ///< at XDP: every frame goes there, too; empty: nowhere
};
Result<void> forward(const ForwardOptions& options);

struct CloneTapOptions {
  std::vector<std::string> ports;  ///< one of a host, or two that are joined
  std::vector<std::string> monitors;
  Address first_host;       ///< IPv4
  std::uint32_t hosts = 1;  ///< addresses in the map, counting up from first_host
};
Result<void> clone_tap(const CloneTapOptions& options);

}  // namespace vtap::gen
