/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/*
 * Decide and copy, the same for both hooks. The including file defines before this header:
 *
 *   typedef ... vtap_ctx;
 *   void describe_checksum(vtap_ctx *ctx, struct vtap_desc *to)   its flags and csum_*
 *   int load_wire(vtap_ctx *ctx, __u8 *to, __u32 len)   first len bytes of the frame as it is on
 * the wire, tag in place; 0 or an error
 *   bool in_place(vtap_ctx *ctx)                        whether the packet's memory starts with
 * just those bytes
 */
#ifndef VTAP_SELECT_BPF_H
#define VTAP_SELECT_BPF_H

/* Bytes of a first look: the least frame's; two tags, IPv6 and TCP's flags; and by a helper. */
enum { SHORT_LOOK = 60, LONG_LOOK = 80, HELPERS_LOOK = 128 };

/* Copies the first n bytes of a packet, n constant. Word by word, as the helper's string
 * instruction keeps the parser waiting; and with a word that begins at the type, so that addresses
 * lie within one word whether tags are there or not. */
static __always_inline void copy_head(__u8* to, const __u8* from, __u32 n) {
  typedef __u64 __attribute__((may_alias)) word;
  __u32 at;
  *(word*)to = *(const word*)from;
#pragma unroll
  for (at = 6; at + sizeof(word) <= n; at += sizeof(word))
    *(word*)(to + at) = *(const word*)(from + at);
  *(word*)(to + n - sizeof(word)) = *(const word*)(from + n - sizeof(word));
}

/* Puts the first bytes of a frame of `length` into `to`, and returns how many; 0: not readable. */
static __always_inline __u32 first_look(vtap_ctx* ctx, __u8* to, __u32 length) {
  const __u8* data = (const __u8*)(long)ctx->data;
  const __u8* end = (const __u8*)(long)ctx->data_end;
  if (in_place(ctx)) {
    if (data + LONG_LOOK <= end) {
      copy_head(to, data, LONG_LOOK);
      return LONG_LOOK;
    }
    if (data + SHORT_LOOK <= end) {
      copy_head(to, data, SHORT_LOOK);
      return SHORT_LOOK;
    }
  }
  __u32 n = length < HELPERS_LOOK ? length : HELPERS_LOOK;
  return load_wire(ctx, to, bounded(n, HELPERS_LOOK)) ? 0 : n;
}

__noinline int parse_headers(struct vtap_cpu* cpu, __u32 avail, __u32 length) {
  if (!cpu) return VTAP_PARSE_DONE;
  return vtap_parse(cpu->headers, avail, length, &cpu->key);
}

/* Fills cpu->key for a frame of `length` wire bytes. False: it cannot be read, counted. */
static __always_inline bool read_key(vtap_ctx* ctx, struct vtap_cpu* cpu, __u32 length,
                                     struct vtap_port_counters* count) {
  __u32 avail = first_look(ctx, cpu->headers, length);
  if (!avail) {
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
  return true;
}

/* Copies the frame into the next UMEM frame and publishes it, as a copy of tap port `port`. There
 * is room, and the frame fits. What cannot be read is counted. The descriptor is written in place
 * and by its fields: read back from the stack in words, it would wait until the stores before it,
 * those of the copy among them, have left the store buffer. */
static __always_inline void fill(vtap_ctx* ctx, struct vtap_cpu* cpu, __u32 length, __u32 port,
                                 struct vtap_port_counters* count) {
  struct vtap_desc* desc;
  __u8* frame = next_frame(cpu, count, &desc);
  if (!frame) return;
  bool timed = is_timed(cpu);
  desc->time = copy_time(cpu, timed);
  if (load_wire(ctx, frame, bounded(length, config.frame_size))) {
    count->copy_failed++;
    return;
  }
  desc->generation = config.generation;
  desc->len = (__u16)length;
  desc->port = (__u8)port;
  describe_checksum(ctx, desc);
  if (timed) desc->flags |= VTAP_DESC_TIMED;
  publish(cpu, count);
}

/* Whether a frame of this length fits a UMEM frame; if not, counted. */
static __always_inline bool fits(__u32 length, struct vtap_port_counters* count) {
  if (length <= config.frame_size) return true;
  count->too_long++;
  return false;
}

static __always_inline void tee(vtap_ctx* ctx, struct vtap_cpu* cpu, __u32 length, __u32 port,
                                struct vtap_port_counters* count) {
  if (fits(length, count) && has_room(cpu, 1, count)) fill(ctx, cpu, length, port, count);
}

#endif
