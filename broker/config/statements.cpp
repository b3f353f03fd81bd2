// SPDX-License-Identifier: Apache-2.0
#include "config/statements.hpp"

#include <toml++/toml.h>

#include <algorithm>
#include <exception>

namespace vtap::config {
namespace {

constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

bool is_one_of(char c, std::string_view set) { return set.find(c) != std::string_view::npos; }

/// Walks over a text that is known to be TOML; so it looks for the ends of things and judges
/// nothing.
class Cursor {
 public:
  explicit Cursor(std::string_view text, std::size_t at = 0) : text_(text), at_(at) {}

  [[nodiscard]] std::size_t at() const noexcept { return at_; }
  [[nodiscard]] bool done() const noexcept { return at_ >= text_.size(); }
  [[nodiscard]] char peek() const noexcept { return done() ? '\0' : text_[at_]; }

  bool take(char c) {
    if (done() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  void skip_any_of(std::string_view set) {
    at_ = std::min(text_.find_first_not_of(set, at_), text_.size());
  }
  void skip_until(std::string_view set) {
    at_ = std::min(text_.find_first_of(set, at_), text_.size());
  }
  void skip_blanks() { skip_any_of(" \t"); }

  /// Blanks, newlines, comments.
  void skip_space() {
    for (skip_any_of(" \t\r\n"); peek() == '#'; skip_any_of(" \t\r\n")) skip_until("\n");
  }

  /// What is left of a line, its newline too.
  void skip_line() {
    skip_until("\n");
    take('\n');
  }

  void skip_string() {
    const char quote = text_[at_];
    const std::string three(3, quote);
    const bool long_one = text_.substr(at_, 3) == three;
    at_ += long_one ? 3 : 1;
    while (!done()) {
      if (quote == '"' && text_[at_] == '\\') {
        at_ += 2;
      } else if (text_[at_] != quote || (long_one && text_.substr(at_, 3) != three)) {
        ++at_;
      } else {
        break;
      }
    }
    at_ += long_one ? 3 : 1;
    // Two quotes in front of the closing ones belong to the text.
    for (int more = 0; long_one && more < 2 && peek() == quote; ++more) ++at_;
    at_ = std::min(at_, text_.size());
  }

  void skip_value() {
    if (is_one_of(peek(), "\"'")) return skip_string();
    if (is_one_of(peek(), "[{")) return skip_brackets();
    // A date may have a blank inside.
    const std::size_t begin = at_;
    skip_until(",]}#\r\n");
    while (at_ > begin && is_one_of(text_[at_ - 1], " \t")) --at_;
  }

  /// The parts of a key, up to the '=' or ']' behind it.
  std::optional<std::vector<std::string>> key() {
    std::vector<std::string> parts;
    do {
      skip_blanks();
      const std::size_t begin = at_;
      if (is_one_of(peek(), "\"'")) {
        skip_string();
        auto part = unquoted(text_.substr(begin, at_ - begin));
        if (!part) return std::nullopt;
        parts.push_back(std::move(*part));
      } else {
        skip_until(" \t.=]\r\n#");
        if (at_ == begin) return std::nullopt;
        parts.emplace_back(text_.substr(begin, at_ - begin));
      }
      skip_blanks();
    } while (take('.'));
    return parts;
  }

 private:
  void skip_brackets() {
    std::size_t depth = 0;
    do {
      const char c = peek();
      if (is_one_of(c, "\"'")) {
        skip_string();
        continue;
      }
      if (c == '#') {
        skip_until("\n");
        continue;
      }
      if (is_one_of(c, "[{")) ++depth;
      if (is_one_of(c, "]}")) --depth;
      ++at_;
    } while (depth > 0 && !done());
  }

  static std::optional<std::string> unquoted(std::string_view token) {
    return toml::parse("key = " + std::string(token))["key"].value<std::string>();
  }

  std::string_view text_;
  std::size_t at_;
};

/// The one that begins at the cursor, which is left behind its lines.
std::optional<Statement> next_statement(std::string_view text, Cursor& cursor) {
  using Kind = Statement::Kind;
  Statement statement;
  const auto newline =
      cursor.at() == 0 ? std::string_view::npos : text.rfind('\n', cursor.at() - 1);
  statement.lines.begin = newline == std::string_view::npos ? 0 : newline + 1;
  if (statement.lines.begin == 0 && text.substr(0, kByteOrderMark.size()) == kByteOrderMark) {
    statement.lines.begin = kByteOrderMark.size();
  }
  if (cursor.take('[')) statement.kind = cursor.take('[') ? Kind::element : Kind::table;
  auto key = cursor.key();
  if (!key) return std::nullopt;
  statement.key = std::move(*key);
  if (statement.kind == Kind::pair) {
    if (!cursor.take('=')) return std::nullopt;
    cursor.skip_blanks();
    statement.value.begin = cursor.at();
    cursor.skip_value();
    statement.value.end = cursor.at();
  } else if (!cursor.take(']')) {
    return std::nullopt;
  }
  cursor.skip_line();
  statement.lines.end = cursor.at();
  return statement;
}

}  // namespace

std::optional<std::vector<Statement>> statements_of(std::string_view text) {
  const bool marked = text.substr(0, kByteOrderMark.size()) == kByteOrderMark;
  Cursor cursor(text, marked ? kByteOrderMark.size() : 0);
  std::vector<Statement> statements;
  for (cursor.skip_space(); !cursor.done(); cursor.skip_space()) {
    auto statement = next_statement(text, cursor);
    if (!statement) return std::nullopt;
    statements.push_back(std::move(*statement));
  }
  return statements;
}

std::optional<std::vector<ListElement>> elements_of(std::string_view text, Span list) {
  Cursor cursor(text.substr(0, list.end), list.begin);
  if (!cursor.take('[')) return std::nullopt;
  std::vector<ListElement> elements;
  for (cursor.skip_space(); cursor.peek() != ']'; cursor.skip_space()) {
    if (cursor.done()) return std::nullopt;
    ListElement element;
    element.at.begin = cursor.at();
    cursor.skip_value();
    element.at.end = cursor.at();
    cursor.skip_space();
    if (cursor.peek() == ',') element.comma = cursor.at();
    elements.push_back(element);
    if (!cursor.take(',') && cursor.peek() != ']') return std::nullopt;
  }
  return elements;
}

}  // namespace vtap::config
