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

/* All vectors: config.classes.row_words words, and room for one vector more, as large as any plan
 * has them: where the compiler spills the number of a word before it is compared, 6.1 does not know
 * that it is one of this plan. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __uint(key_size, sizeof(__u32));
  __uint(value_size, sizeof(__u64));
} vectors SEC(".maps");

/* Of a paged plan; room for config.classes.pages of them. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __uint(key_size, sizeof(__u32));
  __uint(value_size, VTAP_PAGE_WORDS * sizeof(__u64));
} pages SEC(".maps");

/* Recent verdicts of a paged plan, CPU behind CPU; room for config.classes.cache_slots of each.
 * Only what can be mapped begins on a cache line. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, 1);
  __uint(key_size, sizeof(__u32));
  __uint(value_size, VTAP_CACHE_LINE);
} verdicts SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct vtap_fields);
} fields SEC(".maps");

/* Room for config.classes.buckets4 buckets. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __uint(key_size, sizeof(__u32));
  __uint(value_size, sizeof(struct vtap_bucket4));
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

/* What a frame selects, of a flat plan: no vector is kept, its words are ANDed at once. */
struct vtap_flat {
  __u64 rules[VTAP_FLAT_WORDS];
  __u64 excepted[VTAP_FLAT_WORDS];
  const __u64* pending; /* source end of an `either` pair */
};

/* Of a paged one: the words in which all vectors have a bit; the vectors' numbers stay in the CPU's
 * memory. The verifier knows `dims` and so both counts, which makes every index below a constant to
 * it. The counts are 64 bits wide because it forgets a narrower constant when the compiler spills
 * another value into the same eight bytes of stack. */
struct vtap_paged {
  __u64 count;
  __u64 either_count;
  struct vtap_selection* to;
  const __u64* pending;
  __u64 sums[VTAP_MAX_SUMS];
};

/* One of the two, the other is NULL, constants both: where the select functions put what they find.
 */
struct vtap_selected {
  struct vtap_flat* flat;
  struct vtap_paged* paged;
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
  __u64 mask;    /* of where a vector is */
  __u64 words;   /* match words of a vector */
  __u64 excepts; /* whether there are any */
  const __u64* vectors;
  const __u64* pages;
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
  tables->mask = vtap_whole(config.classes.row_words - 1);
  tables->words = vtap_whole(config.classes.match_words);
  tables->excepts = vtap_whole(config.classes.except_words);
  tables->vectors = bpf_map_lookup_elem(&vectors, &zero);
  tables->pages = bpf_map_lookup_elem(&pages, &zero);
  tables->class_of = bpf_map_lookup_elem(&fields, &zero);
  tables->trie4 = bpf_map_lookup_elem(&trie4, &zero);
  return tables->vectors && tables->pages && tables->class_of && tables->trie4;
}

/* Where the vector of this number is, in words of the table. */
static __always_inline __u32 vtap_row(__u32 number) {
  __u32 at = number;
  __u32 stride = config.classes.stride;

  asm("%[at] *= %[stride]" : [at] "+r"(at) : [stride] "r"(stride));
  return at;
}

/* A mask, not a comparison: that would double the states the verifier walks, vector by vector. */
static __always_inline const __u64* vtap_vector(const struct vtap_tables* tables, __u32 number) {
  return tables->vectors + (vtap_row(number) & tables->mask);
}

/* One step of eight bits; an entry that is a class already stays one. */
static __always_inline __u32 vtap_trie4_step(const __u32* trie4_table, __u32 entry, __u8 bits) {
  __u32 at = VTAP_TRIE4_ROOT + (entry & ~VTAP_TRIE4_BLOCK) * VTAP_TRIE4_FAN_OUT + bits;

  return entry & VTAP_TRIE4_BLOCK ? trie4_table[at & (config.classes.trie4_entries - 1)] : entry;
}

/* Addresses are copied to the stack for a lookup: to vtap_classify() the frame's key is memory of a
 * kind that helpers do not take as a map key (6.1). */

