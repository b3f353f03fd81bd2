// SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause)
/*
 * What is attached to a tap port at XDP: hands the frame to the plan's program, and is a wire when
 * there is none. The slot empties itself when the broker's last descriptor of it closes, however
 * the broker dies; so it must never be pinned.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#include "vtap/abi.h"

const volatile struct vtap_port_config config;

#include "plain_xdp.bpf.h"

struct {
  __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u32);
} slot SEC(".maps");

SEC("xdp.frags")
int vtap_stub_xdp(struct xdp_md* ctx) {
  bpf_tail_call(ctx, &slot, 0);
  return plain_path();
}

char _license[] SEC("license") = "Dual BSD/GPL";
