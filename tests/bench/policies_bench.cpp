// SPDX-License-Identifier: Apache-2.0
// What finding the policies of a frame costs with 10 to 10,000 of them: this project in user space
// and at XDP, side by side with libpcap's interpreter and DPDK's rte_acl on the same rules and the
// same frames. Before anything is timed, all must agree. Tables go to stdout, progress to stderr.
#include <sched.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "bench/policies/contestant.hpp"

namespace vtap::bench {
namespace {

const std::map<std::string, Kind> kKinds{{name_of(Kind::mixed), Kind::mixed},
                                         {name_of(Kind::tuples), Kind::tuples},
                                         {name_of(Kind::pairs), Kind::pairs}};

struct Options {
  std::vector<Kind> kinds{Kind::mixed, Kind::tuples, Kind::pairs};
  std::vector<std::uint32_t> policies{10, 100, 1000, 10000};
  std::uint32_t rounds = 7;
  double seconds = 0.1;  ///< per measurement
  std::uint32_t frames = 65536;
  std::uint32_t sample = 200;  ///< frames that XDP programs are given
  std::uint32_t hosts = 100'000, prefixes = 20'000;
  double pcap_limit = 30;  ///< seconds
  std::uint64_t seed = 1;
  std::string json;
  std::vector<std::string> who;  ///< empty: all
  bool quick = false;

  void make_quick() {
    policies = {10, 100};
    rounds = 2;
    seconds = 0.005;
    frames = 4096;
    sample = 20;
    hosts = 1000;
    prefixes = 200;
    pcap_limit = 5;
  }
};

constexpr const char* kClassifier = "C++ classifier";
constexpr const char* kAgain = "C++ classifier, once more (A/A)";
constexpr const char* kUncached = "C++ classifier, nothing cached";
constexpr const char* kNewFlows = "C++ classifier, every flow new";
constexpr const char* kPipeline = "C++ pipeline";
constexpr const char* kTwoMonitors = "C++ pipeline, two monitors";
constexpr const char* kTwoThreads = "C++ pipeline, two monitors, two threads";
constexpr const char* kTap = "XDP tap";
constexpr const char* kTapUncached = "XDP tap, nothing cached";
constexpr const char* kEmpty = "XDP that only passes";
constexpr const char* kPcapLoop = "libpcap, each policy";
constexpr const char* kPcapAny = "libpcap, joined by or";
constexpr const char* kAcl = "DPDK rte_acl, first policy";

/// So few that a frame is forgotten before it comes again.
constexpr std::uint32_t kFewCached = 256;

/// Ratios that say who is ahead: above 1 the second. The others classify every frame, so this
/// project is beside them with nothing remembered, too.
constexpr std::array<std::pair<const char*, const char*>, 12> kRatios{
    {{kAgain, kClassifier},
     {kPcapLoop, kClassifier},
     {kPcapAny, kClassifier},
     {kAcl, kClassifier},
     {kAcl, kUncached},
     {kPcapLoop, kTapUncached},
     {kPcapAny, kTapUncached},
     {kAcl, kTap},
     {kAcl, kTapUncached},
     {kPipeline, kAcl},
     {kTwoMonitors, kAcl},
     {kTwoMonitors, kTwoThreads}}};

/// Pins this thread, and all processes and threads that it starts, to the last CPU it may use.
unsigned pin() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (::sched_getaffinity(0, sizeof(allowed), &allowed) != 0) throw std::runtime_error("affinity");
  int last = CPU_SETSIZE - 1;
  while (!CPU_ISSET(last, &allowed)) --last;
  CPU_ZERO(&allowed);
  CPU_SET(last, &allowed);
  if (::sched_setaffinity(0, sizeof(allowed), &allowed) != 0) throw std::runtime_error("affinity");
  return static_cast<unsigned>(last);
}

struct Named {
  std::string name;
  Contestant* contestant;
};

/// ns per frame, by traffic and contestant, one figure per round.
using Figures = std::map<std::string, std::map<std::string, std::vector<double>>>;

/// All contestants on all traffic, in changing order, so that a machine that slows down slows down
/// all of them.
Figures race(const std::vector<Named>& field, const std::vector<Traffic>& traffic,
             const Options& options) {
  for (const Named& one : field) {
    for (const Traffic& some : traffic) one.contestant->check(some);
  }
  Figures figures;
  for (std::uint32_t round = 0; round < options.rounds; ++round) {
    for (const Traffic& some : traffic) {
      for (std::size_t i = 0; i < field.size(); ++i) {
        const std::size_t at = round % 2 == 0 ? i : field.size() - 1 - i;
        const Named& one = field[(at + round) % field.size()];
        figures[some.name()][one.name].push_back(one.contestant->measure(some, options.seconds));
      }
    }
  }
  return figures;
}

// ---- text

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

std::string number(double value) {
  const int digits = value < 10 ? 2 : value < 1000 ? 1 : 0;
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.*f", digits, value);
  return text.data();
}

std::string spread(const std::vector<double>& values) {
  const auto [least, most] = std::ranges::minmax(values);
  return number(median(values)) + " (" + number(least) + "–" + number(most) + ")";
}

void print_row(const std::vector<std::string>& cells) {
  for (const std::string& cell : cells) std::cout << "| " << cell << ' ';
  std::cout << "|\n";
}

void print_head(std::vector<std::string> cells, std::size_t text_columns) {
  print_row(cells);
  for (std::size_t i = 0; i < cells.size(); ++i) cells[i] = i < text_columns ? "---" : "---:";
  print_row(cells);
}

// ---- 10 to 10,000 policies

/// One rule set: everybody who could be made for it, and how they did.
struct Heat {
  Kind kind;
  std::uint32_t policies;
  Figures figures;
  std::map<std::string, std::string> refused;  ///< by contestant
  std::map<std::string, double> load;          ///< by column
  std::set<std::string> notes;
};

/// Makes the contestants of a rule set, and keeps them.
class Field {
 public:
  /// `who`: names of those that take part, or parts of them; none: all.
  Field(Heat& heat, const std::vector<std::string>& who) : heat_(heat), who_(who) {}

