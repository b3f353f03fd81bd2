/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/*
 * The policies that the kernel serves at TC: a clone of the packet to each of their monitors
 * (docs/decisions/0013).
 */
#ifndef VTAP_CLONE_BPF_H
#define VTAP_CLONE_BPF_H

#include "placed.bpf.h"
#include "skb.bpf.h"

/* What a packet is on the wire: frames, and bytes in all. */
struct on_wire {
  __u32 frames;
  __u64 bytes;
};

/* Whether the device itself has counted, as dropped, what bpf_clone_redirect() says was refused.
 * Without a queue the verdict is the driver's (positive), or that the device is down. */
static __always_inline bool counted_by(const struct vtap_monitor_link* link, long error) {
  enum { ENETDOWN = 100 };
  return !link->has_queue && (error > 0 || error == -ENETDOWN);
}

/* Whether a packet, `frames` on the wire, is cloned to the monitor; if not, counted. A global
 * function, so that the verifier does not walk it for each monitor. */
__noinline int clone_to(struct __sk_buff* ctx, __u32 monitor, __u32 frames, __u64 bytes) {
  if (!config.clones) return false; /* as monitors_of() has to look */
  struct vtap_monitor_link* link = bpf_map_lookup_elem(&monitor_links, &monitor);
  bool up = link && link->ifindex;
  bool sent = false;
  if (up && frames <= VTAP_MAX_CUT) {
    long error = bpf_clone_redirect(ctx, link->ifindex, 0);
    sent = !error || counted_by(link, error);
  }
  if (!sent) count_lost(monitor, up ? VTAP_LOST_FAILED : VTAP_LOST_DOWN, frames, bytes);
  return sent;
}

/* The clones bear the mark; the original only meanwhile. Programs of other ports may run within. */
static __always_inline void clone_to_monitors(vtap_ctx* ctx, __u64 monitors, struct on_wire wire) {
  __u32 mark = ctx->mark;
  __u32 i;

  ctx->mark = VTAP_MARK << VTAP_MARK_SHIFT;
  for (i = 0; i < VTAP_MAX_MONITORS && monitors; i++) {
    clone_to(ctx, lowest_bit(monitors), wire.frames, wire.bytes);
    monitors &= monitors - 1;
  }
  ctx->mark = mark;
}

#endif
