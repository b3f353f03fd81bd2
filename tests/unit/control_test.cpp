// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <httplib.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <thread>

#include "control/fd.hpp"
#include "control/listener.hpp"
#include "control/server.hpp"

namespace vtap::control {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

mode_t mode_of(const std::string& path) {
  struct stat status {};
  EXPECT_EQ(::lstat(path.c_str(), &status), 0) << path;
  return status.st_mode & 07777;
}

/// The umask of the process while it lives.
class Umask {
 public:
  explicit Umask(mode_t mask) : before_(::umask(mask)) {}
  Umask(const Umask&) = delete;
  Umask& operator=(const Umask&) = delete;
  ~Umask() { ::umask(before_); }

 private:
  mode_t before_;
};

struct Answer {
  int status = 0;  ///< 0: no answer
  std::string body;
};

class Control : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "vtap-control.XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    path_ = (directory_ / "t.sock").string();
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  static Handlers plain() {
    return {.version = "1.2.3", .stats_json = [] { return std::string(R"({"name":"t"})"); }};
  }

  std::unique_ptr<ControlServer> serve(Handlers handlers = plain()) {
    auto server = ControlServer::open({.path = path_}, std::move(handlers));
    EXPECT_TRUE(server.ok()) << server.error().message;
    return server ? std::move(server).value() : nullptr;
  }

  static Answer answer_of(const httplib::Result& result) {
    return result ? Answer{result->status, result->body} : Answer{};
  }
  httplib::Client client() const {
    httplib::Client http(path_, 80);
    http.set_address_family(AF_UNIX);
    return http;
  }
  Answer get(const std::string& target) const { return answer_of(client().Get(target)); }
  Answer post(const std::string& target, const std::string& body = "") const {
    return answer_of(client().Post(target, body, "application/json"));
  }

  Fd connect() const {
    Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, sizeof(address.sun_path) - 1);
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    return fd;
  }

  /// What comes back for raw bytes, until the server hangs up or `patience` is over.
  static std::string talk(const Fd& fd, const std::string& bytes,
                          std::chrono::milliseconds patience) {
    EXPECT_EQ(::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
    std::string out;
    std::array<char, 4096> buffer;
    pollfd polled{fd.get(), POLLIN, 0};
    while (::poll(&polled, 1, static_cast<int>(patience.count())) > 0) {
      const ssize_t got = ::recv(fd.get(), buffer.data(), buffer.size(), 0);
      if (got <= 0) break;
      out.append(buffer.data(), static_cast<size_t>(got));
    }
    return out;
  }

  /// A socket file that nobody listens on, as a kill -9 leaves it.
  void leave_dead_socket() const {
    const Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, sizeof(address.sun_path) - 1);
    ASSERT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }

  std::filesystem::path directory_;
  std::string path_;
};

TEST_F(Control, ServesStatsAndVersion) {
  const auto server = serve();
  const Answer stats = get("/v1/stats");
  EXPECT_EQ(stats.status, 200);
  EXPECT_EQ(stats.body, R"({"name":"t"})");
  EXPECT_EQ(get("/v1/version").body, R"({"name":"vtap-broker","version":"1.2.3"})");
  EXPECT_EQ(server->path(), path_);
}

TEST_F(Control, RefusesWhatItDoesNotKnow) {
  const auto server = serve();
  EXPECT_EQ(get("/v1/nonsense").status, 404);
  EXPECT_EQ(get("/").status, 404);
  EXPECT_EQ(get("/v1/reload").status, 405);
  EXPECT_EQ(post("/v1/stats").status, 405);
  EXPECT_EQ(answer_of(client().Delete("/v1/stats")).status, 405);
  EXPECT_EQ(post("/v1/reload", "a body").status, 413);
}

TEST_F(Control, ReloadWithoutHandlerSaysSo) {
  const auto server = serve();
  const Answer answer = post("/v1/reload");
  EXPECT_EQ(answer.status, 501);
  EXPECT_NE(answer.body.find("cannot reload"), std::string::npos) << answer.body;
}

TEST_F(Control, ReloadReportsTheHandlersResult) {
  Result<std::uint32_t> next = 7;
  Handlers handlers = plain();
  handlers.reload = [&next] { return next; };
  const auto server = serve(handlers);
  EXPECT_EQ(post("/v1/reload").body, R"({"reloaded":true,"generation":7})");
  next = Error{"tap.toml:3:1: \"no\"", ErrorKind::usage};
  const Answer config = post("/v1/reload");
  EXPECT_EQ(config.status, 422);
  EXPECT_EQ(config.body, R"({"error":"tap.toml:3:1: \"no\""})");
  next = Error{"no memory"};
  EXPECT_EQ(post("/v1/reload").status, 500);
}

