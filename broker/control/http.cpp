// SPDX-License-Identifier: Apache-2.0
#include "control/http.hpp"

#include <charconv>
#include <optional>

namespace vtap::control {
namespace {

/// Digits and nothing else.
std::optional<std::size_t> number(const std::string& text) {
  std::size_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (text.empty() || stop != end || error != std::errc{}) return std::nullopt;
  return value;
}

bool has_body(const httplib::Request& request) {
  return request.has_header("Transfer-Encoding") ||
         (request.has_header("Content-Length") &&
          request.get_header_value("Content-Length") != "0");
}

}  // namespace

Http::Http(Api& api, const Token* token) : api_(api), token_(token) {
  // In front of the library's routes, because those read the body first: without a
  // Content-Length (`curl -X POST`) until the end of the connection and of the memory.
  set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
    Reply reply;
    try {
      reply = answer(request);
    } catch (const std::exception& error) {
      reply = refusal(500, error.what());
    }
    if (reply.stream) {
      send(*reply.stream, reply.type);
      connection_->close_response();
      return HandlerResponse::Handled;
    }
    response.status = reply.status;
    response.set_content(reply.body, reply.type);
    if (reply.status == 401) response.set_header("WWW-Authenticate", "Bearer");
    return HandlerResponse::Handled;
  });
  set_payload_max_length(0);
}

void Http::serve(Connection& connection) {
  bool closed = false;
  connection_ = &connection;
  unread_ = false;
  process_request(connection, true, closed,
                  [this](const httplib::Request& request) { unread_ = has_body(request); });
  connection_ = nullptr;
  if (unread_) {
    connection.discard_input();
  } else {
    connection.end();
  }
}

bool Http::write(const std::string& bytes) {
  return connection_->write(bytes.data(), bytes.size()) > 0;
}

/// The library has streams of its own, but only while its own listener runs.
void Http::send(Stream& stream, const char* type) {
  connection_->give_time(kStreamPatience);
  if (!write(
          "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nContent-Type: " +
          std::string(type) + "\r\n\r\n")) {
    return;
  }
  bool last = false;
  while (true) {
    const auto bytes = stream.next(last);
    if (bytes && !bytes->empty()) {
      std::array<char, 20> size{};
      const auto end = std::to_chars(size.data(), size.data() + size.size(), bytes->size(), 16).ptr;
      connection_->give_time(kStreamPatience);
      if (!write(std::string(size.data(), end) + "\r\n" + *bytes + "\r\n")) return;
    }
    if (!bytes || last) break;
    // One that has much to say is asked again at once.
    last = !connection_->stays(bytes->empty() ? kStreamPause : std::chrono::milliseconds(0));
  }
  write("0\r\n\r\n");
}

Reply Http::answer(const httplib::Request& request) {
  if (token_ != nullptr && !token_->is_shown_by(request.get_header_value("Authorization"))) {
    return refusal(401,
                   "this needs the header Authorization: Bearer TOKEN, with the token of the "
                   "broker's api_token_file");
  }
  auto found = Api::find(request.method, request.target);
  if (auto* refused = std::get_if<Reply>(&found)) return std::move(*refused);
  auto& match = std::get<Api::Match>(found);
  auto body = read_body(request, match.route->takes_body);
  if (auto* refused = std::get_if<Reply>(&body)) return std::move(*refused);
  match.call.body = std::get<std::string>(std::move(body));
  return api_.answer(match);
}

std::variant<std::string, Reply> Http::read_body(const httplib::Request& request, bool wanted) {
  if (!has_body(request)) return std::string();
  if (!wanted) {
    return refusal(413, request.method + ' ' + request.path + " takes no body");
  }
  if (request.has_header("Transfer-Encoding")) {
    return refusal(411, "a body is sent with its Content-Length, not in chunks");
  }
  const auto length = number(request.get_header_value("Content-Length"));
  if (!length) return refusal(400, "the Content-Length is no number of bytes");
  if (*length > kMaxBody) return refusal(413, "a body has at most 4 MiB");
  // It grows as it comes: what a header promises takes no memory.
  std::string body;
  std::array<char, 16384> chunk;
  while (body.size() < *length) {
    const ssize_t got =
        connection_->read(chunk.data(), std::min(chunk.size(), *length - body.size()));
    if (got <= 0) return refusal(408, "the body did not come in time");
    body.append(chunk.data(), static_cast<std::size_t>(got));
  }
  unread_ = false;
  return body;
}

}  // namespace vtap::control
