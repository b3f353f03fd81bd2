// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "control/handlers.hpp"
#include "vtap/result.hpp"

/// Requests and replies, without the HTTP around them.
namespace vtap::control {

using Json = nlohmann::ordered_json;

struct Call {
  std::string name;  ///< the {name} of the path, decoded
  std::multimap<std::string, std::string> query;
  std::string body;
  bool persist = false;
};

struct Reply {
  int status = 200;
  std::string body;
  const char* type = "application/json";
  std::shared_ptr<Stream> stream = {};  ///< instead of a body
};

Reply reply(int status, const Json& json);

/// {"error":"..."}
Reply refusal(int status, const std::string& why);

/// As handlers.hpp says which kind is which status.
Reply refusal(const Error& error);

}  // namespace vtap::control
