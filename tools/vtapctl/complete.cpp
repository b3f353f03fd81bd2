// SPDX-License-Identifier: Apache-2.0
#include "complete.hpp"

#include <net/if.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <set>

#include "client.hpp"
#include "command_line.hpp"

namespace vtap::ctl {
namespace {

constexpr std::chrono::seconds kPatience{1};  // somebody has pressed a key and waits

struct Candidate {
  std::string word;
  std::string description = {};
};
using Candidates = std::vector<Candidate>;

bool takes_value(const CLI::Option& option) { return option.get_items_expected_max() > 0; }
bool is_repeatable(const CLI::Option& option) { return option.get_expected_max() > 1; }

/// Where the words before the last lead to.
class Walk {
 public:
  explicit Walk(CLI::App& app, Target& target) : app_(&app), target_(target) {}

  void step(const std::string& word) {
    if (pending_ != nullptr) {
      take(*std::exchange(pending_, nullptr), word);
    } else if (word.size() > 1 && word.front() == '-') {
      option(word);
    } else if (CLI::App* inner = arguments_ == 0 ? subcommand(word) : nullptr; inner != nullptr) {
      app_ = inner;
    } else {
      ++arguments_;
    }
  }

  /// "--name" of this command or of one that it belongs to.
  [[nodiscard]] CLI::Option* find(const std::string& name) const {
    for (CLI::App* app = app_; app != nullptr; app = app->get_parent()) {
      if (CLI::Option* found = app->get_option_no_throw(name); found != nullptr) return found;
    }
    return nullptr;
  }

  /// The option that waits for its value, or the argument whose turn it is; null: neither.
  [[nodiscard]] const CLI::Option* awaited() const {
    if (pending_ != nullptr) return pending_;
    const auto positionals =
        app_->get_options([](const CLI::Option* option) { return option->get_positional(); });
    if (positionals.empty()) return nullptr;
    if (arguments_ < positionals.size()) return positionals[arguments_];
    return is_repeatable(*positionals.back()) ? positionals.back() : nullptr;
  }

  [[nodiscard]] bool in_option() const { return pending_ != nullptr; }

  [[nodiscard]] Candidates subcommands() const {
    Candidates out;
    if (arguments_ > 0) return out;
    for (const CLI::App* inner : app_->get_subcommands({})) {
      out.push_back({inner->get_name(), inner->get_description()});
    }
    return out;
  }

  /// What may still be said.
  [[nodiscard]] Candidates options() const {
    Candidates out;
    std::set<std::string> seen;  // every command has its --help
    for (const CLI::App* app = app_; app != nullptr; app = app->get_parent()) {
      for (const CLI::Option* option : app->get_options({})) {
        if (option->get_lnames().empty() || !is_open(*option)) continue;
        const std::string word = "--" + option->get_lnames().front();
        if (seen.insert(word).second) out.push_back({word, option->get_description()});
      }
    }
    return out;
  }

 private:
  void option(const std::string& word) {
    const size_t equals = word.find('=');
    CLI::Option* found = find(word.substr(0, equals));
    if (found == nullptr) return;
    given_.insert(found);
    if (equals != std::string::npos) {
      take(*found, word.substr(equals + 1));
    } else if (takes_value(*found)) {
      pending_ = found;
    }
  }

  /// Values matter as far as they say which broker to ask.
  void take(const CLI::Option& option, const std::string& value) {
    if (option.check_lname("socket")) target_.socket = value;
    if (option.check_lname("url")) target_.url = value;
    if (option.check_lname("token-file")) target_.token_file = value;
    if (option.check_lname("cacert")) target_.ca_file = value;
  }

  [[nodiscard]] CLI::App* subcommand(const std::string& name) const {
    for (CLI::App* inner : app_->get_subcommands([](CLI::App*) { return true; })) {
      if (inner->get_name() == name) return inner;
    }
    return nullptr;
  }

  [[nodiscard]] bool is_open(const CLI::Option& option) const {
    const auto is_given = [&](const CLI::Option* other) { return given_.count(other) != 0; };
    const auto excluded = option.get_excludes();
    return (is_repeatable(option) || !is_given(&option)) &&
           std::none_of(excluded.begin(), excluded.end(), is_given);
  }

