// SPDX-License-Identifier: Apache-2.0
#include "confine/program_opener.hpp"

#include <linux/bpf.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "confine/capabilities.hpp"
#include "confine/filter.hpp"
#include "confine/landlock.hpp"
#include "vtap/thread.hpp"

namespace vtap::confine {
namespace {

Result<void> confine_opener() {
  FileRules files{.read = false, .writable = {}, .network = false};
#ifdef VTAP_SANITIZED
  files.read = true;
#endif
  if (auto done = restrict_files(files); !done) return done;
  if (auto done = keep_capabilities(kLookupCapabilities); !done) return done;
  return allow_only(Calls::opener);
}

int open_program(std::uint32_t id) {
  bpf_attr request{};
  request.prog_id = id;
  return static_cast<int>(::syscall(SYS_bpf, BPF_PROG_GET_FD_BY_ID, &request, sizeof(request)));
}

}  // namespace

Result<std::unique_ptr<ProgramOpener>> ProgramOpener::start() {
  std::unique_ptr<ProgramOpener> opener(new ProgramOpener);
  auto thread = start_thread([&self = *opener] { self.run(); });
  if (!thread) return thread.error();
  opener->thread_ = std::move(*thread);
  std::unique_lock lock(opener->mutex_);
  opener->changed_.wait(lock, [&] { return opener->confined_.has_value(); });
  if (!*opener->confined_) return opener->confined_->error();
  lock.unlock();
  return opener;
}

ProgramOpener::~ProgramOpener() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

int ProgramOpener::open(std::uint32_t id) {
  const std::lock_guard alone(callers_);
  std::unique_lock lock(mutex_);
  answer_.reset();
  wanted_ = id;
  changed_.notify_all();
  changed_.wait(lock, [this] { return answer_.has_value(); });
  errno = answer_->error;
  return answer_->fd;
}

void ProgramOpener::run() {
  sigset_t all;  // signals are for the main thread
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, nullptr);
  ::prctl(PR_SET_NAME, "vtap-opener", 0, 0, 0);
  std::unique_lock lock(mutex_);
  confined_ = confine_opener();
  changed_.notify_all();
  while (confined_->ok()) {
    changed_.wait(lock, [this] { return stop_ || wanted_; });
    if (stop_) return;
    const int fd = open_program(*wanted_);
    answer_ = Answer{.fd = fd, .error = fd < 0 ? errno : 0};
    wanted_.reset();
    changed_.notify_all();
  }
}

}  // namespace vtap::confine
