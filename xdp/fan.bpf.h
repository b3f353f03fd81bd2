/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/*
 * The policies that the kernel serves at XDP: one verdict sends the frame to its output and to the
 * ports of all their monitors, by a DEVMAP for each set of monitors (docs/decisions/0021). The
 * kernel skips, without a trace, devices of a DEVMAP that are down, cannot transmit frames of XDP,
 * or would find the frame too long; so what they can is looked up before.
 */
#ifndef VTAP_FAN_BPF_H
#define VTAP_FAN_BPF_H

#include <bpf/bpf_core_read.h>

#include "placed.bpf.h"

struct destinations {
  __uint(type, BPF_MAP_TYPE_DEVMAP);
  __uint(max_entries, 1); /* the output and the monitors */
  __type(key, __u32);
  __type(value, struct bpf_devmap_val);
};
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
  __uint(max_entries, 1); /* broadcasts */
  __type(key, __u32);
  __array(values, struct destinations);
} broadcasts SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1); /* broadcasts */
  __type(key, struct vtap_broadcast);
  __type(value, __u32);
} broadcast_of SEC(".maps");

/* By tap port: the longest frame that its output takes of a broadcast; 0: none. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, VTAP_MAX_PORTS);
  __type(key, __u32);
  __type(value, __u32);
} output_longest SEC(".maps");

struct xdp_buff___vtap {
  void* data;
  void* data_hard_start;
} __attribute__((preserve_access_index));

extern void* bpf_cast_to_kern_ctx(void* ctx) __ksym __weak; /* from 6.2 */

/* Whether the kernel can clone the frame, which is one buffer then. */
static __always_inline bool is_clonable(vtap_ctx* ctx, __u32 length) {
  __u32 headroom = VTAP_CLONE_HEADROOM;
  if (ctx->data_end - ctx->data != length) return false;
  if (bpf_cast_to_kern_ctx) {
    struct xdp_buff___vtap* buff = bpf_cast_to_kern_ctx(ctx);
    headroom = (__u32)((__u64)buff->data - (__u64)buff->data_hard_start);
  }
  return length + headroom <= VTAP_CLONE_ROOM;
}

static __always_inline bool output_takes(__u32 length) {
  __u32 port = config.port;
  if (config.mode != VTAP_MODE_INLINE) return true;
  __u32* longest = bpf_map_lookup_elem(&output_longest, &port);
  return longest && length <= *longest;
}

/* What keeps a frame of this length from a monitor now: VTAP_LOST_*; negative: nothing. */
static __always_inline int obstacle_to(__u32 monitor, __u32 length) {
  struct vtap_monitor_link* link = bpf_map_lookup_elem(&monitor_links, &monitor);
  if (!link || !link->ifindex) return VTAP_LOST_DOWN;
  if (!link->longest) return VTAP_LOST_NO_XMIT;
  return length > link->longest ? VTAP_LOST_TOO_LONG : -1;
}

/* Counts a copy of a frame of this length as lost. A global function, so that the verifier does not
 * walk it for each monitor. */
__noinline int lose_copy(struct vtap_cpu* cpu, __u32 monitor, int why, __u32 length) {
  if (!cpu || !config.clones) return 0; /* as monitors_of() has to look */
  __u16 kept = config.slots ? cpu->walk.kept[monitor & (VTAP_MAX_MONITORS - 1)] : 0;
  count_lost(monitor, why, 1, kept ? kept : length);
  return 0;
}

/* The monitors of the set to which there is no obstacle, the others counted; all have one if
 * `obstacle` is not negative. */
__noinline __u64 reachable(struct vtap_cpu* cpu, __u64 monitors, __u32 length, int obstacle) {
  __u64 reached = 0;
  __u32 i;

  if (!cpu || !config.clones) return 0; /* likewise */
  for (i = 0; i < VTAP_MAX_MONITORS && monitors; i++) {
    __u32 monitor = lowest_bit(monitors);
    int found = obstacle < 0 ? obstacle_to(monitor, length) : obstacle;

    if (found < 0)
      reached |= monitors & -monitors;
    else
      lose_copy(cpu, monitor, found, length);
    monitors &= monitors - 1;
  }
  return reached;
}

/* Says before the frame what is cut off its copies. What is there already is somebody else's. */
static __always_inline bool add_edit(vtap_ctx* ctx, const struct vtap_walk* walk) {
  int there = ctx->data - ctx->data_meta;
  __u32 slot;

  if (bpf_xdp_adjust_meta(ctx, there - (int)sizeof(struct vtap_edit))) return false;
  struct vtap_edit* edit = (void*)(long)ctx->data_meta;
  if ((void*)(edit + 1) > (void*)(long)ctx->data) return false;
  edit->magic = VTAP_EDIT_MAGIC;
  edit->reserved = 0;
#pragma unroll
  for (slot = 0; slot < VTAP_EDIT_SLOTS; slot++) {
    __u32 monitor = config.slot_monitor[slot] & (VTAP_MAX_MONITORS - 1);
    edit->length[slot] = slot < config.slots ? walk->kept[monitor] : 0;
  }
  return true;
}

static __always_inline void* destinations_of(__u64 monitors) {
  __u32 number = config.usual_broadcast;
  if (monitors != config.usual_set) {
    struct vtap_broadcast wanted = {.monitors = monitors, .port = config.port};
    __u32* found = bpf_map_lookup_elem(&broadcast_of, &wanted);
    if (!found) return NULL; /* cannot be */
    number = *found;
  }
  return bpf_map_lookup_elem(&broadcasts, &number);
}

/* Sends the frame to the monitors of its policies, and inline to the output. False: it goes nowhere
 * yet, as no monitor can have it, or not together with the output; counted. */
static __always_inline bool fan_out(vtap_ctx* ctx, struct vtap_cpu* cpu, __u32 length) {
  __u64 monitors = monitors_of(cpu, 1, length);
  int obstacle = -1;

  if (!monitors) return false;
  if (!output_takes(length))
    obstacle = VTAP_LOST_NO_BROADCAST;
  else if (!is_clonable(ctx, length))
    obstacle = VTAP_LOST_NOT_CLONED;
  __u64 reached = reachable(cpu, monitors, length, obstacle);
  if (!reached) return false;
  void* to = destinations_of(monitors);
  if (!to || (config.slots && (cpu->walk.cut & reached) && !add_edit(ctx, &cpu->walk))) {
    reachable(cpu, reached, length, VTAP_LOST_FAILED);
    return false;
  }
  return bpf_redirect_map(to, 0, BPF_F_BROADCAST) == XDP_REDIRECT;
}

#endif
