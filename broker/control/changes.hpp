// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <mutex>

#include "config/edit.hpp"
#include "control/handlers.hpp"
#include "control/message.hpp"

namespace vtap::control {

/// The running config, its taps, monitors and policies, and changes of them. A change is an edit of
/// the config's text, which the broker then loads as it loads every other.
///
/// Each method answers one request; they may run at the same time.
class Changes {
 public:
  using Section = config::Section;

  /// `handlers` outlives it.
  explicit Changes(const Handlers& handlers) : handlers_(handlers) {}

  [[nodiscard]] Reply config() const;
  Reply replace_config(const Call& call);

  [[nodiscard]] Reply list(Section section) const;
  [[nodiscard]] Reply show(Section section, const Call& call) const;
  Reply create(Section section, const Call& call);
  Reply replace(Section section, const Call& call);
  Reply remove(Section section, const Call& call);

 private:
  /// Makes a new text from the running one, or refuses by throwing a Reply.
  using Edit = std::function<std::string(const RunningConfig& running)>;

  /// Applies `edit`; once more on the fresh text where another change came between.
  Reply change(const Edit& edit, bool persist, const int& status);

  const Handlers& handlers_;
  std::mutex changing_;  ///< so that changes through the API do not meet each other
};

}  // namespace vtap::control
