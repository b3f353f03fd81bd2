// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "vtap/result.hpp"

namespace vtap::gen {

using Mac = std::array<std::uint8_t, 6>;

/// An IPv4 or IPv6 address, network order.
struct Address {
  std::vector<std::uint8_t> bytes;  ///< four or sixteen

  [[nodiscard]] bool v6() const noexcept { return bytes.size() == 16; }
};

Result<Address> parse_address(const std::string& text);
Result<Mac> parse_mac(const std::string& text);

}  // namespace vtap::gen
