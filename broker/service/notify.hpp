// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace vtap::service {

/// What systemd is told (sd_notify(3)); nothing happens where it did not start the broker. `status`
/// is the line that `systemctl status` shows; line breaks in it become spaces.
void notify_ready(std::string_view status);
/// Before a reload; `notify_ready` ends it, also when it failed. Carries the time, as
/// Type=notify-reload of systemd 253 wants it.
void notify_reloading();
void notify_stopping();
void notify_status(std::string_view status);

}  // namespace vtap::service
