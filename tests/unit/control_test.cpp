// SPDX-License-Identifier: Apache-2.0
#include <grp.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <thread>

#include "control/connection.hpp"
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

  /// An API that takes every change, and says what it took.
  static Handlers changeable(std::string& text) {
    Handlers handlers = plain();
    handlers.config = [&text] { return RunningConfig{text, "t.toml", 1}; };
    handlers.apply = [&text](const std::string& fresh, std::uint32_t,
                             bool) -> Result<std::uint32_t> {
      text = fresh;
      return 2U;
    };
    return handlers;
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
    if (!bytes.empty()) {
      EXPECT_EQ(::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
                static_cast<ssize_t>(bytes.size()));
    }
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

/// A stream of pieces, which tells what becomes of it. Empty pieces: nothing by now.
class Pieces final : public Stream {
 public:
  struct Fate {
    std::atomic<bool> asked_for_the_last{false}, gone{false};
  };
  Pieces(std::string piece, int count, Fate& fate)
      : piece_(std::move(piece)), left_(count), fate_(fate) {}
  ~Pieces() override { fate_.gone = true; }
  std::optional<std::string> next(bool last) override {
    if (last) fate_.asked_for_the_last = true;
    if (last) return "last words";
    if (left_ == 0) return std::nullopt;
    --left_;
    return piece_;
  }

 private:
  std::string piece_;
  int left_;
  Fate& fate_;
};

constexpr int kEndless = -1;
constexpr auto kAskForCapture = "GET /v1/capture HTTP/1.1\r\nHost: localhost\r\n\r\n";

Handlers streaming(std::string piece, int count, Pieces::Fate& fate) {
  Handlers handlers;
  handlers.capture = [=, &fate](const CaptureRequest&) -> Result<std::unique_ptr<Stream>> {
    return std::unique_ptr<Stream>(std::make_unique<Pieces>(piece, count, fate));
  };
  return handlers;
}

/// The client may have all of the answer a moment before the server is done with the stream.
bool gone_soon(const Pieces::Fate& fate) {
  for (int tries = 0; tries < 2000 && !fate.gone; ++tries) std::this_thread::sleep_for(1ms);
  return fate.gone;
}

TEST_F(Control, AStreamComesPieceByPieceToItsEnd) {
  Pieces::Fate fate;
  const auto server = serve(streaming("0123456789", 100, fate));
  const auto result = client().Get("/v1/capture");
  ASSERT_TRUE(result);
  EXPECT_EQ(result->status, 200);
  EXPECT_EQ(result->get_header_value("Content-Type"), "application/x-pcapng");
  std::string wanted;
  for (int i = 0; i < 100; ++i) wanted += "0123456789";
  EXPECT_EQ(result->body, wanted);
  EXPECT_TRUE(gone_soon(fate));
  EXPECT_FALSE(fate.asked_for_the_last);
}

TEST_F(Control, AStreamLivesLongerThanAResponseAndEndsWithItsClient) {
  Pieces::Fate fate;
  const auto server = serve(streaming("", kEndless, fate));
  const Fd fd = connect();
  const std::string head = talk(fd, kAskForCapture, 2500ms);  // more than Connection::kPatience
  EXPECT_NE(head.find("Transfer-Encoding: chunked"), std::string::npos) << head;
  EXPECT_FALSE(fate.gone);
  ::shutdown(fd.get(), SHUT_WR);
  EXPECT_EQ(talk(fd, "", 1000ms), "a\r\nlast words\r\n0\r\n\r\n");
  EXPECT_TRUE(gone_soon(fate));
}

TEST_F(Control, AStreamEndsWithTheServerWhetherItIsReadOrNot) {
  Pieces::Fate read, hung;
  {
    const auto server = serve(streaming("", kEndless, read));
    const Fd fd = connect();
    talk(fd, kAskForCapture, 100ms);
    const auto began = Clock::now();
    server->stop();
    EXPECT_LT(Clock::now() - began, 1s);
    EXPECT_TRUE(read.asked_for_the_last && read.gone);
    EXPECT_NE(talk(fd, "", 100ms).find("last words"), std::string::npos);
  }
  const auto server = serve(streaming(std::string(1 << 20, 'x'), kEndless, hung));
  const Fd fd = connect();
  EXPECT_GT(::send(fd.get(), kAskForCapture, std::strlen(kAskForCapture), MSG_NOSIGNAL), 0);
  std::this_thread::sleep_for(100ms);
  EXPECT_EQ(get("/v1/version").status, 200);
  const auto began = Clock::now();
  server->stop();
  EXPECT_LT(Clock::now() - began, Connection::kPatience + 1s);
  EXPECT_TRUE(hung.gone);
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

TEST_F(Control, TakesBodiesUpToTheirLimit) {
  std::string text;
  const auto server = serve(changeable(text));
  const std::string head = "{\"text\":\"", end = "\"}";
  const std::string body = head + std::string((4U << 20U) - head.size() - end.size(), '#') + end;
  EXPECT_EQ(answer_of(client().Put("/v1/config", body, "application/json")).status, 200);
  EXPECT_EQ(text.size(), body.size() - head.size() - end.size());
  const Answer longer = answer_of(client().Put("/v1/config", body + " ", "application/json"));
  EXPECT_EQ(longer.status, 413);
  EXPECT_NE(longer.body.find("at most 4 MiB"), std::string::npos) << longer.body;
}

TEST_F(Control, BodiesOfUnknownOrWrongLength) {
  std::string text = "a = 1\n";
  const auto server = serve(changeable(text));
  const std::string put = "PUT /v1/config HTTP/1.1\r\nHost: x\r\n";
  const auto answer = [&](const std::string& rest) {
    const Fd fd = connect();
    return talk(fd, put + rest, 3s).substr(0, 12);
  };
  EXPECT_EQ(answer("\r\n"), "HTTP/1.1 400");  // no body is not JSON
  EXPECT_EQ(answer("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), "HTTP/1.1 411");
  EXPECT_EQ(answer("Content-Length: -1\r\n\r\n"), "HTTP/1.1 400");
  EXPECT_EQ(answer("Content-Length: 1x\r\n\r\n"), "HTTP/1.1 400");
  EXPECT_EQ(answer("Content-Length: 99999999999999999999\r\n\r\n"), "HTTP/1.1 400");
  EXPECT_EQ(answer("Content-Length: 4194305\r\n\r\n"), "HTTP/1.1 413");
  EXPECT_EQ(answer("Content-Length: 14\r\n\r\n{\"text\":\"b=1\"}"), "HTTP/1.1 200");
  EXPECT_EQ(text, "b=1");
}

TEST_F(Control, ABodyThatDoesNotComeIsNotWaitedForLong) {
  std::string text;
  const auto server = serve(changeable(text));
  const Fd fd = connect();
  const auto start = Clock::now();
  const std::string answer =
      talk(fd, "PUT /v1/config HTTP/1.1\r\nContent-Length: 100\r\n\r\n{\"text", 10s);
  EXPECT_EQ(answer.substr(0, 12), "HTTP/1.1 408");
  EXPECT_LT(Clock::now() - start, 5s);
}

TEST_F(Control, SendsABodyThatWasAskedToWait) {
  std::string text;
  const auto server = serve(changeable(text));
  const Fd fd = connect();
  const std::string head =
      "PUT /v1/config HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 14\r\n\r\n";
  ASSERT_GT(::send(fd.get(), head.data(), head.size(), MSG_NOSIGNAL), 0);
  pollfd polled{fd.get(), POLLIN, 0};
  ASSERT_EQ(::poll(&polled, 1, 2000), 1);
  const std::string answer = talk(fd, "{\"text\":\"b=1\"}", 3s);
  EXPECT_EQ(answer.rfind("HTTP/1.1 100", 0), 0U) << answer;
  EXPECT_NE(answer.find("HTTP/1.1 200"), std::string::npos) << answer;
}

TEST_F(Control, NamesArePercentEncoded) {
  std::string text = "[[tap]]\nname = \"a/b c%\"\n";
  const auto server = serve(changeable(text));
  EXPECT_EQ(get("/v1/taps/a%2Fb%20c%25").body, R"({"name":"a/b c%"})");
  EXPECT_EQ(get("/v1/taps/a/b%20c%25").status, 404);
}

TEST_F(Control, TheSocketGetsItsGroup) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root may give files away";
  const struct group* const some = ::getgrnam("daemon");
  ASSERT_NE(some, nullptr);
  const auto server = ControlServer::open({.path = path_, .group = "daemon"}, plain());
  ASSERT_TRUE(server.ok());
  struct stat status {};
  ASSERT_EQ(::lstat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_gid, some->gr_gid);
  EXPECT_EQ(mode_of(path_), 0660U);
  EXPECT_TRUE(server.value()->has_group());
}

TEST_F(Control, AGroupThatDoesNotExistStopsNobody) {
  const auto server = ControlServer::open({.path = path_, .group = "no-such-group"}, plain());
  ASSERT_TRUE(server.ok());
  EXPECT_FALSE(server.value()->has_group());
  EXPECT_EQ(mode_of(path_), 0660U);
  EXPECT_EQ(get("/v1/stats").status, 200);
}

// ---- TCP

constexpr auto kToken = "0123456789abcdef";

class ControlTcp : public Control {
 protected:
  void SetUp() override {
    Control::SetUp();
    write(token_, std::string(kToken) + "\n", 0600);
  }

  static void write(const std::string& file, const std::string& text, mode_t mode) {
    std::ofstream(file) << text;
    ASSERT_EQ(::chmod(file.c_str(), mode), 0);
  }

  /// A key and a certificate for 127.0.0.1 that it signed itself.
  void make_certificate() const {
    EVP_PKEY* const key = EVP_EC_gen("P-256");
    X509* const cert = X509_new();
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
    X509_gmtime_adj(X509_getm_notBefore(cert), 0);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    X509_set_pubkey(cert, key);
    X509_NAME* const name = X509_get_subject_name(cert);
    const auto* text = reinterpret_cast<const unsigned char*>("127.0.0.1");
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, text, -1, -1, 0);
    X509_set_issuer_name(cert, name);
    X509_EXTENSION* const other =
        X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "IP:127.0.0.1");
    X509_add_ext(cert, other, -1);
    X509_EXTENSION_free(other);
    ASSERT_GT(X509_sign(cert, key, EVP_sha256()), 0);
    FILE* file = std::fopen(cert_.c_str(), "w");
    PEM_write_X509(file, cert);
    std::fclose(file);
    file = std::fopen(key_.c_str(), "w");
    PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr);
    std::fclose(file);
    ASSERT_EQ(::chmod(key_.c_str(), 0600), 0);
    X509_free(cert);
    EVP_PKEY_free(key);
  }

  TcpEndpoint endpoint(bool tls = false) const {
    return {.address = "127.0.0.1",
            .token_file = token_,
            .certificate = tls ? cert_ : "",
            .key = tls ? key_ : ""};
  }

  Result<std::unique_ptr<ControlServer>> open(const TcpEndpoint& tcp,
                                              Handlers handlers = plain()) const {
    return ControlServer::open({.path = path_, .tcp = tcp}, std::move(handlers));
  }
  std::unique_ptr<ControlServer> serve_tcp(bool tls, Handlers handlers = plain()) {
    if (tls) make_certificate();
    auto server = open(endpoint(tls), std::move(handlers));
    EXPECT_TRUE(server.ok()) << server.error().message;
    return server ? std::move(server).value() : nullptr;
  }

  static httplib::Headers with(const std::string& authorization) {
    return {{"Authorization", authorization}};
  }
  static httplib::Headers with_token() { return with(std::string("Bearer ") + kToken); }

  static Fd connect_to(std::uint16_t port) {
    Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    return fd;
  }

  const std::string files_ = temporary_directory();  // before those in it
  const std::string token_ = files_ + "/token", cert_ = files_ + "/cert.pem",
                    key_ = files_ + "/key.pem";

 private:
  static std::string temporary_directory() {
    auto pattern = (std::filesystem::temp_directory_path() / "vtap-control-files.XXXXXX").string();
    EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
    return pattern;
  }
  void TearDown() override {
    Control::TearDown();
    std::filesystem::remove_all(files_);
  }
};

