// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "control/handlers.hpp"
#include "controller/controller.hpp"
#include "controller/requests.hpp"
#include "filter/filter.hpp"
#include "vtap/result.hpp"

namespace vtap::controller {

/// Starts a live capture; a server thread reads it (control::Handlers::capture). The control thread
/// is asked to start it and, when the stream goes, to end it. All three outlive the stream.
Result<std::unique_ptr<control::Stream>> start_capture(Controller& controller, Requests& requests,
                                                       const control::CaptureRequest& request);

/// As above, of a capture at hand; `done` is called when the stream goes.
std::unique_ptr<control::Stream> stream_of(std::shared_ptr<engine::Capture> capture,
                                           const control::CaptureRequest& request,
                                           std::optional<filter::Filter> filter,
                                           std::function<void()> done);

}  // namespace vtap::controller
