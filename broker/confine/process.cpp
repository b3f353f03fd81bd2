// SPDX-License-Identifier: Apache-2.0
#include "confine/process.hpp"

#include <cstdio>
#include <cstdlib>

#include "confine/capabilities.hpp"
#include "confine/filter.hpp"
#include "confine/landlock.hpp"
#include "vtap/thread.hpp"

namespace vtap::confine {
namespace {

/// On a thread for nothing else, so that an error is one of the start, with a name.
Result<void> try_out(Role role, const std::vector<std::string>& run_directories) {
  Result<void> result;
  auto thread = start_thread([&] { result = confine_this_thread(role, run_directories); });
  if (!thread) return thread.error();
  thread->join();
  return result;
}

std::string describe(const User& user) {
  std::string text = "runs as user " + user.name;
  if (user.uid == 0) {
    text += std::string(", without its capabilities (with a user \"") + kDefaultUser +
            "\", or --user NAME, it would not)";
  }
  return text;
}

}  // namespace

Result<Process> Process::confine(const ProcessSpec& spec) {
  for (const std::string& directory : spec.run_directories) {
    // Who needs it says what is wrong with it, and what else could be done.
    static_cast<void>(make_directories(directory, spec.user));
  }
  if (auto done = hand_over(spec.own_directory, spec.user); !done) return done.error();
  if (auto done = become_user(spec.user); !done) return done.error();
  join_group(spec.group);
  if (auto done = give_up_new_privileges(); !done) return done.error();
  auto programs = ProgramOpener::start();
  if (!programs) return programs.error();
  if (auto done = keep_capabilities(kControlCapabilities); !done) return done.error();
  const FileRules files{.read = true, .writable = spec.writable, .network = true};
  if (auto done = restrict_files(files); !done) return done.error();
  if (auto done = allow_only(Calls::control); !done) return done.error();
  for (const Role role : {Role::worker, Role::server}) {
    if (auto done = try_out(role, spec.run_directories); !done) return done.error();
  }
  Process process(std::move(*programs), spec.run_directories);
  process.notes_.push_back(describe(spec.user));
  if (landlock_version() == 0) {
    process.notes_.emplace_back(
        "this kernel has no Landlock: what threads may write is limited by their user and by the "
        "system call filters alone");
  }
  return process;
}

std::function<void()> Process::starts(Role role) const {
  return [role, directories = run_directories_] {
    const Result<void> done = confine_this_thread(role, directories);
    if (done) return;
    // A thread that can do more than it should is not to see a packet.
    std::fprintf(stderr, "vtap-broker: %s\n", done.error().message.c_str());
    std::abort();
  };
}

}  // namespace vtap::confine