TEST_F(ControlTcp, ServesWhoShowsTheToken) {
  const auto server = serve_tcp(false);
  httplib::Client http("127.0.0.1", server->tcp_port());
  EXPECT_EQ(answer_of(http.Get("/v1/stats", with_token())).body, R"({"name":"t"})");
  EXPECT_EQ(answer_of(http.Get("/v1/stats", with(std::string("bearer ") + kToken))).status, 200);
  EXPECT_EQ(get("/v1/stats").status, 200);  // the Unix socket asks for none
}

TEST_F(ControlTcp, RefusesWhoDoesNot) {
  std::string text = "a = 1\n";
  const auto server = serve_tcp(false, changeable(text));
  httplib::Client http("127.0.0.1", server->tcp_port());
  const std::string token = kToken;
  for (const std::string& shown :
       {std::string(), std::string("Bearer"), std::string("Bearer "), token, "Basic " + token,
        "Bearer " + token + "0", "Bearer " + token.substr(1),
        std::string("Bearer 0123456789abcdeg"), std::string("Bearer 1123456789abcdef"),
        "Bearer  " + token}) {
    const auto result = http.Put("/v1/config", with(shown), R"({"text":"b = 1"})", "text/plain");
    ASSERT_TRUE(result) << shown;
    EXPECT_EQ(result->status, 401) << shown;
    EXPECT_EQ(result->get_header_value("WWW-Authenticate"), "Bearer");
    EXPECT_EQ(result->body.find(token), std::string::npos);
  }
  for (const char* const target : {"/v1/version", "/v1/openapi.json", "/", "/nonsense"}) {
    EXPECT_EQ(answer_of(http.Get(target)).status, 401) << target;
  }
  EXPECT_EQ(text, "a = 1\n");
  EXPECT_EQ(
      answer_of(http.Put("/v1/config", with_token(), R"({"text":"b = 1"})", "text/plain")).status,
      200);
  EXPECT_EQ(text, "b = 1");
}

