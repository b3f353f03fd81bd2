/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/*
 * Which frames does any policy of this tap want? The algorithm and the tables are those of
 * vtap/abi.h; broker/plan/classifier.cpp is the same thing in C++, and a differential test holds
 * the two together.
 *
 * The including program defines `const volatile struct vtap_port_config config` first. The
 * verifier knows its values, so whatever `dims` leaves out is removed as dead code at load time.
 * Before loading, the loader sizes every map. Vectors and the IPv4 trie are one element each, whose
 * size is in `config`: so they are looked up once a frame, and what follows is reading memory.
 */
#ifndef VTAP_CLASSIFY_BPF_H
#define VTAP_CLASSIFY_BPF_H

#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#include <vtap/abi.h>
#include <vtap/parse.h>

/* All vectors; room for config.classes.vectors of them. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __uint(key_size, sizeof(__u32));
  __uint(value_size, 2 * VTAP_MAX_WORDS * sizeof(__u64));
} vectors SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct vtap_fields);
} fields SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1);
  __uint(key_size, 4);
  __uint(value_size, sizeof(__u32));
} hosts4 SEC(".maps");

/* The root and, behind it, the blocks; room for config.classes.trie4_entries. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __uint(key_size, sizeof(__u32));
  __uint(value_size, sizeof(struct vtap_trie4_root));
} trie4 SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1);
  __uint(key_size, 16);
  __uint(value_size, sizeof(__u32));
} hosts6 SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_LPM_TRIE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 1);
  __type(key, struct vtap_lpm6_key);
  __type(value, __u32);
} prefixes6 SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1);
  __uint(key_size, 8);
  __uint(value_size, sizeof(__u32));
} macs SEC(".maps");

enum {
  VTAP_NARROW = 2,    /* words of a plan that is classified in registers */
  VTAP_TWO_ENDED = 3, /* dimensions: addresses, ports, MACs */
  VTAP_ONE_ENDED = 8,
};

/* What a frame selects, of a narrow plan: no vector is kept, its words are ANDed at once. */
struct vtap_narrow {
  __u64 rules[VTAP_NARROW];
  __u64 excepted[VTAP_NARROW];
  const __u64* pending; /* source end of an `either` pair */
};

/* The numbers of the vectors that a frame selects, of a wide one: addresses would take twice the
 * stack. The verifier knows `dims` and so both counts, which makes every index below a constant to
 * it. The counts are 64 bits wide because it forgets a narrower constant when the compiler spills
 * another value into the same eight bytes of stack. */
struct vtap_wide {
  __u64 count;
  __u64 either_count;
  __u32 all[1 + 2 * VTAP_TWO_ENDED + VTAP_ONE_ENDED]; /* ANDed, the tap's among them */
  __u32 either[2 * VTAP_TWO_ENDED];                   /* pairs: ORed, then ANDed */
};

/* One of the two, the other is NULL, constants both: where the select functions put what they find.
 */
struct vtap_selected {
  struct vtap_narrow* narrow;
  struct vtap_wide* wide;
};

/* Index of a field array. The key holds nothing larger; the verifier wants to see it, and the empty
 * asm keeps the compiler from knowing it too well. */
static __always_inline __u32 vtap_at_most(__u32 value, __u32 max) {
  asm volatile("" : "+r"(value));
  return value > max ? max : value;
}

/* A value of 16 bits that 6.1 does not see as one, as it learns nothing from an OR. */
static __always_inline __u32 vtap_low16(__u32 value) {
  asm volatile("" : "+r"(value));
  return value & 0xffff;
}

/* What is read of the plan for every frame. The numbers are 64 bits wide for the verifier's sake,
 * as above. */
struct vtap_tables {
  __u64 dims;
  __u64 mask;    /* of a vector's number */
  __u64 words;   /* match words of a vector */
  __u64 stride;  /* all of them */
  __u64 excepts; /* whether there are any */
  const __u64* vectors;
  const struct vtap_fields* class_of;
  const __u32* trie4;
};

static __always_inline __u64 vtap_uses(const struct vtap_tables* tables, __u32 dims) {
  return tables->dims & dims;
}

