// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>
#include <utility>
#include <vector>

#include "vtap/fd.hpp"
#include "vtap/result.hpp"

struct bpf_object;

namespace vtap::io {

/// BPF maps that several programs share, by their names in xdp/.
class SharedMaps {
 public:
  /// Keeps a map that was just made; its error, if that failed.
  Result<void> add(const char* name, Result<UniqueFd> map);
  /// File descriptor; -1: no such map.
  [[nodiscard]] int fd(std::string_view name) const noexcept;
  /// Makes them the maps of an object that is opened, not yet loaded, and has all of them.
  Result<void> share_with(bpf_object* object) const;

 private:
  std::vector<std::pair<const char*, UniqueFd>> maps_;
};

}  // namespace vtap::io
