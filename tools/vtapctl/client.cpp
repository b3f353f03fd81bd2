// SPDX-License-Identifier: Apache-2.0
#include "client.hpp"

#include <httplib.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>
#include <vector>

#include "control/listener.hpp"

namespace vtap::ctl {
namespace {

constexpr std::chrono::seconds kConnectPatience{2};
constexpr std::chrono::seconds kStatsPatience{5};
constexpr std::chrono::seconds kReloadPatience{60};  // rebinding sockets takes seconds each

Error not_reachable(const std::string& socket, int code) {
  const std::string start =
      "start one with `vtap-broker -c FILE`, or name its control socket with --socket PATH";
  switch (code) {
    case ENOENT:
      return {"no vtap-broker at " + socket + ": there is no such socket; " + start};
    case ECONNREFUSED:
      return {"no vtap-broker at " + socket + ": the one that made this socket is dead; " + start};
    case EACCES:
    case EPERM:
      return {"no access to " + socket + ": run as root or as a member of the socket's group"};
    case EAGAIN:
      return {"the vtap-broker at " + socket + " does not answer: too many callers wait already"};
    default:
      return {"no vtap-broker at " + socket + ": " + std::strerror(code) + "; " + start};
  }
}

/// The broker's own words for a refusal.
std::string reason_of(const httplib::Response& response) {
  const auto body = nlohmann::json::parse(response.body, nullptr, false);
  if (body.is_object() && body.contains("error") && body["error"].is_string()) {
    return body["error"].get<std::string>();
  }
  return "HTTP status " + std::to_string(response.status);
}

bool is_socket_name(const std::filesystem::directory_entry& entry) {
  std::error_code ignored;
  return entry.path().extension() == ".sock" && entry.is_socket(ignored);
}

std::vector<std::string> sockets_in(const std::filesystem::path& directory) {
  std::vector<std::string> found;
  std::error_code error;
  std::filesystem::directory_iterator entry(directory, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    if (is_socket_name(*entry)) found.push_back(entry->path().string());
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

Result<std::string> default_socket(const std::filesystem::path& directory) {
  const std::vector<std::string> found = sockets_in(directory);
  if (found.size() == 1) return found.front();
  const std::string usual = (directory / "vtap.sock").string();
  if (found.empty() || std::count(found.begin(), found.end(), usual) != 0) return usual;
  std::string message = "several brokers run here; choose one with --socket:";
  for (const std::string& path : found) message += " " + path;
  return Error{message};
}

Result<std::string> Client::stats() const { return request(Method::get, "/v1/stats"); }

Result<void> Client::reload() const {
  auto answer = request(Method::post, "/v1/reload");
  if (!answer) return answer.error();
  return {};
}

Result<std::string> Client::request(Method method, const std::string& path) const {
  // cpp-httplib says no more than that a connect failed; the user wants to know why.
  if (const int code = control::probe_socket(socket_); code != 0) {
    return not_reachable(socket_, code);
  }
  try {
    return exchange(method, path);
  } catch (const std::exception& error) {
    return Error{"asking the vtap-broker at " + socket_ + ": " + error.what()};
  }
}

Result<std::string> Client::exchange(Method method, const std::string& path) const {
  httplib::Client http(socket_, 80);  // a Unix socket has no port; the library wants one
  http.set_address_family(AF_UNIX);
  http.set_connection_timeout(kConnectPatience);
  http.set_read_timeout(method == Method::get ? kStatsPatience : kReloadPatience);
  const httplib::Headers headers = {{"Host", "localhost"}, {"Accept-Encoding", "identity"}};
  const httplib::Result result = method == Method::get
                                     ? http.Get(path, headers)
                                     : http.Post(path, headers, std::string(), "application/json");
  if (!result) {
    return Error{"the vtap-broker at " + socket_ + " does not answer (" +
                 httplib::to_string(result.error()) + "): it may hang or be stopping; see its log"};
  }
  if (result->status != 200) {
    return Error{"the vtap-broker at " + socket_ + " refuses: " + reason_of(*result)};
  }
  return result->body;
}

}  // namespace vtap::ctl
