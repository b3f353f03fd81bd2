// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <random>
#include <string>

#include "plan/key_mask.hpp"
#include "plan/layout.hpp"
#include "plan/plan.hpp"
#include "plan/trie4.hpp"
#include "plan/vector_pool.hpp"

namespace vtap::plan {
namespace {

using config::Match;
using config::Range;
using Ranges = std::vector<Range>;

constexpr std::uint32_t kMaxFieldClass = 0xffff;  // vtap_fields holds 16 bits
constexpr std::array kEnds{VTAP_AS_SRC, VTAP_AS_DST, VTAP_AS_EITHER};

/// What a key of a match asks of one end of a one- or two-ended field. Empty: the key is absent.
using RangesOf = Ranges (*)(const Match&);

/// A dimension whose values are small enough to index an array.
struct Field {
  const char* name;
  std::uint16_t* class_of;
  std::uint32_t values;  ///< entries of class_of in use, that of "absent" included
  struct End {
    std::uint32_t dim;  ///< bit of vtap_class_config::dims
    RangesOf ranges;
  };
  std::vector<End> ends;  ///< one, or three in the order of VTAP_AS_*
  /// Index of "may be any of them", what a super-packet has; 0: none, it always is known.
  std::uint32_t any = 0;
  std::uint32_t first = 0;  ///< vector number of class 0
};

/// A key of an exact or longest-prefix dimension, and a rule bit that it sets.
struct Entry {
  Address6 bytes{};
  std::uint32_t length = 0;  ///< bits
  std::uint32_t bit = 0;

  [[nodiscard]] bool same_prefix(const Entry& other) const {
    return bytes == other.bytes && length == other.length;
  }
};

/// Whether `outer` covers `inner`; bits behind a prefix are zero.
bool covers(const Entry& outer, const Entry& inner) {
  if (outer.length > inner.length) return false;
  const std::size_t whole = outer.length / 8;
  if (!std::equal(outer.bytes.begin(), outer.bytes.begin() + whole, inner.bytes.begin()))
    return false;
  const auto mask = static_cast<std::uint8_t>(0xff00U >> (outer.length % 8));
  return mask == 0 || ((outer.bytes[whole] ^ inner.bytes[whole]) & mask) == 0;
}

/// Sorted, disjoint, inside [0, last].
Ranges normalised(Ranges ranges, std::uint32_t last) {
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return a.first < b.first; });
  Ranges merged;
  for (Range range : ranges) {
    range.last = std::min(range.last, last);
    if (range.first > range.last) continue;
    if (!merged.empty() && range.first <= merged.back().last + 1)
      merged.back().last = std::max(merged.back().last, range.last);
    else
      merged.push_back(range);
  }
  return merged;
}

/// The flags bytes that satisfy any of the conditions, as ranges.
Ranges flag_ranges(const std::vector<config::TcpFlags>& conditions) {
  Ranges ranges;
  for (std::uint32_t flags = 0; flags < VTAP_NO_TCP_FLAGS; ++flags) {
    const bool holds = std::any_of(conditions.begin(), conditions.end(),
                                   [&](const auto& c) { return (flags & c.mask) == c.value; });
    if (holds) ranges.push_back({flags, flags});
  }
  return ranges;
}

Ranges fragment_range(const Match& match) {
  if (!match.fragment) return {};
  const std::uint32_t value = *match.fragment ? 1 : 0;
  return {{value, value}};
}

