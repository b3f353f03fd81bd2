/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/* What the sink's program counts, one per CPU. */
#ifndef VTAP_GEN_SINK_COUNTERS_H
#define VTAP_GEN_SINK_COUNTERS_H

#include <linux/types.h>

struct sink_counters {
  __u64 frames;
  __u64 bytes; /* from the destination MAC, no FCS */
};

/*
 * The histogram of latencies: a bucket for each of the first 64 ns, then 64 for each power of two,
 * so that a bucket is at most 1/64 of its value wide. The last one takes all from 34 s on.
 */
enum {
  SINK_STAMP_OFFSET = 42, /* behind Ethernet, IPv4 and UDP */
  SINK_STEPS_SHIFT = 6,
  SINK_STEPS = 1 << SINK_STEPS_SHIFT,
  SINK_BUCKETS = 30 * SINK_STEPS,
};

#endif
