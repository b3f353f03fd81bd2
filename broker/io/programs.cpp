// SPDX-License-Identifier: Apache-2.0
#include "io/programs.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "errors.skel.h"
#include "leg.skel.h"
#include "monitor.skel.h"
#include "pipeline/meter.hpp"
#include "stub_tc.skel.h"
#include "stub_xdp.skel.h"
#include "tap_tc.skel.h"
#include "tap_xdp.skel.h"

namespace vtap::io {
namespace {

using TapXdp = Skeleton<tap_xdp_bpf, tap_xdp_bpf__destroy>;
using TapTc = Skeleton<tap_tc_bpf, tap_tc_bpf__destroy>;
using StubXdp = Skeleton<stub_xdp_bpf, stub_xdp_bpf__destroy>;
using StubTc = Skeleton<stub_tc_bpf, stub_tc_bpf__destroy>;
using LegObject = Skeleton<leg_bpf, leg_bpf__destroy>;
using MonitorObject = Skeleton<monitor_bpf, monitor_bpf__destroy>;
using ErrorsObject = Skeleton<errors_bpf, errors_bpf__destroy>;

Result<void> put(const UniqueFd& map, const char* name, const void* key, const void* value) {
  if (bpf_map_update_elem(map.get(), key, value, BPF_ANY) == 0) return {};
  return bpf_error(std::string("filling the BPF map ") + name, -errno);
}

/// A map with one entry per element of `entries`, pairs of key and class.
template <typename Entries>
Result<UniqueFd> load_entries(bpf_map_type type, const char* name, const Entries& entries) {
  using Entry = typename Entries::value_type;
  auto map = create_map(type, name, sizeof(typename Entry::first_type),
                        sizeof(typename Entry::second_type), entries.size());
  if (!map) return map;
  for (const auto& [key, number] : entries) {
    if (auto done = put(*map, name, &key, &number); !done) return done.error();
  }
  return map;
}

void append(std::vector<std::byte>& to, std::span<const std::byte> bytes) {
  to.insert(to.end(), bytes.begin(), bytes.end());
}

/// An array of one element: `bytes`, and zeros up to `size`.
Result<UniqueFd> load_element(const char* name, std::vector<std::byte> bytes, std::size_t size) {
  bytes.resize(size);
  auto map = create_map(BPF_MAP_TYPE_ARRAY, name, sizeof(std::uint32_t), size, 1);
  const std::uint32_t zero = 0;
  if (!map) return map;
  if (auto done = put(*map, name, &zero, bytes.data()); !done) return done.error();
  return map;
}

Result<UniqueFd> load_vectors(const plan::Tables& tables) {
  std::vector<std::byte> bytes;
  append(bytes, std::as_bytes(std::span(tables.vectors)));
  const std::size_t words = std::size_t{tables.config.row_words} + VTAP_MAX_STRIDE;
  return load_element("vectors", std::move(bytes), words * sizeof(std::uint64_t));
}

Result<UniqueFd> load_pages(const plan::Tables& tables) {
  std::vector<std::byte> bytes;
  append(bytes, std::as_bytes(std::span(tables.pages)));
  return load_element("pages", std::move(bytes),
                      std::size_t{tables.config.pages} * VTAP_PAGE_WORDS * sizeof(std::uint64_t));
}

/// Without any, one that nobody reads.
Result<UniqueFd> load_buckets(const plan::Tables& tables) {
  std::vector<std::byte> bytes;
  append(bytes, std::as_bytes(std::span(tables.buckets4)));
  return load_element("hosts4", std::move(bytes),
                      std::max<std::size_t>(tables.buckets4.size(), 1) * sizeof(vtap_bucket4));
}

/// The root and the blocks behind it. Without addresses, a root that nobody reads.
Result<UniqueFd> load_trie4(const plan::Tables& tables) {
  std::vector<std::byte> bytes;
  append(bytes, std::as_bytes(std::span(tables.trie4)));
  bytes.resize(sizeof(vtap_trie4_root));
  append(bytes, std::as_bytes(std::span(tables.trie4_blocks)));
  return load_element("trie4", std::move(bytes),
                      tables.config.trie4_entries * sizeof(std::uint32_t));
}

Result<UniqueFd> load_fields(const plan::Tables& tables) {
  auto map =
      create_map(BPF_MAP_TYPE_ARRAY, "fields", sizeof(std::uint32_t), sizeof(vtap_fields), 1);
  const std::uint32_t zero = 0;
  if (map) {
    if (auto done = put(*map, "fields", &zero, tables.fields.get()); !done) return done.error();
  }
  return map;
}

/// Mapped, so that the elements begin on a cache line; nobody maps it.
Result<UniqueFd> load_limits(const std::vector<vtap_limits>& limits) {
  static_assert(sizeof(vtap_limits) % VTAP_CACHE_LINE == 0);
  auto map = create_map(BPF_MAP_TYPE_ARRAY, "limits", sizeof(std::uint32_t), sizeof(vtap_limits),
                        limits.size(), {.flags = BPF_F_MMAPABLE});
  for (std::uint32_t number = 0; map && number < limits.size(); ++number) {
    if (auto done = put(*map, "limits", &number, &limits[number]); !done) return done.error();
  }
  return map;
}

/// Empty, for the verdicts of every possible CPU; without a cache, one that nobody reads. Mappable,
/// so that entries begin on cache lines.
Result<UniqueFd> make_cache(const vtap_class_config& config) {
  const auto cpus = possible_cpus();
  if (!cpus) return cpus.error();
  const auto used = std::ranges::count_if(config.key_mask, [](auto mask) { return mask != 0; });
  const std::size_t bytes =
      offsetof(vtap_verdict, key) + static_cast<std::size_t>(used) * sizeof(std::uint64_t);
  const std::size_t lines = (bytes + VTAP_CACHE_LINE - 1) / VTAP_CACHE_LINE;
  return create_map(BPF_MAP_TYPE_ARRAY, "verdicts", sizeof(std::uint32_t), lines * VTAP_CACHE_LINE,
                    std::size_t{cpus.value()} * config.cache_slots, {.flags = BPF_F_MMAPABLE});
}

Result<void> share_maps(bpf_object* object, const TeeMemory& memory, const ClassMaps& classes) {
  if (auto done = reuse(object, "umem", memory.umem_fd()); !done) return done;
  if (auto done = reuse(object, "cpus", memory.cpus_fd()); !done) return done;
  if (auto done = reuse(object, "doorbells", memory.doorbells_fd()); !done) return done;
  return classes.maps().share_with(object);
}

/// Element of a per-CPU array, summed word by word.
template <typename T>
T sum_over_cpus(int map_fd, std::uint32_t key) {
  constexpr std::size_t word = sizeof(std::uint64_t);
  static_assert(sizeof(T) % word == 0);
  constexpr std::size_t words = sizeof(T) / word;
  const auto cpus = possible_cpus();
  T sum{};
  if (!cpus) return sum;
  std::vector<std::uint64_t> values(words * cpus.value(), 0);
  if (bpf_map_lookup_elem(map_fd, &key, values.data()) != 0) return sum;
  std::array<std::uint64_t, words> totals{};
  for (std::size_t i = 0; i < values.size(); ++i) totals[i % words] += values[i];
  std::memcpy(&sum, totals.data(), sizeof(sum));
  return sum;
}

/// Element of a per-CPU array.
template <typename T>
void set_to_zero(int map_fd, std::uint32_t key) noexcept {
  const auto cpus = possible_cpus();
  if (!cpus) return;
  constexpr std::size_t word = sizeof(std::uint64_t);
  constexpr std::size_t bytes = sizeof(T);
  const std::vector<std::uint64_t> zeros(bytes / word * cpus.value(), 0);
  bpf_map_update_elem(map_fd, &key, zeros.data(), BPF_ANY);
}

/// Sampler and meter of a policy, as full and as new as at the broker's start.
vtap_limits limits_of(const config::Policy& policy) {
  vtap_limits limits{};
  if (policy.sample) limits.one_in = policy.sample->one_in;
  if (!policy.meter) return limits;
  limits.metered = 1;
  limits.rate = pipeline::bucket_of(*policy.meter);
  limits.exceed_one_in = policy.meter->exceed_one_in;
  if (policy.meter->peak_per_second == 0) return limits;
  limits.peaked = 1;
  limits.peak = pipeline::bucket_of(pipeline::peak_of(*policy.meter));
  return limits;
}

/// Opens and loads a skeleton whose constants are `config`; `prepare` shares maps before the load.
template <typename Owner, auto Open, auto Load, typename Prepare>
Result<Owner> load_skeleton(const char* what, const vtap_port_config& config, Prepare prepare) {
  Owner skeleton(Open());
  if (!skeleton) return bpf_error(std::string("opening ") + what, -errno);
  skeleton->rodata->config = config;
  if (auto done = prepare(skeleton->obj); !done) return done.error();
  if (const int error = Load(skeleton.get()); error != 0) {
    return bpf_error(std::string("loading ") + what, error);
  }
  return skeleton;
}

Result<void> fill_slot(int slot_fd, int program_fd) {
  const std::uint32_t zero = 0;
  if (bpf_map_update_elem(slot_fd, &zero, &program_fd, BPF_ANY) == 0) return {};
  return bpf_error("engaging a tap program", -errno);
}

}  // namespace

Result<ClassMaps> ClassMaps::load(const plan::Tables& tables) {
  ClassMaps loaded;
  SharedMaps& maps = loaded.maps_;
  const auto hash = BPF_MAP_TYPE_HASH;
  const auto trie = BPF_MAP_TYPE_LPM_TRIE;
  for (auto& done :
       {maps.add("vectors", load_vectors(tables)), maps.add("fields", load_fields(tables)),
        maps.add("pages", load_pages(tables)), maps.add("hosts4", load_buckets(tables)),
        maps.add("trie4", load_trie4(tables)),
        maps.add("hosts6", load_entries(hash, "hosts6", tables.hosts6)),
        maps.add("prefixes6", load_entries(trie, "prefixes6", tables.prefixes6)),
        maps.add("macs", load_entries(hash, "macs", tables.macs)),
        maps.add("verdicts", make_cache(tables.config))}) {
    if (!done) return done.error();
  }
  return loaded;
}

Result<CloneMaps> CloneMaps::load(const config::Config& config, const plan::Tables& tables,
                                  const plan::FanOut& fan,
                                  const std::vector<std::uint32_t>& tap_of_port) {
  auto fan_maps = FanMaps::load(fan, tap_of_port);
  if (!fan_maps) return fan_maps.error();
  CloneMaps loaded(std::move(*fan_maps));
  const auto& policies = config.policies;
  std::vector<vtap_placed> by_policy(policies.size());
  std::vector<vtap_limits> limits;
  std::uint32_t pairs = 0;
  loaded.pairs_.resize(policies.size());
  loaded.limits_.resize(policies.size(), ~0U);
  for (std::uint32_t i = 0; i < policies.size(); ++i) {
    if (tables.placements[i] != plan::Placement::kernel) continue;
    by_policy[i] = {.monitors = plan::set_of(policies[i].monitors),
                    .first_pair = pairs,
                    .policy = i,
                    .limits = 0,
                    .slice = policies[i].slice.value_or(0)};
    if (policies[i].sample || policies[i].meter) {
      loaded.limits_[i] = static_cast<std::uint32_t>(limits.size());
      limits.push_back(limits_of(policies[i]));
      by_policy[i].limits = static_cast<std::uint32_t>(limits.size());
    }
    const auto& monitors = policies[i].monitors;
    for (const std::uint32_t monitor : monitors) {
      // The program counts them in the order of their bits.
      const auto before =
          std::ranges::count_if(monitors, [&](std::uint32_t other) { return other < monitor; });
      loaded.pairs_[i].push_back(pairs + static_cast<std::uint32_t>(before));
    }
    pairs += static_cast<std::uint32_t>(monitors.size());
  }
  const auto bits = static_cast<std::uint32_t>(tables.policy_of_bit.size());
  const auto create = [&](bpf_map_type type, const char* name, std::size_t value_size,
                          std::size_t entries) {
    return loaded.maps_.add(name,
                            create_map(type, name, sizeof(std::uint32_t), value_size, entries));
  };
  const auto array = BPF_MAP_TYPE_ARRAY;
  const auto per_cpu = BPF_MAP_TYPE_PERCPU_ARRAY;
  const std::size_t monitors = VTAP_MAX_MONITORS;
  for (auto& done :
       {create(array, "placed", sizeof(vtap_placed), bits),
        create(per_cpu, "placed_counts", sizeof(vtap_placed_counters), policies.size()),
        create(per_cpu, "pair_counts", sizeof(vtap_pair_counters), pairs),
        create(array, "monitor_links", sizeof(vtap_monitor_link), monitors),
        loaded.maps_.add("limits", load_limits(limits)),
        create(per_cpu, "clone_counts", sizeof(vtap_clone_counters), monitors)}) {
    if (!done) return done.error();
  }
  for (std::uint32_t bit = 0; bit < bits; ++bit) {
    const std::uint32_t policy = tables.policy_of_bit[bit];
    if (policy == ~0U || tables.placements[policy] != plan::Placement::kernel) continue;
    if (bpf_map_update_elem(loaded.maps_.fd("placed"), &bit, &by_policy[policy], BPF_ANY) != 0)
      return bpf_error("filling the BPF map placed", -errno);
  }
  return loaded;
}

void CloneMaps::go_on_from(const CloneMaps& before, const config::Config& its_config,
                           const config::Config& config) noexcept {
  for (std::size_t i = 0; i < config.policies.size(); ++i) {
    const config::Policy& policy = config.policies[i];
    const auto old = std::ranges::find(its_config.policies, policy.name, &config::Policy::name);
    if (old == its_config.policies.end() || limits_[i] == ~0U) continue;
    const std::uint32_t from =
        before.limits_[static_cast<std::size_t>(old - its_config.policies.begin())];
    if (from == ~0U || old->sample != policy.sample || old->meter != policy.meter) continue;
    vtap_limits limits{};
    if (bpf_map_lookup_elem(before.maps_.fd("limits"), &from, &limits) != 0) continue;
    bpf_map_update_elem(maps_.fd("limits"), &limits_[i], &limits, BPF_ANY);
  }
}

/// The entries of its device are there as long as programs may look for them.
Result<void> CloneMaps::set_monitor(std::uint32_t monitor, vtap_monitor_link link) {
  if (link.ifindex != 0) {
    if (auto done = fan_.set_monitor(monitor, static_cast<int>(link.ifindex)); !done) return done;
  }
  if (bpf_map_update_elem(maps_.fd("monitor_links"), &monitor, &link, BPF_ANY) != 0) {
    return bpf_error("telling the tap programs about a monitor port", -errno);
  }
  return link.ifindex != 0 ? Result<void>{} : fan_.set_monitor(monitor, 0);
}

vtap_placed_counters CloneMaps::policy(std::uint32_t policy) const {
  return sum_over_cpus<vtap_placed_counters>(maps_.fd("placed_counts"), policy);
}

vtap_pair_counters CloneMaps::pair(std::uint32_t policy, std::uint32_t place) const {
  return sum_over_cpus<vtap_pair_counters>(maps_.fd("pair_counts"), pairs_[policy][place]);
}

vtap_clone_counters CloneMaps::monitor(std::uint32_t monitor) const {
  return sum_over_cpus<vtap_clone_counters>(maps_.fd("clone_counts"), monitor);
}

/// Of the skeletons, those of one hook are set, the others are empty.
struct TapPrograms::State {
  /// The program of one plan.
  struct Plan {
    TapXdp xdp;
    TapTc tc;
    std::size_t filters_left_out = 0;