std::vector<Field> fields_of(vtap_fields& tables) {
  const auto one = [](std::uint32_t dim, RangesOf ranges) {
    return std::vector<Field::End>{{dim, ranges}};
  };
  return {
      {"ethertype", tables.ethertype, VTAP_NO_ETHERTYPE + 1,
       one(VTAP_DIM_ETHERTYPE, [](const Match& m) { return m.ethertype; })},
      {"length", tables.length, VTAP_MAX_LENGTH + 1,
       one(VTAP_DIM_LENGTH, [](const Match& m) { return m.length; }), VTAP_ANY_LENGTH},
      {"vlan", tables.vlan, VTAP_NO_VLAN + 1,
       one(VTAP_DIM_VLAN, [](const Match& m) { return m.vlan; })},
      {"inner_vlan", tables.inner_vlan, VTAP_NO_VLAN + 1,
       one(VTAP_DIM_INNER_VLAN, [](const Match& m) { return m.inner_vlan; })},
      {"proto", tables.proto, VTAP_NO_PROTO + 1,
       one(VTAP_DIM_PROTO, [](const Match& m) { return m.proto; })},
      {"tcp_flags", tables.tcp_flags, VTAP_NO_TCP_FLAGS + 1,
       one(VTAP_DIM_TCP_FLAGS, [](const Match& m) { return flag_ranges(m.tcp_flags); }),
       VTAP_ANY_TCP_FLAGS},
      {"dscp", tables.dscp, VTAP_NO_DSCP + 1,
       one(VTAP_DIM_DSCP, [](const Match& m) { return m.dscp; })},
      {"fragment", tables.fragment, VTAP_NO_FRAGMENT + 1, one(VTAP_DIM_FRAGMENT, fragment_range)},
      {"port",
       tables.port,
       VTAP_NO_PORT + 1,
       {{VTAP_ENDS_SRC << VTAP_DIM_PORT, [](const Match& m) { return m.src_port; }},
        {VTAP_ENDS_DST << VTAP_DIM_PORT, [](const Match& m) { return m.dst_port; }},
        {VTAP_ENDS_EITHER << VTAP_DIM_PORT, [](const Match& m) { return m.port; }}}},
  };
}

/// Fills one Tables from one Layout; used once.
class Compiler {
 public:
  Compiler(const config::Config& config, std::vector<Placement> placements, Layout layout)
      : config_(config),
        layout_(std::move(layout)),
        words_(layout_.match_words + layout_.except_words),
        constrained_(layout_.rules.size(), false),
        pool_(tables_.vectors, tables_.pages, layout_.match_words, layout_.except_words) {
    tables_.fields = std::make_unique<vtap_fields>();
    tables_.taps.resize(config.taps.size());
    tables_.placements = std::move(placements);
    tables_.config.stride = VectorPool::stored_words(layout_.match_words, layout_.except_words);
    tables_.config.match_words = layout_.match_words;
    tables_.config.except_words = layout_.except_words;
    tables_.config.sum_words = layout_.paged() ? layout_.match_words / 64 : 0;
    tables_.config.early_words = layout_.early_words;
    tables_.judged = layout_.judged;
  }

  Result<Tables> compile() && {
    // Fields first, as their class numbers must be small; of ports, which may have many, last.
    for (Field& field : fields_of(*tables_.fields)) {
      if (field.ends.size() > 1) field.first = tables_.config.first_port = tables_.vector_count();
      if (auto done = compile_field(field); !done) return done.error();
    }
    compile_addresses();
    compile_macs();
    compile_segments();
    for (std::uint32_t tap = 0; tap < config_.taps.size(); ++tap) compile_tap(tap);
    tables_.config.row_words = std::bit_ceil(static_cast<std::uint32_t>(tables_.vectors.size()));
    tables_.config.pages =
        std::bit_ceil(static_cast<std::uint32_t>(tables_.pages.size() / VTAP_PAGE_WORDS));
    const auto blocks = static_cast<std::uint32_t>(tables_.trie4_blocks.size());
    tables_.config.trie4_entries = std::bit_ceil(VTAP_TRIE4_ROOT + blocks * VTAP_TRIE4_FAN_OUT);
    std::ranges::copy(key_mask(tables_.config.dims), tables_.config.key_mask);
    set_up_cache();
    return std::move(tables_);
  }

 private:
  /// Flat plans are about as fast as a cache.
  void set_up_cache() {
    if (!layout_.paged()) return;
    vtap_class_config& config = tables_.config;
    config.cache_slots = VTAP_CACHE_SLOTS;
    std::random_device random;
    std::uniform_int_distribution<std::uint64_t> any;
    std::ranges::generate(config.cache_seeds, [&] { return any(random); });
    config.cache_multiplier = any(random) | 1;
  }

  using Vector = std::vector<std::uint64_t>;

  static void set(Vector& vector, std::uint32_t bit) {
    vector[bit / 64] |= std::uint64_t{1} << (bit % 64);
  }
  static void flip(Vector& vector, std::uint32_t bit) {
    vector[bit / 64] ^= std::uint64_t{1} << (bit % 64);
  }

  /// Position of a rule in a vector that stands at place `end` of a triple (or alone, end 0).
  [[nodiscard]] std::uint32_t bit_at(std::size_t rule, std::size_t end) const {
    const Layout::Rule& r = layout_.rules[rule];
    const std::uint32_t word = r.except ? layout_.match_words : 0;
    return (static_cast<std::uint32_t>(end) * words_ + word) * 64 + r.bit;
  }