TEST_F(ControlTcp, RefusesTokenFilesThatAreNone) {
  const auto refused = [&](const char* why) {
    const auto server = open(endpoint());
    ASSERT_FALSE(server.ok()) << why;
    EXPECT_EQ(server.error().kind, ErrorKind::usage);
    EXPECT_NE(server.error().message.find(why), std::string::npos) << server.error().message;
    EXPECT_NE(server.error().message.find(token_), std::string::npos) << server.error().message;
    EXPECT_FALSE(std::filesystem::exists(path_));  // nothing is left behind
  };
  for (const mode_t mode : {0604U, 0602U, 0644U, 0606U}) {
    write(token_, kToken, mode);
    refused("chmod o-rw");
  }
  for (const std::string& text :
       {std::string(), std::string("short\n"), std::string(4097, 'x'), std::string(kToken) + " x",
        std::string(kToken) + "\nx", std::string("0123456789abcde\xc3\xa9")}) {
    write(token_, text, 0600);
    refused("one line of 16 to 4096");
  }
  std::filesystem::remove(token_);
  refused("No such file");
  std::filesystem::create_directory(token_);
  ASSERT_EQ(::chmod(token_.c_str(), 0700), 0);
  refused("no regular file");
  std::filesystem::remove(token_);
  ASSERT_EQ(::mkfifo(token_.c_str(), 0600), 0);
  refused("no regular file");
}

