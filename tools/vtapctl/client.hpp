// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <string>
#include <string_view>

#include "endpoint.hpp"
#include "json_view.hpp"
#include "vtap/result.hpp"

namespace vtap::ctl {

enum class Method { get, post, put, remove };

/// One request of the broker's API (docs/api.md).
struct Request {
  Method method = Method::get;
  std::string path;                 ///< with its query, percent-encoded
  std::string body = {};            ///< JSON; empty: none
  std::chrono::seconds patience{};  ///< for the answer; 0: what the method usually takes
};

/// What a broker answered.
struct Answer {
  int status = 0;    ///< of HTTP
  std::string body;  ///< byte for byte
};

/// An answer that grants the request.
struct Reply {
  int status = 0;
  std::string body;
  Json json;  ///< the object that `body` is
};

/// One part of a path: everything but letters, digits and -._~ percent-encoded.
std::string encoded(const std::string& text);

/// Asks one broker. Every call connects anew, so a client outlives a restart of its broker. Errors
/// name the broker and what the user can do; their kind gives the exit code.
class Client {
 public:
  explicit Client(Endpoint endpoint) : endpoint_(std::move(endpoint)) {}

  /// Any answer is a success here. Errors: nobody answers (runtime), no access (unsupported).
  [[nodiscard]] Result<Answer> send(const Request& request) const;

  /// As `send`, and a refusal is an error too: usage for a config or policy that does not load
  /// (422), unsupported for what the broker or its machine cannot do (501), else runtime. So is an
  /// answer that is no JSON object.
  [[nodiscard]] Result<Reply> ask(const Request& request) const;

  /// The same for an answer at hand.
  [[nodiscard]] Result<Reply> granted(Answer answer, const Request& request) const;

  /// The way to a stream while it runs.
  class Streaming {
   public:
    /// Asks the broker to come to an end; the second time, hangs up. Any thread.
    void end() noexcept;

   private:
    friend class Client;
    std::atomic<int> socket_{-1};
    std::atomic<bool> asked_{false};
  };
  /// An answer without end (GET): `take` gets its bytes as they come, and says whether it wants
  /// more. Errors: as for ask(), also when the broker hangs up before the stream has ended.
  [[nodiscard]] Result<void> stream(const std::string& path, Streaming& streaming,
                                    const std::function<bool(std::string_view bytes)>& take) const;

  [[nodiscard]] const Endpoint& endpoint() const { return endpoint_; }

 private:
  [[nodiscard]] Result<Answer> exchange(const Request& request) const;

  Endpoint endpoint_;
};

}  // namespace vtap::ctl
