// SPDX-License-Identifier: Apache-2.0
// config -> plan -> open -> run -> drain
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <stdexcept>

#include "config/config.hpp"
#include "confine/capabilities.hpp"
#include "confine/process.hpp"
#include "control/server.hpp"
#include "controller/capture.hpp"
#include "controller/controller.hpp"
#include "controller/prepare.hpp"
#include "controller/requests.hpp"
#include "doctor/doctor.hpp"
#include "doctor/view.hpp"
#include "engine/engine.hpp"
#include "engine/resolve.hpp"
#include "host/attach.hpp"
#include "host/port.hpp"
#include "host/state.hpp"
#include "io/bpf.hpp"
#include "metrics/exposition.hpp"
#include "metrics/server.hpp"
#include "plan/plan.hpp"
#include "service/log.hpp"
#include "service/notify.hpp"
#include "service/watchdog.hpp"
#include "stats/snapshot.hpp"
#include "vtap/fd.hpp"
#include "vtap/result.hpp"

namespace {

using namespace vtap;

/// Parent of host::default_state_dir and of control sockets by default.
constexpr const char* kRunDirectory = "/run/vtap";

enum ExitCode { kClean = 0, kRuntime = 1, kUsage = 2, kUnsupported = 3 };

int exit_code(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::usage:
      return kUsage;
    case ErrorKind::unsupported:
      return kUnsupported;
    case ErrorKind::runtime:
    case ErrorKind::conflict:
      break;
  }
  return kRuntime;
}

int fail(const Error& error) {
  service::complain(error.message);
  return exit_code(error.kind);
}

