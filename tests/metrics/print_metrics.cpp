// SPDX-License-Identifier: Apache-2.0
// The metrics of a broker that has one of everything.
#include <iostream>

#include "metrics/exposition.hpp"
#include "support/full_snapshot.hpp"

int main() {
  std::cout << vtap::metrics::to_prometheus(vtap::test::full_snapshot(), {.version = "1",
                                                                          .last_reload_ok = true,
                                                                          .last_load_s = 1,
                                                                          .reloads_ok = 0,
                                                                          .reloads_failed = 0});
}
