// SPDX-License-Identifier: Apache-2.0
#include "config/ports.hpp"

#include <vtap/abi.h>

#include <numeric>

namespace vtap::config {
namespace {

/// Keys whose meaning hangs on other keys; nothing: the value was refused.
struct TapDraft {
  Tap tap;
  PortOwners& owners;
  std::optional<Mode> mode{};
  std::optional<Capture> capture = Capture::automatic;
  std::optional<Direction> direction = Direction::both;
};

constexpr auto kModes = std::to_array<Choice<Mode>>(
    {{"inline", Mode::inline_pair}, {"host", Mode::host}, {"span", Mode::span}});
constexpr auto kCaptures = std::to_array<Choice<Capture>>({{"auto", Capture::automatic},
                                                           {"tee", Capture::tee},
                                                           {"redirect", Capture::redirect},
                                                           {"clone", Capture::clone}});
constexpr auto kHooks =
    std::to_array<Choice<Hook>>({{"auto", Hook::automatic}, {"xdp", Hook::xdp}, {"tc", Hook::tc}});
constexpr auto kDirections = std::to_array<Choice<Direction>>(
    {{"ingress", Direction::ingress}, {"egress", Direction::egress}, {"both", Direction::both}});
constexpr auto kUnmatched = std::to_array<Choice<bool>>({{"pass", false}, {"drop", true}});

void read_tap_ports(const Field& field, TapDraft& draft) {
  field.each_of_list(R"(interface names like ["eth1", "eth2"])", [&](const Field& element) {
    if (const auto port = element.parsed(parse_interface, "the name of an interface")) {
      draft.tap.ports.push_back(*port);
      draft.owners.claim(element, *port, "tap " + quoted(draft.tap.name));
    }
  });
}

constexpr auto kTapKeys = std::to_array<Key<TapDraft>>({
    {"name",
     [](const Field& f, TapDraft& draft) { draft.tap.name = f.parsed(parse_name).value_or(""); },
     "name = \"wan\""},
    {"mode", [](const Field& f, TapDraft& draft) { draft.mode = f.choice(kModes); },
     R"(mode = "inline", "host" or "span")"},
    {"ports", read_tap_ports, R"(ports = ["eth1", "eth2"] with its interfaces)"},
    {"capture", [](const Field& f, TapDraft& draft) { draft.capture = f.choice(kCaptures); }},
    {"hook", [](const Field& f,
                TapDraft& draft) { draft.tap.hook = f.choice(kHooks).value_or(Hook::automatic); }},
    {"direction", [](const Field& f, TapDraft& draft) { draft.direction = f.choice(kDirections); }},
    {"unmatched",
     [](const Field& f, TapDraft& draft) {
       draft.tap.unmatched_drop = f.choice(kUnmatched).value_or(false);
     }},
    {"allow_management",
     [](const Field& f, TapDraft& draft) {
       draft.tap.allow_management = f.boolean().value_or(false);
     }},
});

void check_port_count(Findings& findings, const toml::table& table, const TapDraft& draft) {
  const auto ports = find(findings, table, "ports");
  // Counted as written: a refused name has been reported already.
  if (ports && ports->size() > 0 && draft.mode == Mode::inline_pair && ports->size() != 2) {
    ports->error("an inline tap joins exactly 2 ports, found " + std::to_string(ports->size()));
  }
}

void check_direction(Findings& findings, const toml::table& table, const TapDraft& draft) {
  const auto field = find(findings, table, "direction");
  if (!field || !draft.direction) return;
  if (draft.mode && draft.mode != Mode::host && *draft.direction != Direction::both) {
    field->error("only a host tap has a direction, this one sees both; remove the key");
  }
  if (draft.mode == Mode::host && *draft.direction == Direction::egress &&
      draft.tap.hook == Hook::xdp) {
    find(findings, table, "hook")
        ->error("\"xdp\" sees only what arrives; write hook = \"tc\", or direction = \"ingress\"");
  }
}

void check_unmatched(Findings& findings, const toml::table& table, const TapDraft& draft) {
  const auto field = find(findings, table, "unmatched");
  if (field && draft.mode && draft.mode != Mode::span && draft.tap.unmatched_drop) {
    field->error("only a span tap may drop what no policy takes; remove the key");
  }
}

/// Section 4 of the design: which capture is possible where.
void check_capture(Findings& findings, const toml::table& table, const TapDraft& draft) {
  if (draft.capture == Capture::redirect && draft.mode == Mode::host) {
    find(findings, table, "capture")
        ->error(
            "\"redirect\" is impossible for a host tap: XDP cannot both redirect a frame and pass "
            "it; write capture = \"tee\"");
  }
  if (draft.tap.hook == Hook::tc && draft.capture == Capture::redirect) {
    find(findings, table, "hook")
        ->error(R"("tc" cannot redirect into AF_XDP; write hook = "xdp", or capture = "tee")");
  }
  if (draft.tap.hook == Hook::xdp && draft.capture == Capture::clone) {
    find(findings, table, "hook")
        ->error(R"("xdp" cannot clone; write hook = "tc", or capture = "tee")");
  }
}

/// Reports, once, that the taps up to and with this one have too many ports.
void check_port_limit(Findings& findings, const Config& config) {
  const auto before =
      std::accumulate(config.taps.begin(), config.taps.end() - 1, std::size_t{0},
                      [](std::size_t sum, const Tap& tap) { return sum + tap.ports.size(); });
  const auto& last = config.taps.back();
  if (before <= VTAP_MAX_PORTS && before + last.ports.size() > VTAP_MAX_PORTS) {
    findings.errors.push_back({last.at, "the taps have more than " +
                                            std::to_string(VTAP_MAX_PORTS) +
                                            " ports in all (VTAP_MAX_PORTS); run a second broker"});
  }
}

// ---- monitor

constexpr std::uint32_t kUsualQueue = 4096;
constexpr std::string_view kRateForm = R"(a rate like "1Gbit/s" or "50kpps")";

struct MonitorDraft {
  Monitor monitor;
  PortOwners& owners;
  std::uint32_t frames;
};

constexpr auto kMonitorKeys = std::to_array<Key<MonitorDraft>>({
    {"name",
     [](const Field& f, MonitorDraft& draft) {
       draft.monitor.name = f.parsed(parse_name).value_or("");
     },
     "name = \"ids\""},
    {"port",
     [](const Field& f, MonitorDraft& draft) {
       draft.monitor.port = f.parsed(parse_interface).value_or("");
       if (!draft.monitor.port.empty()) {
         draft.owners.claim(f, draft.monitor.port, "monitor " + quoted(draft.monitor.name));
       }
     },
     "port = \"eth3\" with its interface"},
    {"rate", [](const Field& f,
                MonitorDraft& draft) { draft.monitor.rate = f.parsed(parse_rate, kRateForm); }},
    {"queue", [](const Field& f,
                 MonitorDraft& draft) { f.integer_into(1, draft.frames, draft.monitor.queue); }},
});

}  // namespace

void PortOwners::claim(const Field& field, const std::string& port, const std::string& owner) {
  const auto [found, fresh] = claims_.try_emplace(port, Claim{owner, field.at()});
  if (!fresh) {
    field.error(quoted(port) + " is also used by " + found->second.owner + " in line " +
                std::to_string(found->second.at.line) +
                "; a port belongs to one tap or to one monitor, and once");
  }
}

void read_tap(Findings& findings, const toml::table& table, PortOwners& owners, Names& names,
              Config& config) {
  TapDraft draft{{}, owners};
  draft.tap.at = position(table.source());
  read_keys(findings, table, "[[tap]]", kTapKeys, draft);
  check_port_count(findings, table, draft);
  check_direction(findings, table, draft);
  check_unmatched(findings, table, draft);
  check_capture(findings, table, draft);
  draft.tap.mode = draft.mode.value_or(Mode::inline_pair);
  draft.tap.capture = draft.capture.value_or(Capture::automatic);
  draft.tap.direction = draft.direction.value_or(Direction::both);
  names.claim(findings, table, "tap", draft.tap.name);
  config.taps.push_back(std::move(draft.tap));
  check_port_limit(findings, config);
}

void read_monitor(Findings& findings, const toml::table& table, PortOwners& owners, Names& names,
                  Config& config) {
  MonitorDraft draft{{}, owners, config.broker.frames};
  draft.monitor.at = position(table.source());
  draft.monitor.queue = 0;
  read_keys(findings, table, "[[monitor]]", kMonitorKeys, draft);
  names.claim(findings, table, "monitor", draft.monitor.name);
  config.monitors.push_back(std::move(draft.monitor));
  if (config.monitors.size() == VTAP_MAX_MONITORS + 1) {
    findings.errors.push_back(
        {config.monitors.back().at, "more than " + std::to_string(VTAP_MAX_MONITORS) +
                                        " monitors (VTAP_MAX_MONITORS); run a second broker"});
  }
}

void share_queues(Findings& findings, Config& config) {
  std::uint64_t stated = 0;
  std::uint64_t absent = 0;
  for (const auto& monitor : config.monitors) {
    stated += monitor.queue;
    absent += monitor.queue == 0 ? 1 : 0;
  }
  const std::uint64_t frames = config.broker.frames;
  // Else monitors that are down could hold every frame of the memory.
  if (stated + absent > frames) {
    findings.errors.push_back(
        {config.monitors.back().at, "the queues of the monitors hold up to " +
                                        std::to_string(stated + absent) + " frames, umem has " +
                                        std::to_string(frames) +
                                        "; make a queue smaller or umem.frames larger"});
    return;
  }
  // Half of what is left, in equal parts: the other half keeps the rings filled.
  const auto share = absent == 0 ? 0 : (frames - stated) / 2 / absent;
  for (auto& monitor : config.monitors) {
    if (monitor.queue == 0) {
      monitor.queue = static_cast<std::uint32_t>(std::clamp<std::uint64_t>(share, 1, kUsualQueue));
    }
  }
}

}  // namespace vtap::config
