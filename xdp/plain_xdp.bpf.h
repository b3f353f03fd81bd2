/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/* The plain path at XDP: what happens to an original whether or not a broker is there. */
#ifndef VTAP_PLAIN_XDP_BPF_H
#define VTAP_PLAIN_XDP_BPF_H

/* Inline: the other port of the pair, and the program that its frames go through if copies are cut
 * (edit.bpf.c). Shared by the stub and the plan's programs. */
struct {
  __uint(type, BPF_MAP_TYPE_DEVMAP);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct bpf_devmap_val);
} out SEC(".maps");

static __always_inline int plain_path(void) {
  if (config.mode != VTAP_MODE_INLINE) return XDP_PASS;
  /* By the stack: at TC of this port is a stub, which is a wire (data-path.md). */
  return config.by_stack ? XDP_PASS : bpf_redirect_map(&out, 0, 0);
}

#endif