TEST_F(Control, ASecondReloadAtTheSameTimeIsRefused) {
  std::atomic<bool> entered = false, release = false;
  Handlers handlers = plain();
  handlers.reload = [&]() -> Result<std::uint32_t> {
    entered = true;
    while (!release) std::this_thread::sleep_for(1ms);
    return 2U;
  };
  const auto server = serve(handlers);
  Answer first;
  std::thread caller([&] { first = post("/v1/reload"); });
  while (!entered) std::this_thread::sleep_for(1ms);
  EXPECT_EQ(post("/v1/reload").status, 409);
  EXPECT_EQ(get("/v1/stats").status, 200);  // others are served meanwhile
  release = true;
  caller.join();
  EXPECT_EQ(first.status, 200);
}

TEST_F(Control, ExceptionsOfHandlersBecome500) {
  Handlers handlers = plain();
  handlers.stats_json = []() -> std::string { throw std::runtime_error("broken"); };
  handlers.reload = []() -> Result<std::uint32_t> { throw 1; };
  const auto server = serve(handlers);
  const Answer answer = get("/v1/stats");
  EXPECT_EQ(answer.status, 500);
  EXPECT_EQ(answer.body, R"({"error":"broken"})");
  EXPECT_EQ(post("/v1/reload").status, 500);
  EXPECT_EQ(get("/v1/version").status, 200);
}

TEST_F(Control, MakesDirectoriesAndSetsModesWhateverTheUmask) {
  for (const mode_t mask : {0000, 0022, 0077}) {
    const Umask umask(mask);
    path_ = (directory_ / std::to_string(mask) / "deep" / "t.sock").string();
    const auto server = serve();
    ASSERT_NE(server, nullptr);
    EXPECT_EQ(mode_of(path_), 0660U) << mask;
    EXPECT_EQ(mode_of((directory_ / std::to_string(mask)).string()), 0755U) << mask;
    EXPECT_EQ(mode_of((directory_ / std::to_string(mask) / "deep").string()), 0755U) << mask;
  }
}

TEST_F(Control, LeavesTheModeOfADirectoryThatExists) {
  ASSERT_EQ(::chmod(directory_.c_str(), 0711), 0);
  const auto server = serve();
  EXPECT_EQ(mode_of(directory_.string()), 0711U);
}

TEST_F(Control, ReplacesTheSocketOfADeadBroker) {
  leave_dead_socket();
  const auto server = serve();
  EXPECT_EQ(get("/v1/stats").status, 200);
}

TEST_F(Control, RefusesASecondServerAndTheFirstLivesOn) {
  const auto server = serve();
  const auto second = ControlServer::open({.path = path_}, plain());
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.error().message.find("a broker with this control socket is already running"),
            std::string::npos);
  EXPECT_NE(second.error().message.find(path_), std::string::npos);
  EXPECT_EQ(get("/v1/stats").status, 200);
}

TEST_F(Control, OfManyThatStartAtOnceOneWins) {
  for (int round = 0; round < 100; ++round) {
    leave_dead_socket();
    std::vector<std::unique_ptr<ControlServer>> servers(8);
    std::barrier together(8);
    std::vector<std::thread> starters;
    for (auto& slot : servers) {
      starters.emplace_back([&] {
        together.arrive_and_wait();
        auto server = ControlServer::open({.path = path_}, plain());
        if (server) slot = std::move(server).value();
      });
    }
    for (std::thread& starter : starters) starter.join();
    EXPECT_EQ(std::count(servers.begin(), servers.end(), nullptr), 7);
    EXPECT_EQ(get("/v1/stats").status, 200);
  }
}

TEST_F(Control, RefusesAFileThatIsNoSocketAndKeepsIt) {
  std::ofstream(path_) << "precious";
  const auto server = ControlServer::open({.path = path_}, plain());
  ASSERT_FALSE(server.ok());
  EXPECT_NE(server.error().message.find("no socket"), std::string::npos);
  EXPECT_TRUE(std::filesystem::is_regular_file(path_));
}

TEST_F(Control, RefusesPathsThatNoSocketCanHave) {
  const std::string longest = path_ + std::string(107 - path_.size(), 'x');
  for (const std::string& path :
       {std::string(), longest + "x", std::string(5000, 'x'), path_ + '\0' + "x"}) {
    const auto server = ControlServer::open({.path = path}, plain());
    ASSERT_FALSE(server.ok()) << path;
    EXPECT_EQ(server.error().kind, ErrorKind::usage);
  }
  EXPECT_NE(
      ControlServer::open({.path = longest + "x"}, plain()).error().message.find("at most 107"),
      std::string::npos);
  EXPECT_TRUE(std::filesystem::is_empty(directory_));
  path_ = longest;
  const auto server = serve();
  EXPECT_EQ(get("/v1/stats").status, 200);
}

