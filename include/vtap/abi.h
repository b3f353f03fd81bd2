/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/*
 * The kernel boundary: every structure and number that the BPF programs and the broker both see.
 * C, self-contained, included by both sides; nothing here is written twice.
 */
#ifndef VTAP_ABI_H
#define VTAP_ABI_H

#include <linux/types.h>
#include <vtap/meter.h>

enum {
  VTAP_MAX_PORTS = 64,    /* tap ports of one broker */
  VTAP_MAX_QUEUES = 64,   /* RX queues of one tap port that may redirect */
  VTAP_RING_SLOTS = 4096, /* entries of a tee ring and of a free ring; power of two */
  VTAP_CACHE_LINE = 64,
  VTAP_MAX_FRAME_SIZE = 4096, /* bytes of a UMEM frame at most: AF_XDP's limit is a page */
  VTAP_MAX_MONITORS = 64,     /* monitors of one broker: a set of them is one 64-bit word */
  /* Frames of one super-packet. A stack's have at most 1365 (64 KB of net.ipv4.tcp_min_snd_mss),
   * ordinary ones 45; a virtual machine may ask for 64k, which the sender's CPU would have to make.
   */
  VTAP_MAX_CUT = 1024,
  VTAP_MAX_BROADCASTS = 256, /* sets of monitors, over all tap ports, that XDP broadcasts to */
  /* To broadcast a frame at XDP the kernel copies it, and the headroom before it, into a page,
   * where a device that makes an skb of it needs 320 bytes for struct skb_shared_info. Longer ones
   * it drops, the original among them. The headroom is 256 bytes and little more; kernels
   * before 6.2 do not show it. */
  VTAP_CLONE_ROOM = 4096 - 320,
  VTAP_CLONE_HEADROOM = 320,
};

/* ---------------------------------------------------------------- frame key: what a match reads */

enum {
  VTAP_WINDOW = 1024, /* headers are read in the first so many bytes of a frame, nowhere else */
  VTAP_MAX_EXT_HEADERS = 8,

  /* "absent" values: one past the largest value that a frame can carry, so that an index array has
   * a slot of its own for "this frame has none". */
  VTAP_NO_VLAN = 4096,
  VTAP_NO_PROTO = 256,
  VTAP_NO_DSCP = 64,
  VTAP_NO_TCP_FLAGS = 256,
  VTAP_NO_FRAGMENT = 2,
  VTAP_NO_ETHERTYPE = 65536,
  VTAP_NO_PORT = 65536,
  VTAP_MAX_LENGTH = 65535, /* longer frames have this length, to a match */

  /* Of a super-packet, before it is cut: what its frames will have is not known. A rule that asks
   * may match, an except rule that asks may not. */
  VTAP_ANY_LENGTH = 65536,
  VTAP_ANY_TCP_FLAGS = 257,
};

/* Which addresses the key holds. */
enum vtap_family { VTAP_L3_NONE = 0, VTAP_L3_IPV4 = 4, VTAP_L3_IPV6 = 6 };

/* What the keys of a match read in a frame; made once per frame by vtap_parse() (vtap/parse.h). */
struct vtap_key {
  __u8 src[16]; /* network order; IPv4 in the first four bytes, the rest zero */
  __u8 dst[16];
  __u8 smac[8]; /* six bytes and two zero ones: a 64-bit hash key; all zero and mac == 0: a runt */
  __u8 dmac[8];
  __u32 sport; /* host order or VTAP_NO_PORT */
  __u32 dport;
  __u32 ethertype; /* host order, behind at most two tags; VTAP_NO_ETHERTYPE for a runt */
  __u32 length;    /* bytes of the frame on the wire, tags and padding included, no FCS; at most
                      VTAP_MAX_LENGTH, or VTAP_ANY_LENGTH */
  __u16 vlan;      /* 0..4095 or VTAP_NO_VLAN */
  __u16 inner_vlan;
  __u16 proto;     /* 0..255 or VTAP_NO_PROTO */
  __u16 tcp_flags; /* the flags byte (CWR ECE URG ACK PSH RST SYN FIN) or VTAP_NO_TCP_FLAGS */
  __u8 dscp;       /* 0..63 or VTAP_NO_DSCP */
  __u8 fragment;   /* 0, 1 or VTAP_NO_FRAGMENT (no IP header) */
  __u8 family;     /* enum vtap_family */
  __u8 mac;        /* 1: smac and dmac are valid (the frame has at least 14 bytes) */
  /* Of a fragment: the identification that all fragments of its packet have; else 0. */
  __u32 fragment_id;
} __attribute__((aligned(8))); /* so that it is cleared by words */

