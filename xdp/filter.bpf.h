/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/*
 * Ports with filters (docs/decisions/0015): the frame's first bytes for the generated program,
 * which notes the policies that reject it and goes on with the program behind it.
 */
#ifndef VTAP_FILTER_BPF_H
#define VTAP_FILTER_BPF_H

struct {
  __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
  __uint(max_entries, VTAP_CHAIN_LENGTH);
  __type(key, __u32);
  __type(value, __u32);
} chain SEC(".maps");

static __always_inline void reject_none(struct vtap_cpu* cpu) {
  __u32 word;

  for (word = 0; word < VTAP_EARLY_WORDS; word++) {
    if (word >= config.classes.early_words) break;
    cpu->rejected[word] = 0;
  }
}

/* Does not come back, unless the frame cannot be read or there is no such program: then no filter
 * has rejected it. `unfinished`: its checksum may still have to be computed. */
static __always_inline void ask_filters(vtap_ctx* ctx, struct vtap_cpu* cpu, __u32 length,
                                        bool unfinished) {
  __u32 available = length < VTAP_WINDOW ? length : VTAP_WINDOW;

  if (!length || load_wire(ctx, cpu->headers, bounded(available, VTAP_WINDOW))) return;
  cpu->frame_length = length;
  cpu->available = available;
  cpu->unfinished = unfinished;
  bpf_tail_call(ctx, &chain, VTAP_CHAIN_FILTERS);
}

#endif
