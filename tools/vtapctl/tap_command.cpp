// SPDX-License-Identifier: Apache-2.0
#include "objects.hpp"

namespace vtap::ctl {
namespace {

Table taps(const Json& objects) {
  Table table({{"tap"}, {"mode"}, {"ports"}, {"capture"}, {"hook"}});
  const auto or_auto = [](const Json& tap, const char* key) {
    const std::string said = text_of(tap, key);
    return said == "-" ? "auto" : said;
  };
  for (const Json& tap : objects) {
    std::string ports;
    for (const Json& port : part_of(tap, "ports")) {
      if (!port.is_string()) continue;
      ports += (ports.empty() ? "" : ", ") + printable(port.get<std::string>());
    }
    table.row({text_of(tap, "name"), text_of(tap, "mode"), ports, or_auto(tap, "capture"),
               or_auto(tap, "hook")});
  }
  return table;
}

const Kind kTaps{"tap", "taps", kTap, taps};

}  // namespace

void add_tap(CLI::App& app, Shell& shell) {
  add_group(app, shell, kTaps, "Where traffic is observed");
}

}  // namespace vtap::ctl