  CLI::App* app_;
  Target& target_;
  CLI::Option* pending_ = nullptr;
  size_t arguments_ = 0;  // of app_, that were passed
  std::set<const CLI::Option*> given_;
};

/// What a config takes for a name. Anything else could mean something to the shell.
bool is_name(const std::string& text) {
  const auto fits = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.' || c == '-';
  };
  return !text.empty() && text.front() != '-' && std::all_of(text.begin(), text.end(), fits);
}

Candidates names_at_broker(const std::string& plural, const Target& target, const Io& io) {
  Candidates out;
  const auto endpoint = endpoint_of(with_environment(target, io.variable), io.sockets);
  if (!endpoint) return out;
  const auto reply = Client(endpoint.value()).ask({Method::get, "/v1/" + plural, {}, kPatience});
  if (!reply) return out;
  for (const Json& object : part_of(reply.value().json, plural.c_str())) {
    const std::string name = text_of(object, "name");
    if (is_name(name)) out.push_back({name});
  }
  return out;
}

Candidates interfaces() {
  Candidates out;
  struct if_nameindex* all = ::if_nameindex();
  for (const auto* one = all; one != nullptr && one->if_index != 0; ++one) {
    if (is_name(one->if_name)) out.push_back({one->if_name});
  }
  ::if_freenameindex(all);
  return out;
}

/// The words of "auto|never"; of "one_in=N|flows=F" what is fixed, "one_in=" and "flows=".
Candidates choices(const std::string& type_name) {
  Candidates out;
  for (const std::string& word : CLI::detail::split(type_name, '|')) {
    const size_t equals = word.find('=');
    out.push_back({equals == std::string::npos ? word : word.substr(0, equals + 1)});
  }
  return out;
}

Candidates values(const CLI::Option& option, const Target& target, const Io& io) {
  const std::string type = option.get_type_name();
  if (type == kPolicy) return names_at_broker("policies", target, io);
  if (type == kMonitor) return names_at_broker("monitors", target, io);
  if (type == kTap) return names_at_broker("taps", target, io);
  if (type == kInterface) return interfaces();
  if (type == kFile) return {{kCompleteFiles}};
  return type.find('|') == std::string::npos ? Candidates{} : choices(type);
}

/// "--socket=/run/x": the value behind the '=' is what is completed.
Candidates values_behind_equals(const Walk& walk, const std::string& word, const Target& target,
                                const Io& io) {
  const size_t equals = word.find('=');
  const CLI::Option* option = walk.find(word.substr(0, equals));
  if (option == nullptr || !takes_value(*option)) return {};
  Candidates out = values(*option, target, io);
  for (Candidate& candidate : out) {
    if (candidate.word != kCompleteFiles) {
      candidate.word.insert(0, word, 0, equals + 1);
    }
  }
  return out;
}

Candidates candidates(const Walk& walk, const std::string& word, const Target& target,
                      const Io& io) {
  if (walk.in_option()) return values(*walk.awaited(), target, io);
  if (word.rfind("--", 0) == 0 && word.find('=') != std::string::npos) {
    return values_behind_equals(walk, word, target, io);
  }
  if (!word.empty() && word.front() == '-') return walk.options();
  Candidates out = walk.subcommands();
  if (out.empty() && walk.awaited() != nullptr) out = values(*walk.awaited(), target, io);
  return out.empty() && word.empty() ? walk.options() : out;
}

}  // namespace

void complete(CLI::App& app, Target& target, const std::vector<std::string>& words, const Io& io) {
  const std::string last = words.empty() ? "" : words.back();
  Walk walk(app, target);
  for (size_t i = 0; i + 1 < words.size(); ++i) walk.step(words[i]);
  for (const Candidate& candidate : candidates(walk, last, target, io)) {
    if (candidate.word.rfind(last, 0) != 0 && candidate.word != kCompleteFiles) continue;
    io.out << candidate.word << (candidate.description.empty() ? "" : "\t" + candidate.description)
           << "\n";
  }
  io.out << std::flush;
}

}  // namespace vtap::ctl
