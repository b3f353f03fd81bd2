/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/* The bare forwarder, what a tap is measured against: two ports, nothing but the redirect; or but a
 * broadcast to the other port and a monitor. */
#include <linux/bpf.h>
/* These use the types of <linux/bpf.h>. */
#include <bpf/bpf_helpers.h>

const volatile __u32 ifindex_a = 0; /* for the TC programs */
const volatile __u32 ifindex_b = 0;

struct {
  __uint(type, BPF_MAP_TYPE_DEVMAP);
  __uint(max_entries, 2);
  __type(key, __u32);
  __type(value, __u32);
} ports SEC(".maps");

SEC("xdp")
int xdp_to_a(struct xdp_md* ctx) {
  (void)ctx;
  return (int)bpf_redirect_map(&ports, 0, XDP_ABORTED);
}

SEC("xdp")
int xdp_to_b(struct xdp_md* ctx) {
  (void)ctx;
  return (int)bpf_redirect_map(&ports, 1, XDP_ABORTED);
}

/* A port and the monitor. */
struct {
  __uint(type, BPF_MAP_TYPE_DEVMAP);
  __uint(max_entries, 2);
  __type(key, __u32);
  __type(value, __u32);
} fan_a SEC(".maps"), fan_b SEC(".maps");

SEC("xdp")
int xdp_fan_to_a(struct xdp_md* ctx) {
  (void)ctx;
  return (int)bpf_redirect_map(&fan_a, 0, BPF_F_BROADCAST);
}

SEC("xdp")
int xdp_fan_to_b(struct xdp_md* ctx) {
  (void)ctx;
  return (int)bpf_redirect_map(&fan_b, 0, BPF_F_BROADCAST);
}

SEC("tc")
int tc_to_a(struct __sk_buff* skb) {
  (void)skb;
  return (int)bpf_redirect(ifindex_a, 0);
}

SEC("tc")
int tc_to_b(struct __sk_buff* skb) {
  (void)skb;
  return (int)bpf_redirect(ifindex_b, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
