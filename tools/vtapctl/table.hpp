// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace vtap::ctl {

/// Three significant digits and a decimal prefix: rate_text(1234567, "pps") is "1.23 Mpps".
std::string rate_text(double per_second, const std::string& unit);

/// Frames per second, and bits per second of the bytes per second.
std::string pps_text(double frames_per_second);
std::string bits_text(double bytes_per_second);

/// A share of 0..1 as "12.5 %".
std::string percent_text(double ratio);

/// "12.5 s", "3 min 4 s", "2 h 5 min", "3 d 7 h".
std::string duration_text(double seconds);

/// Columns under a headline, as wide as their widest cell.
class Table {
 public:
  struct Column {
    std::string headline;
    bool right = false;  ///< numbers stand right
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  /// One cell per column; missing ones are empty.
  void row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }

  /// The lines, each indented by two spaces; without rows "  none".
  [[nodiscard]] std::string text() const;

 private:
  [[nodiscard]] std::vector<size_t> widths() const;
  [[nodiscard]] std::string line(const std::vector<std::string>& cells,
                                 const std::vector<size_t>& widths) const;

  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace vtap::ctl
