// SPDX-License-Identifier: Apache-2.0
// What systemd hears of the broker: watchdog, notifications, log.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "service/log.hpp"
#include "service/notify.hpp"
#include "service/watchdog.hpp"
#include "vtap/fd.hpp"

namespace vtap::service {
namespace {

using namespace std::chrono_literals;
using Rounds = std::vector<std::uint64_t>;

// --- watchdog ---

class WatchdogTest : public testing::Test {
 protected:
  bool progress(const Rounds& rounds) { return watchdog_.progress(now_ += 1s, rounds); }

  int pings_ = 0;
  Watchdog::Clock::time_point now_ = Watchdog::Clock::now();
  Watchdog watchdog_{4s, [this] { ++pings_; }};
};

TEST_F(WatchdogTest, PingsOnlyIfEveryWorkerMadeARoundSinceTheLastPing) {
  EXPECT_TRUE(progress({1, 1}));
  EXPECT_FALSE(progress({2, 1})) << "the second stands still";
  EXPECT_FALSE(progress({9, 1})) << "and the first cannot make up for it";
  EXPECT_TRUE(progress({9, 2})) << "the first has moved since the last ping, the second now";
  EXPECT_FALSE(progress({9, 3})) << "the first stands still";
  EXPECT_EQ(pings_, 2);
}

TEST_F(WatchdogTest, AnotherSetOfWorkersStartsAnew) {
  EXPECT_TRUE(progress({500, 500}));
  EXPECT_TRUE(progress({0, 0, 0})) << "a reload made three";
  EXPECT_FALSE(progress({1, 1, 0}));
  EXPECT_TRUE(progress({1, 1, 1}));
  EXPECT_TRUE(progress({0, 0, 0})) << "three others, which count from zero";
}

TEST_F(WatchdogTest, IsDueAfterAQuarterOfTheLimitWhateverCameOfTheLastLook) {
  EXPECT_EQ(watchdog_.interval(), 1s);
  EXPECT_TRUE(progress({1}));
  EXPECT_FALSE(watchdog_.due(now_ + 999ms));
  EXPECT_TRUE(watchdog_.due(now_ + 1s));
  EXPECT_FALSE(progress({1}));
  EXPECT_FALSE(watchdog_.due(now_ + 999ms));
}

TEST_F(WatchdogTest, OffItNeverPings) {
  Watchdog off(0s, [this] { ++pings_; });
  EXPECT_FALSE(off.due(now_ + 24h));
  EXPECT_FALSE(off.progress(now_, Rounds{1}));
  EXPECT_EQ(pings_, 0);
}

// --- notifications ---

/// An environment variable for the time of a test.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    ::setenv(name, value.c_str(), 1);
  }
  ~Variable() { ::unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
};

class NotifyTest : public testing::Test {
 protected:
  NotifyTest() {
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    path_.copy(address.sun_path, sizeof(address.sun_path) - 1);
    EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  ~NotifyTest() override { ::unlink(path_.c_str()); }

  [[nodiscard]] std::string heard() const {
    std::array<char, 512> buffer{};
    const ssize_t size = ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    return size < 0 ? "" : std::string(buffer.data(), static_cast<std::size_t>(size));
  }

  std::string path_ = testing::TempDir() + "vtap-notify-" + std::to_string(::getpid()) + ".socket";
  UniqueFd socket_{::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
  Variable variable_{"NOTIFY_SOCKET", path_};
};

TEST_F(NotifyTest, ReadyCarriesTheStatusInOneLine) {
  notify_ready("reload failed:\ntap.toml:3:1");
  EXPECT_EQ(heard(), "READY=1\nSTATUS=reload failed: tap.toml:3:1");
  notify_status("a\nWATCHDOG=1");
  EXPECT_EQ(heard(), "STATUS=a WATCHDOG=1");
  notify_stopping();
  EXPECT_EQ(heard(), "STOPPING=1");
}

TEST_F(NotifyTest, ReloadingCarriesTheTimeOfTheMonotonicClock) {
  timespec before{};
  ::clock_gettime(CLOCK_MONOTONIC, &before);
  notify_reloading();
  const std::string message = heard();
  const std::string head = "RELOADING=1\nMONOTONIC_USEC=";
  ASSERT_EQ(message.substr(0, head.size()), head);
  const std::int64_t told_us = std::stoll(message.substr(head.size()));
  const std::int64_t before_us = before.tv_sec * 1'000'000 + before.tv_nsec / 1000;
  EXPECT_GE(told_us, before_us);
  EXPECT_LT(told_us, before_us + 60'000'000);
}

TEST_F(NotifyTest, TheWatchdogOfTheEnvironmentTellsSystemd) {
  const Variable limit("WATCHDOG_USEC", "8000000");
  const Variable process("WATCHDOG_PID", std::to_string(::getpid()));
  Watchdog watchdog;
  EXPECT_EQ(watchdog.interval(), 2s);
  EXPECT_TRUE(watchdog.progress(Watchdog::Clock::now(), Rounds{1}));
  EXPECT_EQ(heard(), "WATCHDOG=1");
  EXPECT_FALSE(watchdog.progress(Watchdog::Clock::now(), Rounds{1}));
  EXPECT_EQ(heard(), "");
}

TEST_F(NotifyTest, TheWatchdogOfAnotherProcessIsNotOurs) {
  const Variable limit("WATCHDOG_USEC", "8000000");
  const Variable process("WATCHDOG_PID", "1");
  EXPECT_EQ(Watchdog().interval(), 0s);
}

// --- log ---

/// Standard error in a file, for the time of a test.
class LogTest : public testing::Test {
 protected:
  LogTest() { ::dup2(file_.get(), STDERR_FILENO); }
  ~LogTest() override {
    ::dup2(kept_.get(), STDERR_FILENO);
    ::unlink(path_.c_str());
  }

  [[nodiscard]] std::string stream() const {
    struct stat status {};
    ::fstat(STDERR_FILENO, &status);
    return std::to_string(status.st_dev) + ":" + std::to_string(status.st_ino);
  }
  [[nodiscard]] std::string written() const {
    std::ifstream file(path_);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  std::string path_ = testing::TempDir() + "vtap-log-" + std::to_string(::getpid());
  UniqueFd kept_{::dup(STDERR_FILENO)};
  UniqueFd file_{::open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
};

TEST_F(LogTest, TheStreamOfTheJournalIsKnownByDeviceAndInode) {
  EXPECT_TRUE(is_journal(STDERR_FILENO, stream().c_str()));
  EXPECT_FALSE(is_journal(kept_.get(), stream().c_str())) << "another file";
  EXPECT_FALSE(is_journal(STDERR_FILENO, (stream() + "0").c_str()));
  for (const char* none : {"", "8", "a:b"}) EXPECT_FALSE(is_journal(STDERR_FILENO, none)) << none;
  EXPECT_FALSE(is_journal(STDERR_FILENO, nullptr));
}

TEST_F(LogTest, TextHasATimeAndALevelAndNoPriority) {
  set_up_log({});
  spdlog::warn("port eth1 is down");
  const std::string line = written();
  ASSERT_GT(line.size(), 24U) << line;
  EXPECT_EQ(line.substr(10, 1), "T");
  EXPECT_EQ(line.substr(23), " warning port eth1 is down\n");
}

TEST_F(LogTest, JsonEscapesAndKeepsItsFields) {
  config::Broker broker;
  broker.log_format = config::LogFormat::json;
  set_up_log(broker);
  spdlog::info("a \"b\"\n");
  EXPECT_EQ(written().find(R"({"time":)"), 0U) << written();
  EXPECT_NE(written().find(R"(,"level":"info","message":"a \"b\"\u000a"})"), std::string::npos);
}

TEST_F(LogTest, JsonForTheJournalHasThePriorityInFront) {
  const Variable journal("JOURNAL_STREAM", stream());
  config::Broker broker;
  broker.log_format = config::LogFormat::json;
  set_up_log(broker);
  spdlog::error("one");
  EXPECT_EQ(written().find(R"(<3>{"time":)"), 0U) << written();
}

TEST_F(LogTest, TextForAJournalWithoutSocketHasThePriorityInFrontAndNoTime) {
  const Variable journal("JOURNAL_STREAM", stream());
  set_up_log({}, "/nonexistent/socket");
  spdlog::warn("one\ntwo");
  spdlog::info("three");
  EXPECT_EQ(written(), "<4>one\n<4>two\n<6>three\n");
}

TEST_F(LogTest, ComplaintsOfSeveralLinesBearThePriorityInEach) {
  complain("tap.toml:1:1: a\ntap.toml:2:1: b");
  EXPECT_EQ(written(), "tap.toml:1:1: a\ntap.toml:2:1: b\n");
  ASSERT_EQ(::ftruncate(STDERR_FILENO, 0), 0);
  ::lseek(STDERR_FILENO, 0, SEEK_SET);
  const Variable journal("JOURNAL_STREAM", stream());
  complain("a\nb");
  caution("c");
  EXPECT_EQ(written(), "<3>a\n<3>b\n<4>c\n");
}

}  // namespace
}  // namespace vtap::service