    [[nodiscard]] int fd() const {
      return bpf_program__fd(xdp ? xdp->progs.vtap_tap_xdp : tc->progs.vtap_tap_tc);
    }
  };
  StubXdp stub_xdp;
  StubTc stub_tc;
  Plan plan;
  Plan other;  ///< the one before or after
  // Of XDP, for all plans.
  UniqueFd xsks, heartbeats_fd;
  std::optional<Mapping> heartbeats;
  vtap_port_config config{};  ///< of the stub
  int output_program = 0;     ///< of the plan
  int other_output_program = 0;

  [[nodiscard]] int slot_fd() const {
    return bpf_map__fd(stub_xdp ? stub_xdp->maps.slot : stub_tc->maps.slot);
  }
  Result<void> load_tc(const vtap_port_config& its, const TeeMemory& memory,
                       const ClassMaps& classes, const CloneMaps& clones,
                       const std::vector<PortFilter>& filters);
  Result<void> load_xdp(const vtap_port_config& its, const TeeMemory& memory,
                        const ClassMaps& classes, const CloneMaps& clones,
                        const std::vector<PortFilter>& filters);
};

TapPrograms::TapPrograms(std::unique_ptr<State> state) : state_(std::move(state)) {}
TapPrograms::TapPrograms(TapPrograms&&) noexcept = default;
TapPrograms& TapPrograms::operator=(TapPrograms&&) noexcept = default;
TapPrograms::~TapPrograms() = default;

namespace {

/// Not loaded: nobody calls it.
void leave_out(bpf_object* object, const char* program, bool out) {
  bpf_program* const found = bpf_object__find_program_by_name(object, program);
  if (found != nullptr) bpf_program__set_autoload(found, !out);
}

/// Puts the generated program, and the one behind it, into their slots.
/// Returns how many filters are left out.
Result<std::size_t> chain(ProgramHook hook, const vtap_port_config& config,
                          const std::vector<PortFilter>& filters, const TeeMemory& memory,
                          bpf_map* slots, bpf_map* out, bpf_program* behind) {
  const int slots_fd = bpf_map__fd(slots);
  auto loaded = load_filters(hook, config, filters, memory.cpus_fd(), slots_fd,
                             out == nullptr ? -1 : bpf_map__fd(out));
  if (!loaded) return loaded.error();
  const std::pair<std::uint32_t, int> entries[] = {{VTAP_CHAIN_FILTERED, bpf_program__fd(behind)},
                                                   {VTAP_CHAIN_FILTERS, loaded->program.get()}};
  for (const auto& [key, fd] : entries) {
    if (bpf_map_update_elem(slots_fd, &key, &fd, BPF_ANY) != 0)
      return bpf_error("putting the filters in front of a tap program", -errno);
  }
  return loaded->left_out;
}

/// `program`: what frames to that port go through; 0: none.
Result<void> set_output(bpf_map* out, const vtap_port_config& config, int program) {
  const std::uint32_t zero = 0;
  if (config.mode != VTAP_MODE_INLINE) return {};
  bpf_devmap_val value{};
  value.ifindex = config.out_ifindex;
  value.bpf_prog.fd = program;
  if (bpf_map_update_elem(bpf_map__fd(out), &zero, &value, BPF_ANY) == 0) return {};
  return bpf_error("setting the output of an inline port", -errno);
}

}  // namespace

Result<TapPrograms> TapPrograms::load(ProgramHook hook, const vtap_port_config& config,
                                      const TeeMemory& memory, const ClassMaps& classes,
                                      const CloneMaps& clones,
                                      const std::vector<PortFilter>& filters) {
  TapPrograms loaded(std::make_unique<State>());
  State& state = *loaded.state_;
  state.config = config;
  const auto nothing = [](bpf_object*) { return Result<void>{}; };
  if (hook == ProgramHook::tc) {
    auto stub =
        load_skeleton<StubTc, stub_tc_bpf__open, stub_tc_bpf__load>("the TC stub", config, nothing);
    if (!stub) return stub.error();
    state.stub_tc = std::move(*stub);
  } else {
    auto stub = load_skeleton<StubXdp, stub_xdp_bpf__open, stub_xdp_bpf__load>("the XDP stub",
                                                                               config, nothing);
    if (!stub) return stub.error();
    state.stub_xdp = std::move(*stub);
    if (auto done = loaded.create_queues(); !done) return done.error();
    const int program = clones.fan().output_program();
    if (auto done = set_output(state.stub_xdp->maps.out, config, program); !done) {
      return done.error();
    }
  }
  auto prepared = loaded.prepare(config, memory, classes, clones, filters);
  if (!prepared) return prepared.error();
  std::swap(state.plan, state.other);
  std::swap(state.output_program, state.other_output_program);
  return loaded;
}

/// What the sockets' workers and the programs share, whatever the plan.
Result<void> TapPrograms::create_queues() {
  constexpr std::size_t number = sizeof(std::uint32_t);
  auto xsks = create_map(BPF_MAP_TYPE_XSKMAP, "xsks", number, number, VTAP_MAX_QUEUES);
  if (!xsks) return xsks.error();
  auto beats = create_map(BPF_MAP_TYPE_ARRAY, "heartbeats", number, sizeof(std::uint64_t),
                          VTAP_MAX_QUEUES, {.flags = BPF_F_MMAPABLE});
  if (!beats) return beats.error();
  auto mapping = Mapping::open(beats->get(), sizeof(std::uint64_t) * VTAP_MAX_QUEUES);
  if (!mapping) return mapping.error();
  state_->xsks = std::move(*xsks);
  state_->heartbeats_fd = std::move(*beats);
  state_->heartbeats.emplace(std::move(*mapping));
  return {};
}

Result<void> TapPrograms::prepare(const vtap_port_config& config, const TeeMemory& memory,
                                  const ClassMaps& classes, const CloneMaps& clones,
                                  const std::vector<PortFilter>& filters) {
  return state_->stub_tc ? state_->load_tc(config, memory, classes, clones, filters)
                         : state_->load_xdp(config, memory, classes, clones, filters);
}

Result<void> TapPrograms::State::load_tc(const vtap_port_config& its, const TeeMemory& memory,
                                         const ClassMaps& classes, const CloneMaps& clones,
                                         const std::vector<PortFilter>& filters) {
  const auto share = [&](bpf_object* object) {
    leave_out(object, "vtap_filtered_tc", its.filters == 0);
    auto done = share_maps(object, memory, classes);
    return done ? clones.maps().share_with(object) : done;
  };
  auto tap =
      load_skeleton<TapTc, tap_tc_bpf__open, tap_tc_bpf__load>("the TC tap program", its, share);
  if (!tap) return tap.error();
  std::size_t left_out = 0;
  if (its.filters != 0) {
    auto chained = chain(ProgramHook::tc, its, filters, memory, (*tap)->maps.chain, nullptr,
                         (*tap)->progs.vtap_filtered_tc);
    if (!chained) return chained.error();
    left_out = *chained;
  }
  other = {.xdp = {}, .tc = std::move(*tap), .filters_left_out = left_out};
  return {};
}

Result<void> TapPrograms::State::load_xdp(const vtap_port_config& its, const TeeMemory& memory,
                                          const ClassMaps& classes, const CloneMaps& clones,
                                          const std::vector<PortFilter>& filters) {
  bpf_map* const out = stub_xdp->maps.out;
  const auto share = [&](bpf_object* object) {
    leave_out(object, "vtap_filtered_xdp", its.filters == 0);
    auto done = share_maps(object, memory, classes);
    if (done) done = clones.maps().share_with(object);
    if (done) done = clones.fan().maps().share_with(object);
    if (done) done = reuse(object, "xsks", xsks.get());
    if (done) done = reuse(object, "heartbeats", heartbeats_fd.get());
    return done ? reuse(object, "out", bpf_map__fd(out)) : done;
  };
  auto tap = load_skeleton<TapXdp, tap_xdp_bpf__open, tap_xdp_bpf__load>("the XDP tap program", its,
                                                                         share);
  if (!tap) return tap.error();
  std::size_t left_out = 0;
  if (its.filters != 0) {
    auto chained = chain(ProgramHook::xdp, its, filters, memory, (*tap)->maps.chain, out,
                         (*tap)->progs.vtap_filtered_xdp);
    if (!chained) return chained.error();
    left_out = *chained;
  }
  // One that cuts leaves frames alone that nobody asked to cut, also those of the plan before.
  const int program = clones.fan().output_program();
  if (program != 0) {
    if (auto done = set_output(out, config, program); !done) return done;
  }
  other_output_program = program;
  other = {.xdp = std::move(*tap), .tc = {}, .filters_left_out = left_out};
  return {};
}

Result<void> TapPrograms::switch_over() {
  if (auto done = fill_slot(state_->slot_fd(), state_->other.fd()); !done) return done;
  std::swap(state_->plan, state_->other);
  std::swap(state_->output_program, state_->other_output_program);
  return {};
}

Result<void> TapPrograms::settle() {
  const bool other_cuts = state_->other_output_program != 0;
  Result<void> done;
  if (other_cuts) {
    done = set_output(state_->stub_xdp->maps.out, state_->config, state_->output_program);
  }
  state_->other = {};
  state_->other_output_program = 0;
  return done;
}

int TapPrograms::stub_fd() const noexcept {
  return bpf_program__fd(state_->stub_xdp ? state_->stub_xdp->progs.vtap_stub_xdp
                                          : state_->stub_tc->progs.vtap_stub_tc);
}

int TapPrograms::plan_fd() const noexcept { return state_->plan.fd(); }

std::size_t TapPrograms::filters_left_out() const noexcept { return state_->plan.filters_left_out; }

Result<void> TapPrograms::engage() { return fill_slot(state_->slot_fd(), plan_fd()); }

Result<void> TapPrograms::disengage() {
  const std::uint32_t zero = 0;
  if (bpf_map_delete_elem(state_->slot_fd(), &zero) == 0 || errno == ENOENT) return {};
  return bpf_error("disengaging a tap program", -errno);
}

Result<void> TapPrograms::set_socket(std::uint32_t queue, int socket_fd) {
  if (bpf_map_update_elem(state_->xsks.get(), &queue, &socket_fd, BPF_ANY) == 0) return {};
  return bpf_error("giving an AF_XDP socket to a tap program", -errno);
}

void TapPrograms::clear_socket(std::uint32_t queue) noexcept {
  bpf_map_delete_elem(state_->xsks.get(), &queue);
}

std::uint64_t* TapPrograms::heartbeat(std::uint32_t queue) const noexcept {
  return reinterpret_cast<std::uint64_t*>(state_->heartbeats->base()) + queue;
}

struct LegProgram::State {
  LegObject object;
};

LegProgram::LegProgram(std::unique_ptr<State> state) : state_(std::move(state)) {}
LegProgram::LegProgram(LegProgram&&) noexcept = default;
LegProgram& LegProgram::operator=(LegProgram&&) noexcept = default;
LegProgram::~LegProgram() = default;

Result<LegProgram> LegProgram::load(const vtap_port_config& config,
                                    const std::vector<vtap_leg_port>& ports,
                                    const TeeMemory& memory, const ClassMaps& classes) {
  auto object = load_skeleton<LegObject, leg_bpf__open, leg_bpf__load>(
      "the leg's program", config,
      [&](bpf_object* opened) { return share_maps(opened, memory, classes); });
  if (!object) return object.error();
  const int map = bpf_map__fd((*object)->maps.leg_ports);
  for (std::uint32_t port = 0; port < ports.size(); ++port) {
    if (bpf_map_update_elem(map, &port, &ports[port], BPF_ANY) != 0) {
      return bpf_error("telling the leg's program about the ports", -errno);
    }
  }
  return LegProgram(std::make_unique<State>(State{std::move(*object)}));
}

int LegProgram::fd() const noexcept { return bpf_program__fd(state_->object->progs.vtap_leg); }

struct MonitorProgram::State {
  MonitorObject object;
};

MonitorProgram::MonitorProgram(std::unique_ptr<State> state) : state_(std::move(state)) {}
MonitorProgram::MonitorProgram(MonitorProgram&&) noexcept = default;
MonitorProgram& MonitorProgram::operator=(MonitorProgram&&) noexcept = default;
MonitorProgram::~MonitorProgram() = default;

Result<MonitorProgram> MonitorProgram::load() {
  MonitorObject object(monitor_bpf__open_and_load());
  if (!object) return bpf_error("loading the monitor program", -errno);
  return MonitorProgram(std::make_unique<State>(State{std::move(object)}));
}

int MonitorProgram::fd(ProgramHook hook) const noexcept {
  const auto& programs = state_->object->progs;
  return bpf_program__fd(hook == ProgramHook::xdp ? programs.vtap_monitor_xdp
                                                  : programs.vtap_monitor_tc);
}

std::uint64_t MonitorProgram::arrived() const {
  return sum_over_cpus<std::uint64_t>(bpf_map__fd(state_->object->maps.arrived), 0);
}

struct WireProgram::State {
  StubTc stub;
};

WireProgram::WireProgram(std::unique_ptr<State> state) : state_(std::move(state)) {}
WireProgram::WireProgram(WireProgram&&) noexcept = default;
WireProgram& WireProgram::operator=(WireProgram&&) noexcept = default;
WireProgram::~WireProgram() = default;

Result<WireProgram> WireProgram::load(const vtap_port_config& config) {
  auto stub = load_skeleton<StubTc, stub_tc_bpf__open, stub_tc_bpf__load>(
      "the wire at TC", config, [](bpf_object*) { return Result<void>{}; });
  if (!stub) return stub.error();
  return WireProgram(std::make_unique<State>(State{std::move(*stub)}));
}

int WireProgram::fd() const noexcept { return bpf_program__fd(state_->stub->progs.vtap_stub_tc); }

struct RedirectErrors::State {
  ErrorsObject object;
};

RedirectErrors::RedirectErrors(std::unique_ptr<State> state) : state_(std::move(state)) {}
RedirectErrors::RedirectErrors(RedirectErrors&&) noexcept = default;
RedirectErrors& RedirectErrors::operator=(RedirectErrors&&) noexcept = default;
RedirectErrors::~RedirectErrors() = default;

Result<RedirectErrors> RedirectErrors::attach() {
  const UniqueFd probe(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  std::uint64_t cookie = 0;
  socklen_t size = sizeof(cookie);
  if (getsockopt(probe.get(), SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &size) != 0) {
    return bpf_error("asking for the network namespace", -errno);
  }
  ErrorsObject object(errors_bpf__open());
  if (!object) return bpf_error("opening the redirect tracepoints", -errno);
  object->rodata->netns_cookie = cookie;
  if (const int error = errors_bpf__load(object.get()); error != 0) {
    return bpf_error("loading the redirect tracepoints", error);
  }
  if (const int error = errors_bpf__attach(object.get()); error != 0) {
    return bpf_error("attaching the redirect tracepoints", error);
  }
  return RedirectErrors(std::make_unique<State>(State{std::move(object)}));
}

Result<void> RedirectErrors::add_port(int ifindex, std::uint32_t port) {
  const int map = bpf_map__fd(state_->object->maps.port_of);
  if (bpf_map_update_elem(map, &ifindex, &port, BPF_ANY) == 0) return {};
  return bpf_error("counting failed redirects", -errno);
}

Result<void> RedirectErrors::add_monitor(int ifindex, std::uint32_t monitor) {
  const int map = bpf_map__fd(state_->object->maps.monitor_of);
  if (bpf_map_update_elem(map, &ifindex, &monitor, BPF_ANY) == 0) return {};
  return bpf_error("counting copies that a monitor's device refuses", -errno);
}

void RedirectErrors::remove_monitor(int ifindex) noexcept {
  bpf_map_delete_elem(bpf_map__fd(state_->object->maps.monitor_of), &ifindex);
}

std::uint64_t RedirectErrors::refused_copies(std::uint32_t monitor) const {
  return sum_over_cpus<std::uint64_t>(bpf_map__fd(state_->object->maps.refused_copies), monitor);
}

void RedirectErrors::reset_port(std::uint32_t port) noexcept {
  set_to_zero<vtap_redirect_errors>(bpf_map__fd(state_->object->maps.redirect_errors), port);
}

void RedirectErrors::reset_monitor(std::uint32_t monitor) noexcept {
  set_to_zero<std::uint64_t>(bpf_map__fd(state_->object->maps.refused_copies), monitor);
}

void RedirectErrors::remove_port(int ifindex) noexcept {
  bpf_map_delete_elem(bpf_map__fd(state_->object->maps.port_of), &ifindex);
}

vtap_redirect_errors RedirectErrors::read(std::uint32_t port) const {
  return sum_over_cpus<vtap_redirect_errors>(bpf_map__fd(state_->object->maps.redirect_errors),
                                             port);
}

}  // namespace vtap::io