/// What this process must be allowed to do; named before anything is touched.
Result<void> check_privileges() {
  std::string missing;
  for (const std::string& name :
       confine::names_of(confine::kNeededCapabilities & ~confine::effective_capabilities())) {
    missing += (missing.empty() ? "" : ", ") + name;
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

/// How often the control thread turns at least.
int turn_ms(const service::Watchdog& watchdog) {
  using std::chrono::milliseconds;
  constexpr milliseconds kLongest{1000};
  if (watchdog.interval().count() == 0) return static_cast<int>(kLongest.count());
  const auto wanted = std::chrono::duration_cast<milliseconds>(watchdog.interval());
  return static_cast<int>(std::clamp(wanted, milliseconds(1), kLongest).count());
}

struct Signalled {
  bool stop = false, reload = false;
};

/// What signals have asked for since the last look, however often. All are taken before any is
/// acted upon: while a reload runs the next SIGHUP may come, and it would be taken before a
/// SIGTERM.
Signalled take(const UniqueFd& signals) {
  Signalled out;
  signalfd_siginfo signal{};
  while (read(signals.get(), &signal, sizeof(signal)) == sizeof(signal)) {
    (signal.ssi_signo == SIGHUP ? out.reload : out.stop) = true;
  }
  return out;
}

/// Runs until a signal ends it.
Result<void> run(controller::Controller& controller, controller::Requests& requests,
                 const UniqueFd& signals) {
  engine::Engine& broker = *controller.engine();
  service::Watchdog watchdog;
  const int tick_ms = turn_ms(watchdog);
  const UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  const auto [links, features] = broker.links_fds();
  for (const int fd : {signals.get(), requests.fd(), links, features}) {
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
  service::notify_ready("waiting for ports");
  bool announced = false;
  while (true) {
    if (!announced && broker.ready()) {
      announced = true;
      service::notify_status("every port carries");
      spdlog::info("ready");
    }
    std::array<epoll_event, 4> events{};
    if (epoll_wait(epoll.get(), events.data(), events.size(), tick_ms) < 0 && errno != EINTR) {
      return io::bpf_error("waiting for signals and links", -errno);
    }
    const Signalled signalled = take(signals);
    if (signalled.stop) {
      spdlog::info("stopping");
      return {};
    }
    if (signalled.reload) {
      service::notify_reloading();
      static_cast<void>(controller.reload());  // it says what is wrong, to the log
      service::notify_ready(broker.ready() ? "every port carries" : "waiting for ports");
    }
    requests.serve();
    broker.follow_links();
    const auto now = service::Watchdog::Clock::now();
    if (watchdog.due(now)) watchdog.progress(now, broker.worker_rounds());
  }
}

int check(const config::Config& config) {
  auto prepared = controller::prepare(config);
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

/// No broker runs in this process: one that runs elsewhere is seen by what it holds.
int examine(const config::Config& config, bool fix, bool json, bool verbose) {
  io::capture_libbpf_log();
  const doctor::Options options{.verbose = verbose};
  const auto findings =
      fix ? doctor::mend(config, nullptr, options) : doctor::examine(config, nullptr, options);
  std::cout << (json ? doctor::to_json(findings, 2) + "\n" : doctor::view(findings));
  return doctor::has_error(findings) ? kRuntime : kClean;
}

/// What the servers can ask for: most of it is done by the control thread.
control::Handlers handlers_of(controller::Controller& controller, controller::Requests& requests) {
  control::Handlers handlers;
  handlers.version = VTAP_VERSION;
  // Counters are there while the control thread is busy, too.
  const auto snapshot = [&] {
    const engine::Engine* const running = controller.engine();
    if (running == nullptr) throw std::runtime_error("the broker is starting");
    return running->snapshot();
  };
  handlers.stats_json = [snapshot] { return stats::to_json(snapshot()); };
  handlers.metrics_text = [&controller, snapshot] {
    const controller::Controller::Loads loads = controller.loads();
    return metrics::to_prometheus(snapshot(), {.version = VTAP_VERSION,
                                               .last_reload_ok = loads.last_ok,
                                               .last_load_s = loads.last_good_s,
                                               .reloads_ok = loads.good,
                                               .reloads_failed = loads.refused});
  };
  handlers.doctor_json = [&](bool fix) {
    return requests.ask([&] { return controller.doctor_json(fix); });
  };
  handlers.status_json = [&] {
    return requests.ask([&] { return controller.status_json(VTAP_VERSION); });
  };
  handlers.config = [&] { return controller.running(); };
  handlers.reload = [&] { return requests.ask([&] { return controller.reload(); }); };
  handlers.apply = [&](const std::string& text, std::uint32_t base, bool persist) {
    return requests.ask([&] { return controller.apply(text, base, persist); });
  };
  handlers.detach = [&](const std::vector<std::string>& ports) {
    return requests.ask([&] { return controller.detach(ports); });
  };
  handlers.capture = [&](const control::CaptureRequest& request) {
    return controller::start_capture(controller, requests, request);
  };
  return handlers;
}

control::Endpoints endpoints(const config::Broker& broker) {
  control::Endpoints out{.path = broker.control};
  if (const auto& api = broker.api) {
    out.tcp = {.address = api->at.address,
               .port = api->at.port,
               .token_file = api->token_file,
               .certificate = api->cert,
               .key = api->key};
  }
  return out;
}

std::string directory_of(const std::string& file) {
  const auto parent = std::filesystem::path(file).parent_path();
  return parent.empty() ? std::string(".") : parent.string();
}

/// From here on the process has no root, and may write: the run directory and that of the control
/// socket; and the control thread the config (its directory, as the file is replaced as a whole),
/// IPv6 settings of ports, and tun devices.
Result<confine::Process> confine_process(const config::Config& config, const std::string& file,
                                         const std::string& user) {
  auto who = confine::choose_user(user);
  if (!who) return who.error();
  const std::string sockets = directory_of(config.broker.control);
  auto confined = confine::Process::confine(
      {.user = *who,
       .group = control::Endpoints{}.group,  // that of the control socket
       .own_directory = kRunDirectory,
       .run_directories = {kRunDirectory, sockets},
       .writable = {kRunDirectory, sockets, directory_of(file), "/proc/sys/net", "/dev/net/tun"}});
  if (!confined) return confined.error();
  return confined;
}

void say_how(const confine::Process& confined, const std::string& file) {
  for (const std::string& note : confined.notes()) spdlog::info("{}", note);
  if (access(file.c_str(), R_OK) == 0) return;
  spdlog::warn(
      "{} cannot be read any more by the user that the broker runs as: a reload will fail; "
      "give it to a group of that user",
      file);
}

Result<void> serve(const std::string& file, controller::Loaded loaded, const std::string& user) {
  if (auto allowed = check_privileges(); !allowed) return allowed;
  if (auto usable = check_kernel(); !usable) return usable;
  auto signals = open_signals();
  if (!signals) return signals.error();
  auto requests = controller::Requests::open();
  if (!requests) return requests.error();
  // CAP_IPC_LOCK, without which nobody comes here, lifts this limit, but not in a user namespace.
  // Where it cannot be raised the broker has to do with it, and a socket that cannot says so.
  const rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
  setrlimit(RLIMIT_MEMLOCK, &unlimited);
  auto confined = confine_process(loaded.config, file, user);
  if (!confined) return confined.error();
  host::open_programs_with(
      [&programs = confined->programs()](std::uint32_t id) { return programs.open(id); });
  auto prepared = controller::prepare(loaded.config);
  if (!prepared) return prepared.error();
  auto state = host::StateDir::open();
  if (!state) return state.error();
  say_how(*confined, file);
  io::capture_libbpf_log();

  const std::string name = loaded.config.broker.name;
  controller::Controller controller(file, std::move(loaded.text));
  // The socket first: a second broker of the same name is met before any port is touched.
  auto handlers = handlers_of(controller, *requests);
  handlers.at_thread_start = confined->starts(confine::Role::server);
  const auto metrics_text = handlers.metrics_text;
  auto control = control::ControlServer::open(endpoints(loaded.config.broker), std::move(handlers));
  if (!control) {
    return Error{"broker " + name + ": " + control.error().message, control.error().kind};
  }
  if (!(*control)->has_group()) {
    spdlog::info(
        "control socket {}: no group vtap that it could be given to (`groupadd --system vtap`), so "
        "only the broker's user may use it",
        (*control)->path());
  }
  std::unique_ptr<metrics::MetricsServer> scraped;
  if (const auto& at = loaded.config.broker.metrics) {
    auto opened = metrics::MetricsServer::open(at->address, at->port, metrics_text,
                                               confined->starts(confine::Role::server));
    if (!opened) {
      return Error{"broker " + name + ": " + opened.error().message, opened.error().kind};
    }
    scraped = std::move(*opened);
  }
  auto ended = controller.start(std::move(loaded.config), std::move(*prepared), std::move(*state),
                                confined->starts(confine::Role::worker));
  if (ended) {
    ended = run(controller, *requests, *signals);
    service::notify_stopping();
  }
  requests->close();
  if (ended) controller.engine()->stop();
  (*control)->stop();  // before the engine goes: the handlers use it
  if (scraped) scraped->stop();
  return ended;
}

int main_or_throw(int argc, char** argv) {
  CLI::App app{"Software TAP and packet broker: copies chosen packets to monitors."};
  std::string file;
  std::string user;
  bool only_check = false;
  bool only_detach = false;
  app.add_option("-c,--config", file, "configuration file (tap.toml)")->required();
  app.add_option(
      "--user", user,
      "run as this user once started (default: vtap, if root starts it and there is one)");
  app.add_flag("--check", only_check, "validate, print the plan, touch nothing");
  app.add_flag("--detach", only_detach, "take away everything a broker left on the ports");
  bool only_doctor = false;
  auto* const doctor_flag =
      app.add_flag("--doctor", only_doctor, "say what is wrong with this machine for the config");
  bool fix = false;
  bool as_json = false;
  bool verbose = false;
  app.add_flag("--fix", fix, "with --doctor: mend what is safe to mend")->needs(doctor_flag);
  app.add_flag("--json", as_json, "with --doctor: findings as JSON")->needs(doctor_flag);
  app.add_flag("--verbose", verbose, "with --doctor: say what is fine, too")->needs(doctor_flag);
  app.set_version_flag("--version", std::string("vtap-broker ") + VTAP_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kClean : kUsage;
  }
  auto loaded = controller::load_file(file);
  if (!loaded) return fail(loaded.error());
  auto& [text, config, warnings] = *loaded;
  if (only_check || only_detach || only_doctor) {
    for (const auto& warning : warnings) service::caution(warning + " (warning)");
    if (only_doctor) return examine(config, fix, as_json, verbose);
    return only_check ? check(config) : detach(config);
  }
  service::set_up_log(config.broker);
  for (const auto& warning : warnings) spdlog::warn("{}", warning);
  const bool json = config.broker.log_format == config::LogFormat::json;
  auto served = serve(file, std::move(*loaded), user);
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
    service::complain(std::string("vtap-broker: ") + error.what());
    return kRuntime;
  }
}
