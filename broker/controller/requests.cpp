// SPDX-License-Identifier: Apache-2.0
#include "controller/requests.hpp"

#include <sys/eventfd.h>

#include <cerrno>
#include <cstring>

namespace vtap::controller {

Result<Requests> Requests::open() {
  UniqueFd fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd) return Error{std::string("opening an eventfd: ") + std::strerror(errno)};
  return Requests(std::move(fd));
}

bool Requests::post(std::function<void()> task) {
  const std::lock_guard lock(mutex_);
  if (closed_) return false;
  tasks_.push_back(std::move(task));
  eventfd_write(fd_.get(), 1);
  return true;
}

void Requests::serve() {
  eventfd_t ignored = 0;
  eventfd_read(fd_.get(), &ignored);
  std::vector<std::function<void()>> tasks;
  {
    const std::lock_guard lock(mutex_);
    tasks.swap(tasks_);
  }
  for (const auto& task : tasks) task();
}

void Requests::close() {
  if (!fd_) return;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  serve();
}

}  // namespace vtap::controller
