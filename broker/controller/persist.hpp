// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "vtap/result.hpp"

namespace vtap::controller {

/// The next content of a file, written beside it: all of it is in place with commit(), or nothing.
class FileDraft {
 public:
  /// On disk when this returns, under another name in the same directory, with the mode and, as far
  /// as this process may, the owner of the file. A symbolic link stays one: what it means is
  /// replaced.
  static Result<FileDraft> write(const std::string& file, const std::string& content);

  FileDraft(FileDraft&& other) noexcept;
  FileDraft& operator=(FileDraft&&) = delete;
  ~FileDraft();  ///< removes what was not committed

  Result<void> commit();

 private:
  FileDraft(std::string file, std::string draft)
      : file_(std::move(file)), draft_(std::move(draft)) {}

  std::string file_;
  std::string draft_;  ///< empty: committed
};

}  // namespace vtap::controller
