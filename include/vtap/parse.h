/* SPDX-License-Identifier: (GPL-2.0 OR BSD-2-Clause) */
/*
 * The one frame parser: the BPF programs and the broker read frames with this code and no other.
 *
 * What is defined where frames are odd (docs/config.md refers to this list; "there" means inside
 * the frame and inside its first VTAP_WINDOW bytes):
 *
 *   runt        Fewer than 14 bytes: no MACs, no ethertype, nothing else; `length` still counts.
 *   tags        At most two, TPID 0x8100 or 0x88a8 in any mix. A tag is read if its TCI and the
 *               type behind it are there; otherwise its TPID is the ethertype. So is the TPID of a
 *               third tag. A priority tag is a tag with id 0.
 *   ethertype   The field behind the tags, whatever it holds (an 802.3 length is a value as well).
 *   IPv4        Ethertype 0x0800, version 4, IHL >= 5 and 20 bytes there; else the frame has no IP
 *               header: no addresses, proto, dscp, fragment. Options that are cut off: all of these
 *               are valid, but there is no L4 header.
 *   IPv6        Ethertype 0x86dd, version 6 and 40 bytes there; else no IP header, as above.
 *   extension   IPv6 hop-by-hop, routing, fragment, AH, destination options, mobility, HIP and
 *               shim6 headers are walked, VTAP_MAX_EXT_HEADERS of them at most; each is read if its
 *               first 8 bytes are there. `proto` is the next-header value at which the walk ends:
 *               the upper layer, or the type of the extension header that could not be read. IPv4
 *               walks nothing: AH is its `proto`.
 *   fragment    IPv4: offset or MF set. IPv6: a fragment header was read, so an atomic fragment
 *               (offset 0, M clear) counts. Fragments with an offset have no L4 header, and the
 *               walk of the extension headers ends there: `proto` is that fragment header's next
 *               header. A first fragment has its ports if they are there. `fragment_id` is the
 *               identification; of two IPv6 fragment headers, that of the second.
 *   ports       TCP, UDP, SCTP, if 4 bytes of the header are there. `tcp_flags` needs 14.
 *   lengths     IP total length, payload length and the UDP length are not consulted: the frame
 *               decides what is there, padding included, as in pcap-filter(7). `length` is the
 *               frame's own; VTAP_MAX_LENGTH stands for all longer ones.
 */
#ifndef VTAP_PARSE_H
#define VTAP_PARSE_H

#include <vtap/abi.h>

enum {
  VTAP_PARSE_DONE = 0,
  VTAP_PARSE_MORE = 1, /* the answer lies in bytes of the window that were not offered */

  /* In BPF the buffer is a map value of at least VTAP_WINDOW + VTAP_WINDOW_SLACK bytes: a read
   * starts inside the window as far as the verifier can see, and is no longer than this. */
  VTAP_WINDOW_SLACK = 64,
};

enum {
  VTAP_ETH_HLEN = 14,
  VTAP_TAG_LEN = 4,
  VTAP_IPV4_HLEN = 20,
  VTAP_IPV6_HLEN = 40,
  VTAP_EXT_HLEN = 8,
  VTAP_PORTS_LEN = 4,
  VTAP_TCP_FLAGS_AT = 13,

  VTAP_TPID_CTAG = 0x8100,
  VTAP_TPID_STAG = 0x88a8,
  VTAP_TYPE_IPV4 = 0x0800,
  VTAP_TYPE_IPV6 = 0x86dd,

  VTAP_PROTO_HOPOPTS = 0,
  VTAP_PROTO_TCP = 6,
  VTAP_PROTO_UDP = 17,
  VTAP_PROTO_ROUTING = 43,
  VTAP_PROTO_FRAGMENT = 44,
  VTAP_PROTO_AH = 51,
  VTAP_PROTO_DSTOPTS = 60,
  VTAP_PROTO_SCTP = 132,
  VTAP_PROTO_MOBILITY = 135,
  VTAP_PROTO_HIP = 139,
  VTAP_PROTO_SHIM6 = 140,
};

#define VTAP_INLINE static inline __attribute__((always_inline))

/* The bytes at hand. Positions in a frame are numbers, never pointers: the verifier follows bounds
 * of a number through spills and loops, and C++ has nothing to subtract. */
struct vtap_reader {
  const unsigned char* buf;
  __u32 avail;  /* bytes in buf */
  __u32 length; /* bytes of the frame */
  __u32 wanted; /* end of the read that failed, or 0; parsing a frame ends with the first */
};

/* Whether bytes [at, at + n) of the frame can be read, n > 0. */
VTAP_INLINE int vtap_has(struct vtap_reader* r, __u32 at, __u32 n) {
  if (at + n <= r->avail) return 1;
  r->wanted = at + n;
  return 0;
}

/* Whether a larger offer would have had what was wanted. Asked once, at the end: were it part of
 * vtap_has(), the verifier would walk the rest of the parser once for each answer. */
