// SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause)
/*
 * A tap port at XDP: selects the monitored frames, copies them into UMEM (tee), sends them into an
 * AF_XDP ring (redirect) or to the ports of monitors (policies that the kernel serves), and lets
 * every other original take the plain path. One per port and plan, tail-called by the stub.
 */
#include "common.bpf.h"
#include "plain_xdp.bpf.h"

typedef struct xdp_md vtap_ctx;

static __always_inline int load_wire(vtap_ctx* ctx, __u8* to, __u32 len) {
  return bpf_xdp_load_bytes(ctx, 0, to, len);
}

static __always_inline bool in_place(vtap_ctx* ctx) {
  (void)ctx;
  return true;
}

/* Frames are complete here. */
static __always_inline void describe_checksum(vtap_ctx* ctx, struct vtap_desc* desc) {
  (void)ctx;
  desc->flags = 0;
}

#include "select.bpf.h"

#include "fan.bpf.h"
#include "filter.bpf.h"

/* AF_XDP sockets of this port by RX queue. */
struct {
  __uint(type, BPF_MAP_TYPE_XSKMAP);
  __uint(max_entries, VTAP_MAX_QUEUES);
  __type(key, __u32);
  __type(value, __u32);
} xsks SEC(".maps");

/* By RX queue: when the worker of its socket last ran, CLOCK_MONOTONIC ns. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, VTAP_MAX_QUEUES);
  __type(key, __u32);
  __type(value, __u64);
} heartbeats SEC(".maps");

static __always_inline bool worker_alive(__u32 queue) {
  __u64* beat = bpf_map_lookup_elem(&heartbeats, &queue);
  if (!beat) return false;
  __u64 last = *(volatile __u64*)beat; /* before the clock: it may move on meanwhile */
  return bpf_ktime_get_ns() < last + config.stale_ns;
}

static __always_inline int original(struct vtap_port_counters* count, bool matched) {
  int verdict;
  if (config.mode == VTAP_MODE_SPAN && (matched || config.unmatched_drop)) {
    count->consumed++;
    return XDP_DROP;
  }
  verdict = plain_path();
  if (verdict == XDP_REDIRECT || config.by_stack)
    count->forwarded++;
  else if (verdict == XDP_PASS)
    count->passed++;
  else
    count->no_output++;
  return verdict;
}

/* Sends a matched frame to its worker, original and all. Frames that no AF_XDP frame can hold, and
 * all originals while the worker hangs, take the plain path instead. */
static __always_inline int redirect(vtap_ctx* ctx, __u32 length, struct vtap_port_counters* count) {
  __u32 queue = ctx->rx_queue_index;
  bool one_buffer = ctx->data_end - ctx->data == length;
  if (!one_buffer || length > config.frame_size - 256 /* XDP_PACKET_HEADROOM */) {
    count->too_long++;
    return original(count, true);
  }
  if (config.mode == VTAP_MODE_INLINE && !worker_alive(queue)) {
    count->stale_worker++;
    return original(count, true);
  }
  int verdict = bpf_redirect_map(&xsks, queue, XDP_PASS);
  if (verdict != XDP_REDIRECT) {
    count->no_socket++;
    return original(count, true);
  }
  count->copied++;
  if (config.mode == VTAP_MODE_SPAN)
    count->consumed++;
  else
    count->to_broker++;
  return verdict;
}

/* Who takes the frame: VTAP_FOR_* together. */
static __always_inline int takers(vtap_ctx* ctx, struct vtap_cpu* cpu, __u32 length,
                                  struct vtap_port_counters* count) {
  bool look = config.clones ? config.classes.dims : !config.match_all;
  if (config.match_none && !config.clones) return 0;
  if (length == 0) return 0;
  if (look && !read_key(ctx, cpu, length, count)) return 0;
  if (config.clones) return vtap_policies(cpu, config.tap_class);
  return config.match_all || vtap_wanted(cpu, config.tap_class) ? VTAP_FOR_BROKER : 0;
}

/* The verdict on a frame that is broadcast. */
static __always_inline int is_sent(struct vtap_port_counters* count) {
  if (config.mode == VTAP_MODE_SPAN)
    count->consumed++;
  else
    count->forwarded++;
  return XDP_REDIRECT;
}

static __always_inline int tap(struct xdp_md* ctx, struct vtap_cpu* cpu) {
  struct vtap_port_counters* count = &cpu->port[config.port & (VTAP_MAX_PORTS - 1)];
  __u32 length = bpf_xdp_get_buff_len(ctx);
  count->rx_frames++;
  count->rx_bytes += length;
  int who = takers(ctx, cpu, length, count);
  if (!who) return original(count, false);
  count->matched++;
  if (config.capture == VTAP_CAPTURE_REDIRECT) return redirect(ctx, length, count);
  if (who & VTAP_FOR_BROKER)
    tee(ctx, cpu, length, config.port, count);
  else
    count->copied++;
  if (config.clones && (who & VTAP_FOR_CLONE) && fan_out(ctx, cpu, length)) return is_sent(count);
  return original(count, true);
}

SEC("xdp.frags")
int vtap_tap_xdp(struct xdp_md* ctx) {
  struct vtap_cpu* cpu = this_cpu();
  if (!cpu) return plain_path();
  if (config.filters) {
    reject_none(cpu);
    ask_filters(ctx, cpu, bpf_xdp_get_buff_len(ctx), false);
  }
  return tap(ctx, cpu);
}

/* Behind the filters. */
SEC("xdp.frags")
int vtap_filtered_xdp(struct xdp_md* ctx) {
  struct vtap_cpu* cpu = this_cpu();
  return cpu ? tap(ctx, cpu) : plain_path();
}

char _license[] SEC("license") = "Dual BSD/GPL";