/* VTAP_NO_CLASS: not one of the exact addresses. No branch depends on where it is. */
static __always_inline __u32 vtap_class_of_host4(const __u8* addr) {
  __u32 zero = 0;
  const struct vtap_bucket4* bucket = bpf_map_lookup_elem(&hosts4, &zero);
  __u32 number = VTAP_NO_CLASS;
  __u32 key, place;

  if (!bucket) return number;
  vtap_copy((__u8*)&key, addr, sizeof(key));
  bucket += vtap_bucket4_of(key, config.classes.bucket4_seed, config.classes.buckets4);
#pragma unroll
  for (place = 0; place < VTAP_BUCKET4_PLACES; place++)
    if (bucket->addr[place] == key && bucket->number[place] != VTAP_NO_CLASS)
      number = bucket->number[place];
  return number;
}

static __always_inline __u32 vtap_class_of_ipv4(const struct vtap_tables* tables,
                                                const __u8* addr) {
  __u32 entry;

  if (vtap_uses(tables, VTAP_DIM_HOST4)) {
    __u32 number = vtap_class_of_host4(addr);
    if (number != VTAP_NO_CLASS) return number;
  }
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

/* The words of a flat plan, or the sums of a paged one: `first` and `second` are ORed. */
static __always_inline void vtap_combine(struct vtap_selected to, const struct vtap_tables* tables,
                                         const __u64* first, const __u64* second) {
  struct vtap_flat* flat = to.flat;
  const __u64 excepts = tables->words;
  __u32 i;

  if (!flat) {
#pragma unroll
    for (i = 0; i < VTAP_MAX_SUMS; i++)
      if (i < config.classes.sum_words) to.paged->sums[i] &= first[i] | second[i];
    return;
  }
  flat->rules[0] &= first[0] | second[0];
  if (tables->words > 1) flat->rules[1] &= first[1] | second[1];
  if (!tables->excepts) return;
  flat->excepted[0] &= first[excepts] | second[excepts];
  if (tables->words > 1) flat->excepted[1] &= first[excepts + 1] | second[excepts + 1];
}

/* The select functions take the vectors that the frame's values stand for. */
static __always_inline void vtap_select(struct vtap_selected to, const struct vtap_tables* tables,
                                        __u32 number) {
  const __u64* vector = vtap_vector(tables, number);

  vtap_combine(to, tables, vector, vector);
  if (!to.flat) to.paged->to->all[to.paged->count++] = vtap_row(number);
}

/* The two ends of an `either` key come in the order source, destination. */
static __always_inline void vtap_select_either(struct vtap_selected to,
                                               const struct vtap_tables* tables, __u32 number,
                                               __u32 as) {
  const __u64* vector = vtap_vector(tables, number + VTAP_AS_EITHER);
  const __u64** pending = to.flat ? &to.flat->pending : &to.paged->pending;

  if (as == VTAP_AS_SRC)
    *pending = vector;
  else
    vtap_combine(to, tables, *pending, vector);
  if (!to.flat) to.paged->to->either[to.paged->either_count++] = vtap_row(number + VTAP_AS_EITHER);
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

static __always_inline __u32 vtap_class_of_port(const struct vtap_tables* tables, __u32 port) {
  return config.classes.first_port +
         VTAP_ENDS * tables->class_of->port[vtap_at_most(port, VTAP_NO_PORT)];
}

static __always_inline void vtap_select_ports(struct vtap_selected to,
                                              const struct vtap_tables* tables,
                                              const struct vtap_key* key) {
  const __u32 dim = VTAP_DIM_PORT;

  if (vtap_uses_end(tables, dim, VTAP_AS_SRC))
    vtap_select_end(to, tables, vtap_class_of_port(tables, key->sport), dim, VTAP_AS_SRC);
  if (vtap_uses_end(tables, dim, VTAP_AS_DST))
    vtap_select_end(to, tables, vtap_class_of_port(tables, key->dport), dim, VTAP_AS_DST);
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
  __u32 i;

  if (to.flat) {
    to.flat->rules[0] = to.flat->rules[1] = ~0ull;
    to.flat->excepted[0] = to.flat->excepted[1] = ~0ull;
  } else {
#pragma unroll
    for (i = 0; i < VTAP_MAX_SUMS; i++) to.paged->sums[i] = ~0ull;
    to.paged->count = 0;
    to.paged->either_count = 0;
  }
  vtap_select_addresses(to, tables, key);
  vtap_select_ports(to, tables, key);
  vtap_select_macs(to, tables, key);
  vtap_select_fields(to, tables, key);
  vtap_select(to, tables, tap_class); /* last, as it rarely rules out anything (vtap_rules()) */
  if (to.flat) return;
  to.paged->to->count = (__u32)to.paged->count;
  to.paged->to->either_count = (__u32)to.paged->either_count;
}

/* Segments of which any bit is set, as their top bits. */
static __always_inline __u64 vtap_any(__u64 rules, __u64 top) {
  return (rules | ((rules & ~top) + ~top)) & top;
}

/* Number of the lowest bit of a word that has one, by a de Bruijn sequence (Leiserson, Prokop,
 * Randall 1998): BPF has no instruction for it. */
static const __u8 bit_of_product[64] = {
    0,  1,  48, 2,  57, 49, 28, 3,  61, 58, 50, 42, 38, 29, 17, 4,  62, 55, 59, 36, 53, 51,
    43, 22, 45, 39, 33, 30, 24, 18, 12, 5,  63, 47, 56, 27, 60, 41, 37, 16, 54, 35, 52, 21,
    44, 32, 23, 11, 46, 26, 40, 15, 34, 20, 31, 10, 25, 14, 19, 9,  13, 8,  7,  6,
};
static __always_inline __u32 lowest_bit(__u64 word) {
  return bit_of_product[(word & -word) * 0x03f79d71b4cb0a89ull >> 58];
}

/* The policies of a word of a flat plan: the tops of their segments. */
static __always_inline __u64 vtap_flat_policies(const struct vtap_tables* tables,
                                                const struct vtap_flat* selected, const __u64* tops,
                                                const __u64* rejected, __u32 word) {
  __u64 policies;

  if (word >= tables->words) return 0;
  policies = vtap_any(selected->rules[word], tops[word]);
  if (tables->excepts) policies &= ~vtap_any(selected->excepted[word], tops[word]);
  if (config.filters && word < config.classes.early_words) policies &= ~rejected[word];
  return policies;
}

/* Whether there is any: all in registers. */
static __always_inline bool vtap_wanted_flat(const struct vtap_tables* tables, struct vtap_cpu* cpu,
                                             __u32 tap_class, const __u64* tops) {
  struct vtap_flat selected;
  __u64 rules;

  vtap_select_all((struct vtap_selected){.flat = &selected}, tables, &cpu->key, tap_class);
  rules = selected.rules[0] | (tables->words > 1 ? selected.rules[1] : 0);
  if (!rules || (!tables->excepts && !config.filters)) return rules;
  return vtap_flat_policies(tables, &selected, tops, cpu->rejected, 0) |
         vtap_flat_policies(tables, &selected, tops, cpu->rejected, 1);
}

/* Word `word`, match words and then except words, of the paged vector whose row is at `row`. */
static __always_inline __u64 vtap_word(const __u64* rows, const __u64* page_table, __u32 row,
                                       __u64 word) {
  const __u64* at = rows + (row & (config.classes.row_words - 1)) + config.classes.sum_words;
  __u64 page = ((const __u32*)at)[word / VTAP_PAGE_WORDS] & (config.classes.pages - 1);
  __u64 inside = word & (VTAP_PAGE_WORDS - 1);

  /* The compiler must not see that page and place share no bit: it would OR them, and 6.1 forgets
   * the bounds. */
  asm("" : "+r"(inside));
  return page_table[page * VTAP_PAGE_WORDS + inside];
}

/* The rules that the frame satisfies, of one word. Often there is none, as the sums only say that
 * each vector has a bit somewhere in it, and then two vectors mostly show it. */
static __always_inline __u64 vtap_rules(const __u64* rows, const __u64* page_table,
                                        const struct vtap_selection* from, __u64 word) {
  __u64 rules = ~0ull;
  __u32 i;

  for (i = 0; i < VTAP_MAX_SELECTED; i++) {
    if (i >= from->count) break;
    rules &= vtap_word(rows, page_table, from->all[i], word);
    if (!rules) return 0;
  }
  for (i = 0; i < VTAP_MAX_EITHER; i += 2) {
    if (i >= from->either_count) break;
    rules &= vtap_word(rows, page_table, from->either[i], word) |
             vtap_word(rows, page_table, from->either[i + 1], word);
  }
  return rules;
}

/* The policies of one word of a paged plan. Global functions, not static: so the verifier walks
 * them once, by themselves, and not once more for every state that a caller can be in. */
__noinline __u64 vtap_word_policies(struct vtap_cpu* cpu, __u32 number) {
  __u64 word = number & (VTAP_MAX_WORDS - 1);
  const __u64 *rows, *page_table;
  __u64 policies, top;
  __u32 zero = 0;

  if (!cpu) return 0; /* nobody does; a global function has to look */
  if (word >= config.classes.match_words || !config.classes.sum_words) return 0;
  rows = bpf_map_lookup_elem(&vectors, &zero);
  page_table = bpf_map_lookup_elem(&pages, &zero);
  if (!rows || !page_table) return 0;
  policies = vtap_rules(rows, page_table, &cpu->selection, word);
  if (!policies) return 0;
  if (!config.classes.except_words && !(config.filters && word < config.classes.early_words) &&
      !config.clones)
    return policies; /* that there are any is all that is asked */
  top = vtap_word(rows, page_table, vtap_row(config.classes.seg_top_class), word);
  policies = vtap_any(policies, top);
  if (config.classes.except_words) {
    word += config.classes.match_words;
    policies &= ~vtap_any(vtap_rules(rows, page_table, &cpu->selection, word), top);
    word -= config.classes.match_words;
  }
  if (config.filters && word < config.classes.early_words)
    policies &= ~cpu->rejected[word & (VTAP_EARLY_WORDS - 1)];
  return policies;
}

__noinline __u64 vtap_cloned(struct vtap_cpu* cpu, __u32 number) {
  const __u64 *rows, *page_table;
  __u32 zero = 0;

  if (!cpu || !config.classes.sum_words) return 0;
  rows = bpf_map_lookup_elem(&vectors, &zero);
  page_table = bpf_map_lookup_elem(&pages, &zero);
  if (!rows || !page_table) return 0;
  return vtap_word(rows, page_table, vtap_row(config.classes.cloned_class),
                   number & (VTAP_EARLY_WORDS - 1));
}

/* Whether any policy of the tap with this class takes the frame with cpu->key. */
__noinline int vtap_classify(struct vtap_cpu* cpu, __u32 tap_class) {
  struct vtap_paged selected;
  struct vtap_tables tables;
  __u64 words;
  __u32 sum, i;

  if (!cpu) return false;
  if (config.classes.match_words == 0) return false;

  if (!vtap_find_tables(&tables)) return false;
  if (!config.classes.sum_words)
    return vtap_wanted_flat(&tables, cpu, tap_class,
                            vtap_vector(&tables, config.classes.seg_top_class));
  selected.to = &cpu->selection;
  vtap_select_all((struct vtap_selected){.paged = &selected}, &tables, &cpu->key, tap_class);

  for (sum = 0; sum < VTAP_MAX_SUMS; sum++) {
    if (sum >= config.classes.sum_words) break;
    words = selected.sums[sum];
    for (i = 0; i < 64 && words; i++) {
      if (vtap_word_policies(cpu, sum * 64 + lowest_bit(words))) return true;
      words &= words - 1;
    }
  }
  return false;
}

/* The loops over a key are unrolled, and each mask is a constant to the verifier: of words that no
 * rule reads nothing is left. */

/* Word i of a key, as far as any rule reads it. */
static __always_inline __u64 vtap_key_word(const struct vtap_key* key, __u32 i, __u64 mask) {
  typedef __u64 __attribute__((may_alias)) word;

  return ((const word*)key)[i] & mask;
}

/* The slot of this CPU where the verdict belongs, or NULL, which cannot be. The hash is NH (Black
 * et al., UMAC, 1999) over halves of words, whose products do not wait for one another, and then
 * multiply-shift (Dietzfelbinger et al., 1997): for any two keys, however they were chosen, few
 * seeds have them share a slot. */
static __always_inline struct vtap_verdict* vtap_slot(const struct vtap_key* key, __u32 tap_class) {
  __u64 sum = tap_class * config.classes.cache_seeds[VTAP_KEY_WORDS];
  __u32 slots = config.classes.cache_slots;
  __u32 i, slot;

#pragma unroll
  for (i = 0; i < VTAP_KEY_WORDS; i++) {
    __u64 mask = config.classes.key_mask[i];
    __u64 word, seed;

    if (!mask) continue;
    word = vtap_key_word(key, i, mask);
    seed = config.classes.cache_seeds[i];
    sum += (__u64)((__u32)word + (__u32)seed) * ((__u32)(word >> 32) + (__u32)(seed >> 32));
  }
  sum ^= sum >> 32; /* else ports and addresses in a row lie in a row, some in few slots */
  sum *= config.classes.cache_multiplier;
  slot = bpf_get_smp_processor_id() * slots + (__u32)((sum >> 32) * slots >> 32);
  return bpf_map_lookup_elem(&verdicts, &slot);
}

/* Whether the slot holds the verdict on this key for this tap. */
static __always_inline bool vtap_holds(const struct vtap_verdict* verdict,
                                       const struct vtap_key* key, __u32 tap_class) {
  __u64 difference = verdict->owner ^ (tap_class + 1);
  const __u64* at = verdict->key;
  __u32 i;

#pragma unroll
  for (i = 0; i < VTAP_KEY_WORDS; i++) {
    __u64 mask = config.classes.key_mask[i];

    if (mask) difference |= *at++ ^ vtap_key_word(key, i, mask);
  }
  return !difference;
}

static __always_inline void vtap_keep(struct vtap_verdict* verdict, const struct vtap_key* key,
                                      __u32 tap_class, int wanted) {
  __u64* at = verdict->key;
  __u32 i;

  verdict->owner = tap_class + 1;
  verdict->wanted = wanted;
#pragma unroll
  for (i = 0; i < VTAP_KEY_WORDS; i++) {
    __u64 mask = config.classes.key_mask[i];

    if (mask) *at++ = vtap_key_word(key, i, mask);
  }
}

/* vtap_classify(), unless the answer is at hand. Entries are written and read without further ado,
 * as nothing else runs on this CPU between the lookup and the end (struct vtap_cpu). */
__noinline int vtap_recall(struct vtap_cpu* cpu, __u32 tap_class) {
  struct vtap_verdict* verdict;
  int wanted;

  if (!cpu || !config.classes.cache_slots) return false;
  verdict = vtap_slot(&cpu->key, tap_class);
  if (!verdict) return vtap_classify(cpu, tap_class);
  if (vtap_holds(verdict, &cpu->key, tap_class)) return verdict->wanted;
  wanted = vtap_classify(cpu, tap_class);
  vtap_keep(verdict, &cpu->key, tap_class, wanted);
  return wanted;
}

/* The same; what a filter says of a frame is not in its key. */
static __always_inline int vtap_wanted(struct vtap_cpu* cpu, __u32 tap_class) {
  return config.classes.cache_slots && !config.filters ? vtap_recall(cpu, tap_class)
                                                       : vtap_classify(cpu, tap_class);
}

enum { VTAP_FOR_BROKER = 1, VTAP_FOR_CLONE = 2 };

/* The policies of one of the first words: those to be cloned for stay in cpu->policies. */
static __always_inline int vtap_split(struct vtap_cpu* cpu, __u64 policies, __u64 cloned,
                                      __u64 word) {
  cpu->policies[word & (VTAP_EARLY_WORDS - 1)] = policies & cloned;
  return (policies & ~cloned ? VTAP_FOR_BROKER : 0) | (policies & cloned ? VTAP_FOR_CLONE : 0);
}

/*
 * The policies that take the frame with cpu->key: who serves any of them, VTAP_FOR_* together; for
 * flat plans and for paged ones. Global functions, each with a stack that fits below a caller's.
 * 6.1 walks both, also the one that this plan never calls; so each says what it is for.
 */
__noinline int vtap_policies_flat(struct vtap_cpu* cpu, __u32 tap_class) {
  struct vtap_flat selected;
  struct vtap_tables tables;
  const __u64 *tops, *cloned;
  int who = 0;
  __u32 j;

  if (!cpu || config.classes.sum_words || !vtap_find_tables(&tables)) return 0;
  tops = vtap_vector(&tables, config.classes.seg_top_class);
  cloned = vtap_vector(&tables, config.classes.cloned_class);
  vtap_select_all((struct vtap_selected){.flat = &selected}, &tables, &cpu->key, tap_class);
#pragma unroll
  for (j = 0; j < VTAP_FLAT_WORDS; j++) {
    if (j >= tables.words) break;
    who |= vtap_split(cpu, vtap_flat_policies(&tables, &selected, tops, cpu->rejected, j),
                      cloned[j], j);
  }
  return who;
}

/* The same of the words of the first sum, and of any other: who takes the frame there. Global
 * functions for the verifier again: 6.1 gives up where it has to walk these loops once for every
 * sum and every answer so far. */
__noinline int vtap_policies_of_first(struct vtap_cpu* cpu, __u64 words) {
  int who = 0;
  __u32 i;

  if (!cpu || !config.classes.sum_words) return 0;
  for (i = 0; i < 64 && words; i++) {
    __u32 word = lowest_bit(words);

    who |= vtap_split(cpu, vtap_word_policies(cpu, word), vtap_cloned(cpu, word), word);
    words &= words - 1;
  }
  return who;
}

__noinline int vtap_policies_of(struct vtap_cpu* cpu, __u64 words, __u32 sum) {
  __u32 i;

  if (!cpu || !config.classes.sum_words) return 0;
  for (i = 0; i < 64 && words; i++) {
    if (vtap_word_policies(cpu, sum * 64 + lowest_bit(words))) return VTAP_FOR_BROKER;
    words &= words - 1;
  }
  return 0;
}

__noinline int vtap_policies_paged(struct vtap_cpu* cpu, __u32 tap_class) {
  struct vtap_paged selected;
  struct vtap_tables tables;
  __u32 sum, i;
  int who;

  if (!cpu || !config.classes.sum_words || !vtap_find_tables(&tables)) return 0;
  selected.to = &cpu->selection;
  vtap_select_all((struct vtap_selected){.paged = &selected}, &tables, &cpu->key, tap_class);
  for (i = 0; i < VTAP_EARLY_WORDS; i++) {
    if (i >= config.classes.early_words) break;
    cpu->policies[i] = 0;
  }
  who = vtap_policies_of_first(cpu, selected.sums[0]);
  for (sum = 1; sum < VTAP_MAX_SUMS; sum++) {
    if (sum >= config.classes.sum_words) break;
    if (who & VTAP_FOR_BROKER) break; /* all that the others can say */
    who |= vtap_policies_of(cpu, selected.sums[sum], sum);
  }
  return who;
}

static __always_inline int vtap_policies(struct vtap_cpu* cpu, __u32 tap_class) {
  if (config.classes.match_words == 0) return 0;
  return config.classes.sum_words ? vtap_policies_paged(cpu, tap_class)
                                  : vtap_policies_flat(cpu, tap_class);
}

#endif
