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

constexpr size_t kGap = 2;           // spaces before each column
constexpr size_t kShortestName = 8;  // columns of names are not made narrower than this
constexpr size_t kLinesAround = 3;   // of a table: empty line, title, headlines

bool begins_character(char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }

/// Columns on a terminal: the bytes that begin a UTF-8 character.
size_t width_of(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), begins_character));
}

/// What is too long ends in "…".
std::string shortened(const std::string& text, size_t columns) {
  if (width_of(text) <= columns) return text;
  return columns == 0 ? "" : cut(text, columns - 1) + "\u2026";
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

void Table::sort() {
  std::stable_sort(rows_.begin(), rows_.end(),
                   [](const Row& a, const Row& b) { return a.weight > b.weight; });
}

std::string Table::text(Screen limit) const {
  if (rows_.empty()) return "  none\n";
  const std::vector<size_t> wide = widths(limit.columns);
  const size_t shown = limit.rows == 0 ? rows_.size() : std::min(limit.rows, rows_.size());
  std::vector<std::string> lines;
  std::vector<std::string> headlines;
  for (const Column& column : columns_) headlines.push_back(column.headline);
  lines.push_back(line(headlines, wide));
  for (size_t i = 0; i < shown; ++i) lines.push_back(line(rows_[i].cells, wide));
  if (shown < rows_.size()) {
    lines.push_back("  and " + std::to_string(rows_.size() - shown) + " more");
  }
  std::string out;
  for (const std::string& text : lines) {
    out += (limit.columns == 0 ? text : cut(text, limit.columns)) + "\n";
  }
  return out;
}

std::vector<size_t> Table::widths(size_t limit) const {
  std::vector<size_t> widths;
  for (const Column& column : columns_) widths.push_back(width_of(column.headline));
  for (const Row& row : rows_) {
    for (size_t i = 0; i < std::min(row.cells.size(), widths.size()); ++i) {
      widths[i] = std::max(widths[i], width_of(row.cells[i]));
    }
  }
  if (limit > 0) narrow(widths, limit);
  return widths;
}

/// Takes from the longest column of names as often as it takes.
void Table::narrow(std::vector<size_t>& widths, size_t limit) const {
  size_t total = 0;
  for (const size_t width : widths) total += width + kGap;
  for (; total > limit; --total) {
    size_t longest = 0, at = 0;
    for (size_t i = 0; i < widths.size(); ++i) {
      if (columns_[i].right || widths[i] <= longest) continue;
      longest = widths[i];
      at = i;
    }
    if (longest <= kShortestName) return;
    --widths[at];
  }
}

std::string Table::line(const std::vector<std::string>& cells,
                        const std::vector<size_t>& widths) const {
  std::string out;
  for (size_t i = 0; i < std::min(cells.size(), columns_.size()); ++i) {
    const std::string cell = shortened(cells[i], widths[i]);
    const std::string padding(widths[i] - width_of(cell), ' ');
    out += std::string(kGap, ' ') + (columns_[i].right ? padding + cell : cell + padding);
  }
  out.erase(out.find_last_not_of(' ') + 1);
  return out;
}

std::string sections_text(const std::vector<Section>& sections, Screen screen, size_t used) {
  std::vector<size_t> shown;
  for (const Section& section : sections) shown.push_back(section.table.rows());
  const auto height = [&] {
    size_t lines = used;
    for (size_t i = 0; i < sections.size(); ++i) {
      const size_t rows = sections[i].table.rows();
      lines += kLinesAround + std::max<size_t>(shown[i], rows == 0 ? 0 : 1);
      if (shown[i] < rows) ++lines;
    }
    return lines;
  };
  while (screen.rows > 0 && height() > screen.rows) {
    // Of two rows none can be spared: the line that says so takes its place.
    const auto most = std::max_element(shown.begin(), shown.end());
    if (most == shown.end() || *most <= 2) break;
    --*most;
  }
  std::string out;
  for (size_t i = 0; i < sections.size(); ++i) {
    out += "\n" + sections[i].title + "\n" + sections[i].table.text({shown[i], screen.columns});
  }
  return out;
}

std::string cut(const std::string& text, size_t columns) {
  size_t end = 0;
  for (size_t width = 0; end < text.size(); ++end) {
    if (begins_character(text[end]) && ++width > columns) break;
  }
  return text.substr(0, end);
}

}  // namespace vtap::ctl
