// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "host/attach.hpp"
#include "vtap/result.hpp"

/// TC programs without a queueing discipline (kernel 6.6). They run ahead of all filters. A clsact
/// has to be added and removed, and either makes the kernel drop what the device was about to send
/// (qdisc_graft() deactivates it); this does not. What is attached stays when the process dies.
namespace vtap::host {

/// Whether this kernel has them; by asking it.
bool has_tcx();

/// Attaches ahead of everybody else, or in place of ours: others may have come before it since.
Result<TcAttachment> attach_tcx(int ifindex, Direction direction, int prog_fd);

/// Removes ours, never somebody else's. True: there was one. Without tcx there is none.
Result<bool> detach_tcx(int ifindex, Direction direction);

/// A program at TC by tcx.
struct TcxProgram {
  std::uint32_t id = 0;
  std::uint32_t link_id = 0;  ///< of the BPF link that holds it there; 0: none does
  std::string name;
  bool ours = false;
};
/// Programs of a direction in the order in which they see a packet. Without tcx there are none.
Result<std::vector<TcxProgram>> tcx_programs(int ifindex, Direction direction);

/// Whether one of ours is attached.
bool carries_our_tcx(int ifindex, Direction direction);

}  // namespace vtap::host
