/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/*
 * The policies that the kernel serves, at both hooks: their counters, and who gets the packet.
 * Behind vtap_policies(), which left them in cpu->policies.
 */
#ifndef VTAP_PLACED_BPF_H
#define VTAP_PLACED_BPF_H

#include "limits.bpf.h"

/* By the number of a seg_top bit. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct vtap_placed);
} placed SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1); /* pairs */
  __type(key, __u32);
  __type(value, struct vtap_pair_counters);
} pair_counts SEC(".maps");

/* By monitor. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, VTAP_MAX_MONITORS);
  __type(key, __u32);
  __type(value, struct vtap_monitor_link);
} monitor_links SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, VTAP_MAX_MONITORS);
  __type(key, __u32);
  __type(value, struct vtap_clone_counters);
} clone_counts SEC(".maps");

/* Bytes that a monitor gets of the packet, by the policy at hand. */
static __always_inline __u64 kept_bytes(struct vtap_walk* w, __u64 monitor) {
  bool cut = w->slice && w->slice < w->bytes;
  w->kept[lowest_bit(monitor) & (VTAP_MAX_MONITORS - 1)] = cut ? (__u16)w->slice : 0;
  if (!cut) return w->bytes;
  w->cut |= monitor;
  return w->slice;
}

/* One monitor of the policy at hand: sent now, or by an earlier policy. */
static __always_inline void count_pair(struct vtap_walk* w) {
  __u64 monitor = w->left & -w->left;
  __u32 pair = w->pair++;
  struct vtap_pair_counters* count = bpf_map_lookup_elem(&pair_counts, &pair);
  w->left &= w->left - 1;
  if (!count) return;
  if (w->monitors & monitor) {
    count->already_sent += w->frames;
  } else {
    count->sent_frames += w->frames;
    count->sent_bytes += config.slots ? kept_bytes(w, monitor) : w->bytes;
    w->monitors |= monitor;
  }
}

/* The next policy of the word at hand. One of many rules has several bits, side by side. */
static __always_inline void take_policy(struct vtap_walk* w) {
  __u32 bit = (w->word - 1) * 64 + lowest_bit(w->bits);
  struct vtap_placed* to = bpf_map_lookup_elem(&placed, &bit);
  w->bits &= w->bits - 1;
  if (!to || to->policy == w->policy) return;
  __u32 policy = to->policy;
  w->policy = policy;
  struct vtap_placed_counters* count = bpf_map_lookup_elem(&placed_counts, &policy);
  if (!count) return;
  count->matched_frames += w->frames;
  count->matched_bytes += w->bytes;
  if (to->limits && !within_limits(w, to->limits, count)) return;
  w->slice = to->slice;
  w->left = to->monitors;
  w->pair = to->first_pair;
}

/* The walk is in the CPU's memory, of which the verifier knows no values: before 6.7 it takes a
 * callback to run once, and removes what values on the stack seem to rule out. */
struct walker {
  struct vtap_cpu* cpu;
};

/* 1: the walk is over. */
static long step(__u32 number __attribute__((unused)), struct walker* walker) {
  struct vtap_cpu* cpu = walker->cpu;
  struct vtap_walk* w = &cpu->walk;
  if (w->left) {
    count_pair(w);
  } else if (w->bits) {
    take_policy(w);
  } else if (w->word < config.classes.early_words) {
    w->bits = cpu->policies[w->word & (VTAP_EARLY_WORDS - 1)];
    w->word++;
  } else {
    return 1;
  }
  return 0;
}

/* Counts what the policies of the packet send, and returns the set of monitors that get it. */
__noinline __u64 monitors_of(struct vtap_cpu* cpu, __u64 frames, __u64 bytes) {
  struct walker walker = {cpu};

  /* A global function has to look, and before 6.8 is verified even if nobody calls it. */
  if (!cpu || !config.clones) return 0;
  struct vtap_walk* w = &cpu->walk;
  w->frames = frames;
  w->bytes = bytes;
  w->monitors = w->left = w->bits = w->cut = 0;
  w->word = 0;
  w->policy = ~0u;
  w->now = 0;
  if (!config.classes.sum_words) {
    /* One policy for one monitor is what most packets meet, and needs no walk. */
    __u64 first = cpu->policies[0];
    __u64 second = config.classes.match_words > 1 ? cpu->policies[1] : 0;

    if (!first || !second) {
      w->word = first ? 1 : 2;
      w->bits = first | second;
      if (w->bits) take_policy(w);
      if (w->left) count_pair(w);
      if (!w->bits && !w->left) return w->monitors;
    }
  }
  bpf_loop(VTAP_EARLY_WORDS * 64 * (1 + VTAP_MAX_MONITORS) + VTAP_EARLY_WORDS, step, &walker, 0);
  return w->monitors;
}

/* Copies for a monitor that its policies counted as sent, and that it does not get. */
static __always_inline void count_lost(__u32 monitor, enum vtap_lost why, __u64 frames,
                                       __u64 bytes) {
  struct vtap_clone_counters* count = bpf_map_lookup_elem(&clone_counts, &monitor);
  if (!count) return;
  count->frames[why & (VTAP_LOST_REASONS - 1)] += frames;
  count->bytes[why & (VTAP_LOST_REASONS - 1)] += bytes;
}

#endif
