// SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause)
/*
 * Runs for each frame of a DEVMAP, before its device gets it: cuts what the tap program asked for,
 * and takes the request away. A device's queue of frames has one program, that of its first frame;
 * so all entries of a device have the same one, in every map (docs/decisions/0021).
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#include "vtap/abi.h"

/* Of the monitor whose port the device is; VTAP_EDIT_SLOTS: none, its frames stay whole. */
const volatile __u32 slot;

SEC("xdp.frags/devmap")
int vtap_edit(struct xdp_md* ctx) {
  void* data = (void*)(long)ctx->data;
  struct vtap_edit* edit = (void*)(long)ctx->data_meta;

  if ((void*)(edit + 1) > data || edit->magic != VTAP_EDIT_MAGIC) return XDP_PASS;
  int kept = slot < VTAP_EDIT_SLOTS ? edit->length[slot] : 0;
  int length = (int)(ctx->data_end - ctx->data);
  /* Nobody may see more than what was asked for. */
  if (kept && kept < length && bpf_xdp_adjust_tail(ctx, kept - length)) return XDP_DROP;
  bpf_xdp_adjust_meta(ctx, sizeof(struct vtap_edit));
  return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
