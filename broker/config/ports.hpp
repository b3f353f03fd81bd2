// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "config/config.hpp"
#include "config/reader.hpp"

namespace vtap::config {

/// Who has which port: a port is tap or monitor, never both, and belongs to one of them.
class PortOwners {
 public:
  /// `field` is the port's name, `owner` for example "tap \"wan\"". Reports a second owner.
  void claim(const Field& field, const std::string& port, const std::string& owner);

 private:
  struct Claim {
    std::string owner;
    Position at;
  };
  std::map<std::string, Claim, std::less<>> claims_;
};

/// One [[tap]] table, appended to `config`.
void read_tap(Findings& findings, const toml::table& table, PortOwners& owners, Names& names,
              Config& config);

/// One [[monitor]] table, appended to `config`; an absent queue is 0 until share_queues().
void read_monitor(Findings& findings, const toml::table& table, PortOwners& owners, Names& names,
                  Config& config);

/// Fills in the queues of the monitors that state none, once all of them are read.
void share_queues(Findings& findings, Config& config);

}  // namespace vtap::config
