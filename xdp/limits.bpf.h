/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/*
 * Samplers and meters of the policies that the kernel serves: what pipeline::Sampler and
 * pipeline::Marker are to the broker, for one packet at a time. A super-packet is one step of a
 * sampler, and has one colour: it takes the tokens of all its frames, or none.
 */
#ifndef VTAP_LIMITS_BPF_H
#define VTAP_LIMITS_BPF_H

#include <vtap/meter.h>

#include "common.bpf.h"

/* A bucket that other CPUs keep changing. Whoever loses so often is taken for above the rate. */
enum { BUCKET_TRIES = 64 };

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE); /* its elements then begin on a cache line */
  __uint(max_entries, 1);            /* policies with any */
  __type(key, __u32);
  __type(value, struct vtap_limits);
} limits SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1); /* policies */
  __type(key, __u32);
  __type(value, struct vtap_placed_counters);
} placed_counts SEC(".maps");

static __always_inline bool is_chosen(__u64* counter, __u64 one_in) {
  return __sync_fetch_and_add(counter, 1) % one_in == 0;
}

static __always_inline bool conforms(const struct vtap_bucket* bucket, __s64* full_at, __s64 tick,
                                     const struct vtap_walk* w) {
  __s64 cost = vtap_bucket_cost(bucket, bucket->by_packets ? w->frames : w->bytes);
  __s64 seen = *(volatile __s64*)full_at;
  __u32 i;

#pragma clang loop unroll(disable)
  for (i = 0; i < BUCKET_TRIES; i++) {
    __s64 next = seen > tick ? seen : tick;
    if (!vtap_bucket_take(bucket, &next, tick, cost)) return false;
    __s64 found = __sync_val_compare_and_swap(full_at, seen, next);
    if (found == seen) return true;
    seen = found;
  }
  return false;
}

/* The packet's colour; whether it goes on. */
static __always_inline bool is_passed(struct vtap_limits* of, struct vtap_walk* w,
                                      struct vtap_placed_counters* count) {
  if (!w->now) w->now = bpf_ktime_get_ns();
  __s64 tick = (__s64)(w->now << VTAP_TICK_SHIFT);

  if (of->peaked && !conforms(&of->peak, &of->peak_full_at, tick, w)) {
    count->red += w->frames;
    return false;
  }
  if (conforms(&of->rate, &of->rate_full_at, tick, w)) {
    count->green += w->frames;
    return true;
  }
  count->yellow += w->frames;
  return of->exceed_one_in && is_chosen(&of->exceeded, of->exceed_one_in);
}

/* Whether the packet passes the sampler and the meter of the policy with these limits. A global
 * function, so that the verifier walks its loops once. */
__noinline int within_limits(struct vtap_walk* w, __u32 number,
                             struct vtap_placed_counters* count) {
  __u32 key = number - 1;
  struct vtap_limits* of = bpf_map_lookup_elem(&limits, &key);

  if (!config.clones || !w || !count || !of) return false; /* cannot be */
  if (of->one_in && !is_chosen(&of->offered, of->one_in)) {
    count->dropped_sample += w->frames;
    return false;
  }
  if (of->metered && !is_passed(of, w, count)) {
    count->dropped_meter += w->frames;
    return false;
  }
  return true;
}

#endif
