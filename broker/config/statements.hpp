// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// Where in a TOML text its statements stand, to the byte. toml++ tells where things begin, by line
/// and character; an edit also needs to know where they end, and what is a comment beside them.
namespace vtap::config {

/// Bytes of a text: begin up to, not including, end.
struct Span {
  std::size_t begin = 0;
  std::size_t end = 0;
};

struct Statement {
  enum class Kind { pair, table, element };  ///< key = value, [header], [[header]]
  Kind kind = Kind::pair;
  std::vector<std::string> key;  ///< its parts, without quotes
  Span value;                    ///< of a pair
  Span lines;                    ///< all of its lines, with indentation, comment and newline
};

/// The statements of `text`, which toml++ has accepted, in their order. Nothing if the text is not
/// understood.
std::optional<std::vector<Statement>> statements_of(std::string_view text);

struct ListElement {
  Span at;
  std::optional<std::size_t> comma;  ///< the one behind it
};

/// The elements of the list at `list`, brackets included. Nothing if it is no list.
std::optional<std::vector<ListElement>> elements_of(std::string_view text, Span list);

}  // namespace vtap::config