enum { VTAP_KEY_WORDS = sizeof(struct vtap_key) / sizeof(__u64) };

/* ---------------------------------------------------------------- classification tables
 *
 * Every match and every except table of a policy is a rule. A rule owns a bit; dimension by
 * dimension the value in the frame selects a bit vector of the rules it satisfies, and the AND of
 * the vectors is the set of rules that the frame satisfies. Vectors are shared: a lookup yields a
 * class number, the index of a vector. Addresses, ports and MACs have two ends; there, class c
 * stands for three vectors: c + VTAP_AS_SRC, c + VTAP_AS_DST and c + VTAP_AS_EITHER:
 *
 *   rules = tap & S[src] & D[dst] & (E[src] | E[dst]) & ... & field[value] & ...
 *
 * A vector has `match_words` words for match rules, then `except_words` (equal to match_words, or
 * 0 when no policy has an except) for except rules. The rules of one policy lie side by side in a
 * segment of one word, its except rules in the same segment of the except word, and `seg_top` has
 * the highest bit of every segment set. So "any rule of the segment" is arithmetic:
 *
 *   any(x) = (x & top) | (((x & ~top) + ~top) & top)      (carries stay inside a segment)
 *   policies = any(match) & ~any(except)                  (a bit at the top of each segment)
 *
 * A policy with more than 64 match rules has several segments; its except rules (at most 64) stand
 * in each of them.
 *
 * How a vector is stored: a flat plan, of at most VTAP_FLAT_WORDS match words, stores its words. A
 * larger one is paged, and its match words are a multiple of 64: a vector is a row of `sum_words`
 * words with a bit for each match word that is not zero, and of the numbers (32 bits) of the pages
 * that hold its words, match and then except, VTAP_PAGE_WORDS each. Equal pages are stored once. A
 * lookup ANDs the sums, and visits only the words that are left (aggregated bit vectors; Baboescu,
 * Varghese 2001); rules that ask the same keys lie side by side, so that few are.
 *
 * Policies that the kernel has to tell apart, those that it serves and those with a filter, come
 * first, in the words below VTAP_EARLY_WORDS.
 */
enum {
  VTAP_AS_SRC = 0,
  VTAP_AS_DST = 1,
  VTAP_AS_EITHER = 2,
  VTAP_ENDS = 3,        /* vectors of a class of a two-ended dimension */
  VTAP_FLAT_WORDS = 2,  /* match words of a flat plan, at most */
  VTAP_MAX_WORDS = 512, /* match words of a plan: 32768 rules */
  VTAP_MAX_SUMS = VTAP_MAX_WORDS / 64,
  VTAP_EARLY_WORDS = 64,
  VTAP_PAGE_WORDS = 8, /* a cache line */
  /* Words of a stored vector, at most. */
  VTAP_MAX_STRIDE = VTAP_MAX_SUMS + 2 * VTAP_MAX_WORDS / VTAP_PAGE_WORDS / 2,
};

/* Dimensions that at least one rule of the plan uses; the others are skipped. The two-ended ones
 * have a bit per end, so that a plan of `dst` rules never looks at a source. */
enum {
  VTAP_DIM_HOST4 = 1 << 0, /* exact IPv4 addresses, in buckets */
  VTAP_DIM_TRIE4 = 1 << 1, /* IPv4 prefixes, and exact addresses if they are few */
  VTAP_DIM_HOST6 = 1 << 2,
  VTAP_DIM_LPM6 = 1 << 3,
  VTAP_DIM_PROTO = 1 << 4,
  VTAP_DIM_VLAN = 1 << 5,
  VTAP_DIM_INNER_VLAN = 1 << 6,
  VTAP_DIM_ETHERTYPE = 1 << 7,
  VTAP_DIM_TCP_FLAGS = 1 << 8,
  VTAP_DIM_DSCP = 1 << 9,
  VTAP_DIM_FRAGMENT = 1 << 10,
  VTAP_DIM_LENGTH = 1 << 11,