/* Whether the plan reads this end (VTAP_AS_SRC, VTAP_AS_DST) of a two-ended dimension. */
static __always_inline __u64 vtap_uses_end(const struct vtap_tables* tables, __u32 dim, __u32 as) {
  return vtap_uses(tables, ((1u << as) | VTAP_ENDS_EITHER) << dim);
}

/* A constant of 32 bits as one of 64, of which the compiler does not know that half of it is zero:
 * else it spills that half alone, and 6.1 forgets the value. */
static __always_inline __u64 vtap_whole(__u64 value) {
  asm volatile("" : "+r"(value));
  return value;
}

/* False: a table is missing, which cannot be; it is the verifier that asks. */
static __always_inline bool vtap_find_tables(struct vtap_tables* tables) {
  __u32 zero = 0;

  tables->dims = vtap_whole(config.classes.dims);
  tables->mask = vtap_whole(config.classes.vectors - 1);
  tables->words = vtap_whole(config.classes.match_words);
  tables->stride = vtap_whole(config.classes.match_words + config.classes.except_words);
  tables->excepts = vtap_whole(config.classes.except_words);
  tables->vectors = bpf_map_lookup_elem(&vectors, &zero);
  tables->class_of = bpf_map_lookup_elem(&fields, &zero);
  tables->trie4 = bpf_map_lookup_elem(&trie4, &zero);
  return tables->vectors && tables->class_of && tables->trie4;
}

/* A mask, not a comparison: that would double the states the verifier walks, vector by vector. */
static __always_inline const __u64* vtap_vector(const struct vtap_tables* tables, __u32 number) {
  __u64 at = number & tables->mask;

  /* In this order: 6.1 multiplies by constants alone. */
  asm("%[at] *= %[stride]" : [at] "+r"(at) : [stride] "r"(tables->stride));
  return tables->vectors + at;
}

/* One step of eight bits; an entry that is a class already stays one. */
static __always_inline __u32 vtap_trie4_step(const __u32* trie4_table, __u32 entry, __u8 bits) {
  __u32 at = VTAP_TRIE4_ROOT + (entry & ~VTAP_TRIE4_BLOCK) * VTAP_TRIE4_FAN_OUT + bits;

  return entry & VTAP_TRIE4_BLOCK ? trie4_table[at & (config.classes.trie4_entries - 1)] : entry;
}

/* Addresses are copied to the stack for a lookup: to vtap_wanted() the frame's key is memory of a
 * kind that helpers do not take as a map key (6.1). */

static __always_inline __u32 vtap_class_of_ipv4(const struct vtap_tables* tables,
                                                const __u8* addr) {
  const __u32* host = 0;
  __u8 key[4];
  __u32 entry;

  if (vtap_uses(tables, VTAP_DIM_HOST4)) {
    vtap_copy(key, addr, sizeof(key));
    host = bpf_map_lookup_elem(&hosts4, key);
  }
  if (host) return *host;
  if (!vtap_uses(tables, VTAP_DIM_TRIE4)) return config.classes.default_addr;
  entry = tables->trie4[vtap_low16(addr[0] << 8 | addr[1])];
  entry = vtap_trie4_step(tables->trie4, entry, addr[2]);
  return vtap_trie4_step(tables->trie4, entry, addr[3]);
}

static __always_inline __u32 vtap_class_of_ipv6(const struct vtap_tables* tables,
                                                const __u8* addr) {
  struct vtap_lpm6_key key;
  const __u32* found = 0;

  key.prefixlen = 128;
  vtap_copy(key.addr, addr, sizeof(key.addr));
  if (vtap_uses(tables, VTAP_DIM_HOST6)) found = bpf_map_lookup_elem(&hosts6, key.addr);
  if (!found && vtap_uses(tables, VTAP_DIM_LPM6)) found = bpf_map_lookup_elem(&prefixes6, &key);
  return found ? *found : config.classes.default_addr;
}

static __always_inline __u32 vtap_class_of_address(const struct vtap_tables* tables,
                                                   const __u8* addr, __u8 family) {
  if (family == VTAP_L3_IPV4) return vtap_class_of_ipv4(tables, addr);
  if (family == VTAP_L3_IPV6) return vtap_class_of_ipv6(tables, addr);
  return config.classes.default_addr;
}