VTAP_INLINE int vtap_more(const struct vtap_reader* r) {
  if (r->wanted == 0 || r->wanted > r->length || r->wanted > VTAP_WINDOW) return VTAP_PARSE_DONE;
  return VTAP_PARSE_MORE;
}

/* Where the bytes are that vtap_has() found. */
VTAP_INLINE const unsigned char* vtap_at(const struct vtap_reader* r, __u32 at) {
#ifdef __bpf__
  /* vtap_has() compared a sum of two unknowns, from which the verifier learns nothing about `at`.
   * The mask changes no value; the empty asm keeps the compiler from proving that and dropping it.
   */
  asm volatile("" : "+r"(at));
  at &= VTAP_WINDOW - 1;
#endif
  return r->buf + at;
}

/* The same value, of which the verifier no longer knows anything. Else it walks everything behind
 * once more for each way that led here: tags or none, extension headers, what a length was compared
 * with. `length` serves as a number it knows nothing of. */
VTAP_INLINE __u32 vtap_forget(const struct vtap_reader* r, __u32 value) {
#ifdef __bpf__
  value -= r->length;
  asm volatile("" : "+r"(value));
  value += r->length;
#else
  (void)r;
#endif
  return value;
}

VTAP_INLINE __u16 vtap_be16(const unsigned char* p) { return (__u16)((p[0] << 8) | p[1]); }
VTAP_INLINE __u32 vtap_be32(const unsigned char* p) {
  return (__u32)vtap_be16(p) << 16 | vtap_be16(p + 2);
}

/* Copies n bytes, n even and constant. The BPF backend copies what it cannot prove aligned byte by
 * byte, though both machines of this project read unaligned words. */
VTAP_INLINE void vtap_copy(unsigned char* to, const unsigned char* from, __u32 n) {
#ifdef __bpf__
  typedef __u32 __attribute__((may_alias)) word;
  typedef __u16 __attribute__((may_alias)) half;
  __u32 i = 0;
#pragma unroll
  for (; i + 4 <= n; i += 4) *(word*)(to + i) = *(const word*)(from + i);
  if (i < n) *(half*)(to + i) = *(const half*)(from + i);
#else
  __builtin_memcpy(to, from, n);
#endif
}

VTAP_INLINE void vtap_key_clear(struct vtap_key* key, __u32 length) {
  __builtin_memset(key, 0, sizeof(*key));
  key->sport = VTAP_NO_PORT;
  key->dport = VTAP_NO_PORT;
  key->ethertype = VTAP_NO_ETHERTYPE;
  key->length = length < VTAP_MAX_LENGTH ? length : (__u32)VTAP_MAX_LENGTH;
  key->vlan = VTAP_NO_VLAN;
  key->inner_vlan = VTAP_NO_VLAN;
  key->proto = VTAP_NO_PROTO;
  key->tcp_flags = VTAP_NO_TCP_FLAGS;
  key->dscp = VTAP_NO_DSCP;
  key->fragment = VTAP_NO_FRAGMENT;
  key->family = VTAP_L3_NONE;
}

/* Steps over a tag, if `type` announces one. Returns its id or VTAP_NO_VLAN. */
VTAP_INLINE __u16 vtap_parse_tag(struct vtap_reader* r, __u32* at, __u16* type) {
  const unsigned char* tag;

  if (*type != VTAP_TPID_CTAG && *type != VTAP_TPID_STAG) return VTAP_NO_VLAN;
  if (!vtap_has(r, *at, VTAP_TAG_LEN)) return VTAP_NO_VLAN;
  tag = vtap_at(r, *at);
  *at += VTAP_TAG_LEN;
  *type = vtap_be16(tag + 2);
  return vtap_be16(tag) & 0x0fff;
}

VTAP_INLINE void vtap_parse_l4(struct vtap_reader* r, __u32 at, struct vtap_key* key) {
  const unsigned char* l4;

  if (key->proto != VTAP_PROTO_TCP && key->proto != VTAP_PROTO_UDP && key->proto != VTAP_PROTO_SCTP)
    return;
  if (!vtap_has(r, at, VTAP_PORTS_LEN)) return;
  l4 = vtap_at(r, at);
  key->sport = vtap_be16(l4);
  key->dport = vtap_be16(l4 + 2);
  if (key->proto == VTAP_PROTO_TCP && vtap_has(r, at, VTAP_TCP_FLAGS_AT + 1))
    key->tcp_flags = l4[VTAP_TCP_FLAGS_AT];
}

