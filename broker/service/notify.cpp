// SPDX-License-Identifier: Apache-2.0
#include "service/notify.hpp"

#include <systemd/sd-daemon.h>

#include <algorithm>
#include <chrono>
#include <string>

namespace vtap::service {
namespace {

std::string status_line(std::string_view status) {
  std::string line(status);
  // A second line would be an assignment of its own.
  std::replace_if(
      line.begin(), line.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
  return "STATUS=" + line;
}

}  // namespace

void notify_ready(std::string_view status) {
  sd_notify(0, ("READY=1\n" + status_line(status)).c_str());
}

void notify_reloading() {
  using std::chrono::microseconds;
  using std::chrono::steady_clock;  // CLOCK_MONOTONIC in libstdc++
  const auto now = std::chrono::duration_cast<microseconds>(steady_clock::now().time_since_epoch());
  sd_notify(0, ("RELOADING=1\nMONOTONIC_USEC=" + std::to_string(now.count())).c_str());
}

void notify_stopping() { sd_notify(0, "STOPPING=1"); }

void notify_status(std::string_view status) { sd_notify(0, status_line(status).c_str()); }

}  // namespace vtap::service
