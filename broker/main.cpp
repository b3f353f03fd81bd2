// SPDX-License-Identifier: Apache-2.0
// config -> plan -> open -> run -> drain
#include <cap-ng.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <fstream>
#include <iostream>
#include <stdexcept>

#include "config/config.hpp"
#include "control/server.hpp"
#include "engine/engine.hpp"
#include "engine/resolve.hpp"
#include "host/port.hpp"
#include "host/state.hpp"
#include "io/bpf.hpp"
#include "metrics/exposition.hpp"
#include "metrics/server.hpp"
#include "plan/plan.hpp"
#include "stats/snapshot.hpp"
#include "vtap/fd.hpp"
#include "vtap/result.hpp"

namespace {

using namespace vtap;

enum ExitCode { kClean = 0, kRuntime = 1, kUsage = 2, kUnsupported = 3 };

int exit_code(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::usage:
      return kUsage;
    case ErrorKind::unsupported:
      return kUnsupported;
    case ErrorKind::runtime:
      break;
  }
  return kRuntime;
}

int fail(const Error& error) {
  std::cerr << error.message << '\n';
  return exit_code(error.kind);
}

spdlog::level::level_enum log_level(config::LogLevel level) {
  switch (level) {
    case config::LogLevel::trace:
      return spdlog::level::trace;
    case config::LogLevel::debug:
      return spdlog::level::debug;
    case config::LogLevel::info:
      return spdlog::level::info;
    case config::LogLevel::warn:
      return spdlog::level::warn;
    case config::LogLevel::error:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

/// JSON lines escape what a port or file name could smuggle in.
class JsonFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    const auto level = spdlog::level::to_string_view(message.level);
    const auto time = std::chrono::duration<double>(message.time.time_since_epoch()).count();
    fmt::format_to(std::back_inserter(out), R"({{"time":{:.6f},"level":"{}","message":")", time,
                   std::string_view(level.data(), level.size()));
    for (const char c : message.payload) {
      if (c == '"' || c == '\\') {
        out.push_back('\\');
        out.push_back(c);
      } else if (static_cast<unsigned char>(c) < 0x20) {
        fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<unsigned>(c));
      } else {
        out.push_back(c);
      }
    }
    out.append(std::string_view("\"}\n"));
  }
  [[nodiscard]] std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<JsonFormatter>();
  }
};

void set_up_log(const config::Broker& broker) {
  spdlog::set_default_logger(spdlog::stderr_logger_mt("vtap"));
  spdlog::set_level(log_level(broker.log_level));
  spdlog::flush_on(spdlog::level::trace);
  if (broker.log_format == config::LogFormat::json) {
    spdlog::set_formatter(std::make_unique<JsonFormatter>());
  } else {
    spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
  }
}

/// What this process must be allowed to do; named before anything is touched.
Result<void> check_privileges() {
  struct Need {
    unsigned capability;
    const char* name;
  };
  constexpr std::array needs = {Need{CAP_NET_ADMIN, "CAP_NET_ADMIN"},
                                Need{CAP_NET_RAW, "CAP_NET_RAW"}, Need{CAP_BPF, "CAP_BPF"},
                                Need{CAP_PERFMON, "CAP_PERFMON"},
                                Need{CAP_IPC_LOCK, "CAP_IPC_LOCK"},
                                // To see whose the programs are that are attached already.
                                Need{CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}};
  std::string missing;
  capng_get_caps_process();
  for (const Need& need : needs) {
    if (capng_have_capability(CAPNG_EFFECTIVE, need.capability) != 0) continue;
    missing += (missing.empty() ? "" : ", ") + std::string(need.name);
  }
  if (missing.empty()) return {};
  return Error{"missing privilege: " + missing + "; run as root or grant the capabilities",
               ErrorKind::unsupported};
}

Result<void> check_kernel() {
  std::ifstream realtime("/sys/kernel/realtime");
  char flag = '0';
  if (realtime >> flag && flag == '1') {
    return Error{
        "this kernel is PREEMPT_RT, where a tap program may be preempted by another on its "
        "CPU; boot a kernel without PREEMPT_RT",
        ErrorKind::unsupported};
  }
  return {};
}

/// Blocks the signals that end or reload the broker, in this thread and all that it starts.
Result<UniqueFd> open_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals, signal);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  UniqueFd fd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd) return io::bpf_error("opening a signal descriptor", -errno);
  return fd;
}

/// Runs until a signal ends it.
Result<void> run(engine::Engine& broker, const UniqueFd& signals) {
  constexpr int kTickMs = 1000;
  const UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  const auto [links, features] = broker.links_fds();
  for (const int fd : {signals.get(), links, features}) {
    if (fd < 0) continue;
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
      return io::bpf_error("watching signals and links", -errno);
    }
  }
  // From here on originals pass and copies are made for every monitor that is there; systemd must
  // not end the broker because one cable is out.
  sd_notify(0, "READY=1");
  bool announced = false;
  while (true) {
    if (!announced && broker.ready()) {
      announced = true;
      spdlog::info("ready");
    }
    std::array<epoll_event, 4> events{};
    if (epoll_wait(epoll.get(), events.data(), events.size(), kTickMs) < 0 && errno != EINTR) {
      return io::bpf_error("waiting for signals and links", -errno);
    }
    signalfd_siginfo signal{};
    while (read(signals.get(), &signal, sizeof(signal)) == sizeof(signal)) {
      if (signal.ssi_signo != SIGHUP) {
        spdlog::info("stopping");
        return {};
      }
      spdlog::warn("reload arrives with a later release: restart to apply a changed config");
    }
    broker.follow_links();
  }
}

struct Loaded {
  config::Config config;
  std::vector<std::string> warnings;
};

