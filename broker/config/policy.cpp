// SPDX-License-Identifier: Apache-2.0
#include "config/policy.hpp"

#include <numeric>

#include "config/match.hpp"

namespace vtap::config {
namespace {

/// A policy, and what its keys refer to.
struct PolicyDraft {
  const Config& config;
  Policy policy;
};

/// Indexes into `all` of the names in the list.
template <typename Item>
void read_references(const Field& field, std::string_view kind, const std::vector<Item>& all,
                     std::vector<std::uint32_t>& indexes) {
  const auto names = names_of(all);
  field.each_of_list("a list of " + std::string(kind) + " names", [&](const Field& element) {
    const auto* name = element.text("the name of a " + std::string(kind));
    if (name == nullptr) {
      return;
    }
    const auto found = std::find(names.begin(), names.end(), *name);
    const auto index = static_cast<std::uint32_t>(found - names.begin());
    if (found == names.end()) {
      const auto hint = did_you_mean(*name, names);
      element.error("there is no " + std::string(kind) + " " + quoted(*name) +
                    (hint.empty() ? "; there are " + join(names) : hint));
    } else if (std::find(indexes.begin(), indexes.end(), index) != indexes.end()) {
      element.error(quoted(*name) + " is listed twice; list it once");
    } else {
      indexes.push_back(index);
    }
  });
}

// ---- filter

void read_filter(const Field& field, PolicyDraft& draft) {
  constexpr std::string_view expected = "a pcap-filter(7) expression like \"tcp port 80\"";
  const auto* expression = field.text(expected);
  if (expression == nullptr) return;
  if (expression->find_first_not_of(" \t\r\n") == std::string::npos ||
      expression->find('\0') != std::string::npos) {
    field.error("this is not " + std::string(expected) + "; for every frame leave the key out");
    return;
  }
  auto filter = filter::Filter::compile(*expression);
  if (filter) {
    draft.policy.filter = std::move(*filter);
  } else {
    field.error("this is not " + std::string(expected) + ": " + filter.error().message);
  }
}

// ---- sample

constexpr std::uint64_t kMaxOneIn = 0xffff'ffff;

constexpr auto kSampleKeys = std::to_array<Key<Sample>>({
    {"one_in", [](const Field& f, Sample& sample) { f.integer_into(1, kMaxOneIn, sample.one_in); }},
    {"flows",
     [](const Field& f, Sample& sample) {
       sample.flows = f.real();
       if (sample.flows && !(*sample.flows > 0 && *sample.flows <= 1)) {  // NaN included
         f.error("the share of flows lies above 0 and is at most 1, for example 0.25");
       }
     }},
});

void read_sample(const Field& field, PolicyDraft& draft) {
  const auto* table = field.table("a table: { one_in = 10 } or { flows = 0.25 }");
  if (table == nullptr) {
    return;
  }
  read_keys(field.findings(), *table, "sample", kSampleKeys, draft.policy.sample.emplace());
  const bool one_in = table->contains("one_in");
  const bool flows = table->contains("flows");
  if (one_in && flows) {
    field.error("one_in and flows exclude each other; keep one of them");
  } else if (!one_in && !flows) {
    field.error("write { one_in = 10 } or { flows = 0.25 }");
  }
}

// ---- meter

// The default burst: what the rate sends in 100 ms, and not less than lets ordinary bursts pass.
constexpr std::uint64_t kBurstsPerSecond = 10;
constexpr std::uint64_t kLeastBurstBytes = 4096;
constexpr std::uint64_t kLeastBurstPackets = 4;
constexpr std::uint64_t kMaxBurst = 1ULL << 40;

struct MeterDraft {
  std::optional<Rate> rate;
  std::optional<Field> burst;
};

constexpr auto kMeterKeys = std::to_array<Key<MeterDraft>>({
    {"rate", [](const Field& f, MeterDraft& draft) { draft.rate = f.parsed(parse_rate); },
     R"(rate = "200Mbit/s" or rate = "50kpps")"},
    // Bytes or packets, which the rate decides: read once that is known.
    {"burst", [](const Field& f, MeterDraft& draft) { draft.burst.emplace(f); }},
});

std::uint64_t default_burst(const Rate& rate) {
  return rate.packets ? std::max(kLeastBurstPackets, rate.per_second / kBurstsPerSecond)
                      : std::max(kLeastBurstBytes, rate.per_second / 8 / kBurstsPerSecond);
}

std::optional<std::uint64_t> read_burst(const Field& field, const Rate& rate) {
  if (rate.packets || !field.is_text()) {
    return field.integer(1, kMaxBurst,
                         rate.packets ? "a number of packets, as the rate is in packets"
                                      : "a size like \"256KiB\" or bytes, as the rate is in bits");
  }
  const auto bytes = field.parsed(parse_size);
  if (bytes && (*bytes == 0 || *bytes > kMaxBurst)) {
    field.error("a burst has 1B to 1024GiB");
    return std::nullopt;
  }
  return bytes;
}

void read_meter(const Field& field, PolicyDraft& draft) {
  const auto* table = field.table(R"(a table: { rate = "200Mbit/s", burst = "256KiB" })");
  if (table == nullptr) {
    return;
  }
  MeterDraft meter;
  read_keys(field.findings(), *table, "meter", kMeterKeys, meter);
  if (!meter.rate) {
    return;
  }
  const auto burst =
      meter.burst ? read_burst(*meter.burst, *meter.rate) : default_burst(*meter.rate);
  const auto frame_size = draft.config.broker.frame_size;
  // A warning only: how long the frames of these links really are is not known here.
  if (!meter.rate->packets && burst && *burst < frame_size) {
    meter.burst->warn("frames longer than the burst never pass the meter; a frame may have " +
                      std::to_string(frame_size) + " bytes");
  }
  draft.policy.meter = Meter{meter.rate->packets ? 0 : meter.rate->per_second,
                             meter.rate->packets ? meter.rate->per_second : 0, burst.value_or(0)};
}

// ---- slice

constexpr std::uint64_t kEthernetHeader = 14;  // a copy without it is no frame any more
constexpr std::uint64_t kMaxSlice = 65535;

void read_slice(const Field& field, PolicyDraft& draft) {
  auto& slice = draft.policy.slice.emplace(0);
  field.integer_into(kEthernetHeader, kMaxSlice, slice);
  const auto frame_size = draft.config.broker.frame_size;
  if (slice > frame_size) {
    field.warn("does nothing: no copy is longer than umem.frame_size, " +
               std::to_string(frame_size) + " bytes");
  }
}

constexpr auto kOffloads = std::to_array<Choice<Offload>>(
    {{"auto", Offload::automatic}, {"never", Offload::never}, {"require", Offload::require}});

constexpr auto kPolicyKeys = std::to_array<Key<PolicyDraft>>({
    {"name",
     [](const Field& f, PolicyDraft& draft) {
       draft.policy.name = f.parsed(parse_name).value_or("");
     },
     "name = \"web\""},
    {"taps",
     [](const Field& f, PolicyDraft& draft) {
       read_references(f, "tap", draft.config.taps, draft.policy.taps);
     }},
    {"monitors",
     [](const Field& f, PolicyDraft& draft) {
       read_references(f, "monitor", draft.config.monitors, draft.policy.monitors);
     },
     "monitors = [\"ids\"] with the names of its monitors"},
    {"match", [](const Field& f, PolicyDraft& draft) { read_matches(f, draft.policy.match); }},
    {"except", [](const Field& f, PolicyDraft& draft) { read_matches(f, draft.policy.except); }},
    {"filter", read_filter},
    {"sample", read_sample},
    {"meter", read_meter},
    {"slice", read_slice},
    {"offload",
     [](const Field& f, PolicyDraft& draft) {
       draft.policy.offload = f.choice(kOffloads).value_or(Offload::automatic);
     }},
    {"priority",
     [](const Field& f, PolicyDraft& draft) {
       f.integer_into(0, kHighestPriority, draft.policy.priority,
                      "an integer from 0 to 7; 7 is served first");
     }},
    {"weight",
     [](const Field& f, PolicyDraft& draft) {
       f.integer_into(1, kHeaviest, draft.policy.weight, "an integer from 1 to 1000");
     }},
    {"once",
     [](const Field& f, PolicyDraft& draft) { draft.policy.once = f.boolean().value_or(false); }},
});

}  // namespace

void read_policy(Findings& findings, const toml::table& table, Config& config) {
  PolicyDraft draft{config, {}};
  draft.policy.at = position(table.source());
  read_keys(findings, table, "[[policy]]", kPolicyKeys, draft);
  if (!table.contains("taps")) {
    draft.policy.taps.resize(config.taps.size());
    std::iota(draft.policy.taps.begin(), draft.policy.taps.end(), 0U);
  }
  config.policies.push_back(std::move(draft.policy));
  refuse_second_name(findings, table, "policy", config.policies);
}

}  // namespace vtap::config
