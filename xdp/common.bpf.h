/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/*
 * What the tap programs of both hooks share: the constants of the port, the maps, and the way a
 * copy goes into a tee ring. The including file gives the hook's context type and, behind this
 * header, load_wire().
 */
#ifndef VTAP_COMMON_BPF_H
#define VTAP_COMMON_BPF_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#include "vtap/abi.h"

const volatile struct vtap_port_config config;

/* The memory of all frames: one element is one UMEM frame. Sized by the loader. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, 1);
  __uint(key_size, sizeof(__u32));
  __uint(value_size, 4096);
} umem SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, 1); /* possible CPUs */
  __type(key, __u32);
  __type(value, struct vtap_cpu);
} cpus SEC(".maps");

/* By CPU: the ring buffer whose epoll wakes the worker that serves this CPU's tee ring. */
struct doorbell {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 4096);
};
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
  __uint(max_entries, 1); /* possible CPUs */
  __type(key, __u32);
  __array(values, struct doorbell);
} doorbells SEC(".maps");

#include "classify.bpf.h"
#include "vtap/parse.h"

/* Stops the compiler from reasoning about a value whose bounds the verifier must see. */
#define VTAP_OPAQUE(x) asm volatile("" : "+r"(x))

/* len, known to be in 1..limit, in a form whose bounds the verifier can follow; limit is a power
 * of two. */
static __always_inline __u32 bounded(__u32 len, __u32 limit) {
  len = (len - 1) & (limit - 1);
  VTAP_OPAQUE(len);
  return len + 1;
}

static __always_inline struct vtap_cpu* this_cpu(void) {
  __u32 cpu = bpf_get_smp_processor_id();
  return bpf_map_lookup_elem(&cpus, &cpu);
}

/* Wakes the broker's worker of this CPU. Only the program that clears the flag rings, so a sleeper
 * costs one record, and a busy worker none. */
static __always_inline void ring_doorbell(struct vtap_cpu* cpu) {
  if (!*(volatile __u32*)&cpu->sleeping || !__sync_lock_test_and_set(&cpu->sleeping, 0)) return;
  __u32 number = bpf_get_smp_processor_id();
  void* bell = bpf_map_lookup_elem(&doorbells, &number);
  if (bell) bpf_ringbuf_output(bell, &number, sizeof(number), BPF_RB_FORCE_WAKEUP);
}

/* The other side's index, read anew if it has moved since `seen`. The plain look first: the line is
 * the broker's, and an atomic would take it away for every frame while the broker has nothing new.
 */
static __always_inline __u32 read_again(__u32* index, __u32 seen) {
  if (*(volatile __u32*)index == seen) return seen;
  return __sync_fetch_and_add(index, 0);
}

/* Whether there is a frame and a descriptor for a copy; if not, `frames` copies are counted as
 * missed for the want of it. */
static __always_inline bool has_room(struct vtap_cpu* cpu, __u32 frames,
                                     struct vtap_port_counters* count) {
  if (cpu->free_cons == cpu->free_prod_seen) {
    cpu->free_prod_seen = read_again(&cpu->free_prod, cpu->free_prod_seen);
    if (cpu->free_cons == cpu->free_prod_seen) {
      count->no_free_frame += frames;
      return false;
    }
  }
  if (cpu->desc_prod - cpu->desc_cons_seen >= VTAP_RING_SLOTS) {
    cpu->desc_cons_seen = read_again(&cpu->desc_cons, cpu->desc_cons_seen);
    if (cpu->desc_prod - cpu->desc_cons_seen >= VTAP_RING_SLOTS) {
      count->ring_full += frames;
      return false;
    }
  }
  return true;
}

/* The frame and the descriptor of the next copy, for which has_room(); NULL cannot be, counted.
 * Both are only taken by publish(): until then nothing has happened. */
static __always_inline __u8* next_frame(struct vtap_cpu* cpu, struct vtap_port_counters* count,
                                        struct vtap_desc** desc) {
  __u32 number = cpu->free_ring[cpu->free_cons & (VTAP_RING_SLOTS - 1)];
  __u8* frame = bpf_map_lookup_elem(&umem, &number);
  if (!frame) {
    count->copy_failed++; /* no frame of ours has this number */
    return NULL;
  }
  *desc = &cpu->desc_ring[cpu->desc_prod & (VTAP_RING_SLOTS - 1)];
  (*desc)->frame = number;
  return frame;
}

/* Whether the next copy is VTAP_DESC_TIMED. */
static __always_inline bool is_timed(const struct vtap_cpu* cpu) {
  return (cpu->desc_prod & (VTAP_TIMED_EVERY - 1)) == 0;
}

/* What the copy's place among those of other CPUs goes by; see struct vtap_cpu, maker. If it is
 * timed, the clock, which is as good a stamp: a sole maker only may do without. */
static __always_inline __u64 copy_time(struct vtap_cpu* cpu, bool timed) {
  __u32 me = bpf_get_smp_processor_id() + 1;
  __u32 number = cpu->lead;
  struct vtap_cpu* lead = bpf_map_lookup_elem(&cpus, &number);
  if (!lead) return 0; /* cannot be */
  volatile __u32* maker = &lead->maker;
  __u32 found = *maker;
  if (found == me) {
    if (timed) cpu->time = bpf_ktime_get_ns();
    return cpu->time;
  }
  if (found == VTAP_NO_MAKER) found = __sync_val_compare_and_swap(&lead->maker, VTAP_NO_MAKER, me);
  cpu->time = bpf_ktime_get_ns();
  /* From here on nobody may go on with a stamp that is older than this one. */
  if (found != VTAP_NO_MAKER && *maker != VTAP_MANY_MAKERS) *maker = VTAP_MANY_MAKERS;
  return cpu->time;
}

/*
 * Hands a filled frame to the broker: the descriptor and the bytes are visible before the index.
 * free_cons moves last, so that the broker cannot refill the slot before it was read.
 *
 * On x86 stores are seen in their order, so a plain one does: an exchange would wait here until the
 * copy's lines, which the broker's core has, are all ours. But then the sleeper's flag may be read
 * before the broker sees the index; it looks again a little later (TeeSource::kSettle). Elsewhere
 * the exchange is a full barrier, and one side sees the other.
 */
static __always_inline void publish(struct vtap_cpu* cpu, struct vtap_port_counters* count) {
#ifdef __TARGET_ARCH_x86
  asm volatile("" ::: "memory"); /* the compiler knows no order between these stores */
  *(volatile __u32*)&cpu->desc_prod = cpu->desc_prod + 1;
#else
  __sync_lock_test_and_set(&cpu->desc_prod, cpu->desc_prod + 1);
#endif
  *(volatile __u32*)&cpu->free_cons = cpu->free_cons + 1;
  count->copied++;
  ring_doorbell(cpu);
}

#endif
