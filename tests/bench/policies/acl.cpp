// SPDX-License-Identifier: Apache-2.0
// DPDK's packet classification, as its l3fwd-acl example sets it up: rules on the IPv4 5-tuple,
// read straight from the frame.
#include <rte_acl.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_malloc.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include "bench/policies/contestant.hpp"

namespace vtap::bench {
namespace {

constexpr std::uint32_t kBurst = 64;
constexpr std::uint32_t kFields = 5;
constexpr std::uint32_t kProtoAt = Traffic::kIpAt + 9;  // all offsets are from the protocol on
constexpr std::uint32_t kCategories = 1;

RTE_ACL_RULE_DEF(AclRule, kFields);
enum Field : std::uint8_t { proto, src, dst, sport, dport };

struct FreeContext {
  void operator()(rte_acl_ctx* context) const noexcept { rte_acl_free(context); }
};
using Context = std::unique_ptr<rte_acl_ctx, FreeContext>;

/// No huge pages, no devices, no files; once. Not given back, as the process ends soon.
bool start_eal(unsigned cpu) {
  static const bool started = [&] {
    std::array<std::string, 10> words{"policies_bench",
                                      "--no-huge",
                                      "--no-pci",
                                      "--no-shconf",
                                      "--no-telemetry",
                                      "--log-level=error",
                                      "--force-max-simd-bitwidth=512",
                                      "-m",
                                      "4096",
                                      "-l"};
    std::string lcore = std::to_string(cpu);
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(lcore.data());
    return rte_eal_init(static_cast<int>(arguments.size()), arguments.data()) >= 0;
  }();
  return started;
}

std::size_t allocated() {
  std::size_t bytes = 0;
  for (int socket = 0; socket < RTE_MAX_NUMA_NODES; ++socket) {
    rte_malloc_socket_stats stats{};
    if (rte_malloc_get_socket_stats(socket, &stats) == 0) bytes += stats.heap_allocsz_bytes;
  }
  return bytes;
}

rte_acl_field_def field(std::uint8_t type, std::uint8_t size, std::uint8_t index,
                        std::uint8_t input, std::uint32_t offset) {
  rte_acl_field_def def{};
  def.type = type;
  def.size = size;
  def.field_index = index;
  def.input_index = input;
  def.offset = offset;
  return def;
}

rte_acl_config layout() {
  rte_acl_config config{};
  config.num_categories = kCategories;
  const rte_acl_field_def fields[] = {
      field(RTE_ACL_FIELD_TYPE_BITMASK, 1, proto, 0, 0),
      field(RTE_ACL_FIELD_TYPE_MASK, 4, src, 1, 3),
      field(RTE_ACL_FIELD_TYPE_MASK, 4, dst, 2, 7),
      field(RTE_ACL_FIELD_TYPE_RANGE, 2, sport, 3, 11),
      field(RTE_ACL_FIELD_TYPE_RANGE, 2, dport, 3, 13),
  };
  config.num_fields = kFields;
  std::ranges::copy(fields, config.defs);
  return config;
}

AclRule acl_rule(const Rule& rule, std::uint32_t policy) {
  AclRule result{};
  result.data.category_mask = 1;
  result.data.priority = static_cast<std::int32_t>(RTE_ACL_MAX_PRIORITY - policy);
  result.data.userdata = policy + 1;  // 0: nothing matches
  result.field[proto].value.u8 = rule.proto;
  result.field[proto].mask_range.u8 = rule.proto == 0 ? 0 : 0xff;
  result.field[src].value.u32 = rule.src.address;
  result.field[src].mask_range.u32 = rule.src.length;
  result.field[dst].value.u32 = rule.dst.address;
  result.field[dst].mask_range.u32 = rule.dst.length;
  result.field[sport].value.u16 = rule.sport.first;
  result.field[sport].mask_range.u16 = rule.sport.last;
  result.field[dport].value.u16 = rule.dport.first;
  result.field[dport].mask_range.u16 = rule.dport.last;
  return result;
}

/// A host at either end takes two.
std::vector<AclRule> acl_rules(std::span<const Rule> rules) {
  std::vector<AclRule> result;
  for (std::uint32_t i = 0; i < rules.size(); ++i) {
    Rule rule = rules[i];
    if (rule.host) {
      rule.src = *rule.host;
      result.push_back(acl_rule(rule, i));
      rule.src = {};
      rule.dst = *rule.host;
    }
    result.push_back(acl_rule(rule, i));
  }
  return result;
}

/// The widest that DPDK and the CPU have.
const char* choose_algorithm(rte_acl_ctx* context) {
  static constexpr std::pair<enum rte_acl_classify_alg, const char*> kAll[] = {
      {RTE_ACL_CLASSIFY_AVX512X32, "AVX512X32"}, {RTE_ACL_CLASSIFY_AVX512X16, "AVX512X16"},
      {RTE_ACL_CLASSIFY_AVX2, "AVX2"},           {RTE_ACL_CLASSIFY_SSE, "SSE"},
      {RTE_ACL_CLASSIFY_NEON, "NEON"},           {RTE_ACL_CLASSIFY_ALTIVEC, "ALTIVEC"},
  };
  for (const auto& [algorithm, name] : kAll) {
    if (rte_acl_set_ctx_classify(context, algorithm) == 0) return name;
  }
  return "scalar";
}

class AclContestant final : public Contestant {
 public:
  explicit AclContestant(Context context) : context_(std::move(context)) {}

