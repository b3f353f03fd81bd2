// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mutex>
#include <string>
#include <variant>
#include <vector>

#include "control/changes.hpp"
#include "control/handlers.hpp"
#include "control/message.hpp"

namespace vtap::control {

/// What the API answers, whatever carries the requests. Thread-safe.
class Api {
 public:
  struct Route {
    const char* method;
    const char* path;  ///< "/v1/policies/{name}": the name is one part of a path
    bool takes_body;
    Reply (*answer)(Api& api, const Call& call);
    std::vector<const char*> query = {};  ///< parameters that it takes, but for persist
  };

  /// All of them; docs/openapi.json describes the same ones.
  static const std::vector<Route>& routes();

  /// A request that has a route.
  struct Match {
    const Route* route;
    Call call;
  };

  explicit Api(Handlers handlers) : handlers_(std::move(handlers)), changes_(handlers_) {}

  /// The route of `method` and `target`, the path as it came, with its query. Else 404, 405, or 400
  /// for a query that no route takes.
  [[nodiscard]] static std::variant<Match, Reply> find(const std::string& method,
                                                       const std::string& target);

  /// Never throws but for memory.
  Reply answer(const Match& match);

 private:
  Reply version(const Call& call);
  Reply stats(const Call& call);
  Reply status(const Call& call);
  Reply metrics(const Call& call);
  Reply reload(const Call& call);
  Reply doctor(const Call& call);
  Reply doctor_fix(const Call& call);
  Reply detach(const Call& call);
  Reply capture(const Call& call);

  template <Reply (Api::*Answer)(const Call&)>
  static Reply own(Api& api, const Call& call) {
    return (api.*Answer)(call);
  }
  template <config::Section Which, auto Answer>
  static Reply of_section(Api& api, const Call& call);

  const Handlers handlers_;
  Changes changes_;
  std::mutex reloading_;
};

}  // namespace vtap::control
