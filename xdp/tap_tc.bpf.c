// SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause)
/*
 * A tap port at TC ingress: as tap_xdp.bpf.c, for devices that deliver skbs. What the kernel keeps
 * beside the packet is part of the frame: the VLAN tag is put back into the copy here; an
 * unfinished checksum is described to the broker, which completes it off the original's path.
 */
#include <linux/pkt_cls.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

#include "common.bpf.h"

typedef struct __sk_buff vtap_ctx;

enum { MACS = 12, TAG = 4 }; /* bytes */

static __always_inline int load_wire(vtap_ctx* skb, __u8* to, __u32 len) {
  if (!skb->vlan_present) return bpf_skb_load_bytes(skb, 0, to, len);
  VTAP_OPAQUE(len);
  if (len <= MACS + TAG) return -1; /* cannot be: a tagged frame has its type behind the tag */
  __u16 tci = bpf_htons((__u16)skb->vlan_tci);
  __u16 tpid = (__u16)skb->vlan_proto; /* network order */
  __u32 rest = len - MACS - TAG - 1;
  int error = bpf_skb_load_bytes(skb, 0, to, MACS);
  if (error) return error;
  __builtin_memcpy(to + MACS, &tpid, sizeof(tpid));
  __builtin_memcpy(to + MACS + 2, &tci, sizeof(tci));
  VTAP_OPAQUE(rest);
  return bpf_skb_load_bytes(skb, MACS, to + MACS + TAG, rest + 1);
}

static __always_inline bool in_place(vtap_ctx* skb) { return !skb->vlan_present; }

/* The kernel's own view of the skb; found by CO-RE. */
struct sk_buff___vtap {
  __u8 ip_summed : 2;
  __u16 csum_start;
  __u16 csum_offset;
  unsigned char* head;
  unsigned char* data;
} __attribute__((preserve_access_index));

extern void* bpf_cast_to_kern_ctx(void* ctx) __ksym __weak; /* from 6.2 */

enum { CHECKSUM_PARTIAL = 3 }; /* linux/skbuff.h */

/* Where the checksum of an skb is to be taken from, counted from the first byte of its data. */
static __always_inline __u32 csum_start(struct sk_buff___vtap* skb) {
  return skb->csum_start - (__u32)((__u64)skb->data - (__u64)skb->head);
}

/* Tells the broker where a checksum is still to be computed. Kernels that do not show it leave the
 * broker to look at the field. */
static __always_inline void describe_checksum(vtap_ctx* ctx, struct vtap_desc* desc) {
  desc->flags = 0;
  if (!bpf_cast_to_kern_ctx) {
    desc->flags = VTAP_DESC_CSUM_UNKNOWN;
    return;
  }
  struct sk_buff___vtap* skb = bpf_cast_to_kern_ctx(ctx);
  if (BPF_CORE_READ_BITFIELD(skb, ip_summed) != CHECKSUM_PARTIAL) return;
  desc->flags = VTAP_DESC_CSUM_PARTIAL;
  desc->csum_start = (__u16)(csum_start(skb) + (ctx->vlan_present ? TAG : 0));
  desc->csum_offset = skb->csum_offset;
}

#include "select.bpf.h"

enum { TCP_CSUM_AT = 16, TCP_OFFSET_AT = 12, UDP_HLEN = 8, USUAL_HEADERS = 66 };

/* Bytes of a super-packet that each of its segments has. Its checksum is unfinished, as its sender
 * cannot know those of the segments; so csum_start is where the L4 header begins. */
static __always_inline __u32 segment_headers(vtap_ctx* ctx) {
  if (!bpf_cast_to_kern_ctx) return USUAL_HEADERS;
  struct sk_buff___vtap* skb = bpf_cast_to_kern_ctx(ctx);
  __u32 l4 = csum_start(skb);
  __u8 offset;
  if (skb->csum_offset != TCP_CSUM_AT) return l4 + UDP_HLEN;
  if (bpf_skb_load_bytes(ctx, l4 + TCP_OFFSET_AT, &offset, sizeof(offset))) return USUAL_HEADERS;
  return l4 + (offset >> 4) * 4;
}

/* Frames that this skb is on the wire. What a virtual machine sends has no number of segments yet:
 * the kernel does not believe the guest, and counts when it cuts (qdisc_pkt_len_init()). */
static __always_inline __u32 wire_frames(vtap_ctx* ctx) {
  __u32 size = ctx->gso_size;
  if (!size) return 1;
  if (ctx->gso_segs) return ctx->gso_segs;
  __u32 headers = segment_headers(ctx);
  return ctx->len > headers ? (ctx->len - headers + size - 1) / size : 1;
}

static __always_inline int original(struct vtap_port_counters* count, bool matched, __u32 frames) {
  if (config.mode == VTAP_MODE_INLINE) {
    count->forwarded += frames;
    return (int)bpf_redirect(config.out_ifindex, 0);
  }
  if (config.mode == VTAP_MODE_SPAN && (matched || config.unmatched_drop)) {
    count->consumed += frames;
    return TC_ACT_SHOT;
  }
  count->passed += frames;
  return TC_ACT_UNSPEC;
}

SEC("tc")
int vtap_tap_tc(struct __sk_buff* skb) {
  struct vtap_cpu* cpu = this_cpu();
  if (!cpu)
    return config.mode == VTAP_MODE_INLINE ? (int)bpf_redirect(config.out_ifindex, 0)
                                           : TC_ACT_UNSPEC;
  struct vtap_port_counters* count = &cpu->port[config.port & (VTAP_MAX_PORTS - 1)];
  __u32 length = skb->len + (skb->vlan_present ? TAG : 0);
  __u32 frames = wire_frames(skb);
  count->rx_frames += frames;
  count->rx_bytes += length;
  if (!selected(skb, cpu, length, count)) return original(count, false, frames);
  count->matched += frames;
  if (skb->gso_size) {
    count->super_packet += frames;
  } else {
    tee(skb, cpu, length, count);
  }
  return original(count, true, frames);
}

char _license[] SEC("license") = "Dual BSD/GPL";