  [[nodiscard]] bool in_kernel(std::uint32_t policy) const {
    return tables_.placements[policy] == Placement::kernel;
  }

  void use(std::size_t rule, std::uint32_t dim) {
    constrained_[rule] = true;
    tables_.config.dims |= dim;
  }

  /// Of a dimension whose vectors are numbered from `first` on, `each` to a class.
  Result<std::uint16_t> class_of(const Field& field, const Vector& vector) {
    const std::uint32_t number = pool_.add(vector);
    const auto each = static_cast<std::uint32_t>(field.ends.size());
    const std::uint32_t found = (number - field.first) / each;
    if (found > kMaxFieldClass) return too_many_classes(field);
    return static_cast<std::uint16_t>(found);
  }

  /// Sweeps over the values; the vector changes only where a range of some rule begins or ends.
  Result<void> compile_field(const Field& field) {
    struct Edge {
      std::uint32_t value;
      std::uint32_t bit;
    };
    std::vector<Edge> edges;
    Vector current(field.ends.size() * words_);
    for (std::size_t rule = 0; rule < layout_.rules.size(); ++rule) {
      for (std::size_t end = 0; end < field.ends.size(); ++end) {
        const Ranges ranges = field.ends[end].ranges(*layout_.rules[rule].match);
        const std::uint32_t bit = bit_at(rule, end);
        if (ranges.empty()) {
          set(current, bit);
          continue;
        }
        use(rule, field.ends[end].dim);
        for (const Range& range : normalised(ranges, field.values - 1)) {
          edges.push_back({range.first, bit});
          edges.push_back({range.last + 1, bit});
        }
      }
    }
    if (edges.empty()) return {};  // no rule uses it, nobody will look
    if (field.any != 0) {
      // A rule that asks may be satisfied; an except rule only counts when it surely is.
      Vector any = current;
      for (std::size_t rule = 0; rule < layout_.rules.size(); ++rule) {
        if (!layout_.rules[rule].except) set(any, bit_at(rule, 0));
      }
      auto number = class_of(field, any);
      if (!number) return number.error();
      field.class_of[field.any] = *number;
    }

    std::sort(edges.begin(), edges.end(),
              [](const Edge& a, const Edge& b) { return a.value < b.value; });
    auto edge = edges.begin();
    for (std::uint32_t value = 0; value < field.values;) {
      for (; edge != edges.end() && edge->value == value; ++edge) flip(current, edge->bit);
      const std::uint32_t next =
          edge == edges.end() ? field.values : std::min(edge->value, field.values);
      auto number = class_of(field, current);
      if (!number) return number.error();
      std::fill(field.class_of + value, field.class_of + next, *number);
      value = next;
    }
    return {};
  }

  [[nodiscard]] Error too_many_classes(const Field& field) const {
    return {config_.file + ": the policies tell more than " + std::to_string(kMaxFieldClass + 1) +
                " classes of ports, protocols, VLANs and other numbers apart (at key \"" +
                field.name + "\"); use fewer or coarser ranges",
            ErrorKind::usage};
  }

