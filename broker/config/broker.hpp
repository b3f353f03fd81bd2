// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "config/config.hpp"
#include "config/reader.hpp"

namespace vtap::config {

/// The [broker] table.
void read_broker(const Field& field, Broker& broker);

/// Fills in what follows from other keys. Also called where the file has no [broker].
void complete(Broker& broker);

}  // namespace vtap::config
