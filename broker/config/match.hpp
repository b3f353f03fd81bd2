// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "config/config.hpp"
#include "config/reader.hpp"

namespace vtap::config {

/// The list of tables under `match` or `except`.
void read_matches(const Field& field, std::vector<Match>& matches);

}  // namespace vtap::config
