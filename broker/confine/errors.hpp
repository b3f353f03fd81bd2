// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <system_error>

#include "vtap/result.hpp"

namespace vtap::confine {

/// `what`, and what the kernel said of it (an errno).
inline Error failed(const std::string& what, int error, ErrorKind kind = ErrorKind::runtime) {
  return {what + ": " + std::error_code(error, std::generic_category()).message(), kind};
}

}  // namespace vtap::confine
