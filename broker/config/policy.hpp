// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "config/config.hpp"
#include "config/reader.hpp"

namespace vtap::config {

/// One [[policy]] table, appended to `config`, whose broker, taps and monitors have been read.
void read_policy(Findings& findings, const toml::table& table, Names& names, Config& config);

/// Refuses tables of flows and hosts (head, slice after, meters per host) that take too much memory
/// together.
void limit_flow_tables(Findings& findings, const Config& config);

}  // namespace vtap::config