  void check(const Traffic& traffic) override {
    for (std::uint32_t first = 0; first < traffic.size(); first += kBurst) {
      const std::uint32_t n = std::min(kBurst, traffic.size() - first);
      classify(traffic, first, n);
      for (std::uint32_t i = 0; i < n; ++i) {
        if (found_[i] - 1 != traffic.answer(first + i).first)
          disagree("rte_acl", traffic, first + i,
                   found_[i] == 0 ? "no rule" : "policy " + std::to_string(found_[i] - 1));
      }
    }
  }

  double measure(const Traffic& traffic, double seconds) override {
    return walk_.run(traffic, seconds,
                     [&](std::uint32_t first, std::uint32_t n) { classify(traffic, first, n); });
  }

 private:
  void classify(const Traffic& traffic, std::uint32_t first, std::uint32_t n) {
    for (std::uint32_t i = 0; i < n; ++i) data_[i] = traffic.frame(first + i) + kProtoAt;
    if (rte_acl_classify(context_.get(), data_.data(), found_.data(), n, kCategories) != 0)
      throw std::runtime_error("rte_acl_classify");
  }

  Context context_;
  std::array<const std::uint8_t*, kBurst> data_{};
  std::array<std::uint32_t, kBurst> found_{};
  Walk walk_{kBurst, true};
};

}  // namespace

Entrant make_acl(std::span<const Rule> rules, unsigned cpu) {
  if (!start_eal(cpu)) return refusal(std::string("rte_eal_init: ") + rte_strerror(rte_errno));
  const auto acl = acl_rules(rules);
  const rte_acl_param param{.name = "policies",
                            .socket_id = SOCKET_ID_ANY,
                            .rule_size = RTE_ACL_RULE_SZ(kFields),
                            .max_rule_num = static_cast<std::uint32_t>(acl.size())};
  const std::size_t before = allocated();
  const Stopwatch clock;
  Context context(rte_acl_create(&param));
  if (!context) return refusal(std::string("rte_acl_create: ") + rte_strerror(rte_errno));
  if (rte_acl_add_rules(context.get(), reinterpret_cast<const rte_acl_rule*>(acl.data()),
                        static_cast<std::uint32_t>(acl.size())) != 0)
    return refusal("rte_acl_add_rules");
  const rte_acl_config config = layout();
  if (const int error = rte_acl_build(context.get(), &config); error != 0)
    return refusal(std::string("rte_acl_build: ") + rte_strerror(-error));
  Entrant entrant;
  entrant.load["rte_acl build ms"] = clock.ms();
  entrant.load["rte_acl MB"] = static_cast<double>(allocated() - before) / 1e6;
  entrant.note = std::string("rte_acl's algorithm: ") + choose_algorithm(context.get());
  entrant.contestant = std::make_unique<AclContestant>(std::move(context));
  return entrant;
}

}  // namespace vtap::bench