TEST_F(ControlTcp, BeyondTheLoopbackOnlyWithTls) {
  TcpEndpoint tcp = endpoint();
  for (const char* const address : {"0.0.0.0", "::"}) {
    tcp.address = address;
    const auto server = open(tcp);
    ASSERT_FALSE(server.ok());
    EXPECT_NE(server.error().message.find("api_cert"), std::string::npos) << server.error().message;
  }
  make_certificate();
  tcp = endpoint(true);
  tcp.address = "0.0.0.0";
  EXPECT_TRUE(open(tcp).ok());
  tcp.address = "localhost";
  EXPECT_FALSE(open(tcp).ok());
}

TEST_F(ControlTcp, APortThatIsTakenIsNamed) {
  const auto server = serve_tcp(false);
  TcpEndpoint tcp = endpoint();
  tcp.port = server->tcp_port();
  path_ += "2";
  const auto second = open(tcp);
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.error().message.find("port " + std::to_string(tcp.port)), std::string::npos)
      << second.error().message;
}

TEST_F(ControlTcp, ClientsThatStallThereKeepNobodyWaitingHere) {
  const auto server = serve_tcp(false);
  std::vector<Fd> stalling;
  for (int i = 0; i < 8; ++i) stalling.push_back(connect_to(server->tcp_port()));
  std::this_thread::sleep_for(50ms);
  const auto start = Clock::now();
  for (int i = 0; i < 10; ++i) EXPECT_EQ(get("/v1/stats").status, 200);
  EXPECT_LT(Clock::now() - start, 1s);
}

