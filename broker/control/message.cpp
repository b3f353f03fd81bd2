// SPDX-License-Identifier: Apache-2.0
#include "control/message.hpp"

namespace vtap::control {

Reply reply(int status, const Json& json) {
  // Interface names and paths may hold any bytes; they must not cost the whole answer.
  return {status, json.dump(-1, ' ', false, Json::error_handler_t::replace)};
}

Reply refusal(int status, const std::string& why) { return reply(status, Json{{"error", why}}); }

Reply refusal(const Error& error) {
  switch (error.kind) {
    case ErrorKind::usage:
      return refusal(422, error.message);
    case ErrorKind::conflict:
      return refusal(409, error.message);
    case ErrorKind::unsupported:
      return refusal(501, error.message);
    case ErrorKind::runtime:
      break;
  }
  return refusal(500, error.message);
}

}  // namespace vtap::control