TEST_F(Control, FailsWhenTheDirectoryIsAFile) {
  std::ofstream(path_) << "a file";
  const auto server = ControlServer::open({.path = path_ + "/t.sock"}, plain());
  ASSERT_FALSE(server.ok());
  EXPECT_NE(server.error().message.find(path_), std::string::npos) << server.error().message;
}

TEST_F(Control, RemovesItsSocketOnStop) {
  auto server = serve();
  server->stop();
  EXPECT_FALSE(std::filesystem::exists(path_));
  EXPECT_EQ(probe_socket(path_), ENOENT);
  server->stop();
  server = serve();
  EXPECT_EQ(get("/v1/stats").status, 200);
}

TEST_F(Control, LeavesASocketThatIsNotItsOwn) {
  auto server = serve();
  std::filesystem::remove(path_);
  leave_dead_socket();
  server->stop();
  EXPECT_TRUE(std::filesystem::is_socket(path_));
}

TEST_F(Control, ServesManyClientsAtOnce) {
  const auto server = serve();
  std::atomic<int> served = 0;
  std::vector<std::thread> callers;
  for (int i = 0; i < 32; ++i) {
    callers.emplace_back([&] {
      for (int n = 0; n < 10; ++n) served += get("/v1/stats").status == 200 ? 1 : 0;
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(served, 320);
}

TEST_F(Control, AClientThatStallsOrTricklesIsHungUpOn) {
  const auto server = serve();
  const Fd silent = connect();
  const auto start = Clock::now();
  const Fd trickling = connect();
  std::thread trickler([&] {
    while (::send(trickling.get(), "x", 1, MSG_NOSIGNAL) == 1) std::this_thread::sleep_for(50ms);
  });
  EXPECT_EQ(get("/v1/stats").status, 200);  // there are other threads
  EXPECT_EQ(talk(silent, "GET /v1/st", 10s), "");
  trickler.join();
  EXPECT_LT(Clock::now() - start, 6s);
}

TEST_F(Control, AClientThatHangsUpOrDoesNotReadHarmsNobody) {
  Handlers handlers = plain();
  handlers.stats_json = [] { return std::string(4 << 20, ' '); };  // more than a socket buffer
  const auto server = serve(handlers);
  const std::string request = "GET /v1/stats HTTP/1.1\r\n\r\n";
  std::vector<Fd> not_reading;
  for (int i = 0; i < 8; ++i) {
    Fd fd = connect();
    ASSERT_GT(::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL), 0);
    if (i % 2 == 0) not_reading.push_back(std::move(fd));
  }
  EXPECT_EQ(get("/v1/stats").body.size(), size_t{4} << 20);
}

TEST_F(Control, StopsSoonDespiteIdleClients) {
  const auto server = serve();
  std::vector<Fd> idle;
  for (int i = 0; i < 8; ++i) idle.push_back(connect());
  std::this_thread::sleep_for(50ms);
  const auto start = Clock::now();
  server->stop();
  EXPECT_LT(Clock::now() - start, 1s);
}

TEST_F(Control, ABodyWithoutLengthIsNotWaitedFor) {
  const auto server = serve();
  const Fd fd = connect();
  const std::string answer = talk(fd, "POST /v1/reload HTTP/1.1\r\nHost: x\r\n\r\n", 1s);
  EXPECT_EQ(answer.rfind("HTTP/1.1 501", 0), 0U) << answer;
}

TEST_F(Control, SurvivesWhatIsNoRequest) {
  const auto server = serve();
  const std::string get_stats = "GET /v1/stats HTTP/1.1\r\n";
  for (const std::string& bytes :
       {std::string("\r\n\r\n"), std::string(64, '\0') + "\r\n\r\n", std::string("GET\r\n\r\n"),
        "GET /" + std::string(20000, 'x') + " HTTP/1.1\r\n\r\n",
        get_stats + "X: " + std::string(20000, 'x') + "\r\n\r\n",
        get_stats + "Range: bytes=99999999999999999999-\r\n\r\n",
        get_stats + "Range: bytes=5-1,7-,-\r\n\r\n",
        "GET /v1/%zz%00%ff HTTP/1.1\r\n\r\n" + std::string(),
        "POST /v1/reload HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n" + std::string(),
        "PUT /v1/stats HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n" +
            std::string()}) {
    const Fd fd = connect();
    talk(fd, bytes, 50ms);
  }
  EXPECT_EQ(get("/v1/stats").status, 200);
}

}  // namespace
}  // namespace vtap::control
