// SPDX-License-Identifier: Apache-2.0
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <thread>

#include "metrics/exposition.hpp"
#include "metrics/server.hpp"
#include "vtap/fd.hpp"

namespace vtap::metrics {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

std::unique_ptr<MetricsServer> serve(Text text = [] { return std::string("vtap_info 1\n"); }) {
  auto server = MetricsServer::open("127.0.0.1", 0, std::move(text));
  EXPECT_TRUE(server.ok()) << server.error().message;
  return server ? std::move(*server) : nullptr;
}

httplib::Client client_of(const MetricsServer& server) {
  return httplib::Client("127.0.0.1", server.port());
}

UniqueFd connect_to(const MetricsServer& server) {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(server.port());
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  return fd;
}

/// What the server says until it hangs up or `patience` is over; `hung_up`: it did.
std::string answer_on(const UniqueFd& fd, std::chrono::milliseconds patience, bool& hung_up) {
  std::string out;
  std::array<char, 4096> buffer;
  pollfd polled{fd.get(), POLLIN, 0};
  hung_up = false;
  while (::poll(&polled, 1, static_cast<int>(patience.count())) > 0) {
    const ssize_t got = ::recv(fd.get(), buffer.data(), buffer.size(), 0);
    if (got <= 0) {
      hung_up = true;
      break;
    }
    out.append(buffer.data(), static_cast<std::size_t>(got));
  }
  return out;
}

TEST(MetricsServer, ServesTheText) {
  const auto server = serve();
  const auto answer = client_of(*server).Get("/metrics");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 200);
  EXPECT_EQ(answer->body, "vtap_info 1\n");
  EXPECT_EQ(answer->get_header_value("Content-Type"), kContentType);
  EXPECT_EQ(answer->get_header_value("Connection"), "close");
}

TEST(MetricsServer, RefusesWhatItDoesNotKnow) {
  const auto server = serve();
  auto client = client_of(*server);
  EXPECT_EQ(client.Get("/")->status, 404);
  EXPECT_EQ(client.Get("/metrics/")->status, 404);
  EXPECT_EQ(client.Get("/v1/stats")->status, 404);
  EXPECT_EQ(client.Post("/metrics")->status, 405);
  EXPECT_EQ(client.Delete("/metrics")->status, 405);
  EXPECT_EQ(client.Post("/metrics", "a body", "text/plain")->status, 413);
  EXPECT_EQ(client.Head("/metrics")->status, 200);
}

TEST(MetricsServer, WhatTheTextThrowsIsA503) {
  const auto server =
      serve([]() -> std::string { throw std::runtime_error("the broker is starting"); });
  const auto answer = client_of(*server).Get("/metrics");
  EXPECT_EQ(answer->status, 503);
  EXPECT_EQ(answer->body, "the broker is starting\n");
}

TEST(MetricsServer, AnAddressInUseIsRefusedWithWhatToDo) {
  const auto first = serve();
  const auto second = MetricsServer::open("127.0.0.1", first->port(), [] { return std::string(); });
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().kind, ErrorKind::runtime);
  EXPECT_EQ(second.error().message,
            "metrics endpoint 127.0.0.1:" + std::to_string(first->port()) +
                ": another process listens there; stop it, or set broker.metrics to another port");
}

TEST(MetricsServer, AnAddressThatIsNotOursIsRefused) {
  const auto server = MetricsServer::open("192.0.2.1", 0, [] { return std::string(); });
  ASSERT_FALSE(server.ok());
  EXPECT_NE(server.error().message.find("no interface of this machine"), std::string::npos)
      << server.error().message;
}

TEST(MetricsServer, ListensOnIpv6) {
  auto server = MetricsServer::open("::1", 0, [] { return std::string("six\n"); });
  if (!server) GTEST_SKIP() << "no IPv6 here: " << server.error().message;
  EXPECT_EQ(httplib::Client("::1", (*server)->port()).Get("/metrics")->body, "six\n");
}

TEST(MetricsServer, APortIsFreeAgainAfterStop) {
  auto server = serve();
  const std::uint16_t port = server->port();
  EXPECT_EQ(client_of(*server).Get("/metrics")->status, 200);
  server->stop();
  server->stop();
  EXPECT_FALSE(client_of(*server).Get("/metrics"));
  EXPECT_TRUE(MetricsServer::open("127.0.0.1", port, [] { return std::string(); }).ok());
}

