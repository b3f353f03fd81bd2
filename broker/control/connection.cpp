// SPDX-License-Identifier: Apache-2.0
#include "control/connection.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

namespace vtap::control {
namespace {

using Clock = std::chrono::steady_clock;

int milliseconds_until(Clock::time_point when) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(when - Clock::now()).count();
  return static_cast<int>(std::max<decltype(left)>(left, 0));
}

/// Whether the first of `polled` is ready by `when`, and nothing happened at the others.
template <size_t N>
bool wait(std::array<pollfd, N> polled, Clock::time_point when) {
  int ready = 0;
  do {
    ready = ::poll(polled.data(), polled.size(), milliseconds_until(when));
  } while (ready < 0 && errno == EINTR);
  const auto quiet = [](const pollfd& other) { return other.revents == 0; };
  return ready > 0 && std::all_of(polled.begin() + 1, polled.end(), quiet);
}

}  // namespace

Connection::Connection(Fd client, int stop)
    : client_(std::move(client)), stop_(stop), read_by_(Clock::now() + kPatience) {}

bool Connection::is_readable() const {
  if (begin_ < end_) return true;
  return wait<2>({{{client_.get(), POLLIN, 0}, {stop_, POLLIN, 0}}}, read_by_);
}

bool Connection::is_writable() const {
  if (!written_by_) written_by_ = Clock::now() + kPatience;
  return wait<1>({{{client_.get(), POLLOUT, 0}}}, *written_by_);
}

ssize_t Connection::fill() {
  if (!is_readable()) return -1;
  const ssize_t got = ::recv(client_.get(), buffer_.data(), buffer_.size(), 0);
  begin_ = 0;
  end_ = static_cast<size_t>(std::max<ssize_t>(got, 0));
  return got;
}

ssize_t Connection::read(char* to, size_t size) {
  if (begin_ == end_) {
    const ssize_t got = fill();
    if (got <= 0) return got;
  }
  const size_t taken = std::min(size, end_ - begin_);
  std::copy_n(buffer_.data() + begin_, taken, to);
  begin_ += taken;
  return static_cast<ssize_t>(taken);
}

ssize_t Connection::write(const char* from, size_t size) {
  size_t sent = 0;
  while (sent < size) {
    if (!is_writable()) return -1;
    const ssize_t now = ::send(client_.get(), from + sent, size - sent, MSG_NOSIGNAL);
    if (now < 0 && errno != EAGAIN && errno != EINTR) return -1;
    if (now > 0) sent += static_cast<size_t>(now);
  }
  return static_cast<ssize_t>(size);
}

void Connection::discard_input() {
  static constexpr int kReads = 16;
  ::shutdown(client_.get(), SHUT_WR);
  ssize_t got = 1;
  for (int reads = 0; got > 0 && reads < kReads; ++reads) {
    begin_ = end_;  // what is buffered goes, too
    got = fill();
  }
}

// A Unix client has no address; what the library makes of it ends up in headers that nobody reads.
void Connection::get_remote_ip_and_port(std::string& /*ip*/, int& /*port*/) const {}
void Connection::get_local_ip_and_port(std::string& /*ip*/, int& /*port*/) const {}

}  // namespace vtap::control