static __always_inline __u32 vtap_class_of_mac(const __u8* mac, __u8 valid) {
  const __u32* found = 0;
  __u8 key[8];

  vtap_copy(key, mac, sizeof(key));
  if (valid) found = bpf_map_lookup_elem(&macs, key);
  return found ? *found : config.classes.default_mac;
}

/* The select functions take the vectors that the frame's values stand for. */
static __always_inline void vtap_select(struct vtap_selected to, const struct vtap_tables* tables,
                                        __u32 number) {
  struct vtap_narrow* narrow = to.narrow;

  if (narrow) {
    const __u64* vector = vtap_vector(tables, number);

    narrow->rules[0] &= vector[0];
    if (tables->words > 1) narrow->rules[1] &= vector[1];
    if (tables->excepts) {
      narrow->excepted[0] &= vector[tables->words];
      if (tables->words > 1) narrow->excepted[1] &= vector[tables->words + 1];
    }
  } else {
    to.wide->all[to.wide->count++] = number;
  }
}

/* The two ends of an `either` key come in the order source, destination. */
static __always_inline void vtap_select_either(struct vtap_selected to,
                                               const struct vtap_tables* tables, __u32 number,
                                               __u32 as) {
  struct vtap_narrow* narrow = to.narrow;

  if (!narrow) {
    to.wide->either[to.wide->either_count++] = number + VTAP_AS_EITHER;
  } else if (as == VTAP_AS_SRC) {
    narrow->pending = vtap_vector(tables, number + VTAP_AS_EITHER);
  } else {
    const __u64* vector = vtap_vector(tables, number + VTAP_AS_EITHER);
    const __u64* other = narrow->pending;
    const __u64 first = tables->words;

    narrow->rules[0] &= other[0] | vector[0];
    if (tables->words > 1) narrow->rules[1] &= other[1] | vector[1];
    if (tables->excepts) {
      narrow->excepted[0] &= other[first] | vector[first];
      if (tables->words > 1) narrow->excepted[1] &= other[first + 1] | vector[first + 1];
    }
  }
}

/* One end of a two-ended dimension whose value there is of class `number`. */
static __always_inline void vtap_select_end(struct vtap_selected to,
                                            const struct vtap_tables* tables, __u32 number,
                                            __u32 dim, __u32 as) {
  if (vtap_uses(tables, (1u << as) << dim)) vtap_select(to, tables, number + as);
  if (vtap_uses(tables, (__u32)VTAP_ENDS_EITHER << dim)) vtap_select_either(to, tables, number, as);
}

static __always_inline void vtap_select_addresses(struct vtap_selected to,
                                                  const struct vtap_tables* tables,
                                                  const struct vtap_key* key) {
  const __u32 dim = VTAP_DIM_ADDR;

  if (vtap_uses_end(tables, dim, VTAP_AS_SRC))
    vtap_select_end(to, tables, vtap_class_of_address(tables, key->src, key->family), dim,
                    VTAP_AS_SRC);
  if (vtap_uses_end(tables, dim, VTAP_AS_DST))
    vtap_select_end(to, tables, vtap_class_of_address(tables, key->dst, key->family), dim,
                    VTAP_AS_DST);
}

static __always_inline void vtap_select_ports(struct vtap_selected to,
                                              const struct vtap_tables* tables,
                                              const struct vtap_key* key) {
  const __u32 dim = VTAP_DIM_PORT;
  const __u16* class_of = tables->class_of->port;

  if (vtap_uses_end(tables, dim, VTAP_AS_SRC))
    vtap_select_end(to, tables, class_of[vtap_at_most(key->sport, VTAP_NO_PORT)], dim, VTAP_AS_SRC);
  if (vtap_uses_end(tables, dim, VTAP_AS_DST))
    vtap_select_end(to, tables, class_of[vtap_at_most(key->dport, VTAP_NO_PORT)], dim, VTAP_AS_DST);
}

