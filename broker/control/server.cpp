// SPDX-License-Identifier: Apache-2.0
#include "control/server.hpp"

#include <httplib.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

#include "control/connection.hpp"
#include "control/fd.hpp"
#include "control/listener.hpp"

namespace vtap::control {
namespace {

using Json = nlohmann::ordered_json;
using httplib::Request;
using httplib::Response;

constexpr int kThreads = 4;

void answer(Response& response, int status, const std::string& json) {
  response.status = status;
  response.set_content(json, "application/json");
}

void answer(Response& response, int status, const Json& json) {
  answer(response, status, json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

void refuse(Response& response, int status, const std::string& why) {
  answer(response, status, Json{{"error", why}});
}

bool has_body(const Request& request) {
  return request.has_header("Transfer-Encoding") ||
         (request.has_header("Content-Length") &&
          request.get_header_value("Content-Length") != "0");
}

/// The requests and what they do. cpp-httplib parses and formats HTTP; its sockets, threads and
/// routes are not used.
class Api : private httplib::Server {
 public:
  explicit Api(control::Handlers handlers) : handlers_(std::move(handlers)) {
    // In front of the library's routes, because those read the body first: without a
    // Content-Length (`curl -X POST`) until the end of the connection and of the memory.
    set_pre_routing_handler([this](const Request& request, Response& response) {
      dispatch(request, response);
      return HandlerResponse::Handled;
    });
    set_payload_max_length(0);
  }

  /// Reads one request and answers it.
  void serve(Connection& connection) {
    bool closed = false;
    bool refused_body = false;
    process_request(connection, true, closed,
                    [&](const Request& request) { refused_body = has_body(request); });
    if (refused_body) connection.discard_input();
  }

 private:
  struct Route {
    const char* method;
    const char* path;
    void (Api::*handle)(Response&);
  };

  void dispatch(const Request& request, Response& response) {
    try {
      route(request, response);
    } catch (const std::exception& error) {
      refuse(response, 500, error.what());
    } catch (...) {
      refuse(response, 500, "unknown exception");
    }
  }

  void route(const Request& request, Response& response) {
    if (has_body(request)) return refuse(response, 413, "no request here takes a body");
    static constexpr std::array<Route, 3> kRoutes = {{
        {"GET", "/v1/stats", &Api::stats},
        {"GET", "/v1/version", &Api::version},
        {"POST", "/v1/reload", &Api::reload},
    }};
    bool known = false;
    for (const Route& candidate : kRoutes) {
      if (request.path != candidate.path) continue;
      if (request.method == candidate.method) return (this->*candidate.handle)(response);
      known = true;
    }
    if (known) return refuse(response, 405, request.path + " does not take " + request.method);
    refuse(response, 404, "there is no " + request.path);
  }

  void stats(Response& response) {
    if (!handlers_.stats_json) return refuse(response, 501, "this broker gives no counters");
    answer(response, 200, handlers_.stats_json());
  }

  void version(Response& response) {
    answer(response, 200, Json{{"name", "vtap-broker"}, {"version", handlers_.version}});
  }

  void reload(Response& response) {
    if (!handlers_.reload) return refuse(response, 501, "this broker cannot reload its config yet");
    const std::unique_lock alone(reloading_, std::try_to_lock);
    if (!alone) return refuse(response, 409, "another reload is running");
    const Result<void> result = handlers_.reload();
    if (result) return answer(response, 200, Json{{"reloaded", true}});
    const bool config = result.error().kind == ErrorKind::usage;
    refuse(response, config ? 422 : 500, result.error().message);
  }

  const control::Handlers handlers_;  // httplib::Server has a Handlers of its own
  std::mutex reloading_;
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

/// Each thread waits for the listening socket itself, accepts one client and serves it to the end.
/// So there is no queue: who finds all threads busy waits in the backlog of the kernel.
class ControlServer::Impl {
 public:
  Impl(Listener listener, Fd stop, Handlers handlers)
      : path_(listener.path()),
        listener_(std::move(listener)),
        stop_(std::move(stop)),
        at_thread_start_(handlers.at_thread_start),
        api_(std::move(handlers)) {}

  void start() {
    const SignalsBlocked inherited;
    for (int i = 0; i < kThreads; ++i) {
      threads_.emplace_back([this] {
        ::pthread_setname_np(::pthread_self(), "vtap-control");
        at_thread_start_();
        serve_clients();
      });
    }
  }

  void stop() {
    ::eventfd_write(stop_.get(), 1);  // never read: stays readable for all threads
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    listener_.reset();
  }

  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  void serve_clients() {
    while (wait_for_client()) {
      Fd client(::accept4(listener_->fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (client) {
        serve(std::move(client));
      } else if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR) {
        pause();  // out of descriptors or memory; the client waits on
      }
    }
  }

  /// False when it is time to stop.
  bool wait_for_client() {
    std::array<pollfd, 2> polled = {{{listener_->fd(), POLLIN, 0}, {stop_.get(), POLLIN, 0}}};
    while (::poll(polled.data(), polled.size(), -1) < 0 && errno == EINTR) {
    }
    return polled[1].revents == 0;
  }

  void pause() {
    pollfd stop{stop_.get(), POLLIN, 0};
    ::poll(&stop, 1, 20);
  }

  void serve(Fd client) {
    try {
      Connection connection(std::move(client), stop_.get());
      api_.serve(connection);
    } catch (...) {
      // Out of memory, or a request that the library's parser throws on: this client is hung up
      // on, and that is its answer. Nothing may leave the thread, it would end the broker.
    }
  }

  const std::string path_;
  std::optional<Listener> listener_;
  Fd stop_;
  const std::function<void()> at_thread_start_;
  Api api_;
  std::vector<std::thread> threads_;
};

ControlServer::ControlServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ControlServer::~ControlServer() { stop(); }
void ControlServer::stop() { impl_->stop(); }
const std::string& ControlServer::path() const { return impl_->path(); }

Result<std::unique_ptr<ControlServer>> ControlServer::open(const std::string& path,
                                                           Handlers handlers) {
  try {
    auto listener = Listener::open(path);
    if (!listener) return listener.error();
    Fd stop(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!stop) return Error{"control socket " + path + ": eventfd: " + std::strerror(errno)};
    std::unique_ptr<ControlServer> server(new ControlServer(
        std::make_unique<Impl>(std::move(listener).value(), std::move(stop), std::move(handlers))));
    server->impl_->start();
    return server;
  } catch (const std::exception& error) {
    return Error{"control socket " + path + ": " + error.what()};
  }
}

}  // namespace vtap::control
