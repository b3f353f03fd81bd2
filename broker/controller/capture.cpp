// SPDX-License-Identifier: Apache-2.0
// From the workers' rings to pcapng, on a server's thread.
#include "controller/capture.hpp"

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "capture/pcapng.hpp"
#include "filter/filter.hpp"

namespace vtap::controller {
namespace {

constexpr std::uint64_t kBytesPerSecond = 50'000'000;
constexpr std::uint32_t kWhole = 65535;
/// Bytes that are handed on at once, about.
constexpr std::size_t kPiece = std::size_t{256} << 10;

class PcapngStream final : public control::Stream {
 public:
  PcapngStream(std::shared_ptr<engine::Capture> capture, const control::CaptureRequest& request,
               std::optional<filter::Filter> filter, std::function<void()> done)
      : capture_(std::move(capture)),
        filter_(std::move(filter)),
        done_(std::move(done)),
        snaplen_(request.snaplen),
        frames_left_(request.frames == 0 ? ~std::uint64_t{0} : request.frames) {
    capture::add_section(out_, "vtap-broker");
    for (const std::string& port : capture_->ports()) {
      if (!port.empty()) interface_of(port);
    }
  }
  ~PcapngStream() override { done_(); }

  std::optional<std::string> next(bool last) override {
    if (over_) return std::nullopt;
    // Before the rings are looked at: what comes to them later is not to be of this capture.
    const bool ended = capture_->ended();
    const bool drained = take(last ? ~std::size_t{0} : kPiece);
    over_ = last || frames_left_ == 0 || (ended && drained);
    if (over_) add_statistics();
    return std::exchange(out_, {});
  }

 private:
  /// Hands on what there is, up to so many bytes, about. Whether that was all.
  bool take(std::size_t most) {
    ports_ = capture_->ports();
    for (const auto& recorder : capture_->recorders()) {
      while (frames_left_ != 0 && out_.size() < most) {
        const auto record = recorder->ring().pop(frame_);
        if (!record) break;
        add(*record);
      }
    }
    return out_.size() < most;
  }

  void add(const pipeline::Record& record) {
    if (filter_ && !filter_->matches(frame_)) return;
    const auto frame = std::span(frame_).first(std::min<std::size_t>(frame_.size(), snaplen_));
    capture::add_packet(out_,
                        {.interface = interface_of(port_name(record.port)),
                         .time_ns = record.time_ns,
                         .original = record.original},
                        frame);
    --frames_left_;
  }

  /// A frame of the plan before may come from a port that the next one does not have.
  [[nodiscard]] std::string port_name(std::uint32_t port) const {
    const std::string& name = ports_[port];
    return name.empty() ? "port " + std::to_string(port) : name;
  }

  std::uint32_t interface_of(const std::string& name) {
    const auto [found, fresh] =
        interfaces_.emplace(name, static_cast<std::uint32_t>(interfaces_.size()));
    if (fresh) capture::add_interface(out_, name, snaplen_);
    return found->second;
  }

  void add_statistics() {
    std::map<std::uint32_t, std::uint64_t> dropped;
    for (const auto& [name, number] : interfaces_) dropped[number] = 0;
    for (std::uint32_t port = 0; port < VTAP_MAX_PORTS; ++port) {
      std::uint64_t count = 0;
      for (const auto& recorder : capture_->recorders()) count += recorder->dropped(port);
      if (count != 0) dropped[interface_of(port_name(port))] += count;
    }
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
    for (const auto& [number, count] : dropped) {
      capture::add_statistics(out_, number, static_cast<std::uint64_t>(ns), count);
    }
  }

  const std::shared_ptr<engine::Capture> capture_;
  const std::optional<filter::Filter> filter_;
  const std::function<void()> done_;
  const std::uint32_t snaplen_;
  std::uint64_t frames_left_;
  std::map<std::string, std::uint32_t> interfaces_;  ///< numbers of what was announced
  std::vector<std::string> ports_;
  std::vector<std::uint8_t> frame_;
  std::string out_;
  bool over_ = false;
};

}  // namespace

std::unique_ptr<control::Stream> stream_of(std::shared_ptr<engine::Capture> capture,
                                           const control::CaptureRequest& request,
                                           std::optional<filter::Filter> filter,
                                           std::function<void()> done) {
  return std::make_unique<PcapngStream>(std::move(capture), request, std::move(filter),
                                        std::move(done));
}

Result<std::unique_ptr<control::Stream>> start_capture(Controller& controller, Requests& requests,
                                                       const control::CaptureRequest& request) {
  std::optional<filter::Filter> filter;
  if (request.filter) {
    auto compiled = filter::Filter::compile(*request.filter);
    if (!compiled) return compiled.error();
    filter = std::move(*compiled);
  }
  // A filter judges whole copies, and not only what is kept of them.
  engine::CaptureSpec spec{.policy = request.policy,
                           .tap = request.tap,
                           .most = request.filter ? kWhole : request.snaplen,
                           .frames_per_s = request.frames_per_s,
                           .bytes_per_s = kBytesPerSecond};
  auto started = requests.ask([&]() -> Result<std::shared_ptr<engine::Capture>> {
    if (controller.engine() == nullptr) return Error{"the broker is starting"};
    return controller.engine()->capture(std::move(spec));
  });
  if (!started) return started.error();
  auto capture = *started;
  auto end = [&controller, &requests, capture] {
    try {
      requests.ask([&] { controller.engine()->end_capture(*capture); });
    } catch (const std::exception&) {
      // The broker stops, and with it all captures.
    }
  };
  return stream_of(std::move(capture), request, std::move(filter), std::move(end));
}

}  // namespace vtap::controller
