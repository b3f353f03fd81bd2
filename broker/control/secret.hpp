// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "vtap/result.hpp"

namespace vtap::control {

/// Refuses a file that everybody may read or write. Errors (usage) begin with `what` and name it.
Result<void> check_private(const std::string& what, const std::string& file);

/// The token that clients of the TCP API show. Readable to those only who may have it.
class Token {
 public:
  static constexpr std::size_t kShortest = 16;
  static constexpr std::size_t kLongest = 4096;

  /// Reads it from `file`: one line of 16 to 4096 visible ASCII characters. Errors: usage.
  static Result<Token> read(const std::string& file);

  /// Whether an Authorization header shows it: "Bearer TOKEN". Takes the same time wherever the
  /// first wrong character is; only the length can be told.
  [[nodiscard]] bool is_shown_by(std::string_view authorization) const;

 private:
  explicit Token(std::string text) : text_(std::move(text)) {}
  std::string text_;
};

}  // namespace vtap::control
