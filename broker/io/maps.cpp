// SPDX-License-Identifier: Apache-2.0
#include "io/maps.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "io/bpf.hpp"

namespace vtap::io {

Result<UniqueFd> create_map(bpf_map_type type, const char* name, std::size_t key_size,
                            std::size_t value_size, std::size_t entries, MapOptions how) {
  LIBBPF_OPTS(bpf_map_create_opts, options);
  if (type == BPF_MAP_TYPE_LPM_TRIE) options.map_flags = BPF_F_NO_PREALLOC;
  options.map_flags |= how.flags;
  if (how.inner >= 0) options.inner_map_fd = static_cast<std::uint32_t>(how.inner);
  const int fd = bpf_map_create(
      type, name, static_cast<std::uint32_t>(key_size), static_cast<std::uint32_t>(value_size),
      static_cast<std::uint32_t>(std::max<std::size_t>(entries, 1)), &options);
  if (fd < 0) return bpf_error(std::string("creating the BPF map ") + name, -errno);
  return UniqueFd(fd);
}

Result<void> reuse(bpf_object* object, const char* name, int fd) {
  bpf_map* map = bpf_object__find_map_by_name(object, name);
  if (map == nullptr) return Error{std::string("the BPF object has no map ") + name};
  const int error = bpf_map__reuse_fd(map, fd);
  return error == 0 ? Result<void>{} : bpf_error(std::string("sharing the BPF map ") + name, error);
}

Result<void> SharedMaps::add(const char* name, Result<UniqueFd> map) {
  if (!map) return map.error();
  maps_.emplace_back(name, std::move(*map));
  return {};
}

int SharedMaps::fd(std::string_view name) const noexcept {
  const auto found = std::ranges::find(maps_, name, [](const auto& entry) { return entry.first; });
  return found == maps_.end() ? -1 : found->second.get();
}

Result<void> SharedMaps::share_with(bpf_object* object) const {
  for (const auto& [name, map] : maps_) {
    if (auto done = reuse(object, name, map.get()); !done) return done;
  }
  return {};
}

}  // namespace vtap::io
