// SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause)
/*
 * A monitor port is output only: what arrives there is dropped and counted. The XDP form also makes
 * drivers that need a program build their zero-copy TX queues.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u64);
} arrived SEC(".maps");

static __always_inline void count_one(void) {
  __u32 zero = 0;
  __u64* frames = bpf_map_lookup_elem(&arrived, &zero);
  if (frames) ++*frames;
}

SEC("xdp.frags")
int vtap_monitor_xdp(struct xdp_md* ctx __attribute__((unused))) {
  count_one();
  return XDP_DROP;
}

SEC("tc")
int vtap_monitor_tc(struct __sk_buff* skb __attribute__((unused))) {
  count_one();
  return TC_ACT_SHOT;
}

char _license[] SEC("license") = "Dual BSD/GPL";