  [[nodiscard]] bool has(const char* name) const {
    const auto names = [&](const std::string& part) {
      return std::string(name).find(part) != std::string::npos;
    };
    return who_.empty() || std::ranges::any_of(who_, names);
  }

  template <typename Make>
  void enter(const char* name, Make&& make, const char* once_more = nullptr) {
    if (!has(name)) return;
    Entrant entrant = make();
    heat_.load.merge(entrant.load);
    if (!entrant.note.empty()) heat_.notes.insert(entrant.note);
    for (const char* as : {name, once_more}) {
      if (as == nullptr) continue;
      if (entrant.contestant)
        named_.push_back({as, entrant.contestant.get()});
      else
        heat_.refused[as] = entrant.refused;
    }
    if (!entrant.contestant) std::cerr << "  " << name << ": " << entrant.refused << '\n';
    owned_.push_back(std::move(entrant.contestant));
  }
  [[nodiscard]] const std::vector<Named>& all() const { return named_; }

 private:
  Heat& heat_;
  const std::vector<std::string>& who_;
  std::vector<Named> named_;
  std::vector<std::unique_ptr<Contestant>> owned_;
};

Heat run_heat(Kind kind, std::uint32_t policies, const Options& options, Kernel* kernel,
              unsigned cpu) {
  std::cerr << name_of(kind) << ", " << policies << " policies\n";
  Heat heat{kind, policies, {}, {}, {}, {}};
  const auto rules = make_rules(kind, policies, options.seed);
  std::vector<Traffic> traffic;
  traffic.push_back(hitting_traffic(rules, options.frames, options.seed + 1));
  traffic.push_back(missing_traffic(rules, options.frames, options.seed + 2));
  if (traffic[1].matching() != 0) throw Disagreement("the missing traffic does not miss");

  const auto plan = make_plan(config_of(rules));
  const auto two_monitors = make_plan(config_of(rules, 2));
  heat.load = plan->load;
  heat.load["policies per match"] = traffic[0].policies_per_match();
  Field field(heat, options.who);
  field.enter(
      kClassifier, [&] { return make_classifier(*plan); }, kAgain);
  field.enter(kUncached, [&] { return make_classifier(*plan, 0); });
  field.enter(kNewFlows, [&] { return make_classifier(*plan, kFewCached); });
  field.enter(kPipeline, [&] { return make_pipeline(*plan); });
  field.enter(kTwoMonitors, [&] { return make_pipeline(*two_monitors); });
  field.enter(kTwoThreads, [&] { return make_parallel_pipelines(*two_monitors, 2); });
  const auto enter_kernel = [&](const char* name, auto&& make) {
    field.enter(name, [&] { return kernel != nullptr ? make() : refusal("SKIPPED: needs root"); });
  };
  enter_kernel(kTap, [&] { return kernel->make_tap(*plan); });
  enter_kernel(kTapUncached, [&] { return kernel->make_uncached_tap(*plan); });
  enter_kernel(kEmpty, [&] { return kernel->make_empty(); });
  field.enter(kPcapLoop, [&] { return make_pcap_loop(rules); });
  field.enter(kPcapAny, [&] { return make_pcap_any(rules, options.pcap_limit); });
  field.enter(kAcl, [&] { return make_acl(rules, cpu); });
  heat.figures = race(field.all(), traffic, options);
  return heat;
}

const std::vector<double>* figures_of(const Heat& heat, const std::string& traffic,
                                      const std::string& who) {
  const auto some = heat.figures.find(traffic);
  if (some == heat.figures.end()) return nullptr;
  const auto values = some->second.find(who);
  return values == some->second.end() ? nullptr : &values->second;
}

/// A short word for a cell; the reason stands below the table.
std::string refusal_cell(const Heat& heat, const std::string& who) {
  const auto why = heat.refused.find(who);
  if (why == heat.refused.end()) return "–";
  return why->second.starts_with("SKIPPED") ? "skipped" : "refused";
}

/// Asked for, and be it in vain.
bool took_part(const Heat& heat, const std::string& who) {
  return heat.refused.contains(who) || figures_of(heat, "90% match", who) != nullptr;
}

std::string ratio_cell(const Heat& heat, const std::string& traffic, const std::string& above,
                       const std::string& below) {
  const auto* const a = figures_of(heat, traffic, above);
  const auto* const b = figures_of(heat, traffic, below);
  if (a == nullptr || b == nullptr) return refusal_cell(heat, a == nullptr ? above : below);
  std::vector<double> ratios;
  for (std::size_t i = 0; i < a->size(); ++i) ratios.push_back((*a)[i] / (*b)[i]);
  return spread(ratios);
}

std::vector<std::string> head_of(std::vector<std::string> head, const Options& options) {
  for (const std::uint32_t n : options.policies) head.push_back(std::to_string(n));
  return head;
}

/// Calls `row(kind, traffic)` with the heats of that kind, in order of their policies.
template <typename Row>
void for_each_group(const std::vector<Heat>& heats, const Options& options, Row&& row) {
  for (const Kind kind : options.kinds) {
    std::vector<const Heat*> group;
    for (const Heat& heat : heats) {
      if (heat.kind == kind) group.push_back(&heat);
    }
    for (const char* traffic : {"90% match", "none match"}) row(kind, traffic, group);
  }
}

void print_heats(const std::vector<Heat>& heats, const Options& options) {
  std::cout << "## ns per frame, by number of policies: median (least–most) of " << options.rounds
            << " rounds\n\n";
  print_head(head_of({"rules", "traffic", "who"}, options), 3);
  for_each_group(heats, options, [&](Kind kind, const char* traffic, const auto& group) {
    for (const char* who : {kClassifier, kAgain, kUncached, kNewFlows, kPipeline, kTwoMonitors,
                            kTwoThreads, kTap, kTapUncached, kEmpty, kPcapLoop, kPcapAny, kAcl}) {
      if (std::ranges::none_of(group, [&](const Heat* heat) { return took_part(*heat, who); }))
        continue;
      std::vector<std::string> row{name_of(kind), traffic, who};
      for (const Heat* heat : group) {
        const auto* const values = figures_of(*heat, traffic, who);
        row.push_back(values != nullptr ? spread(*values) : refusal_cell(*heat, who));
      }
      print_row(row);
    }
  });
  std::cout << "\n## Ratios within a round; above 1, the second is ahead\n\n";
  print_head(head_of({"rules", "traffic", "ratio"}, options), 3);
  for_each_group(heats, options, [&](Kind kind, const char* traffic, const auto& group) {
    for (const auto& [above, below] : kRatios) {
      if (std::ranges::none_of(group, [&](const Heat* heat) {
            return took_part(*heat, above) && took_part(*heat, below);
          }))
        continue;
      std::vector<std::string> row{name_of(kind), traffic, std::string(above) + " / " + below};
      for (const Heat* heat : group) row.push_back(ratio_cell(*heat, traffic, above, below));
      print_row(row);
    }
  });
}

void print_load(const std::vector<Heat>& heats) {
  std::cout << "\n## What loading costs\n\n";
  const std::vector<std::string> columns{
      "policies per match", "plan::compile ms", "classifier ms",
      "classifier MB",      "plan MB",          "plan bytes per policy",
      "BPF maps ms",        "BPF program ms",   "libpcap each ms",
      "libpcap joined ms",  "rte_acl build ms", "rte_acl MB"};
  std::vector<std::string> head{"rules", "policies"};
  head.insert(head.end(), columns.begin(), columns.end());
  print_head(head, 1);
  for (const Heat& heat : heats) {
    std::vector<std::string> row{name_of(heat.kind), std::to_string(heat.policies)};
    for (const std::string& column : columns) {
      const auto value = heat.load.find(column);
      row.push_back(value == heat.load.end() ? "–" : number(value->second));
    }
    print_row(row);
  }
}

/// Each reason once, with all the places it is about.
void print_notes(const std::vector<Heat>& heats) {
  std::map<std::string, std::string> places;
  const auto note = [&](const std::string& text, const std::string& place) {
    std::string& all = places[text];
    all += (all.empty() ? "" : ", ") + place;
  };
  for (const Heat& heat : heats) {
    const std::string where = std::string(name_of(heat.kind)) + " " + std::to_string(heat.policies);
    for (const auto& [who, why] : heat.refused) {
      if (who != kAgain) note(who + ": " + why, where);
    }
    for (const std::string& text : heat.notes) note(text, where);
  }
  std::cout << "\nRefused, skipped, and what else is to be known:\n\n";
  for (const auto& [text, where] : places) std::cout << "- " << text << " (" << where << ")\n";
}

// ---- one policy with a long list

struct ListRun {
  std::string name;
  std::map<std::string, double> load;
  std::string refused;
  Figures figures;
};

/// Both plans in one race, so that their ratio means something.
std::vector<ListRun> run_lists(const Options& options, Kernel* kernel) {
  std::cerr << "long list\n";
  auto list = make_long_list(options.hosts, options.prefixes, options.frames, options.seed);
  const auto rules = make_rules(Kind::mixed, 10, options.seed);
  std::vector<Traffic> ten_traffic;
  ten_traffic.push_back(hitting_traffic(rules, options.frames, options.seed + 1));
  ten_traffic.push_back(missing_traffic(rules, options.frames, options.seed + 2));

  const std::array plans{make_plan(config_of(rules)), make_plan(std::move(list.config))};
  const std::array traffic{&ten_traffic, &list.traffic};
  std::vector<ListRun> runs{{"10 policies", {}, {}, {}},
                            {"1 policy, " + std::to_string(options.hosts) + " hosts, " +
                                 std::to_string(options.prefixes) + " prefixes",
                             {},
                             {},
                             {}}};
  std::array<std::vector<Named>, 2> fields;
  std::vector<Entrant> owned;
  for (std::size_t i = 0; i < plans.size(); ++i) {
    runs[i].load = plans[i]->load;
    const auto enter = [&](const char* name, Entrant entrant) {
      runs[i].load.merge(entrant.load);
      if (entrant.contestant)
        fields[i].push_back({name, entrant.contestant.get()});
      else
        runs[i].refused = entrant.refused;
      owned.push_back(std::move(entrant));
    };
    enter(kClassifier, make_classifier(*plans[i]));
    if (kernel != nullptr) enter(kTap, kernel->make_tap(*plans[i]));
  }
  Options once = options;
  once.rounds = 1;
  for (std::uint32_t round = 0; round < options.rounds; ++round) {
    for (std::size_t turn = 0; turn < plans.size(); ++turn) {
      const std::size_t i = (turn + round) % plans.size();
      for (const auto& [name, by_who] : race(fields[i], *traffic[i], once)) {
        for (const auto& [who, values] : by_who)
          runs[i].figures[name][who].push_back(values.front());
      }
    }
  }
  return runs;
}

void print_lists(const std::vector<ListRun>& runs) {
  std::cout << "\n## One policy with a long list\n\n";
  const std::vector<std::string> columns{"plan::compile ms", "classifier ms", "classifier MB",
                                         "BPF maps ms", "plan MB"};
  std::vector<std::string> head{"plan"};
  head.insert(head.end(), columns.begin(), columns.end());
  for (const char* traffic : {"90% match", "none match"}) {
    for (const char* who : {kClassifier, kTap})
      head.push_back(std::string(who) + ", " + traffic + ", ns");
  }
  print_head(head, 1);
  for (const ListRun& run : runs) {
    std::vector<std::string> row{run.name};
    for (const std::string& column : columns) {
      const auto value = run.load.find(column);
      row.push_back(value == run.load.end() ? "–" : number(value->second));
    }
    for (const char* traffic : {"90% match", "none match"}) {
      for (const char* who : {kClassifier, kTap}) {
        const auto some = run.figures.find(traffic);
        const bool there = some != run.figures.end() && some->second.contains(who);
        row.push_back(there ? spread(some->second.at(who)) : "–");
      }
    }
    print_row(row);
    if (!run.refused.empty()) std::cerr << "  " << run.name << ": " << run.refused << '\n';
  }
}

double copy_cost(const Options& options, Kernel& kernel) {
  const auto rules = make_rules(Kind::mixed, 10, options.seed);
  const auto traffic = hitting_traffic(rules, 1024, options.seed + 1);
  return kernel.copy_cost(*make_plan(config_of(rules)), traffic);
}

// ---- all of it

void write_json(const std::string& file, const Options& options, const std::vector<Heat>& heats,
                const std::vector<ListRun>& lists, double copy_ns) {
  nlohmann::json all;
  all["options"] = {{"rounds", options.rounds}, {"seconds", options.seconds},
                    {"frames", options.frames}, {"sample", options.sample},
                    {"seed", options.seed},     {"quick", options.quick}};
  all["copy_ns"] = copy_ns;
  for (const Heat& heat : heats)
    all["heats"].push_back({{"rules", name_of(heat.kind)},
                            {"policies", heat.policies},
                            {"ns_per_frame", heat.figures},
                            {"refused", heat.refused},
                            {"load", heat.load},
                            {"notes", heat.notes}});
  for (const ListRun& run : lists)
    all["lists"].push_back({{"plan", run.name}, {"ns_per_frame", run.figures}, {"load", run.load}});
  std::ofstream out(file);
  out << all.dump(2) << '\n';
  if (!out) throw std::runtime_error("cannot write " + file);
}

void run(const Options& options) {
  const unsigned cpu = pin();
  const auto kernel = Kernel::open(options.sample);
  std::vector<Heat> heats;
  for (const Kind kind : options.kinds) {
    for (const std::uint32_t policies : options.policies)
      heats.push_back(run_heat(kind, policies, options, kernel.get(), cpu));
  }
  const bool all = options.who.empty();
  const auto lists = all ? run_lists(options, kernel.get()) : std::vector<ListRun>{};
  const double copy_ns = kernel && all ? copy_cost(options, *kernel) : 0;

  for (const Kind kind : options.kinds)
    std::cout << "- " << name_of(kind) << ": " << description_of(kind) << '\n';
  std::cout << '\n';
  print_heats(heats, options);
  if (kernel && all)
    std::cout
        << "\nThe copy of a matching frame of 64 bytes, which is in none of these figures, adds "
        << number(copy_ns) << " ns at XDP.\n";
  print_load(heats);
  print_notes(heats);
  if (all) print_lists(lists);
  if (!options.json.empty()) write_json(options.json, options, heats, lists, copy_ns);
}

}  // namespace
}  // namespace vtap::bench

