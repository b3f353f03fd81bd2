// SPDX-License-Identifier: Apache-2.0
#include "host/bpf_program.hpp"

#include <bpf/bpf.h>

#include <cerrno>
#include <cstring>

#include "host/attach.hpp"
#include "host/netlink.hpp"

namespace vtap::host {

bool has_our_name(std::string_view program) {
  return program.substr(0, program_prefix.size()) == program_prefix;
}

Result<Program> program_of_fd(UniqueFd fd) {
  bpf_prog_info info{};
  std::uint32_t size = sizeof info;
  if (::bpf_obj_get_info_by_fd(fd.get(), &info, &size) != 0) {
    return failure("cannot ask what a BPF program is", errno);
  }
  return Program{std::move(fd), info.id,
                 std::string(info.name, ::strnlen(info.name, sizeof info.name))};
}

Result<std::optional<Program>> program_of_id(std::uint32_t id) {
  UniqueFd fd(::bpf_prog_get_fd_by_id(id));
  if (!fd && errno == ENOENT) return std::optional<Program>();
  if (!fd) return failure("cannot ask what BPF program " + std::to_string(id) + " is", errno);
  Result<Program> program = program_of_fd(std::move(fd));
  if (!program) return program.error();
  return std::optional<Program>(std::move(*program));
}

}  // namespace vtap::host
