/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/* Counts every frame that arrives, and drops it; of stamped ones also how old they are. */
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

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, SINK_BUCKETS);
  __type(key, __u32);
  __type(value, __u64);
} latencies SEC(".maps");

const volatile __u32 latency = 0; /* the frames are stamped */

static __always_inline __u32 log2_of(__u64 value) {
  __u32 result = 0;
#pragma unroll
  for (__u32 half = 32; half; half /= 2) {
    if (value >> half) {
      value >>= half;
      result += half;
    }
  }
  return result;
}

static __always_inline __u32 bucket_of(__u64 ns) {
  if (ns < SINK_STEPS) return (__u32)ns;
  __u32 power = log2_of(ns);
  __u32 step = (__u32)(ns >> (power - SINK_STEPS_SHIFT)) & (SINK_STEPS - 1);
  __u32 bucket = ((power - SINK_STEPS_SHIFT + 1) << SINK_STEPS_SHIFT) + step;
  return bucket < SINK_BUCKETS ? bucket : SINK_BUCKETS - 1;
}

static __always_inline void note_latency(struct xdp_md* ctx) {
  void* data = (void*)(long)ctx->data;
  __u64* stamp = data + SINK_STAMP_OFFSET;
  if ((void*)(stamp + 1) > (void*)(long)ctx->data_end) return;
  __u32 bucket = bucket_of(bpf_ktime_get_ns() - *stamp);
  __u64* count = bpf_map_lookup_elem(&latencies, &bucket);
  if (count) ++*count;
}

SEC("xdp")
int sink(struct xdp_md* ctx) {
  const __u32 zero = 0;
  struct sink_counters* count = bpf_map_lookup_elem(&counters, &zero);
  if (count) {
    count->frames++;
    count->bytes += ctx->data_end - ctx->data;
  }
  if (latency) note_latency(ctx);
  return XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
