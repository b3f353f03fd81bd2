// SPDX-License-Identifier: Apache-2.0
// What the stack of an end does where the kernel has no 802.1Q devices: tags beside the packet,
// made and eaten at TC. And an XDP program that is somebody else's.
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ETH_P_8021Q 0x8100
#define ETH_P_8021AD 0x88a8

SEC("tc_push")
int push_tag(struct __sk_buff* skb) {
  bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), 42);
  return TC_ACT_UNSPEC;
}

SEC("tc_push_two")
int push_two_tags(struct __sk_buff* skb) {
  bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), 42);
  bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021AD), 7);
  return TC_ACT_UNSPEC;
}

SEC("tc_pop")
int pop_tag(struct __sk_buff* skb) {
  if (skb->vlan_present) bpf_skb_vlan_pop(skb);
  return TC_ACT_UNSPEC;
}

SEC("xdp_foreign")
int foreign_prog(struct xdp_md* ctx) { return XDP_PASS; }

char _license[] SEC("license") = "GPL";
