// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <future>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "vtap/fd.hpp"
#include "vtap/result.hpp"

namespace vtap::controller {

/// What other threads want the control thread to do: it alone has the right to. One at a time, in
/// the order in which they were asked.
class Requests {
 public:
  static Result<Requests> open();
  Requests(Requests&& other) noexcept : fd_(std::move(other.fd_)) {}
  Requests& operator=(Requests&&) = delete;
  ~Requests() { close(); }

  /// For epoll: readable when serve() has work.
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }

  /// Any thread but the control thread: waits for its answer. Throws std::runtime_error when the
  /// broker stops before, and what the task throws.
  template <typename Task>
  auto ask(Task task) -> decltype(task()) {
    std::packaged_task<decltype(task())()> work(std::move(task));
    auto answer = work.get_future();
    // A request that nobody is going to serve: its promise breaks, which get() throws.
    if (!post([&work] { work(); })) throw std::runtime_error("the broker is stopping");
    return answer.get();
  }

  /// The control thread: does what was asked for.
  void serve();
  /// The control thread: no more requests; those that wait are done.
  void close();

 private:
  explicit Requests(UniqueFd fd) : fd_(std::move(fd)) {}
  bool post(std::function<void()> task);

  UniqueFd fd_;
  std::mutex mutex_;
  std::vector<std::function<void()>> tasks_;
  bool closed_ = false;
};

}  // namespace vtap::controller
