// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vtap/abi.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "config/config.hpp"

/// The oracle: what a match means, written from DESIGN 7.1 in the simplest way that can be right,
/// to judge the real parser and both classifiers by. It shares no code with them.
namespace vtap::test {

/// What the keys of a match read in a frame. Disengaged: the frame does not have it.
struct Fields {
  struct Addresses {
    bool v6 = false;
    std::vector<std::uint8_t> src, dst;
  };
  struct Ports {
    std::uint32_t src = 0, dst = 0;
  };
  struct Macs {
    config::Mac src{}, dst{};
  };

  std::uint32_t length = 0;
  std::optional<Macs> macs;
  std::vector<std::uint32_t> vlans;  ///< ids, outer first; at most two
  std::optional<std::uint32_t> ethertype;
  std::optional<Addresses> addresses;
  std::optional<std::uint32_t> proto;
  std::optional<std::uint32_t> dscp;
  std::optional<bool> fragment;
  std::optional<std::uint32_t> fragment_id;  ///< of fragments
  std::optional<Ports> ports;
  std::optional<std::uint32_t> tcp_flags;
};

Fields read_fields(std::span<const std::uint8_t> frame);

/// The key that vtap_parse() must make of this frame, every byte of it.
vtap_key expected_key(const Fields& fields);

bool matches(const config::Match& match, const Fields& fields);
bool matches(const config::Match& match, std::span<const std::uint8_t> frame);

/// Indexes of the policies of this tap that take the frame, ascending.
std::vector<std::uint32_t> policies(const config::Config& config, std::uint32_t tap,
                                    const Fields& fields);
std::vector<std::uint32_t> policies(const config::Config& config, std::uint32_t tap,
                                    std::span<const std::uint8_t> frame);

}  // namespace vtap::test
