// SPDX-License-Identifier: Apache-2.0
// In place of acl.cpp where DPDK is not installed.
#include "bench/policies/contestant.hpp"

namespace vtap::bench {

Entrant make_acl(std::span<const Rule> /*rules*/, unsigned /*cpu*/) {
  return refusal("SKIPPED: built without DPDK (apt-get install libdpdk-dev)");
}

}  // namespace vtap::bench
