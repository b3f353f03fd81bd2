// SPDX-License-Identifier: Apache-2.0
#include "client.hpp"

#include <httplib.h>
#include <openssl/x509.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "control/listener.hpp"

namespace vtap::ctl {
namespace {

using Http = httplib::ClientImpl;  // httplib::Client takes no https URL of an IPv6 address

constexpr std::chrono::seconds kConnectPatience{2};
constexpr std::chrono::seconds kReadPatience{20};  // somebody else's change may be under way
constexpr std::chrono::hours kStreamPatience{24 * 365};
constexpr std::chrono::seconds kChangePatience{60};  // rebinding sockets takes seconds each

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
      return {"no access to " + socket + ": run as root or as a member of the socket's group",
              ErrorKind::unsupported};
    case EAGAIN:
      return {"the vtap-broker at " + socket + " does not answer: too many callers wait already"};
    default:
      return {"no vtap-broker at " + socket + ": " + std::strerror(code) + "; " + start};
  }
}

/// Why the certificate of an https broker was not taken.
Error not_trusted(const Endpoint& endpoint, const Http& http) {
  const auto* ssl = dynamic_cast<const httplib::SSLClient*>(&http);
  const long code = ssl != nullptr ? ssl->get_openssl_verify_result() : X509_V_OK;
  const std::string why = code == X509_V_OK ? "it is not for \"" + endpoint.url->host + "\""
                                            : X509_verify_cert_error_string(code);
  return {"the certificate of " + endpoint.name() + " is not to be trusted: " + why +
          "; name the PEM file of who signed it with --cacert FILE, and the broker as its "
          "certificate does"};
}

Error not_answered(const Endpoint& endpoint, const Http& http, httplib::Error error) {
  const std::string at = "no vtap-broker at " + endpoint.name();
  const std::string why = httplib::to_string(error);
  switch (error) {
    case httplib::Error::Connection:
    case httplib::Error::ConnectionTimeout:
      return {at + " (" + why + "): does it run, with broker.api set to this address?"};
    case httplib::Error::SSLConnection:
      return {at + " that speaks TLS: are broker.api_cert and broker.api_key set? Else use http"};
    case httplib::Error::SSLLoadingCerts:
      return {"cannot read certificates from " + endpoint.ca_file + ": --cacert takes a PEM file",
              ErrorKind::usage};
    case httplib::Error::SSLServerVerification:
      return not_trusted(endpoint, http);
    default:
      return {"the vtap-broker at " + endpoint.name() + " does not answer (" + why +
              "): it may hang or be stopping; see its log"};
  }
}

std::unique_ptr<Http> open(const Endpoint& endpoint) {
  if (!endpoint.url) {
    auto http = std::make_unique<Http>(endpoint.socket, 80);  // the library wants a port
    http->set_address_family(AF_UNIX);
    return http;
  }
  if (!endpoint.url->tls) return std::make_unique<Http>(endpoint.url->host, endpoint.url->port);
  auto https = std::make_unique<httplib::SSLClient>(endpoint.url->host, endpoint.url->port);
  if (!endpoint.ca_file.empty()) https->set_ca_cert_path(endpoint.ca_file);
  return https;
}

httplib::Headers headers_of(const Endpoint& endpoint) {
  httplib::Headers headers = {{"Accept-Encoding", "identity"}};
  if (!endpoint.url) headers.emplace("Host", "localhost");
  if (!endpoint.token.empty()) headers.emplace("Authorization", "Bearer " + endpoint.token);
  return headers;
}

/// The broker's own words for a refusal.
std::string reason_of(const Answer& answer) {
  const auto body = Json::parse(answer.body, nullptr, false);
  if (body.is_object() && body.contains("error") && body["error"].is_string()) {
    return printable_lines(body["error"].get<std::string>());
  }
  return "HTTP status " + std::to_string(answer.status);
}

Error refusal(const Endpoint& endpoint, const Answer& answer) {
  const std::string who = "the vtap-broker at " + endpoint.name();
  const std::string reason = reason_of(answer);
  switch (answer.status) {
    case 401:
    case 403:
      return {who + " lets nobody in without its token (" + reason +
              "): name the file that broker.api_token_file names with --token-file FILE"};
    case 422:
      return {who + " does not take this, and goes on as before:" + listed(reason, "  "),
              ErrorKind::usage};
    case 501:
      return {who + " cannot do this: " + reason, ErrorKind::unsupported};
    default:
      return {who + " refuses:" + listed(reason, "  ")};
  }
}

}  // namespace

