// SPDX-License-Identifier: Apache-2.0
#include "service/log.hpp"

#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>

namespace vtap::service {
namespace {

spdlog::level::level_enum log_level(config::LogLevel level) {
  switch (level) {
    case config::LogLevel::trace:
      return spdlog::level::trace;
    case config::LogLevel::debug:
      return spdlog::level::debug;
    case config::LogLevel::info:
      return spdlog::level::info;
    case config::LogLevel::warn:
      return spdlog::level::warn;
    case config::LogLevel::error:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

/// The number of syslog(3) as a character.
char priority_of(spdlog::level::level_enum level) {
  switch (level) {
    case spdlog::level::critical:
      return '2';
    case spdlog::level::err:
      return '3';
    case spdlog::level::warn:
      return '4';
    case spdlog::level::info:
      return '6';
    default:
      return '7';
  }
}

bool stderr_is_journal() { return is_journal(STDERR_FILENO, std::getenv("JOURNAL_STREAM")); }

/// JSON lines escape what a port or file name could smuggle in.
class JsonFormatter final : public spdlog::formatter {
 public:
  /// `with_priority`: each line starts with <N>, for the journal.
  explicit JsonFormatter(bool with_priority) : with_priority_(with_priority) {}

  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    const auto level = spdlog::level::to_string_view(message.level);
    const auto time = std::chrono::duration<double>(message.time.time_since_epoch()).count();
    if (with_priority_) {
      fmt::format_to(std::back_inserter(out), "<{}>", priority_of(message.level));
    }
    fmt::format_to(std::back_inserter(out), R"({{"time":{:.6f},"level":"{}","message":")", time,
                   std::string_view(level.data(), level.size()));
    for (const char c : message.payload) {
      if (c == '"' || c == '\\') {
        out.push_back('\\');
        out.push_back(c);
      } else if (static_cast<unsigned char>(c) < 0x20) {
        fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<unsigned>(c));
      } else {
        out.push_back(c);
      }
    }
    out.append(std::string_view("\"}\n"));
  }
  [[nodiscard]] std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<JsonFormatter>(with_priority_);
  }

 private:
  bool with_priority_;
};

void write_lines(std::string_view text, spdlog::level::level_enum level, bool to_journal) {
  std::string out;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    if (to_journal) out += {'<', priority_of(level), '>'};
    out += std::string(text.substr(0, end)) + '\n';
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  std::fwrite(out.data(), 1, out.size(), stderr);
  std::fflush(stderr);
}

iovec field(const std::string& text) {
  return {const_cast<char*>(text.data()), text.size()};  // iovec serves reads as well
}

/// The journal's own protocol keeps a message of several lines together, and carries fields.
class JournalSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit JournalSink(const std::string& broker) : broker_("VTAP_BROKER=" + broker) {}

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    const std::string_view text(message.payload.data(), message.payload.size());
    const std::string line = "MESSAGE=" + std::string(text);
    const std::string priority = std::string("PRIORITY=") + priority_of(message.level);
    const std::array fields = {field(line), field(priority), field(identifier_), field(broker_)};
    if (sd_journal_sendv(fields.data(), static_cast<int>(fields.size())) == 0) return;
    write_lines(text, message.level, true);
  }
  void flush_() override {}

  std::string identifier_ = "SYSLOG_IDENTIFIER=vtap-broker";
  std::string broker_;
};

/// The journal by standard error alone.
class PrioritySink final : public spdlog::sinks::base_sink<std::mutex> {
  void sink_it_(const spdlog::details::log_msg& message) override {
    write_lines({message.payload.data(), message.payload.size()}, message.level, true);
  }
  void flush_() override {}
};

spdlog::sink_ptr make_sink(const config::Broker& broker, bool to_journal,
                           const char* journal_socket) {
  if (!to_journal || broker.log_format == config::LogFormat::json) {
    return std::make_shared<spdlog::sinks::stderr_sink_mt>();
  }
  // sd_journal_sendv() calls it a success when there is no socket.
  if (::access(journal_socket, W_OK) != 0) return std::make_shared<PrioritySink>();
  return std::make_shared<JournalSink>(broker.name);
}

}  // namespace

bool is_journal(int fd, const char* journal_stream) noexcept {
  if (journal_stream == nullptr) return false;
  unsigned long long device = 0;
  unsigned long long inode = 0;
  if (std::sscanf(journal_stream, "%llu:%llu", &device, &inode) != 2) return false;
  struct stat status {};
  return ::fstat(fd, &status) == 0 && status.st_dev == device && status.st_ino == inode;
}

void set_log_level(const config::Broker& broker) { spdlog::set_level(log_level(broker.log_level)); }

void set_up_log(const config::Broker& broker, const char* journal_socket) {
  const bool to_journal = stderr_is_journal();
  spdlog::set_default_logger(
      std::make_shared<spdlog::logger>("vtap", make_sink(broker, to_journal, journal_socket)));
  set_log_level(broker);
  spdlog::flush_on(spdlog::level::trace);
  if (broker.log_format == config::LogFormat::json) {
    spdlog::set_formatter(std::make_unique<JsonFormatter>(to_journal));
  } else {
    spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
  }
}

void complain(const std::string& text) {
  write_lines(text, spdlog::level::err, stderr_is_journal());
}

void caution(const std::string& text) {
  write_lines(text, spdlog::level::warn, stderr_is_journal());
}

}  // namespace vtap::service
