// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "expectation.hpp"

namespace vtap::test {

/// The frames of a case that was made by hand here; none for cases that came as pcap files.
/// Only --update asks: a test reads the pcap files.
std::optional<std::vector<Input>> make_inputs(const std::string& name);

}  // namespace vtap::test
