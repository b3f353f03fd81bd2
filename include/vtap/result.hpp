// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace vtap {

/// What kind of failure: decides the exit code (DESIGN 7.2).
enum class ErrorKind {
  runtime,      ///< exit 1
  usage,        ///< exit 2: config or command line
  unsupported,  ///< exit 3: privilege or kernel feature missing
  conflict,     ///< exit 1: another change came first, or the thing exists
};

/// A failure with its context, on its way up. `message` says what failed, on what, and what the
/// user can do about it.
struct Error {
  std::string message;
  ErrorKind kind = ErrorKind::runtime;
};

/// Value or Error. (std::expected needs C++23 and a newer clang-tidy than Debian 12 has.)
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT: implicit
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT: implicit

  [[nodiscard]] bool ok() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return ok(); }
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  T* operator->() { return &value(); }
  [[nodiscard]] const Error& error() const { return std::get<1>(state_); }

 private:
  std::variant<T, Error> state_;
};

/// Success or Error.
template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT: implicit

  [[nodiscard]] bool ok() const noexcept { return !error_; }
  explicit operator bool() const noexcept { return ok(); }
  [[nodiscard]] const Error& error() const { return *error_; }

 private:
  std::optional<Error> error_;
};

}  // namespace vtap
