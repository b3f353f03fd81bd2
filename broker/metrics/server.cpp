// SPDX-License-Identifier: Apache-2.0
#include "metrics/server.hpp"

#include <arpa/inet.h>
#include <httplib.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <thread>
#include <vector>

#include "control/connection.hpp"
#include "metrics/exposition.hpp"
#include "vtap/fd.hpp"
#include "vtap/thread.hpp"

namespace vtap::metrics {
namespace {

using httplib::Request;
using httplib::Response;

constexpr int kBacklog = 16;

struct Address {
  sockaddr_storage storage{};
  socklen_t size = 0;

  [[nodiscard]] const sockaddr* generic() const noexcept {
    return reinterpret_cast<const sockaddr*>(&storage);
  }
};

Result<Address> address_of(const std::string& host, std::uint16_t port) {
  Address out;
  sockaddr_in v4{};
  sockaddr_in6 v6{};
  if (inet_pton(AF_INET, host.c_str(), &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
    out.size = sizeof(v4);
    std::memcpy(&out.storage, &v4, sizeof(v4));
    return out;
  }
  if (inet_pton(AF_INET6, host.c_str(), &v6.sin6_addr) == 1) {
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(port);
    out.size = sizeof(v6);
    std::memcpy(&out.storage, &v6, sizeof(v6));
    return out;
  }
  return Error{"\"" + host + "\" is no IPv4 or IPv6 address", ErrorKind::usage};
}

Error cannot_listen(int code) {
  switch (code) {
    case EADDRINUSE:
      return {"another process listens there; stop it, or set broker.metrics to another port"};
    case EADDRNOTAVAIL:
      return {"no interface of this machine has that address; correct broker.metrics"};
    case EACCES:
      return {
          "the port needs a privilege (CAP_NET_BIND_SERVICE); set broker.metrics to one from "
          "1024 on",
          ErrorKind::unsupported};
    default:
      return {std::string("cannot listen: ") + std::strerror(code)};
  }
}

Result<UniqueFd> listen_at(const Address& address) {
  UniqueFd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return cannot_listen(errno);
  // A restart need not wait for the connections of the process before to time out.
  const int yes = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  if (::bind(fd.get(), address.generic(), address.size) != 0 || ::listen(fd.get(), kBacklog) != 0) {
    return cannot_listen(errno);
  }
  return fd;
}

std::uint16_t port_of(int fd) {
  sockaddr_in6 bound{};  // the port of an IPv4 address is at the same place
  socklen_t size = sizeof(bound);
  static_assert(offsetof(sockaddr_in6, sin6_port) == offsetof(sockaddr_in, sin_port));
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size) != 0) return 0;
  return ntohs(bound.sin6_port);
}

/// A connection of which no more than so many bytes are read: the library's parser stores all
/// headers of a request, however many they are.
class Limited final : public httplib::Stream {
 public:
  explicit Limited(control::Connection& connection) : connection_(connection) {}

  [[nodiscard]] bool is_readable() const override { return connection_.is_readable(); }
  [[nodiscard]] bool is_writable() const override { return connection_.is_writable(); }
  ssize_t read(char* to, size_t size) override {
    const ssize_t got = left_ == 0 ? -1 : connection_.read(to, std::min(size, left_));
    if (got > 0) left_ -= static_cast<std::size_t>(got);
    return got;
  }
  ssize_t write(const char* from, size_t size) override { return connection_.write(from, size); }
  void get_remote_ip_and_port(std::string& ip, int& port) const override {
    connection_.get_remote_ip_and_port(ip, port);
  }
  void get_local_ip_and_port(std::string& ip, int& port) const override {
    connection_.get_local_ip_and_port(ip, port);
  }
  [[nodiscard]] socket_t socket() const override { return connection_.socket(); }

 private:
  control::Connection& connection_;
  std::size_t left_ = MetricsServer::kMaxRequest;
};

bool has_body(const Request& request) {
  return request.has_header("Transfer-Encoding") ||
         (request.has_header("Content-Length") &&
          request.get_header_value("Content-Length") != "0");
}

/// The one request and what it does. cpp-httplib parses and formats HTTP; its sockets, threads and
/// routes are not used.
class Endpoint : private httplib::Server {
 public:
  explicit Endpoint(Text text) : text_(std::move(text)) {
    // In front of the library's routes, because those read the body first.
    set_pre_routing_handler([this](const Request& request, Response& response) {
      answer(request, response);
      return HandlerResponse::Handled;
    });
    set_payload_max_length(0);
  }