  /// One class per distinct prefix of a dimension; its vector has the bits of all prefixes that
  /// cover it, `base` those of the rules that do not ask. Sorted, a prefix follows those that cover
  /// it, so they are all on a stack.
  void compile_entries(std::vector<Entry> entries, const Vector& base,
                       const std::function<void(const Entry&, std::uint32_t)>& emit) {
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
      return a.bytes != b.bytes ? a.bytes < b.bytes : a.length < b.length;
    });
    struct Open {
      const Entry* entry;
      Vector vector;
    };
    std::vector<Open> stack;
    for (auto entry = entries.begin(); entry != entries.end();) {
      while (!stack.empty() && !covers(*stack.back().entry, *entry)) stack.pop_back();
      stack.push_back({&*entry, stack.empty() ? base : stack.back().vector});
      const Open& top = stack.back();
      for (; entry != entries.end() && entry->same_prefix(*top.entry); ++entry)
        set(stack.back().vector, entry->bit);
      emit(*top.entry, pool_.add(top.vector));
    }
  }

  void compile_addresses() {
    constexpr std::array keys{&Match::src, &Match::dst, &Match::host};
    std::array<std::vector<Entry>, 2> entries;  // by family
    Vector base(kEnds.size() * words_);
    for (std::size_t rule = 0; rule < layout_.rules.size(); ++rule) {
      for (const auto end : kEnds) {
        const auto& prefixes = layout_.rules[rule].match->*keys[end];
        const std::uint32_t bit = bit_at(rule, end);
        if (prefixes.empty()) {
          set(base, bit);
          continue;
        }
        use(rule, (1U << end) << VTAP_DIM_ADDR);
        for (const config::Prefix& prefix : prefixes)
          entries[prefix.v6 ? 1 : 0].push_back({prefix.bytes, prefix.length, bit});
      }
    }
    tables_.config.default_addr = pool_.add(base);
    compile_ipv4(std::move(entries[0]), base);
    compile_ipv6(std::move(entries[1]), base);
    tables_.config.dims |= (tables_.buckets4.empty() ? 0 : VTAP_DIM_HOST4) |
                           (tables_.trie4.empty() ? 0 : VTAP_DIM_TRIE4) |
                           (tables_.hosts6.empty() ? 0 : VTAP_DIM_HOST6) |
                           (tables_.prefixes6.empty() ? 0 : VTAP_DIM_LPM6);
  }

  /// Prefixes go into the trie, and so do exact addresses while they are few: a block of the trie
  /// is a kilobyte.
  void compile_ipv4(std::vector<Entry>&& entries, const Vector& base) {
    std::vector<Prefix4> hosts;
    std::vector<Prefix4> prefixes;
    compile_entries(std::move(entries), base, [&](const Entry& entry, std::uint32_t number) {
      Prefix4 prefix;
      prefix.length = static_cast<std::uint8_t>(entry.length);
      prefix.number = number;
      std::memcpy(prefix.bytes.data(), entry.bytes.data(), prefix.bytes.size());
      (entry.length == 32 ? hosts : prefixes).push_back(prefix);
    });
    if (hosts.size() > VTAP_TRIE4_MAX_HOSTS) {
      fill_buckets(hosts);
    } else {
      prefixes.insert(prefixes.end(), hosts.begin(), hosts.end());
    }
    if (prefixes.empty()) return;
    Trie4 trie = build_trie4(std::move(prefixes), tables_.config.default_addr);
    tables_.trie4 = std::move(trie.root);
    tables_.trie4_blocks = std::move(trie.blocks);
  }

  /// As many buckets as make none of them overflow: a frame looks into one.
  void fill_buckets(const std::vector<Prefix4>& hosts) {
    std::uint64_t seed = 0x9e3779b97f4a7c15U;  // odd
    auto buckets = std::bit_ceil(static_cast<std::uint32_t>(hosts.size() / 2));
    for (int attempt = 1; !fill_buckets(hosts, buckets, seed); ++attempt) {
      seed *= 0xd1342543de82ef95U;  // any other odd number would do
      if (attempt % 4 == 0) buckets *= 2;
    }
    tables_.config.buckets4 = buckets;
    tables_.config.bucket4_seed = seed;
  }

  bool fill_buckets(const std::vector<Prefix4>& hosts, std::uint32_t buckets, std::uint64_t seed) {
    vtap_bucket4 empty{};
    std::ranges::fill(empty.number, VTAP_NO_CLASS);
    tables_.buckets4.assign(buckets, empty);
    for (const Prefix4& host : hosts) {
      std::uint32_t key = 0;
      std::memcpy(&key, host.bytes.data(), sizeof(key));
      vtap_bucket4& bucket = tables_.buckets4[vtap_bucket4_of(key, seed, buckets)];
      auto* const place = std::ranges::find(bucket.number, std::uint32_t{VTAP_NO_CLASS});
      if (place == std::end(bucket.number)) return false;
      bucket.addr[place - bucket.number] = key;
      *place = host.number;
    }
    return true;
  }

  void compile_ipv6(std::vector<Entry>&& entries, const Vector& base) {
    compile_entries(std::move(entries), base, [&](const Entry& entry, std::uint32_t number) {
      if (entry.length == 128) {
        tables_.hosts6.emplace_back(entry.bytes, number);
        return;
      }
      vtap_lpm6_key key{};
      key.prefixlen = entry.length;
      std::memcpy(key.addr, entry.bytes.data(), sizeof(key.addr));
      tables_.prefixes6.emplace_back(key, number);
    });
  }

  void compile_macs() {
    constexpr std::array keys{&Match::src_mac, &Match::dst_mac, &Match::mac};
    std::vector<Entry> entries;
    Vector base(kEnds.size() * words_);
    for (std::size_t rule = 0; rule < layout_.rules.size(); ++rule) {
      for (const auto end : kEnds) {
        const auto& macs = layout_.rules[rule].match->*keys[end];
        const std::uint32_t bit = bit_at(rule, end);
        if (macs.empty()) {
          set(base, bit);
          continue;
        }
        use(rule, (1U << end) << VTAP_DIM_MAC);
        for (const config::Mac& mac : macs) {
          Entry& entry = entries.emplace_back();
          std::copy(mac.begin(), mac.end(), entry.bytes.begin());
          entry.length = static_cast<std::uint32_t>(mac.size() * 8);
          entry.bit = bit;
        }
      }
    }
    tables_.config.default_mac = pool_.add(base);
    compile_entries(std::move(entries), base, [&](const Entry& entry, std::uint32_t number) {
      auto& [mac, mac_class] = tables_.macs.emplace_back();
      std::copy_n(entry.bytes.begin(), sizeof(config::Mac), mac.begin());
      mac_class = number;
    });
  }

  void compile_segments() {
    Vector top(words_);
    Vector cloned(words_);
    for (const Layout::Segment& segment : layout_.segments) {
      set(top, segment.top);
      if (in_kernel(segment.policy)) set(cloned, segment.top);
    }
    tables_.config.seg_top_class = pool_.add(top);
    tables_.config.cloned_class = pool_.add(cloned);
    tables_.policy_of_bit.assign(std::size_t{64} * layout_.match_words, ~0U);
    for (const Layout::Segment& segment : layout_.segments)
      tables_.policy_of_bit[segment.top] = segment.policy;
  }

  /// After all dimensions: only they know which rules ask for nothing.
  void compile_tap(std::uint32_t tap) {
    Tables::TapClass& result = tables_.taps[tap];
    Vector rules(words_);
    Vector for_broker(words_);
    result.match_none = true;
    for (std::size_t i = 0; i < layout_.rules.size(); ++i) {
      const Layout::Rule& rule = layout_.rules[i];
      const config::Policy& policy = config_.policies[rule.policy];
      if (std::find(policy.taps.begin(), policy.taps.end(), tap) == policy.taps.end()) continue;
      set(rules, bit_at(i, 0));
      if (in_kernel(rule.policy)) {
        result.clones = true;
        continue;
      }
      set(for_broker, bit_at(i, 0));
      result.match_none = false;
      if (!constrained_[i] && !rule.except && policy.except.empty() && !policy.filter)
        result.match_all = true;
    }
    result.tap_class = pool_.add(rules);
    result.broker_class = pool_.add(for_broker);
  }

  const config::Config& config_;
  Layout layout_;
  std::uint32_t words_;
  std::vector<bool> constrained_;  ///< by rule: it has at least one key
  Tables tables_;
  VectorPool pool_;
};

}  // namespace