static __always_inline void vtap_select_macs(struct vtap_selected to,
                                             const struct vtap_tables* tables,
                                             const struct vtap_key* key) {
  const __u32 dim = VTAP_DIM_MAC;

  if (vtap_uses_end(tables, dim, VTAP_AS_SRC))
    vtap_select_end(to, tables, vtap_class_of_mac(key->smac, key->mac), dim, VTAP_AS_SRC);
  if (vtap_uses_end(tables, dim, VTAP_AS_DST))
    vtap_select_end(to, tables, vtap_class_of_mac(key->dmac, key->mac), dim, VTAP_AS_DST);
}

static __always_inline void vtap_select_field(struct vtap_selected to,
                                              const struct vtap_tables* tables, __u32 dim,
                                              const __u16* class_of, __u32 value, __u32 max) {
  if (vtap_uses(tables, dim)) vtap_select(to, tables, class_of[vtap_at_most(value, max)]);
}

static __always_inline void vtap_select_fields(struct vtap_selected to, const struct vtap_tables* t,
                                               const struct vtap_key* key) {
  const struct vtap_fields* f = t->class_of;

  vtap_select_field(to, t, VTAP_DIM_PROTO, f->proto, key->proto, VTAP_NO_PROTO);
  vtap_select_field(to, t, VTAP_DIM_VLAN, f->vlan, key->vlan, VTAP_NO_VLAN);
  vtap_select_field(to, t, VTAP_DIM_INNER_VLAN, f->inner_vlan, key->inner_vlan, VTAP_NO_VLAN);
  vtap_select_field(to, t, VTAP_DIM_ETHERTYPE, f->ethertype, key->ethertype, VTAP_NO_ETHERTYPE);
  vtap_select_field(to, t, VTAP_DIM_TCP_FLAGS, f->tcp_flags, key->tcp_flags, VTAP_ANY_TCP_FLAGS);
  vtap_select_field(to, t, VTAP_DIM_DSCP, f->dscp, key->dscp, VTAP_NO_DSCP);
  vtap_select_field(to, t, VTAP_DIM_FRAGMENT, f->fragment, key->fragment, VTAP_NO_FRAGMENT);
  vtap_select_field(to, t, VTAP_DIM_LENGTH, f->length, key->length, VTAP_ANY_LENGTH);
}

static __always_inline void vtap_select_all(struct vtap_selected to,
                                            const struct vtap_tables* tables,
                                            const struct vtap_key* key, __u32 tap_class) {
  if (to.narrow) {
    to.narrow->rules[0] = to.narrow->rules[1] = ~0ull;
    to.narrow->excepted[0] = to.narrow->excepted[1] = ~0ull;
  } else {
    to.wide->count = 0;
    to.wide->either_count = 0;
  }
  vtap_select(to, tables, tap_class);
  vtap_select_addresses(to, tables, key);
  vtap_select_ports(to, tables, key);
  vtap_select_macs(to, tables, key);
  vtap_select_fields(to, tables, key);
}

/* Some words of a set of rules, in registers. Taking several on one walk over the vectors, and none
 * of the steps depending on the frame, is what keeps plans with thousands of rules within the
 * verifier's million steps (without: over it on 7.3). */
enum { VTAP_BLOCK = 4 };
struct vtap_block {
  __u64 word[VTAP_BLOCK];
};

/* The rules that the frame satisfies: words [first, first + n), at most a block; the others are 0.
 */
static __always_inline struct vtap_block vtap_rules(const struct vtap_tables* tables,
                                                    const struct vtap_wide* from, __u64 first,
                                                    __u64 n) {
  struct vtap_block rules;
  __u64 i;
  __u32 j;

#pragma unroll
  for (j = 0; j < VTAP_BLOCK; j++) rules.word[j] = j < n ? ~0ull : 0;
  for (i = 0; i < from->count; i++) {
    const __u64* vector = vtap_vector(tables, from->all[i]) + first;
#pragma unroll
    for (j = 0; j < VTAP_BLOCK; j++)
      if (j < n) rules.word[j] &= vector[j];
  }
  for (i = 0; i < from->either_count; i += 2) {
    const __u64* src = vtap_vector(tables, from->either[i]) + first;
    const __u64* dst = vtap_vector(tables, from->either[i + 1]) + first;
#pragma unroll
    for (j = 0; j < VTAP_BLOCK; j++)
      if (j < n) rules.word[j] &= src[j] | dst[j];
  }
  return rules;
}

