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

bool would_block(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

/// Bytes as they are.
class Plain final : public Transport {
 public:
  explicit Plain(int socket) : socket_(socket) {}

  Moved read(char* to, std::size_t size) override {
    const ssize_t got = ::recv(socket_, to, size, 0);
    return {got, got < 0 && would_block(errno) ? short{POLLIN} : short{0}};
  }
  Moved write(const char* from, std::size_t size) override {
    const ssize_t sent = ::send(socket_, from, size, MSG_NOSIGNAL);
    return {sent, sent < 0 && would_block(errno) ? short{POLLOUT} : short{0}};
  }
  [[nodiscard]] bool has_input() const override { return false; }
  void end() override { ::shutdown(socket_, SHUT_WR); }

 private:
  int socket_;
};

}  // namespace

Connection::Connection(Fd client, int stop, std::unique_ptr<Transport> transport)
    : client_(std::move(client)),
      stop_(stop),
      transport_(transport ? std::move(transport) : std::make_unique<Plain>(client_.get())),
      read_by_(Clock::now() + kPatience) {}

bool Connection::is_readable() const {
  if (begin_ < end_ || transport_->has_input()) return true;
  return wait<2>({{{client_.get(), POLLIN, 0}, {stop_, POLLIN, 0}}}, read_by_);
}

bool Connection::is_writable() const { return takes_more(POLLOUT); }

bool Connection::takes_more(short ready_for) const {
  if (!written_by_) written_by_ = Clock::now() + kPatience;
  if (streams_) {
    if (wait<2>({{{client_.get(), ready_for, 0}, {stop_, POLLIN, 0}}}, *written_by_)) return true;
    if (Clock::now() >= *written_by_) return false;
    // The server stops: from here on as with every response.
    streams_ = false;
    written_by_ = std::min(*written_by_, Clock::now() + kPatience);
  }
  return wait<1>({{{client_.get(), ready_for, 0}}}, *written_by_);
}

void Connection::give_time(std::chrono::milliseconds patience) {
  pollfd stop{stop_, POLLIN, 0};
  if (::poll(&stop, 1, 0) != 0) return;
  streams_ = true;
  written_by_ = Clock::now() + patience;
}

bool Connection::stays(std::chrono::milliseconds time) const {
  const auto until = Clock::now() + time;
  std::array<pollfd, 2> polled = {{{client_.get(), POLLRDHUP, 0}, {stop_, POLLIN, 0}}};
  int ready = 0;
  do {
    ready = ::poll(polled.data(), polled.size(), milliseconds_until(until));
  } while (ready < 0 && errno == EINTR);
  return ready == 0;
}

ssize_t Connection::fill() {
  if (!is_readable()) return -1;
  Moved moved = transport_->read(buffer_.data(), buffer_.size());
  while (moved.bytes < 0 && moved.wait_for != 0) {
    if (!wait<2>({{{client_.get(), moved.wait_for, 0}, {stop_, POLLIN, 0}}}, read_by_)) return -1;
    moved = transport_->read(buffer_.data(), buffer_.size());
  }
  begin_ = 0;
  end_ = static_cast<size_t>(std::max<ssize_t>(moved.bytes, 0));
  return moved.bytes;
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
  if (closed_) return -1;
  size_t sent = 0;
  while (sent < size) {
    if (!is_writable()) return -1;
    const Moved moved = transport_->write(from + sent, size - sent);
    if (moved.bytes > 0) {
      sent += static_cast<size_t>(moved.bytes);
    } else if (moved.wait_for == 0 || !takes_more(moved.wait_for)) {
      return -1;
    }
  }
  return static_cast<ssize_t>(size);
}

void Connection::discard_input() {
  end();
  ssize_t got = 1;
  for (size_t read = 0; got > 0 && read < kMostDiscarded; read += static_cast<size_t>(got)) {
    begin_ = end_;  // what is buffered goes, too
    got = fill();
    if (got < 0) return;
  }
}

// Nobody asks for addresses; what the library makes of it ends up in headers that nobody reads.
void Connection::get_remote_ip_and_port(std::string& /*ip*/, int& /*port*/) const {}
void Connection::get_local_ip_and_port(std::string& /*ip*/, int& /*port*/) const {}

}  // namespace vtap::control
