// SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause)
/*
 * The leg: a tap (tun) device without offloads, to which tap_tc.bpf.c clones what only the kernel
 * can cut and complete. This is its TX filter; the device runs it for each frame that came out,
 * on the CPU of the original and before bpf_clone_redirect() returns. It looks at the frame, copies
 * it like any other, and has the device drop it.
 */
#include "skb.bpf.h"

/* A socket filter may not read the packet's memory. */
static __always_inline bool in_place(vtap_ctx* skb) {
  (void)skb;
  return false;
}

/* The device takes none that is unfinished. */
static __always_inline void describe_checksum(vtap_ctx* skb, struct vtap_desc* desc) {
  (void)skb;
  desc->flags = 0;
}

#include "select.bpf.h"

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, VTAP_MAX_PORTS);
  __type(key, __u32);
  __type(value, struct vtap_leg_port);
} leg_ports SEC(".maps");

SEC("socket")
int vtap_leg(struct __sk_buff* skb) {
  if (skb->mark >> VTAP_MARK_SHIFT != VTAP_MARK) return 0; /* not from a tap */
  __u32 number = skb->mark & (VTAP_MAX_PORTS - 1);
  struct vtap_leg_port* port = bpf_map_lookup_elem(&leg_ports, &number);
  struct vtap_cpu* cpu = this_cpu();
  if (!port || !cpu) return 0; /* cannot be */
  struct vtap_port_counters* count = &cpu->port[number & (VTAP_MAX_PORTS - 1)];
  __u32 length = wire_length(skb);
  count->leg_seen++;
  bool wanted =
      port->match_all || (read_key(skb, cpu, length, count) && vtap_wanted(cpu, port->tap_class));
  if (wanted) {
    count->matched++;
    tee(skb, cpu, length, number, count);
  } else if (skb->mark & VTAP_MARK_CLONED) {
    count->matched++;
    count->copied++;
  }
  return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
