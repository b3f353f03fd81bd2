/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/*
 * The live-frame generator: run by BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES, once per
 * frame. The kernel recycles the pages as the last user left them (a tag taken off, headers
 * rewritten), so the headers are written anew each time, not changed in place.
 */
#include <linux/bpf.h>
/* These use the types of <linux/bpf.h>. */
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "../gen_config.h"

const volatile struct gen_config config = {};

struct {
  __uint(type, BPF_MAP_TYPE_DEVMAP);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u32);
} port SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct gen_state);
} state SEC(".maps");

/* RFC 1624, equation 3: the checksum after a field went from `before` to `after`. */
static __always_inline __u16 csum_replace(__u16 csum, __u16 before, __u16 after) {
  __u32 sum = (__u16)~csum + (__u32)(__u16)~before + after;
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return (__u16)~sum;
}

/* Gives the frame the source port and address of `flow`, and right checksums. */
static __always_inline void set_flow(__u8* data, __u32 flow) {
  __u16* sport = (__u16*)(data + config.off_port);
  __u16* l4_csum = (__u16*)(data + config.off_l4_csum);

  __u16 port_before = *sport;
  __u16 port_after =
      bpf_htons((__u16)(bpf_ntohs(port_before) + (flow & (config.flows_per_address - 1))));
  *sport = port_after;
  __u16 csum = csum_replace(*l4_csum, port_before, port_after);

  __u32 step = flow >> config.address_shift;
  if (step) {
    __u16* address = (__u16*)(data + config.off_address);
    __u16 high = address[0];
    __u16 low = address[1];
    __u32 after = (((__u32)bpf_ntohs(high) << 16) | bpf_ntohs(low)) + step;
    address[0] = bpf_htons((__u16)(after >> 16));
    address[1] = bpf_htons((__u16)after);
    csum = csum_replace(csum_replace(csum, high, address[0]), low, address[1]);
    if (config.off_ip_csum) {
      __u16* ip_csum = (__u16*)(data + config.off_ip_csum);
      *ip_csum = csum_replace(csum_replace(*ip_csum, high, address[0]), low, address[1]);
    }
  }
  if (config.udp && csum == 0) csum = 0xffff;
  *l4_csum = csum;
}

/* Whether the next frame is due; if not, dropping this one passes the time. Starting a run anew for
 * each chunk of frames would be worse: ending a run costs tens of milliseconds. */
static __always_inline _Bool due(struct gen_state* run) {
  if (run->frames >= config.limit) return 0;
  __u64 now = bpf_ktime_get_ns();
  if (!run->first_ns) run->first_ns = now;
  run->last_ns = now;
  return (now - run->first_ns) << GEN_SPACING_SHIFT >= run->frames * config.spacing;
}

SEC("xdp")
int generate(struct xdp_md* ctx) {
  __u8* data = (__u8*)(long)ctx->data;
  __u8* end = (__u8*)(long)ctx->data_end;
  const __u32 zero = 0;

  struct gen_state* run = bpf_map_lookup_elem(&state, &zero);
  if (!run || data + config.header_words * 8 > end) return XDP_ABORTED;
  if (config.spacing && !due(run)) return XDP_DROP;

#pragma unroll
  for (__u32 word = 0; word < GEN_HEADER_WORDS; word++) {
    if (word < config.header_words) ((__u64*)data)[word] = config.header[word];
  }

  __u32 flow = run->flow;
  if (flow) set_flow(data, flow);
  if (config.off_stamp) {
    if (data + config.off_stamp + 8 > end) return XDP_ABORTED;
    *(__u16*)(data + config.off_l4_csum) = 0;
    *(__u64*)(data + config.off_stamp) = bpf_ktime_get_ns();
  }
  run->flow = flow + 1 < config.flows ? flow + 1 : 0;

  if (!config.spacing && run->frames % GEN_STAMP_EVERY == 0) {
    run->last_ns = bpf_ktime_get_ns();
    if (!run->first_ns) run->first_ns = run->last_ns;
  }
  run->frames++;
  return (int)bpf_redirect_map(&port, 0, XDP_ABORTED);
}

char _license[] SEC("license") = "Dual BSD/GPL";
