// SPDX-License-Identifier: Apache-2.0
#include "io/fan.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>

#include <algorithm>
#include <bit>
#include <cerrno>

#include "edit.skel.h"
#include "io/bpf.hpp"

namespace vtap::io {
namespace {

using EditObject = Skeleton<edit_bpf, edit_bpf__destroy>;

/// Room for the output, which comes first: if the kernel has no memory for all clones, the last
/// ones are those it does not make.
Result<UniqueFd> create_destinations(std::size_t monitors) {
  return create_map(BPF_MAP_TYPE_DEVMAP, "destinations", sizeof(__u32), sizeof(bpf_devmap_val),
                    1 + monitors);
}

constexpr __u32 kOutput = 0;

__u32 entry_of(std::uint64_t monitors, std::uint32_t monitor) {
  const std::uint64_t before = monitors & ((std::uint64_t{1} << monitor) - 1);
  return 1 + static_cast<__u32>(std::popcount(before));
}

Result<void> set_entry(const UniqueFd& map, __u32 entry, int ifindex, int program) {
  bpf_devmap_val value{};
  value.ifindex = static_cast<__u32>(ifindex);
  value.bpf_prog.fd = program;
  const int done = ifindex != 0 ? bpf_map_update_elem(map.get(), &entry, &value, BPF_ANY)
                                : bpf_map_delete_elem(map.get(), &entry);
  if (done == 0 || (ifindex == 0 && errno == ENOENT)) return {};
  return bpf_error("setting where a tap program broadcasts to", -errno);
}

}  // namespace

struct FanMaps::Editor {
  EditObject object;
};

FanMaps::FanMaps() = default;
FanMaps::FanMaps(FanMaps&&) noexcept = default;
FanMaps& FanMaps::operator=(FanMaps&&) noexcept = default;
FanMaps::~FanMaps() = default;

Result<FanMaps> FanMaps::load(const plan::FanOut& fan,
                              const std::vector<std::uint32_t>& tap_of_port) {
  FanMaps loaded;
  loaded.sliced_ = fan.sliced;
  std::size_t count = 0;
  for (const std::uint32_t tap : tap_of_port) {
    if (tap != kNoTap) count += fan.sets[tap].size();
  }
  auto model = create_destinations(0);
  if (!model) return model.error();
  constexpr std::size_t number = sizeof(__u32);
  for (auto& done :
       {loaded.maps_.add("broadcasts", create_map(BPF_MAP_TYPE_ARRAY_OF_MAPS, "broadcasts", number,
                                                  number, count, {.inner = model->get()})),
        loaded.maps_.add("broadcast_of", create_map(BPF_MAP_TYPE_HASH, "broadcast_of",
                                                    sizeof(vtap_broadcast), number, count)),
        loaded.maps_.add("output_longest", create_map(BPF_MAP_TYPE_ARRAY, "output_longest", number,
                                                      number, VTAP_MAX_PORTS))}) {
    if (!done) return done.error();
  }
  for (std::uint32_t port = 0; port < tap_of_port.size(); ++port) {
    if (tap_of_port[port] == kNoTap) continue;
    for (const std::uint64_t monitors : fan.sets[tap_of_port[port]]) {
      if (auto done = loaded.add(port, monitors); !done) return done.error();
    }
  }
  if (auto done = loaded.load_editors(); !done) return done.error();
  return loaded;
}

Result<void> FanMaps::add(std::uint32_t port, std::uint64_t monitors) {
  auto map = create_destinations(static_cast<std::size_t>(std::popcount(monitors)));
  if (!map) return map.error();
  const vtap_broadcast key{.monitors = monitors, .port = port, .reserved = 0};
  const auto number = static_cast<__u32>(broadcasts_.size());
  const int fd = map->get();
  if (bpf_map_update_elem(maps_.fd("broadcasts"), &number, &fd, BPF_ANY) != 0 ||
      bpf_map_update_elem(maps_.fd("broadcast_of"), &key, &number, BPF_ANY) != 0) {
    return bpf_error("telling the tap programs where to broadcast", -errno);
  }
  broadcasts_.push_back({port, monitors, std::move(*map)});
  return {};
}

/// One for each slot, and one for devices whose frames stay whole; none where nothing is cut.
Result<void> FanMaps::load_editors() {
  if (sliced_.empty()) return {};
  for (std::uint32_t slot = 0; slot <= sliced_.size(); ++slot) {
    EditObject object(edit_bpf__open());
    if (!object) return bpf_error("opening the program that cuts copies", -errno);
    object->rodata->slot = slot < sliced_.size() ? slot : std::uint32_t{VTAP_EDIT_SLOTS};
    if (const int error = edit_bpf__load(object.get()); error != 0) {
      return bpf_error("loading the program that cuts copies", error);
    }
    editors_.push_back(std::make_unique<Editor>(Editor{std::move(object)}));
  }
  return {};
}

int FanMaps::output_program() const noexcept {
  return editors_.empty() ? 0 : bpf_program__fd(editors_.back()->object->progs.vtap_edit);
}

int FanMaps::program_of(std::uint32_t monitor) const noexcept {
  const auto slot = std::find(sliced_.begin(), sliced_.end(), monitor);
  if (slot == sliced_.end()) return output_program();
  return bpf_program__fd(
      editors_[static_cast<std::size_t>(slot - sliced_.begin())]->object->progs.vtap_edit);
}

Result<void> FanMaps::set_monitor(std::uint32_t monitor, int ifindex) {
  for (const Broadcast& broadcast : broadcasts_) {
    if ((broadcast.monitors >> monitor & 1) == 0) continue;
    auto done = set_entry(broadcast.map, entry_of(broadcast.monitors, monitor), ifindex,
                          program_of(monitor));
    if (!done) return done;
  }
  return {};
}

Result<void> FanMaps::set_output(std::uint32_t port, int ifindex) {
  for (const Broadcast& broadcast : broadcasts_) {
    if (broadcast.port != port) continue;
    if (auto done = set_entry(broadcast.map, kOutput, ifindex, output_program()); !done)
      return done;
  }
  return {};
}

Result<void> FanMaps::set_output_longest(std::uint32_t port, std::uint32_t longest) {
  if (bpf_map_update_elem(maps_.fd("output_longest"), &port, &longest, BPF_ANY) == 0) return {};
  return bpf_error("telling the tap programs about an output port", -errno);
}

void FanMaps::describe(std::uint32_t port, vtap_port_config& config) const {
  const auto first =
      std::find_if(broadcasts_.begin(), broadcasts_.end(),
                   [&](const Broadcast& broadcast) { return broadcast.port == port; });
  if (first == broadcasts_.end()) return;
  config.usual_set = first->monitors;
  config.usual_broadcast = static_cast<__u32>(first - broadcasts_.begin());
  config.slots = static_cast<__u32>(sliced_.size());
  for (std::size_t slot = 0; slot < sliced_.size(); ++slot) {
    config.slot_monitor[slot] = static_cast<__u8>(sliced_[slot]);
  }
}

}  // namespace vtap::io