  VTAP_DIM_ADDR = 16, /* shifts: (VTAP_ENDS_* << VTAP_DIM_ADDR) */
  VTAP_DIM_PORT = 20,
  VTAP_DIM_MAC = 24,

  VTAP_ENDS_SRC = 1 << VTAP_AS_SRC,
  VTAP_ENDS_DST = 1 << VTAP_AS_DST,
  VTAP_ENDS_EITHER = 1 << VTAP_AS_EITHER, /* host, port or mac */
  VTAP_ENDS_ANY = 7,
};

/* Class of every value of the dimensions that are small enough to be indexed. Class numbers are
 * 16 bits here; a plan that needs more is refused. Slots VTAP_NO_* hold the class of "absent". */
struct vtap_fields {
  __u16 port[65536 + 8]; /* two-ended: class c is that of the vectors from first_port + VTAP_ENDS *
                            c on; [VTAP_NO_PORT]: no L4 header in this frame */
  __u16 ethertype[65536 + 8];
  __u16 length[65536 + 8]; /* [VTAP_ANY_LENGTH]: a super-packet */
  __u16 vlan[4096 + 8];
  __u16 inner_vlan[4096 + 8];
  __u16 proto[256 + 8];
  __u16 tcp_flags[256 + 8]; /* [VTAP_ANY_TCP_FLAGS]: a super-packet */
  __u16 dscp[64 + 8];
  __u16 fragment[8];
};

/*
 * Class of every IPv4 address: a trie with steps of 16, 8 and 8 bits, in two arrays. An entry is a
 * class, or VTAP_TRIE4_BLOCK and the number of a block for the next eight bits. At most three
 * dependent reads, no hashing, and no lookup call in BPF.
 */
enum {
  VTAP_TRIE4_ROOT = 65536,    /* entries of the root: the address's first two bytes */
  VTAP_TRIE4_FAN_OUT = 256,   /* entries of a block */
  VTAP_TRIE4_BLOCK = 1 << 30, /* flag of an entry */
  /* Exact addresses in the trie. When there are more, they are in buckets: the trie takes up to two
   * kilobytes for each. */
  VTAP_TRIE4_MAX_HOSTS = 4096,
};

struct vtap_trie4_root {
  __u32 entry[VTAP_TRIE4_ROOT];
};
struct vtap_trie4_block {
  __u32 entry[VTAP_TRIE4_FAN_OUT];
};

/* Exact IPv4 addresses by their hash: none has more than one bucket to be in, and a bucket is a
 * cache line. Places that are free have number VTAP_NO_CLASS. */
enum { VTAP_BUCKET4_PLACES = 8, VTAP_NO_CLASS = 0x7fffffff };

struct vtap_bucket4 {
  __u32 addr[VTAP_BUCKET4_PLACES]; /* as it is in memory */
  __u32 number[VTAP_BUCKET4_PLACES];
};

/* Bucket of an address; `buckets` is a power of two. */
static inline __attribute__((always_inline)) __u32 vtap_bucket4_of(__u32 addr, __u64 seed,
                                                                   __u32 buckets) {
  return (__u32)((addr + 1) * seed >> 32) & (buckets - 1);
}

struct vtap_lpm6_key {
  __u32 prefixlen;
  __u8 addr[16];
};

/* The classification part of a program's constants. Default classes are those of values that no
 * entry of the dimension's map covers. */
