/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/* What the generator's program and vtap-gen both see. */
#ifndef VTAP_GEN_CONFIG_H
#define VTAP_GEN_CONFIG_H

#include <linux/types.h>

enum {
  GEN_HEADER_WORDS = 10, /* 80 bytes: Ethernet, one tag, IPv6, TCP is 78 */
  GEN_STAMP_EVERY = 64,  /* frames between two looks at the clock; power of two */
  GEN_SPACING_SHIFT = 16,
};

/* Constants of the program. Offsets are bytes from the destination MAC. */
struct gen_config {
  __u64 header[GEN_HEADER_WORDS]; /* first bytes of every frame, as flow 0 has them */
  __u32 header_words;             /* words of it in use; the frame is at least that long */
  __u32 flows;                    /* >= 1 */
  __u32 flows_per_address;        /* flows that differ in source port only; the next ones have
                                     the next source address; power of two */
  __u32 address_shift;            /* log2 of it */
  __u32 off_address;              /* last four bytes of the source address */
  __u32 off_port;                 /* source port */
  __u32 off_ip_csum;              /* 0: none (IPv6) */
  __u32 off_l4_csum;
  __u32 udp;       /* a checksum of 0 is sent as 0xffff */
  __u32 off_stamp; /* where the time of sending goes, and no UDP checksum is sent; 0: nowhere */
  __u32 pad;
  __u64 spacing; /* paced: ns from one frame to the next, << GEN_SPACING_SHIFT; 0: not paced */
  __u64 limit;   /* paced: frames to send */
};

/* What a run did, one per CPU. */
struct gen_state {
  __u64 frames;
  __u64 first_ns; /* CLOCK_MONOTONIC at the first frame of this CPU */
  __u64 last_ns;  /* ... at the last frame that had its number divisible by GEN_STAMP_EVERY */
  __u32 flow;     /* of the next frame */
  __u32 pad;
};

#endif