std::vector<Tables::Tops> Tables::early_tops() const {
  std::vector<Tops> tops(placements.size());
  for (std::uint32_t bit = 0; bit < config.early_words * 64; ++bit) {
    if (policy_of_bit[bit] == ~0U) continue;
    Tops& mine = tops[policy_of_bit[bit]];
    if (mine.empty() || mine.back().first != bit / 64) mine.emplace_back(bit / 64, 0);
    mine.back().second |= std::uint64_t{1} << (bit % 64);
  }
  return tops;
}

std::uint64_t Tables::word_of(std::uint32_t number, std::uint32_t word) const noexcept {
  const std::uint64_t* const stored = vectors.data() + std::size_t{number} * config.stride;
  return config.sum_words == 0 ? stored[word] : page(stored, word)[word % VTAP_PAGE_WORDS];
}

std::size_t Tables::bytes() const noexcept {
  const auto size = [](const auto& table) { return table.size() * sizeof(table[0]); };
  return size(vectors) + size(pages) + size(buckets4) + size(trie4) + size(trie4_blocks) +
         size(hosts6) + size(prefixes6) + size(macs) + size(policy_of_bit);
}

Result<Tables> compile(const config::Config& config, std::vector<Placement> placements) {
  placements.resize(config.policies.size(), Placement::broker);
  auto layout = lay_out(config, placements);
  if (!layout) return layout.error();
  return Compiler(config, std::move(placements), std::move(*layout)).compile();
}

}  // namespace vtap::plan
