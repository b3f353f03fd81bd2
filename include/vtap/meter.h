/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/*
 * The one token bucket: the BPF programs and the broker decide with this code and no other, so that
 * a meter passes the same frames wherever its policy is placed (docs/decisions/0017).
 *
 * Kept as a generic cell rate algorithm (ITU-T I.371): its state is one number, the time at which
 * the bucket is full again. Frames conform while that time is less than the burst's worth ahead of
 * now. Times are in ticks of 2^-5 ns: a 64-byte frame at 100 Gbit/s is 164 of them, and 63 bits
 * last for nine years.
 */
#ifndef VTAP_METER_H
#define VTAP_METER_H

#include <linux/types.h>

enum {
  VTAP_TICK_SHIFT = 5,      /* ticks in a nanosecond */
  VTAP_FRACTION_SHIFT = 42, /* parts of a tick */
  VTAP_COST_SHIFT = 20,     /* frames of so many units at once have a cost; more have none */
  VTAP_DEPTH_SHIFT = 61,    /* ticks in a bucket at most: two years */
};

/* The size of a bucket, of the rate and the burst alone. A unit is a byte or a packet. Nothing
 * overflows: a unit costs at most 2^38 ticks (1 bit/s), so what has a cost costs less than 2^59. */
struct vtap_bucket {
  __u64 whole;    /* ticks that a unit costs */
  __u64 fraction; /* and so many 2^-VTAP_FRACTION_SHIFT of one, rounded down */
  __s64 depth;    /* ticks in a full bucket */
  __u32 by_packets;
  __u32 reserved;
};

/* Ticks for these units together, rounded once: half a tick more than it should be at most, and
 * half a tick and 2^(VTAP_COST_SHIFT - VTAP_FRACTION_SHIFT) less. */
static inline __attribute__((always_inline)) __s64 vtap_bucket_cost(
    const struct vtap_bucket* bucket, __u64 units) {
  const __u64 half = 1ULL << (VTAP_FRACTION_SHIFT - 1);
  if (units > 1ULL << VTAP_COST_SHIFT) return 1LL << (VTAP_DEPTH_SHIFT + 1); /* never conforms */
  return (__s64)(units * bucket->whole +
                 ((units * bucket->fraction + half) >> VTAP_FRACTION_SHIFT));
}

/* Takes the cost out of the bucket, if there is so much in it: moves `full_at`, the time at which
 * it is full, or leaves it. Precondition: full_at >= now. */
static inline __attribute__((always_inline)) int vtap_bucket_take(const struct vtap_bucket* bucket,
                                                                  __s64* full_at, __s64 now,
                                                                  __s64 cost) {
  __s64 debt = *full_at - now + cost;
  if (debt > bucket->depth) return 0;
  *full_at += cost;
  return 1;
}

#endif
