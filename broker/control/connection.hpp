// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <httplib.h>

#include <array>
#include <chrono>
#include <memory>
#include <optional>

#include "control/fd.hpp"
#include "control/transport.hpp"

namespace vtap::control {

/// One client's connection as cpp-httplib wants to see it.
///
/// In place of the library's own stream, whose timeouts start anew with every byte: here the whole
/// request and the whole response have a deadline, so that a client that stalls or trickles holds a
/// thread for a bounded time. Reading ends at once when the server stops. No call raises SIGPIPE.
class Connection final : public httplib::Stream {
 public:
  /// How long the client may take to send its request, and again to take the response.
  static constexpr std::chrono::milliseconds kPatience{2000};

  /// Bytes of a body that nobody wants which are read all the same.
  static constexpr size_t kMostDiscarded = size_t{8} << 20;

  /// Owns `client` (non-blocking); `stop` becomes readable when the server stops. `transport` works
  /// on `client`; without one, bytes are sent as they are.
  Connection(Fd client, int stop, std::unique_ptr<Transport> transport = nullptr);

  [[nodiscard]] bool is_readable() const override;
  [[nodiscard]] bool is_writable() const override;
  ssize_t read(char* to, size_t size) override;
  ssize_t write(const char* from, size_t size) override;

  /// Until the next call, the response may take this long; once the server stops, no longer than
  /// every other. For a response that comes bit by bit.
  void give_time(std::chrono::milliseconds patience);
  /// Waits that long, or until the client or the server has had enough. Whether neither has: a
  /// client that will not send any more wants no more either.
  [[nodiscard]] bool stays(std::chrono::milliseconds time) const;
  /// The response is complete: what the library would add to it goes nowhere.
  void close_response() { closed_ = true; }

  /// Ends the response.
  void end() { transport_->end(); }

  /// As end(), and reads on until the client hangs up, within its time and 8 MiB. Closing on
  /// unread input would reset the connection, and the client might never see the response.
  void discard_input();

  void get_remote_ip_and_port(std::string& ip, int& port) const override;
  void get_local_ip_and_port(std::string& ip, int& port) const override;
  [[nodiscard]] socket_t socket() const override { return client_.get(); }

 private:
  using Clock = std::chrono::steady_clock;

  /// Waits for input and takes it into the empty buffer: its bytes, 0 at the end, -1 for none.
  ssize_t fill();
  /// Whether the client takes more bytes in time. `ready_for`: what the transport waits for.
  [[nodiscard]] bool takes_more(short ready_for) const;

  Fd client_;
  int stop_;
  std::unique_ptr<Transport> transport_;
  Clock::time_point read_by_;
  mutable std::optional<Clock::time_point> written_by_;  // starts with the first write
  mutable bool streams_ = false;                         // the deadline is that of give_time()
  bool closed_ = false;
  std::array<char, 4096> buffer_;
  size_t begin_ = 0, end_ = 0;  // what of buffer_ is still unread
};

}  // namespace vtap::control
