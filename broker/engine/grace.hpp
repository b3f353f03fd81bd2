// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace vtap::engine {

/// Returns when each program that ran at the time of the call is done.
void wait_for_programs();

}  // namespace vtap::engine
