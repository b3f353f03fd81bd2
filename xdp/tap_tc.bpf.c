// SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause)
/*
 * A tap port at TC, ingress or egress: as tap_xdp.bpf.c, for devices that deliver skbs. What the
 * kernel keeps beside the packet is part of the frame: the VLAN tag is put back into the copy here;
 * an unfinished checksum is described to the broker, which completes it off the original's path.
 * What only the kernel can make wire frames of is cloned to the leg (leg.bpf.c).
 */
#include <linux/pkt_cls.h>

#include <bpf/bpf_core_read.h>

#include "skb.bpf.h"

static __always_inline bool in_place(vtap_ctx* skb) { return !skb->vlan_present; }

/* The kernel's own view of the skb; found by CO-RE. */
struct sk_buff___vtap {
  __u8 ip_summed : 2;
  __u8 csum_not_inet : 1;
  __u16 csum_start;
  __u16 csum_offset;
  unsigned char* head;
  unsigned char* data;
  unsigned int end;
} __attribute__((preserve_access_index));

struct skb_shared_info___vtap {
  unsigned int gso_type;
} __attribute__((preserve_access_index));

extern void* bpf_cast_to_kern_ctx(void* ctx) __ksym __weak; /* from 6.2 */
extern void* bpf_rdonly_cast(void* object, __u32 type) __ksym __weak;

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

#include "clone.bpf.h"
#include "filter.bpf.h"

enum { TCP_CSUM_AT = 16, TCP_OFFSET_AT = 12, UDP_HLEN = 8, USUAL_HEADERS = 66 };
enum { PROTO_IPIP = 4, PROTO_UDP = 17, PROTO_IPV6 = 41, PROTO_GRE = 47, PROTO_SCTP = 132 };

/* Whether the kernel cuts this super-packet into IP fragments. Only UDP of virtual machines. */
static __always_inline bool is_fragmented(struct sk_buff___vtap* skb) {
  enum { GSO_UDP = 1 << 16 }; /* SKB_GSO_UDP, linux/skbuff.h */
  if (!bpf_rdonly_cast) return false;
  struct skb_shared_info___vtap* info =
      bpf_rdonly_cast(skb->head + skb->end, bpf_core_type_id_kernel(struct skb_shared_info___vtap));
  return info->gso_type & GSO_UDP;
}

/* Bytes of a super-packet that each of its segments has, without a tag beside the packet; from the
 * kernel's view of it. Its checksum is unfinished, as its sender cannot know those of the segments;
 * so csum_start is where the L4 header begins. */
static __always_inline __u32 known_headers(vtap_ctx* ctx) {
  struct sk_buff___vtap* skb = bpf_cast_to_kern_ctx(ctx);
  __u32 l4 = csum_start(skb);
  __u8 offset;
  if (skb->csum_offset != TCP_CSUM_AT) return is_fragmented(skb) ? l4 : l4 + UDP_HLEN;
  if (bpf_skb_load_bytes(ctx, l4 + TCP_OFFSET_AT, &offset, sizeof(offset))) return USUAL_HEADERS;
  return l4 + (offset >> 4) * 4;
}

/* The same from the headers that the parser has read, for kernels that do not show it. No IPv6
 * extension headers. */
static __always_inline __u32 parsed_headers(vtap_ctx* ctx, struct vtap_cpu* cpu) {
  enum { MASK = 127, IPV6_HLEN = 40 };
  const struct vtap_key* key = &cpu->key;
  __u32 beside = ctx->vlan_present ? TAG : 0;
  __u32 ip = MACS + 2;
  if (key->vlan != VTAP_NO_VLAN) ip += TAG;
  if (key->inner_vlan != VTAP_NO_VLAN) ip += TAG;
  __u32 l4 = ip + (key->family == VTAP_L3_IPV6 ? IPV6_HLEN : (cpu->headers[ip & MASK] & 15) * 4);
  if (key->proto == PROTO_UDP) return l4 + UDP_HLEN - beside;
  return l4 + (cpu->headers[(l4 + TCP_OFFSET_AT) & MASK] >> 4) * 4 - beside;
}

