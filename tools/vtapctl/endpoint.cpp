// SPDX-License-Identifier: Apache-2.0
#include "endpoint.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <iterator>
#include <utility>
#include <vector>

#include "control/listener.hpp"

namespace vtap::ctl {
namespace {

constexpr int kHttpPort = 80, kHttpsPort = 443, kLastPort = 65535;

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

Error usage(const std::string& message) { return {message, ErrorKind::usage}; }

/// Takes the beginning off; false if `text` has another.
bool take(std::string& text, const std::string& beginning) {
  if (text.rfind(beginning, 0) != 0) return false;
  text.erase(0, beginning.size());
  return true;
}

/// Splits "[::1]:9470", "host:9470" or "host" into host and the digits of the port.
bool split_host(const std::string& text, std::string& host, std::string& port) {
  const bool bracketed = !text.empty() && text.front() == '[';
  const size_t end = bracketed ? text.find(']') : text.find(':');
  if (bracketed && end == std::string::npos) return false;
  host = bracketed ? text.substr(1, end - 1) : text.substr(0, end);
  const std::string rest = end == std::string::npos ? "" : text.substr(end + (bracketed ? 1 : 0));
  if (rest.empty()) return true;
  port = rest.substr(1);
  return rest.front() == ':' && !port.empty();
}

bool parse_port(const std::string& digits, int& port) {
  const char* end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, port);
  return error == std::errc() && stop == end && port > 0 && port <= kLastPort;
}

Result<std::string> read_token(const std::string& file) {
  std::ifstream in(file);
  std::string token, more;
  if (!in || !std::getline(in, token)) return usage("cannot read a token from " + file);
  while (!token.empty() && (token.back() == '\r' || token.back() == ' ')) token.pop_back();
  const auto is_token = [](char c) { return c > 0x20 && c < 0x7f; };
  if (token.empty() || !std::all_of(token.begin(), token.end(), is_token) || in >> more) {
    return usage(file + " is no token file: it has one line, the token, of printable characters");
  }
  return token;
}

Result<Endpoint> endpoint_at(const Target& target) {
  auto url = parse_url(target.url);
  if (!url) return url.error();
  Endpoint endpoint{{}, *url, {}, target.ca_file};
  if (!url->tls && !target.ca_file.empty()) {
    return usage("--cacert is for https, and " + url->text() + " is not");
  }
  if (!target.ca_file.empty() && !std::ifstream(target.ca_file)) {
    return usage("cannot read " + target.ca_file + ": --cacert takes a PEM file");
  }
  if (target.token_file.empty()) return endpoint;
  if (!url->tls && !url->is_local()) {
    return usage("the token would cross the network for all to read: use https, not " +
                 url->text());
  }
  auto token = read_token(target.token_file);
  if (!token) return token.error();
  endpoint.token = std::move(token).value();
  return endpoint;
}

}  // namespace

Result<std::string> default_socket(const std::filesystem::path& directory) {
  std::vector<std::string> found = sockets_in(directory);
  if (found.size() > 1) {
    // Brokers that were killed left theirs.
    std::vector<std::string> living;
    std::copy_if(found.begin(), found.end(), std::back_inserter(living),
                 [](const auto& path) { return control::probe_socket(path) != ECONNREFUSED; });
    if (!living.empty()) found = std::move(living);
  }
  if (found.size() == 1) return found.front();
  const std::string usual = (directory / "vtap.sock").string();
  if (found.empty() || std::count(found.begin(), found.end(), usual) != 0) return usual;
  std::string message = "several brokers run here; choose one with --socket:";
  for (const std::string& path : found) message += " " + path;
  return Error{message};
}

std::string Url::text() const {
  const std::string shown = host.find(':') == std::string::npos ? host : "[" + host + "]";
  return (tls ? "https://" : "http://") + shown + ":" + std::to_string(port);
}

bool Url::is_local() const {
  return host == "localhost" || host == "::1" ||
         (host.rfind("127.", 0) == 0 && host.find_first_not_of("0123456789.") == std::string::npos);
}

Result<Url> parse_url(const std::string& text) {
  const Error wrong =
      usage("\"" + text + "\" is not the address of a broker: write http(s)://HOST:PORT");
  std::string rest = text, port;
  Url url;
  url.tls = take(rest, "https://");
  if (!url.tls && !take(rest, "http://")) return wrong;
  if (!rest.empty() && rest.back() == '/') rest.pop_back();
  if (rest.find_first_of("/?#@ \t") != std::string::npos) return wrong;
  if (!split_host(rest, url.host, port) || url.host.empty()) return wrong;
  url.port = url.tls ? kHttpsPort : kHttpPort;
  if (!port.empty() && !parse_port(port, url.port)) return wrong;
  return url;
}

Target with_environment(Target target,
                        const std::function<std::string(const char* name)>& variable) {
  if (target.socket.empty() && target.url.empty()) target.url = variable("VTAP_URL");
  if (!target.url.empty() && target.token_file.empty()) {
    target.token_file = variable("VTAP_TOKEN_FILE");
  }
  return target;
}

Result<Endpoint> endpoint_of(const Target& target, const std::filesystem::path& directory) {
  if (!target.url.empty()) return endpoint_at(target);
  if (!target.ca_file.empty()) return usage("--cacert is for a broker at an https --url");
  if (!target.socket.empty()) return Endpoint{target.socket, {}, {}, {}};
  auto socket = default_socket(directory);
  if (!socket) return socket.error();
  return Endpoint{std::move(socket).value(), {}, {}, {}};
}

}  // namespace vtap::ctl
