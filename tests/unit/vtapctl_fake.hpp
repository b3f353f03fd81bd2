// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <httplib.h>

#include <chrono>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <thread>
#include <vector>

#include "shell.hpp"

/// A broker that answers as it is told, and remembers what it was asked; and vtapctl run on it.
namespace vtap::ctl {

struct Asked {
  std::string method, target, body;
  std::string type;   ///< Content-Type
  std::string token;  ///< Authorization

  /// "POST /v1/reload {...}"
  [[nodiscard]] std::string text() const {
    return method + " " + target + (body.empty() ? "" : " " + body);
  }
};

class FakeBroker {
 public:
  /// On a Unix socket.
  explicit FakeBroker(const std::string& socket) : server_(std::make_unique<httplib::Server>()) {
    server_->set_address_family(AF_UNIX);
    serve([this, socket] { server_->listen(socket, 80); });
  }

  /// On a port of 127.0.0.1, with TLS if `server` does.
  explicit FakeBroker(std::unique_ptr<httplib::Server> server) : server_(std::move(server)) {
    port_ = server_->bind_to_any_port("127.0.0.1");
    EXPECT_GT(port_, 0);
    serve([this] { server_->listen_after_bind(); });
  }

  FakeBroker(const FakeBroker&) = delete;
  FakeBroker& operator=(const FakeBroker&) = delete;
  ~FakeBroker() {
    server_->stop();
    thread_.join();
  }

  /// `request`: "GET /v1/stats". Several answers are given one after the other, the last for ever.
  /// What nobody told is a 404.
  void answer(const std::string& request, int status, const std::string& body) {
    const std::scoped_lock lock(mutex_);
    answers_[request].push_back({status, body});
  }

  std::vector<Asked> asked() {
    const std::scoped_lock lock(mutex_);
    return asked_;
  }

  /// The one request that there was.
  Asked only() {
    const auto all = asked();
    EXPECT_EQ(all.size(), 1U);
    return all.empty() ? Asked{} : all.back();
  }

  [[nodiscard]] int port() const { return port_; }

 private:
  template <typename Listen>
  void serve(Listen listen) {
    const auto handle = [this](const httplib::Request& request, httplib::Response& response) {
      reply(request, response);
    };
    server_->Get(".*", handle).Post(".*", handle).Put(".*", handle).Delete(".*", handle);
    thread_ = std::thread(listen);
    while (!server_->is_running()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

  void reply(const httplib::Request& request, httplib::Response& response) {
    const std::scoped_lock lock(mutex_);
    asked_.push_back({request.method, request.target, request.body,
                      request.get_header_value("Content-Type"),
                      request.get_header_value("Authorization")});
    auto& known = answers_[request.method + " " + request.target];
    if (known.empty()) known.push_back({404, R"({"error":"there is no )" + request.target + "\"}"});
    response.status = known.front().status;
    response.set_content(known.front().body, "application/json");
    if (known.size() > 1) known.pop_front();
  }

  std::unique_ptr<httplib::Server> server_;
  std::mutex mutex_;
  std::map<std::string, std::deque<Answer>> answers_;
  std::vector<Asked> asked_;
  int port_ = 0;
  std::thread thread_;
};

/// What a run of vtapctl left.
struct Ran {
  int code;
  std::string out, err;
};

/// vtapctl in a world of its own: no environment but this, no terminal unless there is one.
struct World {
  std::map<std::string, std::string> environment;
  std::optional<Screen> terminal;
  std::string input;
  int ticks = 0;  ///< seconds until the user has had enough
  std::filesystem::path sockets = "/nonexistent";

  [[nodiscard]] Ran run(const std::vector<std::string>& arguments) const {
    std::ostringstream out, err;
    std::istringstream in(input);
    int left = ticks;
    const Io io{out,
                err,
                in,
                [this](const char* name) {
                  const auto it = environment.find(name);
                  return it == environment.end() ? "" : it->second;
                },
                [this] { return terminal; },
                [](std::chrono::milliseconds) {},
                [&left] { return left-- > 0; },
                sockets};
    const Exit code = ctl::run(arguments, io);
    return {static_cast<int>(code), out.str(), err.str()};
  }
};

inline testing::AssertionResult has(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "no \"" << part << "\" in:\n" << text;
}

/// A directory that goes with the test.
class InDirectory : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "vtapctl.XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  [[nodiscard]] std::string path(const std::string& name) const {
    return (directory_ / name).string();
  }

  std::filesystem::path directory_;
};

/// And a broker in it.
class WithBroker : public InDirectory {
 protected:
  void SetUp() override {
    InDirectory::SetUp();
    broker_ = std::make_unique<FakeBroker>(path("b.sock"));
  }
  void TearDown() override {
    broker_.reset();
    InDirectory::TearDown();
  }

  /// vtapctl --socket SOCKET ARGUMENT...
  Ran ctl(std::vector<std::string> arguments) const { return ctl(World{}, std::move(arguments)); }
  Ran ctl(const World& world, std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), {"--socket", path("b.sock")});
    return world.run(arguments);
  }

  std::unique_ptr<FakeBroker> broker_;
};

}  // namespace vtap::ctl
