/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/*
 * Decide and copy, the same for both hooks. The including file defines before this header:
 *
 *   typedef ... vtap_ctx;
 *   int load_wire(vtap_ctx *ctx, __u8 *to, __u32 len)   first len bytes of the frame as it is on
 * the wire, tag in place; 0 or an error
 */
#ifndef VTAP_SELECT_BPF_H
#define VTAP_SELECT_BPF_H

enum { FIRST_LOOK = 128 }; /* bytes; enough for all but long chains of extension headers */

__noinline int parse_headers(struct vtap_cpu* cpu, __u32 avail, __u32 length) {
  if (!cpu) return VTAP_PARSE_DONE;
  return vtap_parse(cpu->headers, avail, length, &cpu->key);
}

/* Whether some policy of this tap takes the frame of `length` wire bytes. */
static __always_inline bool selected(vtap_ctx* ctx, struct vtap_cpu* cpu, __u32 length,
                                     struct vtap_port_counters* count) {
  if (config.match_none || length == 0) return false;
  if (config.match_all) return true;
  __u32 avail = length < FIRST_LOOK ? length : FIRST_LOOK;
  if (load_wire(ctx, cpu->headers, bounded(avail, FIRST_LOOK))) {
    count->load_failed++;
    return false;
  }
  if (parse_headers(cpu, avail, length) == VTAP_PARSE_MORE) {
    avail = length < VTAP_WINDOW ? length : VTAP_WINDOW;
    if (load_wire(ctx, cpu->headers, bounded(avail, VTAP_WINDOW))) {
      count->load_failed++;
      return false;
    }
    parse_headers(cpu, avail, length);
  }
  return vtap_wanted(&cpu->key);
}

/* Copies the frame into the next UMEM frame and publishes it. What cannot be copied is counted. */
static __always_inline void tee(vtap_ctx* ctx, struct vtap_cpu* cpu, __u32 length,
                                struct vtap_port_counters* count, struct vtap_desc* desc) {
  if (length > config.frame_size) {
    count->too_long++;
    return;
  }
  __u8* frame = next_frame(cpu, count, &desc->frame);
  if (!frame) return;
  desc->time = bpf_ktime_get_ns();
  if (load_wire(ctx, frame, bounded(length, config.frame_size))) {
    count->copy_failed++;
    return;
  }
  desc->generation = config.generation;
  desc->len = (__u16)length;
  desc->port = (__u8)config.port;
  publish(cpu, count, desc);
}

#endif
