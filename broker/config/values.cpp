// SPDX-License-Identifier: Apache-2.0
#include "config/values.hpp"

#include <arpa/inet.h>
#include <net/if.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

namespace vtap::config {
namespace {

using std::string_literals::operator""s;

Error bad(std::string message) { return Error{std::move(message), ErrorKind::usage}; }

// Locale-free, as a config means the same everywhere.
constexpr bool is_digit(char c) { return c >= '0' && c <= '9'; }
constexpr bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
constexpr bool is_name_char(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '.' ||
         c == '-';
}

template <typename Number>
std::optional<Number> number(std::string_view text, int base = 10) {
  Number value{};
  const char* end = text.data() + text.size();
  const auto [stop, status] = std::from_chars(text.data(), end, value, base);
  if (text.empty() || status != std::errc{} || stop != end) {
    return std::nullopt;
  }
  return value;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

/// Text up to the first `separator`, and what is behind it (nullopt: there is none).
std::pair<std::string_view, std::optional<std::string_view>> split(std::string_view text,
                                                                   char separator) {
  const auto at = text.find(separator);
  if (at == std::string_view::npos) {
    return {text, std::nullopt};
  }
  return {text.substr(0, at), text.substr(at + 1)};
}

struct Unit {
  std::string_view name;
  std::uint64_t factor = 1;
  bool packets = false;
};

constexpr auto kRateUnits = std::to_array<Unit>({{"bit/s", 1, false},
                                                 {"kbit/s", 1'000, false},
                                                 {"Mbit/s", 1'000'000, false},
                                                 {"Gbit/s", 1'000'000'000, false},
                                                 {"pps", 1, true},
                                                 {"kpps", 1'000, true},
                                                 {"Mpps", 1'000'000, true}});
constexpr auto kSizeUnits = std::to_array<Unit>({{"B", 1},
                                                 {"KB", 1'000},
                                                 {"MB", 1'000'000},
                                                 {"GB", 1'000'000'000},
                                                 {"KiB", 1ULL << 10},
                                                 {"MiB", 1ULL << 20},
                                                 {"GiB", 1ULL << 30}});

constexpr std::uint64_t kMaxBitsPerSecond = 10'000'000'000'000;  // 10 Tbit/s
constexpr std::uint64_t kMaxPacketsPerSecond = 10'000'000'000;
/// More digits behind the point than any unit has zeros are a slip of the keyboard.
constexpr std::size_t kMaxDecimals = 9;

struct Quantity {
  std::uint64_t value = 0;
  const Unit* unit = nullptr;
};

/// `digits` * `factor` / 10^`decimals`, or nothing when that is not a whole 64-bit number.
std::optional<std::uint64_t> scale(std::uint64_t digits, std::size_t decimals,
                                   std::uint64_t factor) {
  for (; decimals > 0; --decimals) {
    // Take the tens out of whichever side has them, so that the product cannot overflow early.
    if (factor % 10 == 0) {
      factor /= 10;
    } else if (digits % 10 == 0) {
      digits /= 10;
    } else if (factor % 2 == 0 && digits % 5 == 0) {
      factor /= 2;
      digits /= 5;
    } else {
      return std::nullopt;
    }
  }
  if (digits > std::numeric_limits<std::uint64_t>::max() / factor) {
    return std::nullopt;
  }
  return digits * factor;
}

/// Number, decimals and unit without a space: "1.5Gbit/s".
Result<Quantity> parse_quantity(std::string_view text, std::span<const Unit> units,
                                std::string_view example) {
  const auto unit_at = static_cast<std::size_t>(
      std::find_if(text.begin(), text.end(), [](char c) { return !is_digit(c) && c != '.'; }) -
      text.begin());
  const auto unit_name = text.substr(unit_at);
  const auto [whole, decimals] = split(text.substr(0, unit_at), '.');
  const auto fraction = decimals.value_or("");
  const auto digits = number<std::uint64_t>(std::string(whole).append(fraction));
  if (whole.empty() || !digits || (decimals && fraction.empty()) ||
      fraction.size() > kMaxDecimals) {
    return bad(quoted(text) + " is not a number with a unit; write for example " + quoted(example));
  }
  const auto unit = std::find_if(units.begin(), units.end(),
                                 [&](const Unit& known) { return known.name == unit_name; });
  if (unit == units.end()) {
    std::vector<std::string_view> names(units.size());
    std::transform(units.begin(), units.end(), names.begin(), [](const Unit& u) { return u.name; });
    return bad(quoted(text) + " has " +
               (unit_name.empty() ? "no unit"s : "the unknown unit " + quoted(unit_name)) +
               "; right behind the number goes one of " + join(names));
  }
  const auto value = scale(*digits, fraction.size(), unit->factor);
  if (!value) {
    return bad(quoted(text) + " is too large or no whole number of " + std::string(units[0].name));
  }
  return Quantity{*value, &*unit};
}

/// Edits (insert, delete, replace, swap neighbours) that turn one word into the other.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<std::size_t>> cost(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) {
    for (std::size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        cost[i][j] = i + j;
        continue;
      }
      const std::size_t replace = cost[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      cost[i][j] = std::min({replace, cost[i - 1][j] + 1, cost[i][j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
      }
    }
  }
  return cost.back().back();
}

/// Clears the bits of `prefix` behind its length; true when there were any.
bool mask_host_bits(Prefix& prefix) {
  bool found = false;
  const std::size_t bytes = prefix.v6 ? 16 : 4;
  for (std::size_t i = 0; i < bytes; ++i) {
    const int kept = std::clamp<int>(prefix.length - static_cast<int>(i) * 8, 0, 8);
    const auto mask = static_cast<std::uint8_t>(0xff00U >> static_cast<unsigned>(kept));
    found = found || (prefix.bytes[i] & ~mask) != 0;
    prefix.bytes[i] &= mask;
  }
  return found;
}

std::string to_text(const Prefix& prefix) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  inet_ntop(prefix.v6 ? AF_INET6 : AF_INET, prefix.bytes.data(), text.data(), text.size());
  return std::string(text.data()) + '/' + std::to_string(prefix.length);
}

constexpr std::array<std::string_view, 8> kTcpFlagNames = {"fin", "syn", "rst", "psh",
                                                           "ack", "urg", "ece", "cwr"};

}  // namespace

Result<Rate> parse_rate(std::string_view text) {
  auto quantity = parse_quantity(text, kRateUnits, "200Mbit/s");
  if (!quantity) {
    return quantity.error();
  }
  const Rate rate{quantity->unit->packets, quantity->value};
  if (rate.per_second == 0) {
    return bad("a rate of zero lets nothing through; write a rate above zero, like \"200Mbit/s\"");
  }
  if (rate.per_second > (rate.packets ? kMaxPacketsPerSecond : kMaxBitsPerSecond)) {
    return bad(quoted(text) + " is more than 10000Gbit/s or 10000Mpps, the most that is possible");
  }
  return rate;
}

Result<std::uint64_t> parse_size(std::string_view text) {
  auto quantity = parse_quantity(text, kSizeUnits, "256KiB");
  if (!quantity) {
    return quantity.error();
  }
  return quantity->value;
}

Result<Prefix> parse_prefix(std::string_view text) {
  const auto [address, length] = split(text, '/');
  Prefix prefix;
  prefix.v6 = address.find(':') != std::string_view::npos;
  // inet_pton() stops at a NUL, which TOML text may hold.
  if (address.find('\0') != std::string_view::npos ||
      inet_pton(prefix.v6 ? AF_INET6 : AF_INET, std::string(address).c_str(),
                prefix.bytes.data()) != 1) {
    return bad(quoted(text) +
               " is no address or prefix; write for example \"10.1.2.3\", \"10.0.0.0/24\" or "
               "\"2001:db8::/32\"");
  }
  const unsigned longest = prefix.v6 ? 128 : 32;
  const auto bits = length ? number<unsigned>(*length) : longest;
  if (!bits || *bits > longest) {
    return bad(quoted(text) + " has no valid prefix length; an IPv" + (prefix.v6 ? "6" : "4") +
               " prefix has 0 to " + std::to_string(longest) + " bits");
  }
  prefix.length = static_cast<std::uint8_t>(*bits);
  if (mask_host_bits(prefix)) {
    return bad(quoted(text) + " has bits set behind the prefix; write " + quoted(to_text(prefix)) +
               " for the network or " + quoted(address) + " for the one host");
  }
  return prefix;
}

Result<Mac> parse_mac(std::string_view text) {
  constexpr std::size_t kTextLength = 17;
  Mac mac{};
  bool good = text.size() == kTextLength;
  for (std::size_t i = 0; good && i < mac.size(); ++i) {
    const auto byte = number<std::uint8_t>(text.substr(i * 3, 2), 16);
    good = byte && (i + 1 == mac.size() || text[i * 3 + 2] == ':');
    mac[i] = byte.value_or(0);
  }
  if (!good) {
    return bad(quoted(text) + " is no MAC address; write for example \"02:00:5e:10:00:01\"");
  }
  return mac;
}

Result<TcpFlags> parse_tcp_flags(std::string_view text) {
  TcpFlags flags;
  for (std::optional<std::string_view> rest = text; rest;) {
    const auto [item, behind] = split(*rest, ',');
    rest = behind;
    auto name = trimmed(item);
    const bool set = name.substr(0, 1) != "!";
    name.remove_prefix(set ? 0 : 1);
    const auto found = std::find(kTcpFlagNames.begin(), kTcpFlagNames.end(), name);
    if (found == kTcpFlagNames.end()) {
      return bad(quoted(text) + " names the unknown flag " + quoted(name) + "; flags are " +
                 join(kTcpFlagNames) + ", for example \"syn,!ack\"");
    }
    const auto bit = static_cast<std::uint8_t>(1U << (found - kTcpFlagNames.begin()));
    if ((flags.mask & bit) != 0) {
      return bad(quoted(text) + " names " + quoted(name) + " twice; name every flag once");
    }
    flags.mask |= bit;
    flags.value |= set ? bit : std::uint8_t{0};
  }
  return flags;
}

Result<Range> parse_range(std::string_view text, std::uint32_t max) {
  const auto [low, high] = split(text, '-');
  const auto first = number<std::uint32_t>(trimmed(low));
  const auto last = number<std::uint32_t>(trimmed(high.value_or("")));
  if (!high || !first || !last) {
    return bad(quoted(text) + " is no range; write \"a-b\", or a single number without quotes");
  }
  if (*first > max || *last > max) {
    return bad(quoted(text) + " is out of range; 0 to " + std::to_string(max) + " is possible");
  }
  if (*first > *last) {
    return bad(quoted(text) + " runs backwards; write \"" + std::to_string(*last) + '-' +
               std::to_string(*first) + '"');
  }
  return Range{*first, *last};
}

Result<std::string> parse_name(std::string_view text) {
  constexpr std::size_t kLongest = 63;
  if (text.empty() || text.size() > kLongest ||
      !std::all_of(text.begin(), text.end(), is_name_char)) {
    return bad(quoted(text) +
               " is no valid name; a name has 1 to 63 letters, digits, '_', '.', '-'");
  }
  return std::string(text);
}

Result<std::string> parse_interface(std::string_view text) {
  constexpr auto forbidden = [](char c) {
    return c == '/' || c == ':' || c == '\0' || is_space(c);
  };
  if (text.empty() || text.size() >= IFNAMSIZ || text == "." || text == ".." ||
      std::any_of(text.begin(), text.end(), forbidden)) {
    return bad(quoted(text) +
               " is no interface name; it has 1 to 15 characters, no '/', ':' or white space");
  }
  return std::string(text);
}

namespace {

bool is_address(int family, std::string_view text) {
  std::array<std::uint8_t, sizeof(in6_addr)> bytes{};
  return text.find('\0') == std::string_view::npos &&
         ::inet_pton(family, std::string(text).c_str(), bytes.data()) == 1;
}

}  // namespace

Result<Endpoint> parse_endpoint(std::string_view text) {
  constexpr auto kForm = R"(expected an address and a port: "127.0.0.1:9471" or "[::1]:9471")";
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos) {
    return bad(quoted(text) + " has no port; " + kForm);
  }
  auto host = text.substr(0, colon);
  const auto digits = text.substr(colon + 1);
  const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) {
    host = host.substr(1, host.size() - 2);
  } else if (is_address(AF_INET6, host) || is_address(AF_INET6, text)) {
    return bad(quoted(text) +
               " is ambiguous; write an IPv6 address in brackets, as \"[::1]:9471\"");
  }
  if (!is_address(bracketed ? AF_INET6 : AF_INET, host)) {
    return bad(quoted(host) + " is no address, and names are not looked up; " + kForm);
  }
  const auto port = number<std::uint16_t>(digits);
  if (!port || *port == 0) {
    return bad(quoted(digits) + " is no port; write 1 to 65535");
  }
  return Endpoint{std::string(host), *port};
}

std::string quoted(std::string_view text) {
  constexpr std::size_t kLongest = 64;
  const bool cut = text.size() > kLongest;
  return '"' + std::string(text.substr(0, kLongest)) + (cut ? "...\"" : "\"");
}

std::string did_you_mean(std::string_view word, std::span<const std::string_view> candidates) {
  constexpr std::size_t kLongestWord = 64;  // no key or name is longer: do not even compare
  std::string_view best;
  // One slip in three letters, two at most; beyond that it is another word.
  std::size_t best_distance = std::clamp<std::size_t>(word.size() / 3, 1, 2) + 1;
  for (const auto candidate : candidates) {
    if (word.size() > kLongestWord || candidate.size() > kLongestWord) {
      continue;
    }
    const auto distance = edit_distance(word, candidate);
    if (distance < best_distance && distance < candidate.size()) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best.empty() ? "" : "; did you mean " + quoted(best) + "?";
}

std::string join(std::span<const std::string_view> words) {
  std::string text;
  for (const auto word : words) {
    text.append(text.empty() ? "" : ", ").append(word);
  }
  return text;
}

}  // namespace vtap::config
