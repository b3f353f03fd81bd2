// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "json_view.hpp"
#include "table.hpp"

/// What vtapctl prints: pure functions from a broker's JSON to lines of text.
namespace vtap::ctl {

/// `vtapctl stats`: every counter since the broker started.
std::string stats_view(const Json& stats);

/// `vtapctl stats --watch`: every counter's growth per second, the busiest first; no more than the
/// screen holds.
std::string rates_view(const Interval& interval, Screen screen = {});

/// `vtapctl status`: what runs where, how fast, and what is wrong. `status`: the broker's document;
/// empty for a broker that has none. Lines are as long as the screen is wide.
std::string status_view(const Interval& interval, const Json& status = Json::object(),
                        Screen screen = {});

/// What somebody should look at: a reload that failed, ports and monitors that are not up, frames
/// that were lost or not copied and whether that goes on, what the doctor found. One sentence each;
/// none when all is well.
std::vector<std::string> problems(const Interval& interval, const Json& status = Json::object());

/// The first line of each view: name, plan generation, uptime.
std::string heading(const Json& stats);

}  // namespace vtap::ctl
