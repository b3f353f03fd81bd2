// SPDX-License-Identifier: Apache-2.0
#include "control/server.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <optional>
#include <thread>
#include <vector>

#include "control/api.hpp"
#include "control/connection.hpp"
#include "control/fd.hpp"
#include "control/http.hpp"
#include "control/listener.hpp"
#include "control/secret.hpp"
#include "control/tcp.hpp"
#include "control/tls.hpp"
#include "vtap/thread.hpp"

namespace vtap::control {
namespace {

constexpr int kThreads = 4;  // of each endpoint

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

/// The TCP endpoint, and what its clients must show and be shown.
struct TcpFront {
  TcpListener listener;
  Token token;
  std::optional<Tls> tls;
};

Result<TcpFront> open_tcp(const TcpEndpoint& endpoint) {
  auto token = Token::read(endpoint.token_file);
  if (!token) return token.error();
  std::optional<Tls> tls;
  if (!endpoint.certificate.empty() || !endpoint.key.empty()) {
    auto opened = Tls::open(endpoint.certificate, endpoint.key);
    if (!opened) return opened.error();
    tls = std::move(*opened);
  }
  auto listener = TcpListener::open(endpoint.address, endpoint.port);
  if (!listener) return listener.error();
  if (!listener->is_loopback() && !tls) {
    return Error{"API on " + endpoint.address +
                     ": other hosts reach it, so it needs a certificate and a key; set api_cert "
                     "and api_key, or api to an address of the loopback",
                 ErrorKind::usage};
  }
  return TcpFront{std::move(*listener), std::move(*token), std::move(tls)};
}

}  // namespace

/// Each thread waits for its listening socket itself, accepts one client and serves it to the end.
/// So there is no queue: who finds all threads busy waits in the backlog of the kernel.
class ControlServer::Impl {
 public:
  Impl(Listener listener, std::optional<TcpFront> tcp, Fd stop, Handlers handlers)
      : path_(listener.path()),
        has_group_(listener.has_group()),
        listener_(std::move(listener)),
        tcp_(std::move(tcp)),
        stop_(std::move(stop)),
        at_thread_start_(handlers.at_thread_start),
        api_(std::move(handlers)) {}

  Result<void> start() {
    const SignalsBlocked inherited;
    for (int i = 0; i < kThreads; ++i) {
      auto started = start("vtap-control", {listener_->fd(), nullptr, nullptr});
      if (started && tcp_) {
        started = start("vtap-api",
                        {tcp_->listener.fd(), &tcp_->token, tcp_->tls ? &*tcp_->tls : nullptr});
      }
      if (!started) return started;
    }
    return {};
  }

  void stop() {
    ::eventfd_write(stop_.get(), 1);  // never read: stays readable for all threads
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    listener_.reset();
    tcp_.reset();
  }

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] bool has_group() const { return has_group_; }
  [[nodiscard]] std::uint16_t tcp_port() const { return tcp_ ? tcp_->listener.port() : 0; }

 private:
  /// Where a thread's clients come from, and how they are met.
  struct Front {
    int listener;
    const Token* token;  ///< none: the mode of the socket file says who may
    const Tls* tls;
  };

  Result<void> start(const char* name, Front front) {
    auto thread = start_thread([this, name, front] {
      ::pthread_setname_np(::pthread_self(), name);
      if (at_thread_start_) at_thread_start_();
      serve_clients(front);
    });
    if (!thread) return thread.error();
    threads_.push_back(std::move(*thread));
    return {};
  }

  void serve_clients(Front front) {
    Http http(api_, front.token);
    while (wait_for_client(front.listener)) {
      Fd client(::accept4(front.listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (client) {
        serve(http, front, std::move(client));
      } else if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR) {
        pause();  // out of descriptors or memory; the client waits on
      }
    }
  }

  /// False when it is time to stop.
  bool wait_for_client(int listener) {
    std::array<pollfd, 2> polled = {{{listener, POLLIN, 0}, {stop_.get(), POLLIN, 0}}};
    while (::poll(polled.data(), polled.size(), -1) < 0 && errno == EINTR) {
    }
    return polled[1].revents == 0;
  }

  void pause() {
    pollfd stop{stop_.get(), POLLIN, 0};
    ::poll(&stop, 1, 20);
  }

  void serve(Http& http, const Front& front, Fd client) {
    try {
      // A response is written in pieces; on a Unix socket this fails and nobody minds.
      const int on = 1;
      ::setsockopt(client.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
      auto transport = front.tls == nullptr ? nullptr : front.tls->accept(client.get());
      Connection connection(std::move(client), stop_.get(), std::move(transport));
      http.serve(connection);
    } catch (...) {
      // Out of memory, or a request that the library's parser throws on: this client is hung up
      // on, and that is its answer. Nothing may leave the thread, it would end the broker.
    }
  }

  const std::string path_;
  const bool has_group_;
  std::optional<Listener> listener_;
  std::optional<TcpFront> tcp_;
  Fd stop_;
  const std::function<void()> at_thread_start_;
  Api api_;
  std::vector<std::thread> threads_;
};

ControlServer::ControlServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ControlServer::~ControlServer() { stop(); }
void ControlServer::stop() { impl_->stop(); }
const std::string& ControlServer::path() const { return impl_->path(); }
bool ControlServer::has_group() const { return impl_->has_group(); }
std::uint16_t ControlServer::tcp_port() const { return impl_->tcp_port(); }

Result<std::unique_ptr<ControlServer>> ControlServer::open(const Endpoints& endpoints,
                                                           Handlers handlers) {
  try {
    auto listener = Listener::open(endpoints.path, endpoints.group);
    if (!listener) return listener.error();
    std::optional<TcpFront> tcp;
    if (endpoints.tcp) {
      auto opened = open_tcp(*endpoints.tcp);
      if (!opened) return opened.error();
      tcp = std::move(*opened);
    }
    Fd stop(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!stop) {
      return Error{"control socket " + endpoints.path + ": eventfd: " + std::strerror(errno)};
    }
    std::unique_ptr<ControlServer> server(new ControlServer(std::make_unique<Impl>(
        std::move(listener).value(), std::move(tcp), std::move(stop), std::move(handlers))));
    if (auto started = server->impl_->start(); !started) {
      return Error{"control socket " + endpoints.path + ": " + started.error().message};
    }
    return server;
  } catch (const std::exception& error) {
    return Error{"control socket " + endpoints.path + ": " + error.what()};
  }
}

}  // namespace vtap::control
