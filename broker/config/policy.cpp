// SPDX-License-Identifier: Apache-2.0
#include "config/policy.hpp"

#include <bit>
#include <numeric>

#include "config/match.hpp"

namespace vtap::config {
namespace {

/// A policy, and what its keys refer to.
struct PolicyDraft {
  const Config& config;
  Policy policy;
};

constexpr std::uint64_t kMaxOneIn = 0xffff'ffff;
constexpr std::uint64_t kMaxPackets = 0xffff'ffff;  // of a flow, that are counted
constexpr std::uint64_t kMaxEntries = 1 << 24;      // 16 bytes each
constexpr std::uint64_t kEthernetHeader = 14;       // a copy without it is no frame any more
constexpr std::uint64_t kMaxSlice = 65535;

/// Bytes that a copy keeps.
void read_slice_bytes(const Field& field, const Config& config, std::uint32_t& bytes) {
  field.integer_into(kEthernetHeader, kMaxSlice, bytes);
  const auto frame_size = config.broker.frame_size;
  if (bytes > frame_size) {
    field.warn("does nothing: no copy is longer than umem.frame_size, " +
               std::to_string(frame_size) + " bytes");
  }
}

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
                    (hint.empty() && !names.empty() ? "; there are " + join(names) : hint));
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
  const Config& config;
  std::optional<Rate> rate{}, peak_rate{};
  std::optional<Field> burst{}, peak_burst{}, peak_rate_at{}, exceed{}, entries{};
  Meter meter{};
};

constexpr auto kExceedKeys = std::to_array<Key<MeterDraft>>({
    {"slice",
     [](const Field& f, MeterDraft& draft) {
       read_slice_bytes(f, draft.config, draft.meter.exceed_slice);
     }},
    {"one_in", [](const Field& f,
                  MeterDraft& draft) { f.integer_into(1, kMaxOneIn, draft.meter.exceed_one_in); }},
});

void read_exceed(const Field& field, MeterDraft& draft) {
  constexpr std::string_view expected = R"("drop", { slice = 128 } or { one_in = 10 })";
  draft.exceed.emplace(field);
  if (field.is_text()) {
    const auto* word = field.text();
    if (*word != "drop") field.error(quoted(*word) + " is not one of " + std::string(expected));
    return;
  }
  const auto* table = field.table(expected);
  if (table == nullptr) return;
  read_keys(field.findings(), *table, "exceed", kExceedKeys, draft);
  if (table->contains("slice") == table->contains("one_in")) {
    field.error("write one of " + std::string(expected));
  }
}

constexpr auto kPers =
    std::to_array<Choice<Per>>({{"src", Per::src}, {"dst", Per::dst}, {"flow", Per::flow}});

