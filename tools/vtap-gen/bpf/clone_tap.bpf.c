/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/*
 * The minimal TC tap, as published: a packet is cloned to the monitors when its source or
 * destination IPv4 address is in a hash map, and passes on in any case: between the two ports, or
 * to the stack of the host.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
/* These use the types of <linux/bpf.h>. */
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "../clone_tap.h"

const volatile __u32 ifindex_a = 0;
const volatile __u32 ifindex_b = 0; /* 0: one port, of a host */
const volatile __u32 ifindex_monitors[CLONE_TAP_MONITORS] = {};
const volatile __u32 monitors = 0;   /* in use */
const volatile __u32 everything = 0; /* no map: every packet is cloned */

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1); /* set before loading */
  __type(key, __be32);
  __type(value, __u32);
} hosts SEC(".maps");

static __always_inline void copy(struct __sk_buff* skb) {
#pragma unroll
  for (__u32 i = 0; i < CLONE_TAP_MONITORS; i++) {
    if (i < monitors) bpf_clone_redirect(skb, ifindex_monitors[i], 0);
  }
}

static __always_inline int tap(struct __sk_buff* skb, __u32 out) {
  void* data = (void*)(long)skb->data;
  void* end = (void*)(long)skb->data_end;
  struct ethhdr* eth = data;
  struct iphdr* ip = (struct iphdr*)(eth + 1);

  if (everything) {
    copy(skb);
  } else if ((void*)(ip + 1) <= end && eth->h_proto == bpf_htons(ETH_P_IP)) {
    __be32 source = ip->saddr;
    __be32 destination = ip->daddr;
    if (bpf_map_lookup_elem(&hosts, &source) || bpf_map_lookup_elem(&hosts, &destination))
      copy(skb);
  }
  return ifindex_b ? (int)bpf_redirect(out, 0) : TC_ACT_UNSPEC;
}

SEC("tc")
int to_a(struct __sk_buff* skb) { return tap(skb, ifindex_a); }

SEC("tc")
int to_b(struct __sk_buff* skb) { return tap(skb, ifindex_b); }

char _license[] SEC("license") = "Dual BSD/GPL";
