// SPDX-License-Identifier: Apache-2.0
#include "table.hpp"

#include <algorithm>
#include <array>
#include <cstdio>

namespace vtap::ctl {
namespace {

std::string formatted(const char* format, double value) {
  std::array<char, 64> buffer{};
  std::snprintf(buffer.data(), buffer.size(), format, value);
  return buffer.data();
}

/// Columns on a terminal: the bytes that begin a UTF-8 character.
size_t width_of(const std::string& text) {
  const auto begins = [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; };
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), begins));
}

std::string two_units(double seconds, double big, const char* big_name, double small,
                      const char* small_name) {
  const auto whole = static_cast<std::uint64_t>(seconds);
  const auto per_big = static_cast<std::uint64_t>(big);
  const auto per_small = static_cast<std::uint64_t>(small);
  return std::to_string(whole / per_big) + " " + big_name + " " +
         std::to_string(whole % per_big / per_small) + " " + small_name;
}

}  // namespace

std::string rate_text(double per_second, const std::string& unit) {
  static constexpr std::array<const char*, 5> kPrefixes = {"", "k", "M", "G", "T"};
  if (!(per_second > 0)) return "0 " + unit;
  size_t prefix = 0;
  // 999.5 would be printed as 1000.
  while (per_second >= 999.5 && prefix + 1 < kPrefixes.size()) {
    per_second /= 1000;
    ++prefix;
  }
  const char* digits = per_second < 9.995 ? "%.2f" : per_second < 99.95 ? "%.1f" : "%.0f";
  return formatted(digits, per_second) + " " + kPrefixes[prefix] + unit;
}

std::string pps_text(double frames_per_second) { return rate_text(frames_per_second, "pps"); }

std::string bits_text(double bytes_per_second) { return rate_text(bytes_per_second * 8, "bit/s"); }

std::string percent_text(double ratio) { return formatted("%.1f %%", ratio * 100); }

std::string duration_text(double seconds) {
  constexpr double minute = 60, hour = 60 * minute, day = 24 * hour;
  if (!(seconds > 0)) return "0 s";
  if (seconds < minute) return formatted("%.1f s", seconds);
  if (seconds < hour) return two_units(seconds, minute, "min", 1, "s");
  if (seconds < day) return two_units(seconds, hour, "h", minute, "min");
  return two_units(seconds, day, "d", hour, "h");
}

std::string Table::text() const {
  if (rows_.empty()) return "  none\n";
  const std::vector<size_t> wide = widths();
  std::vector<std::string> headlines;
  for (const Column& column : columns_) headlines.push_back(column.headline);
  std::string out = line(headlines, wide);
  for (const auto& cells : rows_) out += line(cells, wide);
  return out;
}

std::vector<size_t> Table::widths() const {
  std::vector<size_t> widths;
  for (const Column& column : columns_) widths.push_back(width_of(column.headline));
  for (const auto& cells : rows_) {
    for (size_t i = 0; i < std::min(cells.size(), widths.size()); ++i) {
      widths[i] = std::max(widths[i], width_of(cells[i]));
    }
  }
  return widths;
}

std::string Table::line(const std::vector<std::string>& cells,
                        const std::vector<size_t>& widths) const {
  std::string out;
  for (size_t i = 0; i < std::min(cells.size(), columns_.size()); ++i) {
    const std::string padding(widths[i] - width_of(cells[i]), ' ');
    out += "  " + (columns_[i].right ? padding + cells[i] : cells[i] + padding);
  }
  out.erase(out.find_last_not_of(' ') + 1);
  return out + "\n";
}

}  // namespace vtap::ctl
