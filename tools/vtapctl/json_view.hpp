// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "vtap/result.hpp"

/// Reading a broker's JSON without trusting it: another version may lack keys or have more. What is
/// missing or of another type reads as zero, nothing, or an empty list.
namespace vtap::ctl {

using Json = nlohmann::ordered_json;

/// The object in a broker's answer.
Result<Json> parse_stats(const std::string& body);

std::uint64_t count_of(const Json& object, const char* key);
double number_of(const Json& object, const char* key);

/// The boolean under `key`; `otherwise` when there is none.
bool is_set(const Json& object, const char* key, bool otherwise = false);

/// Text for a terminal: control characters become '?'. "-" when there is none.
std::string text_of(const Json& object, const char* key);
std::string printable(std::string text);

/// The same, but line breaks stay.
std::string printable_lines(std::string text);

/// Printable lines behind what introduces them: " one", or each on a line of its own.
std::string listed(const std::string& text, const std::string& indent);

/// The array or object under `key`; an empty one when there is none.
const Json& part_of(const Json& object, const char* key);

/// The element of the array `objects` that has this name; an empty object when there is none.
const Json& named(const Json& objects, const Json& like);

/// Σ over a `missed`, `not_passed` or `dropped` object.
std::uint64_t total_of(const Json& reasons);

/// Two answers of one broker and the time between them.
class Interval {
 public:
  /// If the broker was restarted in between, `before` is forgotten and the interval is its life.
  Interval(const Json& before, const Json& after);

  [[nodiscard]] const Json& before() const { return before_; }
  [[nodiscard]] const Json& after() const { return after_; }
  [[nodiscard]] double seconds() const { return seconds_; }

  /// Growth of one counter, per second; 0 when it shrank.
  [[nodiscard]] double per_second(std::uint64_t old_value, std::uint64_t new_value) const;
  [[nodiscard]] double per_second(const Json& old_object, const Json& new_object,
                                  const char* key) const;

 private:
  Json before_, after_;
  double seconds_;
};

}  // namespace vtap::ctl