static __always_inline __u32 segment_headers(vtap_ctx* ctx, struct vtap_cpu* cpu, __u32 length,
                                             struct vtap_port_counters* count) {
  if (bpf_cast_to_kern_ctx) return known_headers(ctx);
  return read_key(ctx, cpu, length, count) ? parsed_headers(ctx, cpu) : USUAL_HEADERS;
}

/* What a virtual machine sends has no number of segments yet: the kernel does not believe the
 * guest, and counts when it cuts (qdisc_pkt_len_init()). */
static __always_inline struct on_wire on_wire(vtap_ctx* ctx, struct vtap_cpu* cpu, __u32 length,
                                              struct vtap_port_counters* count) {
  struct on_wire wire = {1, length};
  __u32 size = ctx->gso_size;
  if (!size) return wire;
  if (ctx->gso_segs && !config.clones) {
    wire.frames = ctx->gso_segs; /* nobody asks for the bytes */
    return wire;
  }
  __u32 headers = segment_headers(ctx, cpu, length, count);
  if (ctx->gso_segs)
    wire.frames = ctx->gso_segs;
  else if (ctx->len > headers)
    wire.frames = (ctx->len - headers + size - 1) / size;
  wire.bytes += (__u64)(wire.frames - 1) * (headers + length - ctx->len);
  return wire;
}

/* Whether this super-packet may become IP fragments, for kernels that do not show it, too. Ports
 * and more then differ from frame to frame. */
static __always_inline bool may_be_fragmented(vtap_ctx* ctx, struct vtap_cpu* cpu) {
  if (cpu->key.proto != PROTO_UDP) return false;
  return !bpf_cast_to_kern_ctx || is_fragmented(bpf_cast_to_kern_ctx(ctx));
}

/* Who takes the frame, or may take one that it is cut into: VTAP_FOR_* together. */
static __always_inline int takers(vtap_ctx* ctx, struct vtap_cpu* cpu, __u32 length,
                                  struct vtap_port_counters* count) {
  bool look = config.clones ? config.classes.dims : !config.match_all;
  if (config.match_none && !config.clones) return 0;
  if (length == 0) return 0;
  if ((look || !bpf_cast_to_kern_ctx) && !read_key(ctx, cpu, length, count)) return 0;
  if (config.match_all && !config.clones) return VTAP_FOR_BROKER;
  if (ctx->gso_size) {
    cpu->key.length = VTAP_ANY_LENGTH;
    if (cpu->key.tcp_flags != VTAP_NO_TCP_FLAGS) cpu->key.tcp_flags = VTAP_ANY_TCP_FLAGS;
  }
  int who =
      config.clones ? vtap_policies(cpu, config.tap_class) : vtap_wanted(cpu, config.tap_class);
  bool looked_at_again = !config.match_none && config.leg_ifindex;
  if (ctx->gso_size && looked_at_again && may_be_fragmented(ctx, cpu)) who |= VTAP_FOR_BROKER;
  return who;
}

/* Whether only the kernel can finish this packet: it is to be cut, or its checksum is SCTP's. */
static __always_inline bool is_unfinished(vtap_ctx* ctx) {
  if (ctx->gso_size) return true;
  if (!bpf_cast_to_kern_ctx) return false;
  struct sk_buff___vtap* skb = bpf_cast_to_kern_ctx(ctx);
  return bpf_core_field_exists(skb->csum_not_inet) && BPF_CORE_READ_BITFIELD(skb, csum_not_inet) &&
         BPF_CORE_READ_BITFIELD(skb, ip_summed) == CHECKSUM_PARTIAL;
}

/* Where the kernel does not show the packet's state: whether it may have an unfinished checksum
 * that is not where it usually is. What a device has verified has none. */
static __always_inline bool is_unclear(vtap_ctx* ctx, struct vtap_cpu* cpu) {
  if (bpf_cast_to_kern_ctx || bpf_csum_level(ctx, BPF_CSUM_LEVEL_QUERY) >= 0) return false;
  switch (cpu->key.proto) {
    case PROTO_IPIP:
    case PROTO_UDP: /* VXLAN, GENEVE, ... at any port */
    case PROTO_IPV6:
    case PROTO_GRE:
    case PROTO_SCTP:
      return true;
    default:
      return false;
  }
}

/* The clone is marked, not the original: that one only bears the mark meanwhile. The leg's program
 * has run for each frame when this returns, and counted as matched what is; what did not come out
 * may have been. */