struct vtap_class_config {
  __u32 dims;          /* VTAP_DIM_*, VTAP_ENDS_* << VTAP_DIM_* */
  __u32 match_words;   /* 1..VTAP_MAX_WORDS; 0: no policy on any tap */
  __u32 except_words;  /* match_words or 0 */
  __u32 default_addr;  /* address in no map, or no IP header at all */
  __u32 default_mac;   /* MAC not in the map, or a runt */
  __u32 seg_top_class; /* vector number of the seg_top words (match_words of them) */
  /* Sizes of tables, rounded up to powers of two: numbers are masked, and the verifier content. */
  __u32 row_words;     /* words of all vectors */
  __u32 trie4_entries; /* root and blocks */
  __u32 cloned_class;  /* vector number: seg_top bits of the policies that the kernel serves */
  __u32 sum_words;     /* of a paged plan; 0: flat */
  __u32 pages;         /* rounded up to a power of two, as above */
  __u32 first_port;    /* vector number of the first class of ports */
  __u32 buckets4;      /* a power of two */
  __u32 early_words;   /* match words with policies that the kernel tells apart */
  __u32 stride;        /* words of a stored vector */
  __u32 cache_slots;   /* of each CPU, for recent verdicts; 0: none are kept */
  __u64 bucket4_seed;
  /* The bits of a frame's key that any rule reads, as it is in memory: frames of a tap that are
   * equal there have the same policies. */
  __u64 key_mask[VTAP_KEY_WORDS];
  /* Random: which frames share a slot of the cache is not for a sender to know. */
  __u64 cache_seeds[VTAP_KEY_WORDS + 1]; /* of the words of a key, and of the tap's class */
  __u64 cache_multiplier;                /* odd */
};

/* A recent verdict: whether a policy of a tap takes the frames with this key. Of the key only the
 * words of which key_mask has a bit, one behind the other, and no room for more: with the usual
 * ones it fills a cache line. */
struct vtap_verdict {
  __u32 owner; /* tap_class + 1; 0: free */
  __u32 wanted;
  __u64 key[VTAP_KEY_WORDS];
};

/* With as many active flows, two thirds of the frames are found; a CPU's part has 256 KB, or 512
 * where rules read more of a key than one line holds. */
enum { VTAP_CACHE_SLOTS = 4096 };

/* ---------------------------------------------------------------- tee rings */

enum {
  VTAP_DESC_CSUM_PARTIAL = 1 << 0, /* finish the checksum: csum_start and csum_offset are valid */
  VTAP_DESC_CSUM_UNKNOWN = 1 << 1, /* this kernel does not tell; look at the pseudo-header sum */
  VTAP_DESC_TIMED = 1 << 2,        /* `time` is the clock's, CLOCK_MONOTONIC ns, when it was made */
};

/* Of the copies in a tee ring, the first and then each so many-th is VTAP_DESC_TIMED; power of two.
 * The others may bear an older time, see struct vtap_cpu, maker. */
enum { VTAP_TIMED_EVERY = 64 };

enum {
  VTAP_NO_MAKER = 0,
  VTAP_MANY_MAKERS = 0x7fffffff, /* until the broker sees that one alone is left */
};

/* One copy on its way to the broker. */
struct vtap_desc {
  __u64 time;        /* order among the copies of several CPUs: see struct vtap_cpu, maker */
  __u32 frame;       /* number of the UMEM frame; the copy starts at its first byte */
  __u32 generation;  /* of the plan that selected it */
  __u16 len;         /* bytes */
  __u16 csum_start;  /* offset in the copy from which the checksum is taken */
  __u16 csum_offset; /* offset of the field from csum_start */
  __u8 port;         /* tap port index */
  __u8 flags;        /* VTAP_DESC_* */
};

/* Counters of one tap port on one CPU; written by the programs only, never reset. A super-packet
 * (GSO) counts as its segments, its bytes as the kernel holds them. */
struct vtap_port_counters {
  __u64 rx_frames;
  __u64 rx_bytes;
  __u64 forwarded; /* verdict: inline redirect to the other port */
  __u64 passed;    /* verdict: up the stack */
  __u64 consumed;  /* verdict: span frame taken or dropped */
  __u64 to_broker; /* verdict: inline original into an AF_XDP ring (capture redirect) */
  __u64 matched;
  __u64 copied;        /* tee: descriptor published; redirect: frame sent into an AF_XDP ring */
  __u64 no_free_frame; /* tee: copies missed because the broker gave no frame */
  __u64 ring_full;
  __u64 too_long;     /* the frame does not fit a UMEM frame */
  __u64 super_packet; /* only the kernel can cut or complete it, and there is no leg; or into more
                       * than VTAP_MAX_CUT */
  __u64 load_failed;  /* headers could not be read, so nothing matched; should stay zero */
  __u64 no_output;    /* inline: no device behind the output slot; the original is lost */
  __u64 no_socket;    /* redirect: matched, but no socket was there; plain path, no copy */
  __u64 stale_worker; /* redirect: matched, but its worker hangs; plain path, no copy */
  __u64 copy_failed;  /* tee: packet not readable, or no such frame; should stay zero */
  __u64 leg_seen;     /* frames that came out of the leg */
  __u64 leg_lost;     /* frames that did not, of packets that were cloned to it */
  __u64 own_copies;   /* copies that came back: not looked at, passed on */
};

