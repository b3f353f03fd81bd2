// SPDX-License-Identifier: Apache-2.0
#include "host/bpf_program.hpp"

#include <bpf/bpf.h>

#include <cerrno>
#include <cstring>
#include <functional>

#include "host/attach.hpp"
#include "host/netlink.hpp"

namespace vtap::host {

namespace {

/// One for the process, as a thread's privileges are none of the business of those that ask.
std::function<int(std::uint32_t)>& opener() {
  static std::function<int(std::uint32_t)> instance = [](std::uint32_t id) {
    return ::bpf_prog_get_fd_by_id(id);
  };
  return instance;
}

}  // namespace

void open_programs_with(std::function<int(std::uint32_t id)> open) { opener() = std::move(open); }

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
  UniqueFd fd(opener()(id));
  if (!fd && errno == ENOENT) return std::optional<Program>();
  if (!fd) return failure("cannot ask what BPF program " + std::to_string(id) + " is", errno);
  Result<Program> program = program_of_fd(std::move(fd));
  if (!program) return program.error();
  return std::optional<Program>(std::move(*program));
}

}  // namespace vtap::host
