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

/// Size of a terminal, in characters; 0: no limit.
struct Screen {
  size_t rows = 0, columns = 0;
};

/// Columns under a headline, as wide as their widest cell.
class Table {
 public:
  struct Column {
    std::string headline;
    bool right = false;  ///< numbers stand right
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  /// One cell per column; missing ones are empty. `weight`: what `sort` goes by.
  void row(std::vector<std::string> cells, double weight = 0) {
    rows_.push_back({std::move(cells), weight});
  }

  /// The heaviest first; equal ones stay in their order.
  void sort();

  [[nodiscard]] size_t rows() const { return rows_.size(); }

  /// The lines, each indented by two spaces; without rows "  none". No more than `limit.rows` of
  /// the rows, and how many there are besides; names are shortened to fit `limit.columns`, and what
  /// is still too long is cut off.
  [[nodiscard]] std::string text(Screen limit = {}) const;

 private:
  struct Row {
    std::vector<std::string> cells;
    double weight;
  };

  [[nodiscard]] std::vector<size_t> widths(size_t limit) const;
  void narrow(std::vector<size_t>& widths, size_t limit) const;
  [[nodiscard]] std::string line(const std::vector<std::string>& cells,
                                 const std::vector<size_t>& widths) const;

  std::vector<Column> columns_;
  std::vector<Row> rows_;
};

/// A table below its title.
struct Section {
  std::string title;
  Table table;
};

/// All sections, each behind an empty line. On a screen that is too small for all rows the longest
/// tables lose their last ones; `used`: lines of the screen that are taken already.
std::string sections_text(const std::vector<Section>& sections, Screen screen = {},
                          size_t used = 0);

/// The first characters of a UTF-8 text, `columns` at most.
std::string cut(const std::string& text, size_t columns);

}  // namespace vtap::ctl