Result<Loaded> load_config(const std::string& file) {
  config::Parsed parsed = config::load(file);
  std::vector<std::string> warnings;
  for (const auto& warning : parsed.warnings) warnings.push_back(config::format(warning, file));
  if (parsed.config) return Loaded{std::move(*parsed.config), std::move(warnings)};
  for (const auto& warning : warnings) std::cerr << warning << " (warning)\n";
  std::string text;
  for (const auto& error : parsed.errors) {
    text += (text.empty() ? "" : "\n") + config::format(error, file);
  }
  return Error{std::move(text), ErrorKind::usage};
}

struct Prepared {
  plan::Tables tables;
  engine::Resolved resolved;
};

/// What a config means on this machine. Reads only; all that is wrong at once.
Result<Prepared> prepare(const config::Config& config) {
  auto resolved = engine::resolve(config);
  auto tables =
      plan::compile(config, resolved ? resolved->placements() : std::vector<plan::Placement>{});
  if (!resolved && !tables && resolved.error().kind == tables.error().kind) {
    return Error{resolved.error().message + '\n' + tables.error().message, tables.error().kind};
  }
  if (!resolved) return resolved.error();
  if (!tables) return tables.error();
  return Prepared{std::move(*tables), std::move(*resolved)};
}

int check(const config::Config& config) {
  auto prepared = prepare(config);
  if (!prepared) return fail(prepared.error());
  std::cout << engine::describe(config, prepared->resolved);
  return kClean;
}

int detach(const config::Config& config) {
  if (auto allowed = check_privileges(); !allowed) return fail(allowed.error());
  auto state = host::StateDir::open();
  if (!state) return fail(state.error());
  int code = kClean;
  const auto detach_one = [&](const std::string& port) {
    auto undone = host::detach_port(*state, port);
    if (!undone) {
      code = fail(undone.error());
      return;
    }
    for (const std::string& what : *undone) std::cout << what << '\n';
  };
  for (const auto& tap : config.taps) {
    for (const auto& port : tap.ports) detach_one(port);
  }
  for (const auto& monitor : config.monitors) detach_one(monitor.port);
  return code;
}

double unix_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

Result<void> serve(config::Config config) {
  if (auto allowed = check_privileges(); !allowed) return allowed;
  if (auto usable = check_kernel(); !usable) return usable;
  auto prepared = prepare(config);
  if (!prepared) return prepared.error();
  auto state = host::StateDir::open();
  if (!state) return state.error();
  auto signals = open_signals();
  if (!signals) return signals.error();
  const rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
  setrlimit(RLIMIT_MEMLOCK, &unlimited);
  io::capture_libbpf_log();

  const std::string name = config.broker.name;
  // The socket first: a second broker of the same name is met before any port is touched.
  std::atomic<engine::Engine*> broker{nullptr};
  const auto snapshot = [&broker] {
    const engine::Engine* const running = broker.load();
    if (running == nullptr) throw std::runtime_error("the broker is starting");
    return running->snapshot();
  };
  const auto stats_json = [snapshot] { return stats::to_json(snapshot()); };
  const auto metrics_text = [snapshot, loaded_s = unix_time()] {
    return metrics::to_prometheus(snapshot(), {.version = VTAP_VERSION, .last_load_s = loaded_s});
  };
  auto control = control::ControlServer::open(
      config.broker.control, {.version = VTAP_VERSION, .stats_json = stats_json, .reload = {}});
  if (!control) {
    return Error{"broker " + name + ": " + control.error().message, control.error().kind};
  }
  std::unique_ptr<metrics::MetricsServer> scraped;
  if (const auto& at = config.broker.metrics) {
    auto opened = metrics::MetricsServer::open(at->host, at->port, metrics_text);
    if (!opened)
      return Error{"broker " + name + ": " + opened.error().message, opened.error().kind};
    scraped = std::move(*opened);
  }
  auto started = engine::Engine::start(
      {.generation = 1, .config = std::move(config), .tables = std::move(prepared->tables)},
      std::move(prepared->resolved), std::move(*state));
  if (!started) return started.error();
  broker.store(started->get());
  auto ended = run(**started, *signals);
  sd_notify(0, "STOPPING=1");
  (*started)->stop();
  (*control)->stop();  // before the engine goes: the handlers use it
  if (scraped) scraped->stop();
  return ended;
}

int main_or_throw(int argc, char** argv) {
  CLI::App app{"Software TAP and packet broker: copies chosen packets to monitors."};
  std::string file;
  bool only_check = false;
  bool only_detach = false;
  app.add_option("-c,--config", file, "configuration file (tap.toml)")->required();
  app.add_flag("--check", only_check, "validate, print the plan, touch nothing");
  app.add_flag("--detach", only_detach, "take away everything a broker left on the ports");
  app.set_version_flag("--version", std::string("vtap-broker ") + VTAP_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kClean : kUsage;
  }
  auto loaded = load_config(file);
  if (!loaded) return fail(loaded.error());
  auto& [config, warnings] = *loaded;
  if (only_check || only_detach) {
    for (const auto& warning : warnings) std::cerr << warning << " (warning)\n";
    return only_check ? check(config) : detach(config);
  }
  set_up_log(config.broker);
  for (const auto& warning : warnings) spdlog::warn("{}", warning);
  const bool json = config.broker.log_format == config::LogFormat::json;
  auto served = serve(std::move(config));
  if (served) return kClean;
  if (!json) return fail(served.error());
  spdlog::error("{}", served.error().message);
  return exit_code(served.error().kind);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return main_or_throw(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "vtap-broker: " << error.what() << '\n';
    return kRuntime;
  }
}