/* Segments of which any bit is set, as their top bits. */
static __always_inline __u64 vtap_any(__u64 rules, __u64 top) {
  return (rules | ((rules & ~top) + ~top)) & top;
}

/* Whether any policy whose rules are in these words takes the frame. */
static __always_inline bool vtap_block_wanted(const struct vtap_tables* tables,
                                              const struct vtap_wide* selected, const __u64* tops,
                                              const __u64* rejected, __u64 first, __u64 n) {
  struct vtap_block rules = vtap_rules(tables, selected, first, n);
  struct vtap_block excepted = {};
  __u64 policies = 0;
  __u32 j;

  if (!(rules.word[0] | rules.word[1] | rules.word[2] | rules.word[3])) return false;
  if (!config.classes.except_words && !config.filters) return true;
  if (config.classes.except_words)
    excepted = vtap_rules(tables, selected, config.classes.match_words + first, n);
#pragma unroll
  for (j = 0; j < VTAP_BLOCK; j++) {
    __u64 top = j < n ? tops[first + j] : 0;
    __u64 taken = vtap_any(rules.word[j], top) & ~vtap_any(excepted.word[j], top);
    if (config.filters && j < n) taken &= ~rejected[(first + j) & (VTAP_MAX_WORDS - 1)];
    policies |= taken;
  }
  return policies;
}

/* The policies of a word of a narrow plan: the tops of their segments. */
static __always_inline __u64 vtap_narrow_policies(const struct vtap_tables* tables,
                                                  const struct vtap_narrow* selected,
                                                  const __u64* tops, const __u64* rejected,
                                                  __u32 word) {
  __u64 policies;

  if (word >= tables->words) return 0;
  policies = vtap_any(selected->rules[word], tops[word]);
  if (tables->excepts) policies &= ~vtap_any(selected->excepted[word], tops[word]);
  if (config.filters) policies &= ~rejected[word];
  return policies;
}

/* Whether there is any, for narrow plans, which most are: all in registers. */
static __always_inline bool vtap_wanted_narrow(const struct vtap_tables* tables,
                                               const struct vtap_cpu* cpu, __u32 tap_class,
                                               const __u64* tops) {
  struct vtap_narrow selected;
  __u64 rules;

  vtap_select_all((struct vtap_selected){.narrow = &selected}, tables, &cpu->key, tap_class);
  rules = selected.rules[0] | (tables->words > 1 ? selected.rules[1] : 0);
  if (!rules || (!tables->excepts && !config.filters)) return rules;
  return vtap_narrow_policies(tables, &selected, tops, cpu->rejected, 0) |
         vtap_narrow_policies(tables, &selected, tops, cpu->rejected, 1);
}

/*
 * Whether any policy of the tap with this class takes the frame with cpu->key. Global, not static:
 * so the verifier walks it once, by itself, and not once more for every state that a caller can be
 * in (TC, 64 + 64 words: 680,000 steps on 6.18, over the million on 7.3; now a tenth).
 */
__noinline int vtap_wanted(const struct vtap_cpu* cpu, __u32 tap_class) {
  struct vtap_wide selected;
  struct vtap_tables tables;
  const __u64* tops;
  __u64 word;

  if (!cpu) return false; /* nobody does; a global function has to look */
  if (config.classes.match_words == 0) return false;

  if (!vtap_find_tables(&tables)) return false;
  tops = vtap_vector(&tables, config.classes.seg_top_class);
  if (config.classes.match_words <= VTAP_NARROW)
    return vtap_wanted_narrow(&tables, cpu, tap_class, tops);
  vtap_select_all((struct vtap_selected){.wide = &selected}, &tables, &cpu->key, tap_class);

  for (word = 0; word < VTAP_MAX_WORDS; word += VTAP_BLOCK) {
    __u64 match_words = config.classes.match_words;

    if (word >= match_words) break;
    if (vtap_block_wanted(&tables, &selected, tops, cpu->rejected, word, match_words - word))
      return true;
  }
  return false;
}

