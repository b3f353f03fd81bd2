// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// The configuration as the user wrote it (DESIGN 7.1), checked and typed, names resolved.
#include "filter/filter.hpp"
#include "vtap/result.hpp"

namespace vtap::config {

struct Position {
  std::uint32_t line = 0;    ///< from 1; 0: no position (the file as a whole)
  std::uint32_t column = 0;  ///< from 1
};

/// One finding: where, what is wrong, and what would be right.
struct Diagnostic {
  Position at;
  std::string message;
};

/// Inclusive range of a field's values.
struct Range {
  std::uint32_t first = 0;
  std::uint32_t last = 0;
  bool operator==(const Range&) const = default;
};

/// Address or prefix; an address is a prefix of full length. Bits behind the prefix are zero.
struct Prefix {
  bool v6 = false;
  std::uint8_t length = 0;               ///< bits: 0..32 or 0..128
  std::array<std::uint8_t, 16> bytes{};  ///< network order; IPv4 in the first four
  bool operator==(const Prefix&) const = default;
};

using Mac = std::array<std::uint8_t, 6>;

/// `flags & mask == value`; bits as in the TCP flags byte (FIN 0x01 ... CWR 0x80).
struct TcpFlags {
  std::uint8_t mask = 0;
  std::uint8_t value = 0;
};

/// One table of `match` or `except`: keys that are present are ANDed, entries of a list ORed. An
/// empty vector or disengaged optional means: the key is absent. VLAN lists may hold
/// VTAP_NO_VLAN (4096) for "none".
struct Match {
  std::vector<Prefix> src, dst, host;
  std::vector<Range> src_port, dst_port, port;
  std::vector<Range> proto;
  std::vector<Mac> src_mac, dst_mac, mac;
  std::vector<Range> vlan, inner_vlan;
  std::vector<Range> ethertype;
  std::vector<TcpFlags> tcp_flags;
  std::vector<Range> dscp;
  std::optional<bool> fragment;
  std::vector<Range> length;
};

enum class Poll { adaptive, busy, interrupt };
enum class LogFormat { text, json };
enum class LogLevel { trace, debug, info, warn, error };

/// A place on TCP: a numeric address and a port.
struct Endpoint {
  std::string address;
  std::uint16_t port = 0;
  bool loopback = false;  ///< reached from this host only
  bool operator==(const Endpoint&) const = default;
};

/// The API on TCP. Certificate and key are both set or both empty; set if not on the loopback.
struct Api {
  Endpoint at;
  std::string token_file;
  std::string cert;
  std::string key;
  bool operator==(const Api&) const = default;
};

struct Broker {
  std::string name = "vtap";
  /// Exactly one of the two forms, or neither for "auto".
  std::optional<std::uint32_t> worker_count;
  std::vector<std::uint32_t> worker_cpus;
  Position workers_at;
  std::uint32_t frames = 32768;
  std::uint32_t frame_size = 2048;  ///< 2048 or 4096
  Poll poll = Poll::adaptive;
  std::string control;              ///< path of the socket; always filled in
  std::optional<Api> api;           ///< none: only the socket
  std::optional<Endpoint> metrics;  ///< none: no metrics endpoint
  LogLevel log_level = LogLevel::info;
  LogFormat log_format = LogFormat::text;
};

enum class Mode { inline_pair, host, span };
enum class Capture { automatic, tee, redirect, clone };
enum class Hook { automatic, xdp, tc };
/// Of a host tap, as its port sees it: what arrives, what leaves.
enum class Direction { ingress, egress, both };

struct Tap {
  std::string name;
  Mode mode = Mode::inline_pair;
  std::vector<std::string> ports;
  Capture capture = Capture::automatic;
  Hook hook = Hook::automatic;
  Direction direction =
      Direction::both;  ///< of a host tap; inline and span taps see all that arrives
  bool unmatched_drop = false;
  bool allow_management = false;
  Position at;  ///< of the [[tap]] table, for findings about the machine
};

/// Frame bits or packets per second.
struct Rate {
  bool packets = false;
  std::uint64_t per_second = 0;
  bool operator==(const Rate&) const = default;
};

struct Monitor {
  std::string name;
  std::string port;
  std::uint32_t queue = 4096;  ///< frames; always filled in, smaller than 4096 where umem is small
  std::optional<Rate> rate;    ///< what its tool can take
  Position at;
};

/// What a meter has a bucket for: the policy, or each host or flow.
enum class Per { policy, src, dst, flow };

/// Token bucket; exactly one of the two rates is set. Two buckets if there is a peak rate.
struct Meter {
  std::uint64_t bits_per_second = 0;
  std::uint64_t packets_per_second = 0;
  std::uint64_t burst = 0;            ///< bytes or packets; always filled in
  std::uint64_t peak_per_second = 0;  ///< in the unit of the rate; 0: none
  std::uint64_t peak_burst = 0;       ///< filled in with the peak rate
  /// Of frames above the rate: bytes that the copy keeps, or each so many-th; both 0: dropped.
  std::uint32_t exceed_slice = 0;
  std::uint64_t exceed_one_in = 0;
  Per per = Per::policy;
  std::uint32_t entries = 65536;  ///< hosts or flows
  bool operator==(const Meter&) const = default;
};

struct Sample {
  std::uint64_t one_in = 0;     ///< 0: not set
  std::optional<double> flows;  ///< (0, 1]
  bool operator==(const Sample&) const = default;
};

inline constexpr std::uint8_t kHighestPriority = 7;
inline constexpr std::uint32_t kHeaviest = 1000;

/// Whether the kernel serves a policy without user space, where it can.
enum class Offload { automatic, never, require };

struct Policy {
  std::string name;
  std::vector<std::uint32_t> taps;      ///< indexes into Config::taps
  std::vector<std::uint32_t> monitors;  ///< indexes into Config::monitors, at least one
  std::vector<Match> match;             ///< empty: every frame
  std::vector<Match> except;
  std::optional<filter::Filter> filter;  ///< on top of match
  std::optional<Sample> sample;
  std::optional<Meter> meter;
  std::optional<std::uint32_t> slice;  ///< bytes
  std::uint32_t slice_after = 0;       ///< packets of a flow that are whole
  std::optional<std::uint32_t> head;   ///< packets of a flow that go on
  std::uint32_t flow_entries = 65536;  ///< flows that head and slice_after tell apart
  Offload offload = Offload::automatic;
  bool once = false;          ///< of a packet that crosses several tap ports, one copy
  std::uint8_t priority = 0;  ///< 0..kHighestPriority; higher ones are served first, strictly
  std::uint32_t weight = 1;   ///< 1..kHeaviest: part of what its priority gets, in bytes
  Position at;
};

struct Config {
  std::string file;
  Broker broker;
  std::vector<Tap> taps;
  std::vector<Monitor> monitors;
  std::vector<Policy> policies;
};

/// Either a config and no errors, or errors; never neither.
struct Parsed {
  std::optional<Config> config;
  std::vector<Diagnostic> errors;  ///< all of them, in file order
  std::vector<Diagnostic> warnings;
};

/// Parses and checks TOML text. `file` is only used for messages. Touches nothing; never throws.
Parsed parse(std::string_view text, std::string file);

/// The text of a config file. Error kind usage: it cannot be read; names the file.
Result<std::string> read(const std::string& file);

/// Reads the file, then as above.
Parsed load(const std::string& file);

/// "file:line:column: message", one line.
std::string format(const Diagnostic& diagnostic, std::string_view file);

}  // namespace vtap::config
