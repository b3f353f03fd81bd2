// SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause)
/* What is attached to a tap port at TC; see stub_xdp.bpf.c. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#include "vtap/abi.h"

const volatile struct vtap_port_config config;

struct {
  __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u32);
} slot SEC(".maps");

SEC("tc")
int vtap_stub_tc(struct __sk_buff* skb) {
  bpf_tail_call(skb, &slot, 0);
  return config.mode == VTAP_MODE_INLINE ? (int)bpf_redirect(config.out_ifindex, 0) : TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "Dual BSD/GPL";
