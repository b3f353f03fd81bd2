// SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause)
/*
 * Redirects that the kernel could not finish. A verdict of XDP_REDIRECT is a wish; whether the
 * frame left is only told by these two tracepoints, and they are system-wide: a device is ours when
 * its network namespace and index are.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "vtap/abi.h"

const volatile __u64 netns_cookie; /* of the broker's network namespace: SO_NETNS_COOKIE */

/* Tap port index by ifindex. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, VTAP_MAX_PORTS);
  __type(key, __u32);
  __type(value, __u32);
} port_of SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, VTAP_MAX_PORTS);
  __type(key, __u32);
  __type(value, struct vtap_redirect_errors);
} redirect_errors SEC(".maps");

/* Monitor by ifindex of its port. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, VTAP_MAX_MONITORS);
  __type(key, __u32);
  __type(value, __u32);
} monitor_of SEC(".maps");

/* By monitor: copies that a tap's broadcast had for it, and that its device did not take. */
struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, VTAP_MAX_MONITORS);
  __type(key, __u32);
  __type(value, __u64);
} refused_copies SEC(".maps");

/* Kernel types, found by CO-RE. */
struct net___vtap {
  __u64 net_cookie;
} __attribute__((preserve_access_index));
struct net_device___vtap {
  int ifindex;
  struct {
    struct net___vtap* net;
  } nd_net;
} __attribute__((preserve_access_index));

/* Numbers of asm-generic/errno.h; the same on every architecture that BPF runs on here. */
enum { E_NOMEM = 12, E_NOSPC = 28, E_MSGSIZE = 90, E_NOBUFS = 105 };

static __always_inline struct vtap_redirect_errors* errors_of(const void* device) {
  const struct net_device___vtap* dev = device;
  __u32 ifindex = (__u32)BPF_CORE_READ(dev, ifindex);
  __u32* port = bpf_map_lookup_elem(&port_of, &ifindex);
  if (!port || BPF_CORE_READ(dev, nd_net.net, net_cookie) != netns_cookie) return NULL;
  return bpf_map_lookup_elem(&redirect_errors, port);
}

SEC("raw_tp/xdp_redirect_err")
int vtap_redirect_err(struct bpf_raw_tracepoint_args* ctx) {
  /* dev, prog, target, err, map type, map id, index */
  struct vtap_redirect_errors* errors = errors_of((const void*)ctx->args[0]);
  int map_type = (int)ctx->args[4];
  int error = -(int)ctx->args[3];
  if (!errors) return 0;
  if (map_type != BPF_MAP_TYPE_XSKMAP) {
    if (error == E_MSGSIZE)
      errors->too_long++;
    else
      errors->tx_failed++;
  } else if (error == E_NOMEM) {
    errors->no_free_frame++;
  } else if (error == E_NOSPC) {
    errors->xsk_too_long++;
  } else if (error == E_NOBUFS) {
    errors->rx_ring_full++;
  } else {
    errors->no_socket++;
  }
  return 0;
}

/* Counts copies that did not leave by a monitor's port; false: it is none. */
static __always_inline bool count_refused(const void* device, __u32 frames) {
  const struct net_device___vtap* dev = device;
  __u32 ifindex = (__u32)BPF_CORE_READ(dev, ifindex);
  __u32* monitor = bpf_map_lookup_elem(&monitor_of, &ifindex);
  if (!monitor || BPF_CORE_READ(dev, nd_net.net, net_cookie) != netns_cookie) return false;
  __u64* refused = bpf_map_lookup_elem(&refused_copies, monitor);
  if (refused) *refused += frames;
  return true;
}

SEC("raw_tp/xdp_devmap_xmit")
int vtap_devmap_xmit(struct bpf_raw_tracepoint_args* ctx) {
  /* from, to, sent, drops, err */
  int drops = (int)ctx->args[3];
  if (drops <= 0) return 0;
  struct vtap_redirect_errors* errors = errors_of((const void*)ctx->args[0]);
  if (!errors || count_refused((const void*)ctx->args[1], (__u32)drops)) return 0;
  errors->tx_failed += (__u32)drops;
  return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