enum {
  VTAP_TWO_ENDED = 3, /* dimensions: addresses, ports, MACs */
  VTAP_ONE_ENDED = 8,
  VTAP_MAX_SELECTED = 1 + 2 * VTAP_TWO_ENDED + VTAP_ONE_ENDED,
  VTAP_MAX_EITHER = 2 * VTAP_TWO_ENDED,
};

/* The vectors that a frame selects, of a paged plan: at which word of the table they are. */
struct vtap_selection {
  __u32 count;
  __u32 either_count;
  __u32 all[VTAP_MAX_SELECTED + 1]; /* ANDed, the tap's among them */
  __u32 either[VTAP_MAX_EITHER];    /* pairs: ORed, then ANDed */
};

/* A walk over the policies of a packet that the kernel serves, and over their monitors, a step at a
 * time (xdp/placed.bpf.h). */
struct vtap_walk {
  __u64 frames, bytes; /* of the packet, on the wire */
  __u64 monitors;      /* that have it so far */
  __u64 left;          /* monitors of the policy at hand that are still to be counted */
  __u64 bits;          /* policies of the word at hand that are still to come */
  __u32 word;          /* the next one */
  __u32 pair;          /* the next one of the policy at hand */
  __u32 policy;        /* at hand */
  __u32 slice;         /* bytes that it keeps of the copy; 0: all */
  __u64 now;           /* CLOCK_MONOTONIC, ns; 0: nobody has asked */
  __u64 cut;           /* monitors that get a part only */
  /* Of those that have the packet: bytes of their copy; 0: all. Only where config.slots. */
  __u16 kept[VTAP_MAX_MONITORS];
};

/*
 * Per possible CPU: two single-producer single-consumer rings and the counters. Lives in a
 * mmapable array map. The program side runs with bottom halves off and so is never preempted by
 * another program on its CPU. Indexes count freely and are masked on use.
 */
struct vtap_cpu {
  /* written by the programs */
  __u32 desc_prod; /* published by a fetching atomic exchange: a full barrier on every machine */
  __u32 free_cons;
  __u32 desc_cons_seen; /* private to the programs: last value read of the other side */
  __u32 free_prod_seen;
  __u64 time; /* private to the programs: of the last copy */
  __u32 lead; /* written by the broker before the start: the CPU whose `maker` counts here */
  __u8 pad0[VTAP_CACHE_LINE - 28];
  /* written by the broker */
  __u32 desc_cons;
  __u32 free_prod;
  __u8 pad1[VTAP_CACHE_LINE - 8];
  /* written by the broker before it sleeps, cleared by the program that rings the doorbell; on a
   * line of its own, as the programs read it for every copy */
  __u32 sleeping;
  __u8 pad2[VTAP_CACHE_LINE - 4];
  /* Who makes copies for one worker: VTAP_NO_MAKER, a CPU's number + 1, or VTAP_MANY_MAKERS. Only
   * the one of the worker's lead CPU counts. A CPU that finds itself here stands alone, and stamps
   * with the time of its last copy, but now and then (VTAP_TIMED_EVERY); else it reads the clock
   * (CLOCK_MONOTONIC, ns), and says so here. So stamps grow from copy to copy where one caused the
   * other, and a sole maker needs no clock. */
  __u32 maker;
  __u8 pad3[VTAP_CACHE_LINE - 4];
  struct vtap_port_counters port[VTAP_MAX_PORTS];
  __u32 free_ring[VTAP_RING_SLOTS]; /* frame numbers, broker to program */
  struct vtap_desc desc_ring[VTAP_RING_SLOTS];
  __u8 headers[VTAP_WINDOW + 64]; /* private to the programs: what parser and filters read */
  /* For the filters: bytes of the frame, those of it in headers, and whether its checksum may be
   * unfinished; and from them: seg_top bits of the policies whose filter rejects the frame. */
  __u32 frame_length;
  __u32 available;
  __u32 unfinished;
  __u32 reserved;
  __u64 rejected[VTAP_EARLY_WORDS];
  struct vtap_key key;              /* private to the programs */
  struct vtap_selection selection;  /* private to the programs */
  __u64 policies[VTAP_EARLY_WORDS]; /* private to the programs: seg_top bits of those that clone */
  struct vtap_walk walk;            /* private to the programs */
};

