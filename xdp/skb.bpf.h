/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/* The frame of an skb as it is on the wire: the tag that the kernel keeps beside it put back. */
#ifndef VTAP_SKB_BPF_H
#define VTAP_SKB_BPF_H

#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "common.bpf.h"

typedef struct __sk_buff vtap_ctx;

enum { MACS = 12, TAG = 4 }; /* bytes */

static __always_inline __u32 wire_length(vtap_ctx* skb) {
  return skb->len + (skb->vlan_present ? TAG : 0);
}

static __always_inline int load_wire(vtap_ctx* skb, __u8* to, __u32 len) {
  if (!skb->vlan_present) return bpf_skb_load_bytes(skb, 0, to, len);
  VTAP_OPAQUE(len);
  if (len <= MACS + TAG) return -1; /* cannot be: a tagged frame has its type behind the tag */
  __u16 tci = bpf_htons((__u16)skb->vlan_tci);
  __u16 tpid = (__u16)skb->vlan_proto; /* network order */
  __u32 rest = len - MACS - TAG - 1;
  int error = bpf_skb_load_bytes(skb, 0, to, MACS);
  if (error) return error;
  __builtin_memcpy(to + MACS, &tpid, sizeof(tpid));
  __builtin_memcpy(to + MACS + 2, &tci, sizeof(tci));
  VTAP_OPAQUE(rest);
  return bpf_skb_load_bytes(skb, MACS, to + MACS + TAG, rest + 1);
}

#endif
