// SPDX-License-Identifier: Apache-2.0
#include "controller/controller.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "controller/persist.hpp"
#include "doctor/doctor.hpp"
#include "service/log.hpp"

namespace vtap::controller {

using Json = nlohmann::ordered_json;

Controller::Controller(std::string file, std::string text)
    : file_(std::move(file)), text_(text), file_text_(std::move(text)) {}

Result<void> Controller::start(config::Config config, Prepared prepared, host::StateDir state,
                               std::function<void()> at_worker_start) {
  plan::Plan plan;
  plan.generation = generation_;
  plan.config = std::move(config);
  plan.tables = std::move(prepared.tables);
  auto started = engine::Engine::start(std::move(plan), std::move(prepared.resolved),
                                       std::move(state), std::move(at_worker_start));
  if (!started) return started.error();
  engine_ = std::move(*started);
  started_.store(engine_.get());
  examine();
  return {};
}

Result<std::uint32_t> Controller::reload() {
  // A pipe would keep the control thread waiting for a writer.
  std::error_code ignored;
  if (std::filesystem::is_other(file_, ignored)) {
    return note(Error{file_ +
                          ": is no regular file, and a reload reads nothing else; put the config "
                          "into a file and start the broker with that",
                      ErrorKind::usage});
  }
  auto loaded = load_file(file_);
  if (!loaded) return note(loaded.error());
  const std::string text = loaded->text;
  auto done = replace(std::move(*loaded));
  if (done) {
    const std::lock_guard lock(mutex_);
    file_text_ = text;
  }
  return note(std::move(done));
}

Result<std::uint32_t> Controller::note(Result<std::uint32_t> result) {
  Attempt attempt{.ok = result.ok(), .at = Clock::now(), .error = {}};
  if (result) {
    spdlog::info("reloaded {}: generation {}", file_, *result);
  } else {
    attempt.error = result.error().message;
    spdlog::error("{} is not loaded, the plan that ran goes on: {}", file_, attempt.error);
  }
  const std::lock_guard lock(mutex_);
  ++(attempt.ok ? reloads_ : refused_);
  last_reload_ = std::move(attempt);
  return result;
}

Result<std::uint32_t> Controller::replace(Loaded loaded) {
  if (!engine_) return Error{"the broker has not started"};
  auto prepared = prepare(loaded.config);
  if (!prepared) return prepared.error();
  for (const std::string& warning : loaded.warnings) spdlog::warn("{}", warning);
  plan::Plan plan;
  plan.generation = generation_ + 1;
  plan.config = std::move(loaded.config);
  plan.tables = std::move(prepared->tables);
  const config::Broker broker = plan.config.broker;
  auto done = engine_->reload(std::move(plan), std::move(prepared->resolved));
  if (!done) return done.error();
  service::set_log_level(broker);
  examine();
  const std::lock_guard lock(mutex_);
  text_ = std::move(loaded.text);
  loaded_at_ = Clock::now();
  return ++generation_;
}

Result<std::uint32_t> Controller::apply(const std::string& text, std::uint32_t base, bool persist) {
  if (base != generation_) {
    return Error{"the config has changed meanwhile: generation " + std::to_string(generation_) +
                     " runs, not " + std::to_string(base) + "; read it again",
                 ErrorKind::conflict};
  }
  std::optional<FileDraft> draft;
  if (persist) {
    auto there = config::read(file_);
    if (!there) return there.error();
    if (*there != file_text_) {
      return Error{file_ +
                       " has changed since it was loaded; reload first, or the changes there "
                       "would be lost",
                   ErrorKind::conflict};
    }
    auto written = FileDraft::write(file_, text);
    if (!written) return written.error();
    draft.emplace(std::move(*written));
  }
  auto loaded = load_text(text, file_);
  if (!loaded) return loaded.error();
  auto done = replace(std::move(*loaded));
  if (!done) {
    spdlog::warn("a change through the API is refused: {}", done.error().message);
    return done;
  }
  spdlog::info("changed through the API: generation {}", *done);
  if (!draft) return done;
  if (auto kept = draft->commit(); !kept) {
    return Error{"generation " + std::to_string(*done) +
                     " runs, but is not in the file: " + kept.error().message,
                 kept.error().kind};
  }
  const std::lock_guard lock(mutex_);
  file_text_ = text;
  return done;
}

Result<std::string> Controller::detach(const std::vector<std::string>& ports) {
  if (!engine_) return Error{"the broker has not started"};
  std::vector<std::string> which = ports;
  if (which.empty()) which.assign(engine_->left_wires().begin(), engine_->left_wires().end());
  Json undone = Json::array();
  for (const std::string& port : which) {
    auto done = engine_->detach(port);
    if (!done) return done.error();
    for (const std::string& what : *done) {
      spdlog::info("detach: {}", what);
      undone.push_back(what);
    }
  }
  return Json{{"undone", undone}}.dump(-1, ' ', false, Json::error_handler_t::replace);
}

control::RunningConfig Controller::running() const {
  const std::lock_guard lock(mutex_);
  return {.text = text_, .file = file_, .generation = generation_};
}

Controller::Loads Controller::loads() const {
  const std::lock_guard lock(mutex_);
  return {.last_ok = !last_reload_ || last_reload_->ok,
          .last_good_s = std::chrono::duration<double>(loaded_at_.time_since_epoch()).count(),
          .good = reloads_,
          .refused = refused_};
}

/// What the doctor says of the config that runs; what is new of that goes to the log.
void Controller::examine() {
  const doctor::Running running = doctor::running_from(engine_->snapshot());
  std::vector<doctor::Finding> findings = doctor::examine(engine_->plan().config(), &running);
  std::erase_if(findings, [](const doctor::Finding& finding) {
    return finding.severity < doctor::Severity::warning;
  });
  std::vector<doctor::Finding> news;
  for (const doctor::Finding& finding : findings) {
    const auto known = [&](const doctor::Finding& old) {
      return old.id == finding.id && old.subject == finding.subject && old.what == finding.what;
    };
    if (std::ranges::none_of(findings_, known)) news.push_back(finding);
  }
  doctor::log(news);
  findings_ = std::move(findings);
  examined_at_ = std::chrono::steady_clock::now();
}

std::string Controller::doctor_json(bool fix) {
  if (!engine_) throw std::runtime_error("the broker has not started");
  const doctor::Running running = doctor::running_from(engine_->snapshot());
  const config::Config& config = engine_->plan().config();
  examined_at_ = {};  // the next status looks for itself
  return doctor::to_json(fix ? doctor::mend(config, &running) : doctor::examine(config, &running));
}

}  // namespace vtap::controller
