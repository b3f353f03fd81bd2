// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "config/config.hpp"
#include "vtap/result.hpp"

/// The small languages inside config values (rates, sizes, prefixes, ...). Knows no TOML. Every
/// error says what is wrong and what would be right, and is a clause that fits behind "key: ".
namespace vtap::config {

/// "200Mbit/s", "1.5Gbit/s", "50kpps"; units are decimal. Never zero.
Result<Rate> parse_rate(std::string_view text);

/// "256KiB" (binary), "64KB" (decimal), "1500B"; bytes.
Result<std::uint64_t> parse_size(std::string_view text);

/// "10.1.2.3", "10.0.0.0/24", "2001:db8::/32". Bits behind the prefix must be zero.
Result<Prefix> parse_prefix(std::string_view text);

/// "02:00:5e:10:00:01".
Result<Mac> parse_mac(std::string_view text);

/// "syn", "syn,!ack": flags that must be set and, behind a '!', must not be; others are ignored.
Result<TcpFlags> parse_tcp_flags(std::string_view text);

/// "a-b", both ends included, a <= b <= max.
Result<Range> parse_range(std::string_view text, std::uint32_t max);

/// Name of a broker, tap, monitor or policy: 1..63 of [A-Za-z0-9_.-].
Result<std::string> parse_name(std::string_view text);

/// Network interface, by the kernel's rule (dev_valid_name() in net/core/dev.c).
Result<std::string> parse_interface(std::string_view text);

/// "127.0.0.1:9471", "[::1]:9471": an address of this machine (names are not looked up) and a port.
Result<Endpoint> parse_endpoint(std::string_view text);

/// In double quotes; long text is cut, as a message is one line.
std::string quoted(std::string_view text);

/// "; did you mean \"x\"?" for the candidate at a small edit distance from `word`, else "".
std::string did_you_mean(std::string_view word, std::span<const std::string_view> candidates);

/// Separated by ", ".
std::string join(std::span<const std::string_view> words);

}  // namespace vtap::config
