/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/* Counts every frame that arrives, and drops it. */
#include <linux/bpf.h>
/* These use the types of <linux/bpf.h>. */
#include <bpf/bpf_helpers.h>

#include "../sink_counters.h"

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct sink_counters);
} counters SEC(".maps");

SEC("xdp")
int sink(struct xdp_md* ctx) {
  const __u32 zero = 0;
  struct sink_counters* count = bpf_map_lookup_elem(&counters, &zero);
  if (count) {
    count->frames++;
    count->bytes += ctx->data_end - ctx->data;
  }
  return XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
