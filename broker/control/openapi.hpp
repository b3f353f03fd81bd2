// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace vtap::control {

/// docs/openapi.json, as it was when the broker was built.
std::string_view openapi_document() noexcept;

}  // namespace vtap::control
