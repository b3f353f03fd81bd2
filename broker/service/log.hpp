// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "config/config.hpp"

namespace vtap::service {

/// Makes spdlog's default logger: to stderr as `broker.log_format` says, or, where stderr is
/// systemd's journal, to the journal: one entry a message with its PRIORITY and the field
/// VTAP_BROKER, without a time of ours. Format json stays what it is there too, each line with
/// its priority in front, as <N> (sd-daemon(3)); so does text where `journal_socket` is not there.
void set_up_log(const config::Broker& broker,
                const char* journal_socket = "/run/systemd/journal/socket");

/// From now on messages of this level and above are logged.
void set_log_level(const config::Broker& broker);

/// For what is said before there is a log, and after: to stderr, as errors, each line.
void complain(const std::string& text);
/// The same at the level of warnings.
void caution(const std::string& text);

/// Whether `fd` is the stream that `journal_stream` names (the environment's JOURNAL_STREAM,
/// "device:inode"; may be null).
[[nodiscard]] bool is_journal(int fd, const char* journal_stream) noexcept;

}  // namespace vtap::service
