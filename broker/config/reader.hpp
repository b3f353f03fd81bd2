// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <toml++/toml.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include "config/config.hpp"
#include "config/values.hpp"

/// TOML nodes read by tables of keys: what a table may hold is written once, as data.
namespace vtap::config {

Position position(const toml::source_region& region) noexcept;

/// Everything found so far. Reading goes on after an error, so that one run reports all of them.
struct Findings {
  std::vector<Diagnostic> errors;
  std::vector<Diagnostic> warnings;
};

/// One word of a fixed set.
template <typename Value>
struct Choice {
  std::string_view name;
  Value value;
};

/// The names of keys, choices, taps, ...: views into `entries`.
template <typename Entries>
std::vector<std::string_view> names_of(const Entries& entries) {
  std::vector<std::string_view> names;
  names.reserve(entries.size());
  for (const auto& entry : entries) {
    names.push_back(entry.name);
  }
  return names;
}

/// A value with its key and a place to report to. Getters report what does not fit, and return
/// nothing then. Refers to the document and the findings, which outlive it.
class Field {
 public:
  Field(Findings& findings, std::string_view key, const toml::node& node) noexcept
      : findings_(findings), key_(key), node_(node) {}

  [[nodiscard]] Findings& findings() const noexcept { return findings_; }
  [[nodiscard]] std::string_view key() const noexcept { return key_; }
  [[nodiscard]] Position at() const noexcept { return position(node_.source()); }
  [[nodiscard]] bool is_text() const noexcept { return node_.is_string(); }
  [[nodiscard]] bool is_integer() const noexcept { return node_.is_integer(); }
  [[nodiscard]] bool is_list() const noexcept { return node_.is_array(); }
  /// Elements of a list; 0 for everything else.
  [[nodiscard]] std::size_t size() const noexcept {
    return is_list() ? node_.as_array()->size() : 0;
  }

  void error(std::string_view message) const;
  void warn(std::string_view message) const;
  void wrong_type(std::string_view expected) const;

  [[nodiscard]] const std::string* text(std::string_view expected = "a string") const;
  [[nodiscard]] std::optional<std::uint64_t> integer(
      std::uint64_t min, std::uint64_t max, std::string_view expected = "an integer") const;
  [[nodiscard]] std::optional<double> real() const;
  [[nodiscard]] std::optional<bool> boolean() const;
  [[nodiscard]] const toml::table* table(std::string_view expected) const;

  /// Integer into a 32-bit (or wider) target; a bad one leaves the target alone.
  template <typename Target>
  void integer_into(std::uint64_t min, std::uint64_t max, Target& target,
                    std::string_view expected = "an integer") const {
    if (const auto value = integer(min, max, expected)) {
      target = static_cast<Target>(*value);
    }
  }

  /// Text that `parse` (of values.hpp) understands.
  template <typename Parse>
  [[nodiscard]] auto parsed(Parse parse, std::string_view expected = "a string") const
      -> std::optional<std::remove_cvref_t<decltype(parse(std::string_view{}).value())>> {
    const auto* value = text(expected);
    if (value == nullptr) {
      return std::nullopt;
    }
    auto result = parse(*value);
    if (!result) {
      error(result.error().message);
      return std::nullopt;
    }
    return std::move(result).value();
  }

  template <typename Value, std::size_t Count>
  [[nodiscard]] std::optional<Value> choice(const std::array<Choice<Value>, Count>& choices) const {
    const auto names = names_of(choices);
    const auto* word = text("one of " + join(names));
    if (word == nullptr) {
      return std::nullopt;
    }
    const auto found = std::find_if(choices.begin(), choices.end(),
                                    [&](const auto& known) { return known.name == *word; });
    if (found == choices.end()) {
      error(quoted(*word) + " is not one of " + join(names) + did_you_mean(*word, names));
      return std::nullopt;
    }
    return found->value;
  }

  /// Calls `visit` with every element of a list that has at least one.
  template <typename Visit>
  void each_of_list(std::string_view expected, Visit visit) const {
    const auto* list = node_.as_array();
    if (list == nullptr) {
      wrong_type(expected);
      return;
    }
    if (list->empty()) {
      error("the list is empty; expected " + std::string(expected));
    }
    for (const auto& element : *list) {
      visit(Field(findings_, key_, element));
    }
  }

  /// As above, where one value may stand for a list of one.
  template <typename Visit>
  void each(std::string_view expected, Visit visit) const {
    if (is_list()) {
      each_of_list(expected, visit);
    } else {
      visit(*this);
    }
  }

  /// As each_of_list(), for lists of tables.
  template <typename Visit>
  void each_table(std::string_view expected, Visit visit) const {
    each_of_list(expected, [&](const Field& element) {
      if (const auto* found = element.table("a table in every place of the list")) {
        visit(element, *found);
      }
    });
  }

 private:
  Findings& findings_;
  std::string_view key_;
  const toml::node& node_;
};

/// One key that a table may hold, and what becomes of its value.
template <typename Target>
struct Key {
  std::string_view name;
  void (*read)(const Field&, Target&);
  std::string_view required = {};  ///< what to write where the key is absent; empty: optional
};

/// Refuses every key of `table` that is not among `known`.
void refuse_unknown(Findings& findings, const toml::table& table, std::string_view where,
                    std::span<const std::string_view> known);

/// Refuses `table` for the lack of `key`; `expected` is what to write.
void refuse_absent(Findings& findings, const toml::table& table, std::string_view where,
                   std::string_view key, std::string_view expected);

/// Reads the keys of `table` in the order of `keys` (not of the file); refuses unknown keys and
/// absent required ones. `where` names the table in messages: "[[tap]]".
template <typename Target, std::size_t Count>
void read_keys(Findings& findings, const toml::table& table, std::string_view where,
               const std::array<Key<Target>, Count>& keys, Target& target) {
  for (const auto& key : keys) {
    if (const auto* node = table.get(key.name)) {
      key.read(Field(findings, key.name, *node), target);
    } else if (!key.required.empty()) {
      refuse_absent(findings, table, where, key.name, key.required);
    }
  }
  refuse_unknown(findings, table, where, names_of(keys));
}

/// The names of the tables of one kind: a name belongs to one of them.
class Names {
 public:
  /// Reports `name`, which `table` has, where an earlier table has it. An empty one was refused
  /// before.
  void claim(Findings& findings, const toml::table& table, std::string_view kind,
             const std::string& name);

 private:
  std::unordered_map<std::string, std::uint32_t> lines_;  ///< of the first table with that name
};

/// The value of `key`, for findings about how keys of one table fit together.
std::optional<Field> find(Findings& findings, const toml::table& table, std::string_view key);

}  // namespace vtap::config
