// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "vtap/fd.hpp"
#include "vtap/result.hpp"

/// BPF programs that are loaded, ours and those of others. Internal to this folder.
namespace vtap::host {

/// Whether a program of this name is ours, in whatever version.
bool has_our_name(std::string_view program);

/// A loaded program, held so that its id stays its own.
struct Program {
  UniqueFd fd;
  std::uint32_t id = 0;
  std::string name;
};

Result<Program> program_of_fd(UniqueFd fd);

/// Disengaged: the program has gone meanwhile.
Result<std::optional<Program>> program_of_id(std::uint32_t id);

}  // namespace vtap::host
