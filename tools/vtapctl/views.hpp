// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "json_view.hpp"

/// What vtapctl prints: pure functions from a broker's JSON to lines of text.
namespace vtap::ctl {

/// `vtapctl stats`: every counter since the broker started.
std::string stats_view(const Json& stats);

/// `vtapctl stats --watch`: every counter's growth per second.
std::string rates_view(const Interval& interval);

/// `vtapctl status`: what runs where, how fast, and what is wrong.
std::string status_view(const Interval& interval);

/// What somebody should look at: ports and monitors that are not up, frames that were lost or not
/// copied, and whether that goes on. One sentence each; none when all is well.
std::vector<std::string> problems(const Interval& interval);

/// The first line of each view: name, plan generation, uptime.
std::string heading(const Json& stats);

}  // namespace vtap::ctl