VTAP_INLINE void vtap_parse_ipv4(struct vtap_reader* r, __u32 at, struct vtap_key* key) {
  const unsigned char* ip;
  __u32 header;
  __u16 fragment;

  if (!vtap_has(r, at, VTAP_IPV4_HLEN)) return;
  ip = vtap_at(r, at);
  header = (__u32)(ip[0] & 0x0f) * 4;
  if (ip[0] >> 4 != 4 || header < VTAP_IPV4_HLEN) return;

  fragment = vtap_be16(ip + 6);
  key->family = VTAP_L3_IPV4;
  key->dscp = ip[1] >> 2;
  key->fragment = (fragment & 0x3fff) != 0; /* MF or an offset */
  key->proto = ip[9];
  vtap_copy(key->src, ip + 12, 4);
  vtap_copy(key->dst, ip + 16, 4);
  if (key->fragment) key->fragment_id = vtap_be16(ip + 4);
  if ((fragment & 0x1fff) == 0) vtap_parse_l4(r, at + header, key);
}

VTAP_INLINE int vtap_is_extension(__u8 proto) {
  switch (proto) {
    case VTAP_PROTO_HOPOPTS:
    case VTAP_PROTO_ROUTING:
    case VTAP_PROTO_FRAGMENT:
    case VTAP_PROTO_AH:
    case VTAP_PROTO_DSTOPTS:
    case VTAP_PROTO_MOBILITY:
    case VTAP_PROTO_HIP:
    case VTAP_PROTO_SHIM6:
      return 1;
    default:
      return 0;
  }
}

/* Bytes of the extension header at `ext` (RFC 8200 4, RFC 4302 2.2). */
VTAP_INLINE __u32 vtap_extension_length(__u8 type, const unsigned char* ext) {
  if (type == VTAP_PROTO_FRAGMENT) return VTAP_EXT_HLEN;
  if (type == VTAP_PROTO_AH) return ((__u32)ext[1] + 2) * 4;
  return ((__u32)ext[1] + 1) * 8;
}

VTAP_INLINE void vtap_parse_ipv6(struct vtap_reader* r, __u32 at, struct vtap_key* key) {
  const unsigned char* ip;
  __u16 offset = 0; /* of a fragment; behind one that is not the first, all is payload */
  __u8 fragment = 0;
  __u8 next;
  __u32 i;

  if (!vtap_has(r, at, VTAP_IPV6_HLEN)) return;
  ip = vtap_at(r, at);
  if (ip[0] >> 4 != 6) return;

  key->family = VTAP_L3_IPV6;
  key->dscp = (__u8)((vtap_be16(ip) >> 6) & 0x3f); /* the upper six bits of the traffic class */
  vtap_copy(key->src, ip + 8, 16);
  vtap_copy(key->dst, ip + 24, 16);

  next = ip[6];
  at += VTAP_IPV6_HLEN;
  for (i = 0; i < VTAP_MAX_EXT_HEADERS && offset == 0; i++) {
    const unsigned char* ext;
    __u8 type = next;

    if (!vtap_is_extension(type) || !vtap_has(r, at, VTAP_EXT_HLEN)) break;
    ext = vtap_at(r, at);
    next = ext[0];
    if (type == VTAP_PROTO_FRAGMENT) {
      fragment = 1;
      offset = vtap_be16(ext + 2) >> 3;
      key->fragment_id = vtap_be32(ext + 4);
    }
    at += vtap_extension_length(type, ext);
  }
  offset = (__u16)vtap_forget(r, offset);
  r->wanted = vtap_forget(r, r->wanted);
  key->fragment = fragment;
  key->proto = next;
  /* Finds nothing where an extension header ended the walk. */
  if (offset == 0) vtap_parse_l4(r, at, key);
}

/*
 * Reads the keys of a frame of `length` bytes on the wire, of which the first `avail` <=
 * min(length, VTAP_WINDOW) are in `buf`. Fills all of `key`. The result is defined by the whole
 * window; a caller for whom bytes are dear offers fewer at first and, on VTAP_PARSE_MORE, all of
 * them in a second call. VTAP_PARSE_DONE says that the whole window would give the same key.
 */
VTAP_INLINE int vtap_parse(const unsigned char* buf, __u32 avail, __u32 length,
                           struct vtap_key* key) {
  struct vtap_reader r;
  const unsigned char* eth;
  __u32 at = VTAP_ETH_HLEN;
  __u16 type;

  r.buf = buf;
  r.avail = avail;
  r.length = length;
  r.wanted = 0;

  vtap_key_clear(key, vtap_forget(&r, length));
  if (!vtap_has(&r, 0, VTAP_ETH_HLEN)) return vtap_more(&r);

  eth = vtap_at(&r, 0);
  key->mac = 1;
  vtap_copy(key->dmac, eth, 6);
  vtap_copy(key->smac, eth + 6, 6);
  type = vtap_be16(eth + 12);
  key->vlan = vtap_parse_tag(&r, &at, &type);
  key->inner_vlan = vtap_parse_tag(&r, &at, &type);
  key->ethertype = type;

  at = vtap_forget(&r, at);
  r.avail = vtap_forget(&r, r.avail);
  if (type == VTAP_TYPE_IPV4)
    vtap_parse_ipv4(&r, at, key);
  else if (type == VTAP_TYPE_IPV6)
    vtap_parse_ipv6(&r, at, key);
  return vtap_more(&r);
}

#endif