constexpr auto kMeterKeys = std::to_array<Key<MeterDraft>>({
    {"rate", [](const Field& f, MeterDraft& draft) { draft.rate = f.parsed(parse_rate); },
     R"(rate = "200Mbit/s" or rate = "50kpps")"},
    // Bytes or packets, which the rate decides: read once that is known.
    {"burst", [](const Field& f, MeterDraft& draft) { draft.burst.emplace(f); }},
    {"peak_rate",
     [](const Field& f, MeterDraft& draft) {
       draft.peak_rate_at.emplace(f);
       draft.peak_rate = f.parsed(parse_rate);
     }},
    {"peak_burst", [](const Field& f, MeterDraft& draft) { draft.peak_burst.emplace(f); }},
    {"exceed", read_exceed},
    {"per", [](const Field& f,
               MeterDraft& draft) { draft.meter.per = f.choice(kPers).value_or(Per::policy); }},
    {"entries",
     [](const Field& f, MeterDraft& draft) {
       draft.entries.emplace(f);
       f.integer_into(1, kMaxEntries, draft.meter.entries);
     }},
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

/// The burst of one of the two rates; 0 where it is wrong.
std::uint64_t burst_of(const std::optional<Field>& field, const Rate& rate, const Config& config) {
  if (!field) return default_burst(rate);
  const auto burst = read_burst(*field, rate);
  const auto frame_size = config.broker.frame_size;
  // A warning only: how long the frames of these links really are is not known here.
  if (!rate.packets && burst && *burst < frame_size) {
    field->warn("frames longer than the burst never pass the meter; a frame may have " +
                std::to_string(frame_size) + " bytes");
  }
  return burst.value_or(0);
}

void check_peak_rate(const MeterDraft& draft) {
  const Rate& rate = *draft.rate;
  const Rate& peak = *draft.peak_rate;
  if (peak.packets != rate.packets) {
    draft.peak_rate_at->error(rate.packets ? "write it in packets, as the rate is"
                                           : "write it in bits, as the rate is");
  } else if (peak.per_second < rate.per_second) {
    draft.peak_rate_at->error("is below the rate; it is at least as much");
  }
  if (draft.meter.exceed_slice != 0 || draft.meter.exceed_one_in != 0) return;
  constexpr std::string_view what =
      "what lies between the rate and the peak rate is dropped as what lies above; write exceed = "
      "{ slice = 128 } or { one_in = 10 }, or leave peak_rate out";
  (draft.exceed ? *draft.exceed : *draft.peak_rate_at).error(what);
}

void read_meter(const Field& field, PolicyDraft& draft) {
  const auto* table = field.table(R"(a table: { rate = "200Mbit/s", burst = "256KiB" })");
  if (table == nullptr) {
    return;
  }
  MeterDraft meter{.config = draft.config};
  read_keys(field.findings(), *table, "meter", kMeterKeys, meter);
  if (meter.peak_burst && !meter.peak_rate_at) {
    meter.peak_burst->error("belongs to a peak_rate; write that too, or remove the key");
  }
  if (meter.entries && !table->contains("per")) {
    meter.entries->error(R"(belongs to per = "src", "dst" or "flow"; write that, or remove it)");
  }
  if (!meter.rate) {
    return;
  }
  Meter& made = meter.meter;
  (meter.rate->packets ? made.packets_per_second : made.bits_per_second) = meter.rate->per_second;
  made.burst = burst_of(meter.burst, *meter.rate, draft.config);
  if (meter.peak_rate) {
    check_peak_rate(meter);
    made.peak_per_second = meter.peak_rate->per_second;
    made.peak_burst = burst_of(meter.peak_burst, *meter.peak_rate, draft.config);
  }
  draft.policy.meter = made;
}

// ---- slice, head

constexpr auto kSliceKeys = std::to_array<Key<PolicyDraft>>({
    {"bytes",
     [](const Field& f, PolicyDraft& draft) {
       read_slice_bytes(f, draft.config, *draft.policy.slice);
     },
     "bytes = 128, what a copy keeps"},
    {"after",
     [](const Field& f, PolicyDraft& draft) {
       f.integer_into(1, kMaxPackets, draft.policy.slice_after);
     },
     "after = 10, the packets of a flow that stay whole; or slice = 128 for all of them"},
});

void read_slice(const Field& field, PolicyDraft& draft) {
  auto& slice = draft.policy.slice.emplace(0);
  if (field.is_integer()) {
    read_slice_bytes(field, draft.config, slice);
  } else if (const auto* table = field.table("an integer or { bytes = 128, after = 10 }")) {
    read_keys(field.findings(), *table, "slice", kSliceKeys, draft);
  }
}

/// How the keys that count packets of flows fit together.
void check_flow_keys(Findings& findings, const toml::table& table, const Policy& policy) {
  const auto* slice = table.get_as<toml::table>("slice");
  const bool after = slice != nullptr && slice->contains("after");
  const auto entries = find(findings, table, "flow_entries");
  if (entries && !after && !table.contains("head")) {
    entries->error("belongs to head or to slice = { bytes = 128, after = 10 }; remove the key");
  }
  if (policy.head && policy.slice_after >= *policy.head) {
    find(findings, table, "slice")
        ->warn("does nothing: of each flow only the first " + std::to_string(*policy.head) +
               " packets go on, by head");
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
    {"head",
     [](const Field& f, PolicyDraft& draft) {
       if (const auto packets = f.integer(1, kMaxPackets)) {
         draft.policy.head = static_cast<std::uint32_t>(*packets);
       }
     }},
    {"meter", read_meter},
    {"slice", read_slice},
    {"flow_entries",
     [](const Field& f, PolicyDraft& draft) {
       f.integer_into(1, kMaxEntries, draft.policy.flow_entries);
     }},
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

void read_policy(Findings& findings, const toml::table& table, Names& names, Config& config) {
  PolicyDraft draft{config, {}};
  draft.policy.at = position(table.source());
  read_keys(findings, table, "[[policy]]", kPolicyKeys, draft);
  check_flow_keys(findings, table, draft.policy);
  if (!table.contains("taps")) {
    draft.policy.taps.resize(config.taps.size());
    std::iota(draft.policy.taps.begin(), draft.policy.taps.end(), 0U);
  }
  names.claim(findings, table, "policy", draft.policy.name);
  config.policies.push_back(std::move(draft.policy));
}

void limit_flow_tables(Findings& findings, const Config& config) {
  constexpr std::uint64_t kMiB = 1 << 20;
  constexpr std::uint64_t kMost = 1024 * kMiB;
  constexpr std::uint64_t kEntry = 16;  // bytes; a power of two of them (pipeline/flow_table.hpp)
  const auto bytes_of = [](std::uint64_t entries) { return std::bit_ceil(entries) * kEntry; };
  std::uint64_t sum = 0;
  for (const Policy& policy : config.policies) {
    if (policy.head || policy.slice_after != 0) sum += bytes_of(policy.flow_entries);
    if (policy.meter && policy.meter->per != Per::policy)
      sum += bytes_of(policy.meter->entries) * (policy.meter->peak_per_second != 0 ? 2 : 1);
    if (sum <= kMost) continue;
    findings.errors.push_back(
        {policy.at,
         "the tables of flows and hosts (head, slice after, meter per host) of the policies "
         "up to here take " +
             std::to_string(sum / kMiB) + " MiB, at most " + std::to_string(kMost / kMiB) +
             " are possible; make flow_entries and meter.entries smaller, which are " +
             "65536 (1 MiB) unless stated"});
    return;
  }
}

}  // namespace vtap::config