std::string encoded(const std::string& text) {
  static constexpr const char* kDigits = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '.' || c == '_' || c == '~';
    if (plain) {
      out += c;
    } else {
      out += {'%', kDigits[byte >> 4], kDigits[byte & 15]};
    }
  }
  return out;
}

Result<Answer> Client::send(const Request& request) const {
  if (!endpoint_.url) {
    // cpp-httplib says no more than that a connect failed; the user wants to know why.
    const int code = control::probe_socket(endpoint_.socket);
    if (code != 0) return not_reachable(endpoint_.socket, code);
  }
  try {
    return exchange(request);
  } catch (const std::exception& error) {
    return Error{"asking the vtap-broker at " + endpoint_.name() + ": " + error.what()};
  }
}

Result<Reply> Client::ask(const Request& request) const {
  auto answer = send(request);
  if (!answer) return answer.error();
  return granted(std::move(answer).value(), request);
}

Result<Reply> Client::granted(Answer answer, const Request& request) const {
  if (answer.status < 200 || answer.status > 299) return refusal(endpoint_, answer);
  Json json = Json::parse(answer.body, nullptr, false);
  if (!json.is_object()) {
    return Error{"what " + endpoint_.name() + " answers to " + request.path +
                 " is no JSON object; is it a vtap-broker?"};
  }
  return Reply{answer.status, std::move(answer.body), std::move(json)};
}

Result<Answer> Client::exchange(const Request& request) const {
  const std::unique_ptr<Http> http = open(endpoint_);
  http->set_url_encode(false);  // paths come encoded
  http->set_connection_timeout(kConnectPatience);
  const auto usual = request.method == Method::get ? kReadPatience : kChangePatience;
  http->set_read_timeout(request.patience.count() > 0 ? request.patience : usual);

  httplib::Request asked;
  static constexpr std::array<const char*, 4> kNames = {"GET", "POST", "PUT", "DELETE"};
  asked.method = kNames[static_cast<size_t>(request.method)];
  asked.path = request.path;
  asked.headers = headers_of(endpoint_);
  asked.body = request.body;
  if (!asked.body.empty()) asked.headers.emplace("Content-Type", "application/json");
  const httplib::Result result = http->send(asked);
  if (!result) return not_answered(endpoint_, *http, result.error());
  return Answer{result->status, result->body};
}

/// The broker sees that nothing more comes from here, sends its last words, and hangs up.
void Client::Streaming::end() noexcept {
  const int socket = socket_.load();
  if (socket >= 0) ::shutdown(socket, asked_.exchange(true) ? SHUT_RDWR : SHUT_WR);
}

Result<void> Client::stream(const std::string& path, Streaming& streaming,
                            const std::function<bool(std::string_view bytes)>& take) const {
  if (!endpoint_.url) {
    const int code = control::probe_socket(endpoint_.socket);
    if (code != 0) return not_reachable(endpoint_.socket, code);
  }
  try {
    const std::unique_ptr<Http> http = open(endpoint_);
    http->set_url_encode(false);
    http->set_connection_timeout(kConnectPatience);
    http->set_read_timeout(kStreamPatience);  // there may be nothing to say for long
    Answer refused;
    bool enough = false;
    httplib::Request asked;
    asked.method = "GET";
    asked.path = path;
    asked.headers = headers_of(endpoint_);
    asked.response_handler = [&](const httplib::Response& response) {
      refused.status = response.status;
      streaming.socket_ = static_cast<int>(http->socket());
      return true;
    };
    asked.content_receiver = [&](const char* data, size_t size, size_t, size_t) {
      if (refused.status == 200) return !(enough = !take({data, size}));
      refused.body.append(data, size);
      return true;
    };
    const httplib::Result result = http->send(asked);
    streaming.socket_ = -1;
    if (enough) return {};
    if (!result) return not_answered(endpoint_, *http, result.error());
    if (refused.status != 200) return refusal(endpoint_, refused);
    return {};
  } catch (const std::exception& error) {
    return Error{"asking the vtap-broker at " + endpoint_.name() + ": " + error.what()};
  }
}

}  // namespace vtap::ctl
