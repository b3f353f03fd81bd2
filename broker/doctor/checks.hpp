// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <variant>
#include <vector>

#include "doctor/facts.hpp"
#include "doctor/finding.hpp"

/// The checks: each looks at facts and appends what it finds.
namespace vtap::doctor {

/// Sets the port up again as its role demands; journalled.
struct SetUpAgain {
  std::string port;
  host::Demand demand;
  bool held_here = false;
};
/// Mounts bpffs where programs look for it.
struct MountBpffs {};
using Remedy = std::variant<SetUpAgain, MountBpffs>;

struct Diagnosis {
  Finding finding;
  std::optional<Remedy> remedy{};  ///< engaged: safe
};
using Diagnoses = std::vector<Diagnosis>;
using Check = void (*)(const Facts&, Diagnoses&);

// The machine.
void check_kernel(const Facts& facts, Diagnoses& out);
void check_realtime(const Facts& facts, Diagnoses& out);
void check_capabilities(const Facts& facts, Diagnoses& out);
void check_memlock(const Facts& facts, Diagnoses& out);
void check_bpffs(const Facts& facts, Diagnoses& out);
void check_tun(const Facts& facts, Diagnoses& out);
// The CPUs of the workers.
void check_isolation(const Facts& facts, Diagnoses& out);
void check_governor(const Facts& facts, Diagnoses& out);
void check_siblings(const Facts& facts, Diagnoses& out);
void check_irqbalance(const Facts& facts, Diagnoses& out);
// The ports for the config.
void check_config(const Facts& facts, Diagnoses& out);
void check_links(const Facts& facts, Diagnoses& out);
void check_mtu(const Facts& facts, Diagnoses& out);
void check_loops(const Facts& facts, Diagnoses& out);
void check_rings(const Facts& facts, Diagnoses& out);
// Programs and XDP.
void check_foreign(const Facts& facts, Diagnoses& out);
void check_xdp_features(const Facts& facts, Diagnoses& out);
void check_unfinished(const Facts& facts, Diagnoses& out);
void check_outputs(const Facts& facts, Diagnoses& out);
// Settings that a broker made, or cannot make.
void check_offloads(const Facts& facts, Diagnoses& out);
void check_host_lro(const Facts& facts, Diagnoses& out);
void check_promisc(const Facts& facts, Diagnoses& out);
void check_ipv6(const Facts& facts, Diagnoses& out);
// Queues.
void check_queue_limit(const Facts& facts, Diagnoses& out);
void check_queue_cover(const Facts& facts, Diagnoses& out);
void check_queues_of_workers(const Facts& facts, Diagnoses& out);
void check_zero_copy(const Facts& facts, Diagnoses& out);

/// All of them, in this order; `ok` findings among them.
Diagnoses diagnose(const Facts& facts);

}  // namespace vtap::doctor