/* What the raw tracepoints count of redirects that the kernel could not finish, per tap port from
 * which the frame came. One per CPU. */
struct vtap_redirect_errors {
  __u64 tx_failed;
  __u64 too_long;      /* longer than the output's MTU allows */
  __u64 rx_ring_full;  /* AF_XDP RX ring full */
  __u64 no_free_frame; /* AF_XDP fill ring empty */
  __u64 xsk_too_long;  /* does not fit an AF_XDP frame; should stay zero */
  __u64 no_socket;     /* AF_XDP socket closed, or of another port or queue */
};

/* ---------------------------------------------------------------- copies as packets
 *
 * The mark of every packet that is a copy: what the kernel clones, and what the broker sends by an
 * AF_XDP socket in copy mode: VTAP_MARK << VTAP_MARK_SHIFT, and below it, for the leg, the tap
 * port and whether the kernel serves the packet, too. It stays on the packet within its network
 * namespace; a tap that finds it passes the packet on and copies nothing.
 */
enum {
  VTAP_MARK = 0x767461, /* "vta" */
  VTAP_MARK_SHIFT = 8,
  VTAP_MARK_CLONED = 1 << 7,
};

/* What the leg's program has to know of a tap port. */
struct vtap_leg_port {
  __u32 tap_class;
  __u32 match_all;
};

/* ---------------------------------------------------------------- policies placed in the kernel */

/* By the number of a seg_top bit: its policy, and where that one's copies go. The counters for its
 * i-th monitor, by number, are those of pair first_pair + i. */
struct vtap_placed {
  __u64 monitors; /* set */
  __u32 first_pair;
  __u32 policy;
  __u32 limits; /* its sampler and meter: number among struct vtap_limits + 1; 0: it has none */
  __u32 slice;  /* bytes of the frame that the copy keeps; 0: all */
};

/*
 * Sampler and meter of a policy, for all CPUs together. What changes is on a cache line of its own,
 * and changes by compare-and-swap (buckets) or fetch-and-add (samplers).
 */
struct vtap_limits {
  /* written by the broker before the start */
  __u64 one_in;        /* of all packets; 0: all */
  __u64 exceed_one_in; /* of those above the rate; 0: none */
  __u32 metered;       /* there is a rate */
  __u32 peaked;        /* there is a peak rate */
  struct vtap_bucket rate;
  struct vtap_bucket peak;
  __u8 pad0[2 * VTAP_CACHE_LINE - 24 - 2 * sizeof(struct vtap_bucket)];
  /* written by the programs */
  __s64 rate_full_at; /* ticks of the kernel's own clock; 0, the start, is a full bucket */
  __s64 peak_full_at;
  __u64 offered;  /* packets that came to be sampled */
  __u64 exceeded; /* packets above the rate that came to be sampled */
  __u8 pad1[VTAP_CACHE_LINE - 32];
};

/* Per CPU and policy, frames and bytes as they are on the wire. */
struct vtap_placed_counters {
  __u64 matched_frames;
  __u64 matched_bytes;
  __u64 dropped_sample; /* frames, as all that follow */
  __u64 dropped_meter;
  __u64 green;
  __u64 yellow;
  __u64 red;
};

/* Per CPU, policy and monitor. */
struct vtap_pair_counters {
  __u64 sent_frames;
  __u64 sent_bytes;
  __u64 already_sent;
};

