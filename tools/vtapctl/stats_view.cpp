// SPDX-License-Identifier: Apache-2.0
#include "table.hpp"
#include "views.hpp"

namespace vtap::ctl {
namespace {

std::string count_text(const Json& object, const char* key) {
  return std::to_string(count_of(object, key));
}

/// Σ of the reasons, and the non-zero ones by name: "12 (ring_full 10, down 2)".
std::string reasons_text(const Json& reasons) {
  std::string parts;
  for (const auto& [reason, frames] : reasons.items()) {
    if (!frames.is_number_unsigned() || frames == 0U) continue;
    parts += (parts.empty() ? "" : ", ") + printable(reason) + " " +
             std::to_string(frames.get<std::uint64_t>());
  }
  const std::string sum = std::to_string(total_of(reasons));
  return parts.empty() ? sum : sum + " (" + parts + ")";
}

std::string taps_text(const Json& stats) {
  Table table({{"tap"},
               {"port"},
               {"rx frames", true},
               {"rx bytes", true},
               {"passed", true},
               {"consumed", true},
               {"matched", true},
               {"copied", true},
               {"missed"},
               {"not passed"}});
  for (const Json& tap : part_of(stats, "taps")) {
    for (const Json& port : part_of(tap, "ports")) {
      table.row({text_of(tap, "name"), text_of(port, "name"), count_text(port, "rx_frames"),
                 count_text(port, "rx_bytes"), count_text(port, "passed_frames"),
                 count_text(port, "consumed_frames"), count_text(port, "matched_frames"),
                 count_text(port, "copied_frames"), reasons_text(part_of(port, "missed")),
                 reasons_text(part_of(port, "not_passed"))});
    }
  }
  return table.text();
}

std::string policies_text(const Json& stats) {
  Table table({{"policy"}, {"matched", true}, {"bytes", true}, {"dropped"}});
  for (const Json& policy : part_of(stats, "policies")) {
    table.row({text_of(policy, "name"), count_text(policy, "matched_frames"),
               count_text(policy, "matched_bytes"), reasons_text(part_of(policy, "dropped"))});
  }
  return table.text();
}

std::string copies_text(const Json& stats) {
  Table table({{"policy"}, {"monitor"}, {"sent", true}, {"bytes", true}, {"already sent", true}});
  for (const Json& policy : part_of(stats, "policies")) {
    for (const Json& monitor : part_of(policy, "monitors")) {
      table.row({text_of(policy, "name"), text_of(monitor, "name"),
                 count_text(monitor, "sent_frames"), count_text(monitor, "sent_bytes"),
                 count_text(monitor, "already_sent")});
    }
  }
  return table.text();
}

std::string monitors_text(const Json& stats) {
  Table table({{"monitor"},
               {"port"},
               {"state"},
               {"tx frames", true},
               {"tx bytes", true},
               {"arrived", true},
               {"waiting", true},
               {"dropped"}});
  for (const Json& monitor : part_of(stats, "monitors")) {
    table.row({text_of(monitor, "name"), text_of(monitor, "port"), text_of(monitor, "state"),
               count_text(monitor, "tx_frames"), count_text(monitor, "tx_bytes"),
               count_text(monitor, "arrived_frames"), count_text(monitor, "waiting_frames"),
               reasons_text(part_of(monitor, "dropped"))});
  }
  return table.text();
}

std::string workers_text(const Json& stats) {
  Table table(
      {{"cpu", true}, {"bursts", true}, {"frames", true}, {"wakeups", true}, {"asleep", true}});
  for (const Json& worker : part_of(stats, "workers")) {
    table.row({count_text(worker, "cpu"), count_text(worker, "bursts"),
               count_text(worker, "frames"), count_text(worker, "wakeups"),
               percent_text(number_of(worker, "idle_ratio"))});
  }
  return table.text();
}

std::string umem_text(const Json& stats) {
  const Json& umem = part_of(stats, "umem");
  return "  " + count_text(umem, "free") + " of " + count_text(umem, "frames") +
         " frames are free, of " + count_text(umem, "frame_size") + " bytes each\n";
}

}  // namespace

std::string heading(const Json& stats) {
  return text_of(stats, "name") + "   up " + duration_text(number_of(stats, "uptime_s")) +
         "   plan " + count_text(part_of(stats, "plan"), "generation") + "\n";
}

std::string stats_view(const Json& stats) {
  return heading(stats) + "\nTaps (frames since the start)\n" + taps_text(stats) + "\nPolicies\n" +
         policies_text(stats) + "\nCopies\n" + copies_text(stats) + "\nMonitors\n" +
         monitors_text(stats) + "\nWorkers\n" + workers_text(stats) + "\nMemory\n" +
         umem_text(stats);
}

}  // namespace vtap::ctl
