// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "vtap/fd.hpp"
#include "vtap/result.hpp"

namespace vtap::host {

/// News about one device. A device that is renamed or changes otherwise sends its whole state.
struct LinkEvent {
  int ifindex = 0;
  std::string name;
  bool up = false;       ///< administratively up and carrier
  bool created = false;  ///< new in this namespace
  bool deleted = false;  ///< gone from this namespace
};

/// What `LinkWatch::drain` found.
struct LinkNews {
  std::vector<LinkEvent> events;  ///< oldest first
  bool resync = false;            ///< events were lost: ask links() for the state of everything
  bool features = false;          ///< some device's XDP features may have changed (kernel 6.3)
};

/// Subscription to device changes of the namespace in which it was opened.
class LinkWatch {
 public:
  static Result<LinkWatch> open();

  /// For epoll: readable when there is news of links, and of features.
  [[nodiscard]] int fd() const noexcept { return links_.get(); }
  /// -1: this kernel has no news of features.
  [[nodiscard]] int features_fd() const noexcept { return features_.get(); }

  /// Takes all news there is; never waits.
  Result<LinkNews> drain();

 private:
  LinkWatch(UniqueFd links, UniqueFd features) noexcept
      : links_(std::move(links)), features_(std::move(features)) {}
  Result<void> drain_links(LinkNews& news) const;
  Result<void> drain_features(LinkNews& news) const;

  UniqueFd links_;     ///< rtnetlink
  UniqueFd features_;  ///< the netdev family's; none before kernel 6.3
};

}  // namespace vtap::host