/* Per monitor: its port. */
struct vtap_monitor_link {
  __u32 ifindex;   /* 0: down */
  __u32 has_queue; /* it has a queueing discipline; else what is refused the device itself counts */
  __u32 longest;   /* bytes of a frame that XDP redirects there, at most; 0: it takes none */
};

/* Why a monitor does not get a copy that a policy counted as sent to it. */
enum vtap_lost {
  VTAP_LOST_DOWN,         /* no device was there */
  VTAP_LOST_FAILED,       /* not taken, and the device has not counted it */
  VTAP_LOST_TOO_LONG,     /* XDP: longer than what its port takes */
  VTAP_LOST_NO_XMIT,      /* XDP: its port takes no frame that XDP redirects */
  VTAP_LOST_NOT_CLONED,   /* XDP: the kernel cannot clone a frame of this length */
  VTAP_LOST_NO_BROADCAST, /* XDP: the original's output takes none, or not of this length */
  VTAP_LOST_REASONS = 8,  /* a power of two: numbers are masked */
};

/* Per CPU and monitor, by reason: frames and bytes that were not sent. */
struct vtap_clone_counters {
  __u64 frames[VTAP_LOST_REASONS];
  __u64 bytes[VTAP_LOST_REASONS];
};

/* Where an XDP tap port sends a frame and its copies at once: a DEVMAP with the port's output, if
 * it is inline, and the ports of the monitors. */
struct vtap_broadcast {
  __u64 monitors; /* set */
  __u32 port;     /* index of the tap port */
  __u32 reserved;
};

/* What travels before a frame that is broadcast, if some monitor gets a part of it only. Clones
 * have it, too; the program of the DEVMAP's entry carries it out and takes it away
 * (xdp/edit.bpf.c). Kernels before 6.8 have room for 32 bytes. */
enum { VTAP_EDIT_MAGIC = 0x76746170 /* "vtap" */, VTAP_EDIT_SLOTS = 12 };

struct vtap_edit {
  __u16 length[VTAP_EDIT_SLOTS]; /* by slot: bytes that are left; 0: all */
  __u32 magic;
  __u32 reserved;
};

/* ---------------------------------------------------------------- program constants */

enum vtap_mode { VTAP_MODE_INLINE = 0, VTAP_MODE_HOST = 1, VTAP_MODE_SPAN = 2 };
enum vtap_capture { VTAP_CAPTURE_TEE = 0, VTAP_CAPTURE_REDIRECT = 1, VTAP_CAPTURE_CLONE = 2 };

/* The programs of a port that has filters, behind the first. */
enum { VTAP_CHAIN_FILTERS = 0, VTAP_CHAIN_FILTERED = 1, VTAP_CHAIN_LENGTH = 2 };

/* Constants of one program, one program per tap port; the verifier folds them. */
struct vtap_port_config {
  __u32 port; /* index of the counters */
  __u32 mode;
  __u32 capture;
  __u32 out_ifindex;    /* inline */
  __u32 unmatched_drop; /* span */
  __u32 frame_size;     /* bytes of a UMEM frame; power of two */
  __u32 frames;
  __u32 generation;
  __u32 match_all;  /* some policy of the broker takes every frame of this tap: no need to look */
  __u32 match_none; /* no policy of the broker on this tap */
  __u32 clones;     /* a policy on this tap is served by the kernel */
  __u32 tap_class;  /* vector of the rules that apply to this tap */
  __u32 filters;    /* a generated program judges the filters of policies on this tap */
  __u32 by_stack; /* inline at XDP: originals go on by the kernel's stack, where a wire at TC is */
  __u32 leg_ifindex;     /* TC: where packets go that only the kernel can cut; 0: nowhere */
  __u32 usual_broadcast; /* XDP: number of the DEVMAP of usual_set */
  __u64 stale_ns;        /* redirect: plain path when the heartbeat is older */
  __u64 usual_set;       /* XDP: monitors of most broadcasts, perhaps */
  __u32 slots;           /* XDP: monitors to which policies of the kernel send parts of frames */
  __u8 slot_monitor[VTAP_EDIT_SLOTS];
  struct vtap_class_config classes;
};

#endif