  /// Reads one request and answers it.
  void serve(control::Connection& connection) {
    Limited limited(connection);
    bool closed = false;
    bool refused_body = false;
    process_request(limited, true, closed,
                    [&](const Request& request) { refused_body = has_body(request); });
    if (refused_body) connection.discard_input();
  }

 private:
  static void refuse(Response& response, int status, const std::string& why) {
    response.status = status;
    response.set_content(why + '\n', "text/plain; charset=utf-8");
  }

  void answer(const Request& request, Response& response) const {
    if (has_body(request)) return refuse(response, 413, "no request here takes a body");
    if (request.path != "/metrics") return refuse(response, 404, "here is only /metrics");
    if (request.method != "GET" && request.method != "HEAD") {
      response.set_header("Allow", "GET, HEAD");
      return refuse(response, 405, "/metrics takes GET only");
    }
    try {
      response.set_content(text_(), kContentType);
      response.status = 200;
    } catch (const std::exception& error) {
      refuse(response, 503, error.what());
    }
  }

  const Text text_;
};

/// Blocks all signals of the calling thread, for threads to inherit: they belong to the main one.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;
  ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

}  // namespace

/// Each thread accepts one client at a time and serves it to the end: there is no queue here.
class MetricsServer::Impl {
 public:
  Impl(UniqueFd listener, UniqueFd stop, Text text, std::function<void()> at_thread_start)
      : listener_(std::move(listener)),
        stop_(std::move(stop)),
        at_thread_start_(std::move(at_thread_start)),
        endpoint_(std::move(text)) {}

  Result<void> start() {
    const SignalsBlocked inherited;
    for (int i = 0; i < kThreads; ++i) {
      auto thread = start_thread([this] {
        ::pthread_setname_np(::pthread_self(), "vtap-metrics");
        if (at_thread_start_) at_thread_start_();
        serve_clients();
      });
      if (!thread) return thread.error();
      threads_.push_back(std::move(*thread));
    }
    return {};
  }

  void stop() {
    ::eventfd_write(stop_.get(), 1);  // never read: stays readable for all threads
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    listener_ = UniqueFd();
  }

  [[nodiscard]] std::uint16_t port() const noexcept { return port_; }

 private:
  void serve_clients() {
    while (wait_for_client()) {
      control::Fd client(
          ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (client) {
        serve(std::move(client));
      } else if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR) {
        pause();  // out of descriptors or memory; the client waits on
      }
    }
  }

  /// False when it is time to stop.
  bool wait_for_client() {
    std::array<pollfd, 2> polled = {{{listener_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}}};
    while (::poll(polled.data(), polled.size(), -1) < 0 && errno == EINTR) {
    }
    return polled[1].revents == 0;
  }

  void pause() {
    pollfd stop{stop_.get(), POLLIN, 0};
    ::poll(&stop, 1, 20);
  }

  void serve(control::Fd client) {
    try {
      control::Connection connection(std::move(client), stop_.get());
      endpoint_.serve(connection);
    } catch (...) {
      // Out of memory, or a request that the library's parser throws on: this client is hung up
      // on. Nothing may leave the thread, it would end the broker.
    }
  }

  UniqueFd listener_;
  UniqueFd stop_;
  const std::function<void()> at_thread_start_;
  const std::uint16_t port_ = port_of(listener_.get());
  Endpoint endpoint_;
  std::vector<std::thread> threads_;
};

MetricsServer::MetricsServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
MetricsServer::~MetricsServer() { stop(); }
void MetricsServer::stop() { impl_->stop(); }
std::uint16_t MetricsServer::port() const noexcept { return impl_->port(); }

Result<std::unique_ptr<MetricsServer>> MetricsServer::open(const std::string& host,
                                                           std::uint16_t port, Text text,
                                                           std::function<void()> at_thread_start) {
  const std::string where = "metrics endpoint " +
                            (host.find(':') == std::string::npos ? host : '[' + host + ']') + ':' +
                            std::to_string(port) + ": ";
  const auto failed = [&](const Error& error) { return Error{where + error.message, error.kind}; };
  try {
    auto address = address_of(host, port);
    if (!address) return failed(address.error());
    auto listener = listen_at(*address);
    if (!listener) return failed(listener.error());
    UniqueFd stop(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!stop) return failed({std::string("eventfd: ") + std::strerror(errno)});
    std::unique_ptr<MetricsServer> server(new MetricsServer(std::make_unique<Impl>(
        std::move(*listener), std::move(stop), std::move(text), std::move(at_thread_start))));
    if (auto started = server->impl_->start(); !started) return failed(started.error());
    return server;
  } catch (const std::exception& error) {
    return failed({error.what()});
  }
}

}  // namespace vtap::metrics