TEST_F(ControlTcp, ServesByTls) {
  Handlers handlers = plain();
  const std::string big(3U << 20U, 'x');
  handlers.stats_json = [&big] { return big; };
  std::string text;
  handlers.config = [&text] { return RunningConfig{text, "t.toml", 1}; };
  handlers.apply = [&text](const std::string& fresh, std::uint32_t, bool) -> Result<std::uint32_t> {
    text = fresh;
    return 2U;
  };
  const auto server = serve_tcp(true, std::move(handlers));
  httplib::SSLClient https("127.0.0.1", server->tcp_port());
  https.set_ca_cert_path(cert_.c_str());
  https.enable_server_certificate_verification(true);
  EXPECT_EQ(answer_of(https.Get("/v1/stats", with_token())).body, big);
  EXPECT_EQ(answer_of(https.Get("/v1/stats")).status, 401);
  const std::string put = R"({"text":")" + std::string(1U << 20U, '#') + R"("})";
  EXPECT_EQ(answer_of(https.Put("/v1/config", with_token(), put, "text/plain")).status, 200);
  EXPECT_EQ(text.size(), 1U << 20U);
  // In clear there is no answer.
  httplib::Client http("127.0.0.1", server->tcp_port());
  EXPECT_EQ(answer_of(http.Get("/v1/stats", with_token())).status, 0);
}

TEST_F(ControlTcp, AHandshakeThatStallsOrTricklesIsHungUpOn) {
  const auto server = serve_tcp(true);
  const auto start = Clock::now();
  const Fd silent = connect_to(server->tcp_port());
  const Fd trickling = connect_to(server->tcp_port());
  std::thread trickler([&] {
    // A record of a handshake that never ends.
    const std::string record = std::string("\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03", 11);
    std::size_t sent = 0;
    const auto next = [&] { return sent < record.size() ? record[sent++] : 'x'; };
    for (char c = next(); ::send(trickling.get(), &c, 1, MSG_NOSIGNAL) == 1; c = next()) {
      std::this_thread::sleep_for(20ms);
    }
  });
  EXPECT_EQ(talk(silent, "", 10s), "");
  trickler.join();
  EXPECT_LT(Clock::now() - start, 6s);
  httplib::SSLClient https("127.0.0.1", server->tcp_port());
  https.enable_server_certificate_verification(false);
  EXPECT_EQ(answer_of(https.Get("/v1/stats", with_token())).status, 200);
}

TEST_F(ControlTcp, StopsSoonDespiteClientsInTheHandshake) {
  const auto server = serve_tcp(true);
  std::vector<Fd> idle;
  for (int i = 0; i < 8; ++i) idle.push_back(connect_to(server->tcp_port()));
  std::this_thread::sleep_for(50ms);
  const auto start = Clock::now();
  server->stop();
  EXPECT_LT(Clock::now() - start, 1s);
}

TEST_F(ControlTcp, RefusesCertificatesAndKeysThatAreNone) {
  make_certificate();
  const auto refused = [&](const std::string& file) {
    const auto server = open(endpoint(true));
    ASSERT_FALSE(server.ok());
    EXPECT_EQ(server.error().kind, ErrorKind::usage);
    EXPECT_NE(server.error().message.find(file), std::string::npos) << server.error().message;
  };
  ASSERT_EQ(::chmod(key_.c_str(), 0644), 0);
  refused(key_);
  write(key_, "no key", 0600);
  refused(key_);
  make_certificate();
  std::filesystem::copy(key_, key_ + "2");
  make_certificate();
  std::filesystem::rename(key_ + "2", key_);  // of another certificate
  refused(key_);
  write(cert_, "no certificate", 0644);
  refused(cert_);
  std::filesystem::remove(cert_);
  refused(cert_);
}

}  // namespace
}  // namespace vtap::control