namespace {

int run_program(int argc, char** argv) {
  vtap::bench::Options options;
  CLI::App app("Classification with 10 to 10,000 policies, compared");
  app.add_option("--rules", options.kinds, "mixed, 5-tuples, pairs")
      ->delimiter(',')
      ->transform(CLI::CheckedTransformer(vtap::bench::kKinds));
  app.add_option("--policies", options.policies, "numbers of policies")
      ->check(CLI::Range(1, 50000))
      ->delimiter(',');
  app.add_option("--rounds", options.rounds, "rounds of each comparison")
      ->check(CLI::Range(1, 1000));
  app.add_option("--seconds", options.seconds, "time of one measurement, at least");
  app.add_option("--frames", options.frames, "distinct frames of each traffic")
      ->check(CLI::Range(64, 1 << 20));
  app.add_option("--pcap-limit", options.pcap_limit, "seconds that libpcap may compile");
  app.add_option("--seed", options.seed, "of rules and traffic");
  app.add_option("--json", options.json, "file for all figures");
  app.add_option("--who", options.who, "only those whose name has one of these parts, no lists")
      ->delimiter(',');
  app.add_flag("--quick", options.quick, "few policies, frames and rounds: does it work?");
  CLI11_PARSE(app, argc, argv);
  if (options.quick) options.make_quick();
  vtap::bench::run(options);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run_program(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "policies_bench: %s\n", error.what());
    return 1;
  }
}