TEST(MetricsServer, StopDoesNotWaitForSilentClients) {
  auto server = serve();
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 2 * MetricsServer::kThreads; ++i) silent.push_back(connect_to(*server));
  std::this_thread::sleep_for(50ms);
  const auto before = Clock::now();
  server->stop();
  EXPECT_LT(Clock::now() - before, 1s);
}

TEST(MetricsServer, ClientsThatStallAreCutOff) {
  const auto server = serve();
  std::vector<UniqueFd> silent;
  for (int i = 0; i < MetricsServer::kThreads; ++i) silent.push_back(connect_to(*server));
  auto client = client_of(*server);
  client.set_read_timeout(10s);
  const auto answer = client.Get("/metrics");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 200);
}

TEST(MetricsServer, EndlessHeadersAreHungUpOn) {
  const auto server = serve();
  const UniqueFd fd = connect_to(*server);
  std::string request = "GET /metrics HTTP/1.1\r\n";
  while (request.size() < 2 * MetricsServer::kMaxRequest) request += "X: y\r\n";
  ::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL);
  bool hung_up = false;
  const std::string answer = answer_on(fd, 1s, hung_up);  // less than a stalled client is given
  EXPECT_TRUE(hung_up);
  EXPECT_EQ(answer.find("200"), std::string::npos) << answer;
}

TEST(MetricsServer, GarbageAndHangUpsDoNoHarm) {
  const auto server = serve();
  for (const std::string bytes :
       {"\r\n\r\n", "GET\r\n\r\n", "\xff\xfe\r\n\r\n", "GET /metrics HTTP/9.9\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nRange: bytes=-\r\n\r\n", ""}) {
    const UniqueFd fd = connect_to(*server);
    ::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    ::shutdown(fd.get(), SHUT_WR);
    bool hung_up = false;
    answer_on(fd, 3s, hung_up);
    EXPECT_TRUE(hung_up) << bytes;
  }
  EXPECT_EQ(client_of(*server).Get("/metrics")->status, 200);
}

TEST(MetricsServer, ABigTextArrivesWhole) {
  const std::string text(8 << 20, 'x');
  const auto server = serve([&] { return text; });
  EXPECT_EQ(client_of(*server).Get("/metrics")->body, text);
}

TEST(MetricsServer, NoMoreThanItsThreadsRunTheText) {
  std::atomic<int> running = 0;
  std::atomic<int> most = 0;
  const auto server = serve([&] {
    const int now = ++running;
    for (int seen = most; now > seen && !most.compare_exchange_weak(seen, now);) {
    }
    std::this_thread::sleep_for(20ms);
    --running;
    return std::string("x\n");
  });
  std::vector<std::thread> clients;
  std::atomic<int> answered = 0;
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back([&] {
      const auto answer = client_of(*server).Get("/metrics");
      answered += answer && answer->status == 200 ? 1 : 0;
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(answered, 8);
  EXPECT_LE(most, MetricsServer::kThreads);
}

TEST(MetricsServer, ItsThreadsTakeNoSignal) {
  sigset_t none;
  sigemptyset(&none);
  pthread_sigmask(SIG_SETMASK, &none, nullptr);  // whoever started this may block some
  const auto server = serve();
  // They name themselves, a moment after they began.
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  int found = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream status(task.path() / "status");
    std::string name, blocked;
    for (std::string line; std::getline(status, line);) {
      if (line.rfind("Name:", 0) == 0) name = line.substr(6);
      if (line.rfind("SigBlk:", 0) == 0) blocked = line.substr(8);
    }
    if (name != "vtap-metrics") continue;
    ++found;
    const std::uint64_t mask = std::stoull(blocked, nullptr, 16);
    for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGALRM, SIGCHLD}) {
      EXPECT_NE(mask >> (signal - 1) & 1, 0U) << "signal " << signal;
    }
  }
  EXPECT_EQ(found, MetricsServer::kThreads);
}

}  // namespace
}  // namespace vtap::metrics