enum { VTAP_FOR_BROKER = 1, VTAP_FOR_CLONE = 2 };

/* The policies of one word: those to be cloned for stay in cpu->policies. */
static __always_inline int vtap_split(struct vtap_cpu* cpu, __u64 policies, __u64 cloned,
                                      __u64 word) {
  cpu->policies[word & (VTAP_MAX_WORDS - 1)] = policies & cloned;
  return (policies & ~cloned ? VTAP_FOR_BROKER : 0) | (policies & cloned ? VTAP_FOR_CLONE : 0);
}

/* The policies of a block, into cpu->policies. One set of rules after the other, for the stack. */
static __always_inline void vtap_block_policies(struct vtap_cpu* cpu,
                                                const struct vtap_tables* tables,
                                                const struct vtap_wide* selected, const __u64* tops,
                                                __u64 first) {
  __u64 match_words = config.classes.match_words;
  struct vtap_block rules = vtap_rules(tables, selected, first, match_words - first);
  __u32 j;

#pragma unroll
  for (j = 0; j < VTAP_BLOCK; j++)
    if (first + j < match_words)
      cpu->policies[(first + j) & (VTAP_MAX_WORDS - 1)] =
          vtap_any(rules.word[j], tops[first + j]) &
          (config.filters ? ~cpu->rejected[(first + j) & (VTAP_MAX_WORDS - 1)] : ~0ull);
  if (!config.classes.except_words) return;
  rules = vtap_rules(tables, selected, match_words + first, match_words - first);
#pragma unroll
  for (j = 0; j < VTAP_BLOCK; j++)
    if (first + j < match_words)
      cpu->policies[(first + j) & (VTAP_MAX_WORDS - 1)] &=
          ~vtap_any(rules.word[j], tops[first + j]);
}

/*
 * The policies that take the frame with cpu->key: who serves any of them, VTAP_FOR_* together; for
 * narrow plans and for wide ones. Global functions, each with a stack that fits below a caller's.
 */
__noinline int vtap_policies_narrow(struct vtap_cpu* cpu, __u32 tap_class) {
  struct vtap_narrow selected;
  struct vtap_tables tables;
  const __u64 *tops, *cloned;
  int who = 0;
  __u32 j;

  if (!cpu || !vtap_find_tables(&tables)) return 0;
  tops = vtap_vector(&tables, config.classes.seg_top_class);
  cloned = vtap_vector(&tables, config.classes.cloned_class);
  vtap_select_all((struct vtap_selected){.narrow = &selected}, &tables, &cpu->key, tap_class);
#pragma unroll
  for (j = 0; j < VTAP_NARROW; j++) {
    if (j >= tables.words) break;
    who |= vtap_split(cpu, vtap_narrow_policies(&tables, &selected, tops, cpu->rejected, j),
                      cloned[j], j);
  }
  return who;
}

__noinline int vtap_policies_wide(struct vtap_cpu* cpu, __u32 tap_class) {
  struct vtap_wide selected;
  struct vtap_tables tables;
  const __u64* words;
  int who = 0;
  __u64 word;

  if (!cpu || !vtap_find_tables(&tables)) return 0;
  vtap_select_all((struct vtap_selected){.wide = &selected}, &tables, &cpu->key, tap_class);
  words = vtap_vector(&tables, config.classes.seg_top_class);
  for (word = 0; word < VTAP_MAX_WORDS; word += VTAP_BLOCK) {
    if (word >= config.classes.match_words) break;
    vtap_block_policies(cpu, &tables, &selected, words, word);
  }
  words = vtap_vector(&tables, config.classes.cloned_class);
  for (word = 0; word < VTAP_MAX_WORDS; word++) {
    if (word >= config.classes.match_words) break;
    who |= vtap_split(cpu, cpu->policies[word & (VTAP_MAX_WORDS - 1)], words[word], word);
  }
  return who;
}

static __always_inline int vtap_policies(struct vtap_cpu* cpu, __u32 tap_class) {
  if (config.classes.match_words == 0) return 0;
  return config.classes.match_words <= VTAP_NARROW ? vtap_policies_narrow(cpu, tap_class)
                                                   : vtap_policies_wide(cpu, tap_class);
}

#endif
