// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/bpf.h>

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "vtap/fd.hpp"
#include "vtap/result.hpp"

struct bpf_object;

namespace vtap::io {

struct MapOptions {
  std::uint32_t flags = 0;  ///< BPF_F_*; BPF_F_NO_PREALLOC goes by itself where it must be
  int inner = -1;           ///< of maps of maps: one that is like those
};

/// Sizes are bytes; no entries become one, as the kernel makes no empty map.
Result<UniqueFd> create_map(bpf_map_type type, const char* name, std::size_t key_size,
                            std::size_t value_size, std::size_t entries, MapOptions how = {});

/// Makes a map the one of that name in an object that is opened, not yet loaded.
Result<void> reuse(bpf_object* object, const char* name, int fd);

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