static __always_inline void clone_to_leg(vtap_ctx* ctx, __u32 frames, bool cloned,
                                         struct vtap_port_counters* count) {
  __u32 mark = ctx->mark;
  __u64 before = count->leg_seen;
  ctx->mark = VTAP_MARK << VTAP_MARK_SHIFT | config.port | (cloned ? VTAP_MARK_CLONED : 0);
  bpf_clone_redirect(ctx, config.leg_ifindex, 0);
  ctx->mark = mark;
  __u64 seen = count->leg_seen - before;
  if (seen >= frames) return;
  count->matched += frames - seen;
  count->leg_lost += frames - seen;
}

/* A copy for the broker. What goes by the leg is counted as matched there, where it is exact; a
 * broker that hangs does not cost the cutting. */
static __always_inline void copy(vtap_ctx* ctx, struct vtap_cpu* cpu, __u32 length, __u32 frames,
                                 bool by_leg, bool cloned, struct vtap_port_counters* count) {
  bool cannot = by_leg ? frames > VTAP_MAX_CUT : is_unfinished(ctx);
  if (!by_leg || cannot) count->matched += frames;
  if (cannot) {
    count->super_packet += frames;
    return;
  }
  if (!by_leg && !fits(length, count)) return;
  if (!has_room(cpu, frames, count)) {
    if (by_leg) count->matched += frames;
    return;
  }
  if (by_leg)
    clone_to_leg(ctx, frames, cloned, count);
  else
    fill(ctx, cpu, length, config.port, count);
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

static __always_inline int plain_path(void) {
  return config.mode == VTAP_MODE_INLINE ? (int)bpf_redirect(config.out_ifindex, 0) : TC_ACT_UNSPEC;
}

static __always_inline bool may_be_unfinished(vtap_ctx* ctx) {
  if (!bpf_cast_to_kern_ctx) return bpf_csum_level(ctx, BPF_CSUM_LEVEL_QUERY) < 0;
  struct sk_buff___vtap* skb = bpf_cast_to_kern_ctx(ctx);
  return BPF_CORE_READ_BITFIELD(skb, ip_summed) == CHECKSUM_PARTIAL;
}

static __always_inline int tap(struct __sk_buff* skb, struct vtap_cpu* cpu) {
  struct vtap_port_counters* count = &cpu->port[config.port & (VTAP_MAX_PORTS - 1)];
  __u32 length = wire_length(skb);
  struct on_wire wire = on_wire(skb, cpu, length, count);
  __u32 frames = wire.frames;
  count->rx_frames += frames;
  count->rx_bytes += length;
  if (skb->mark >> VTAP_MARK_SHIFT == VTAP_MARK) {
    count->own_copies += frames;
    return original(count, false, frames);
  }
  int who = takers(skb, cpu, length, count);
  if (!who) return original(count, false, frames);
  /* All that is read of `cpu` is read before the first clone: programs that meet one use it, too.
   */
  bool by_leg = config.leg_ifindex && (config.capture == VTAP_CAPTURE_CLONE || is_unfinished(skb) ||
                                       is_unclear(skb, cpu));
  __u64 monitors = 0;
  if (config.clones && (who & VTAP_FOR_CLONE)) monitors = monitors_of(cpu, frames, wire.bytes);
  if (who & VTAP_FOR_BROKER) {
    copy(skb, cpu, length, frames, by_leg, who & VTAP_FOR_CLONE, count);
  } else {
    count->matched += frames;
    count->copied += frames;
  }
  if (monitors) clone_to_monitors(skb, monitors, wire);
  return original(count, true, frames);
}

SEC("tc")
int vtap_tap_tc(struct __sk_buff* skb) {
  struct vtap_cpu* cpu = this_cpu();
  if (!cpu) return plain_path();
  if (config.filters) {
    reject_none(cpu);
    if (!skb->gso_size) ask_filters(skb, cpu, wire_length(skb), may_be_unfinished(skb));
  }
  return tap(skb, cpu);
}

/* Behind the filters. */
SEC("tc")
int vtap_filtered_tc(struct __sk_buff* skb) {
  struct vtap_cpu* cpu = this_cpu();
  return cpu ? tap(skb, cpu) : plain_path();
}

char _license[] SEC("license") = "Dual BSD/GPL";
