/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/* What the sink's program counts, one per CPU. */
#ifndef VTAP_GEN_SINK_COUNTERS_H
#define VTAP_GEN_SINK_COUNTERS_H

#include <linux/types.h>

struct sink_counters {
  __u64 frames;
  __u64 bytes; /* from the destination MAC, no FCS */
};

#endif
