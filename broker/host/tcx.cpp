// SPDX-License-Identifier: Apache-2.0
#include "host/tcx.hpp"

#include <linux/bpf.h>
#include <net/if.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <vector>

#include "host/bpf_program.hpp"
#include "host/netlink.hpp"

namespace vtap::host {
namespace {

// The part of union bpf_attr that attaches and asks, as kernel 6.6 has it: Debian 12's headers are
// older. All fields are at the offsets that <linux/bpf.h> gives them since.
constexpr std::uint32_t tcx_ingress = 46;  // BPF_TCX_INGRESS
constexpr std::uint32_t tcx_egress = 47;
constexpr std::uint32_t flag_replace = 1U << 2;  // BPF_F_REPLACE
constexpr std::uint32_t flag_before = 1U << 3;   // BPF_F_BEFORE: of nobody, so of all

struct AttachRequest {
  std::uint32_t ifindex = 0;
  std::uint32_t program_fd = 0;
  std::uint32_t type = 0;
  std::uint32_t flags = 0;
  std::uint32_t replaced_fd = 0;
  std::uint32_t relative_fd = 0;
  std::uint64_t expected_revision = 0;
};

struct QueryRequest {
  std::uint32_t ifindex = 0;
  std::uint32_t type = 0;
  std::uint32_t query_flags = 0;
  std::uint32_t attach_flags = 0;
  std::uint64_t program_ids = 0;
  std::uint32_t count = 0;
  std::uint32_t reserved = 0;
  std::uint64_t program_flags = 0;
  std::uint64_t link_ids = 0;
  std::uint64_t link_flags = 0;
  std::uint64_t revision = 0;
};

template <typename Request>
int call(bpf_cmd command, Request& request) {
  return ::syscall(SYS_bpf, command, &request, sizeof(request)) < 0 ? errno : 0;
}

std::uint32_t type_of(Direction direction) {
  return direction == Direction::ingress ? tcx_ingress : tcx_egress;
}

Error tcx_failure(const char* what, int ifindex, int error) {
  return failure(std::string("cannot ") + what + " tcx programs of " + device_name(ifindex), error);
}

/// What is there, first to last.
struct Ids {
  std::vector<std::uint32_t> programs, links;
};

Result<Ids> attached_ids(int ifindex, Direction direction) {
  Ids ids{std::vector<std::uint32_t>(64), std::vector<std::uint32_t>(64)};
  QueryRequest query;
  while (true) {
    query = {.ifindex = static_cast<std::uint32_t>(ifindex), .type = type_of(direction)};
    query.program_ids = reinterpret_cast<std::uint64_t>(ids.programs.data());
    query.link_ids = reinterpret_cast<std::uint64_t>(ids.links.data());
    query.count = static_cast<std::uint32_t>(ids.programs.size());
    const int error = call(BPF_PROG_QUERY, query);
    if (error == 0) break;
    if (error != ENOSPC) return tcx_failure("list", ifindex, error);
    ids.programs.resize(2 * ids.programs.size());
    ids.links.resize(ids.programs.size());
  }
  ids.programs.resize(query.count);
  ids.links.resize(query.count);
  return ids;
}

/// The programs there, first to last.
Result<std::vector<Program>> attached(int ifindex, Direction direction) {
  std::vector<Program> found;
  if (!has_tcx()) return found;
  const Result<Ids> ids = attached_ids(ifindex, direction);
  if (!ids) return ids.error();
  for (const std::uint32_t id : ids.value().programs) {
    Result<std::optional<Program>> program = program_of_id(id);
    if (!program) return program.error();
    if (program.value()) found.push_back(std::move(*program.value()));
  }
  return found;
}

bool is_ours(const Program& program) { return has_our_name(program.name); }

Result<std::vector<Program>> ours(int ifindex, Direction direction) {
  Result<std::vector<Program>> found = attached(ifindex, direction);
  if (found) std::erase_if(*found, std::not_fn(is_ours));
  return found;
}

Result<void> detach(int ifindex, Direction direction, const Program& program) {
  AttachRequest request{.ifindex = static_cast<std::uint32_t>(ifindex),
                        .program_fd = static_cast<std::uint32_t>(program.fd.get()),
                        .type = type_of(direction)};
  const int error = call(BPF_PROG_DETACH, request);
  if (error == 0 || error == ENOENT) return {};
  return tcx_failure("remove", ifindex, error);
}

}  // namespace

bool has_tcx() {
  static const bool answer = [] {
    // The loopback device is in every namespace. An older kernel knows no such type: EINVAL.
    QueryRequest query{.ifindex = ::if_nametoindex("lo"), .type = tcx_ingress};
    return call(BPF_PROG_QUERY, query) == 0;
  }();
  return answer;
}

Result<TcAttachment> attach_tcx(int ifindex, Direction direction, int prog_fd) {
  const Result<std::vector<Program>> before = ours(ifindex, direction);
  if (!before) return before.error();
  TcAttachment attachment;
  attachment.replaced = !before.value().empty();
  AttachRequest request{.ifindex = static_cast<std::uint32_t>(ifindex),
                        .program_fd = static_cast<std::uint32_t>(prog_fd),
                        .type = type_of(direction),
                        .flags = attachment.replaced ? flag_replace : flag_before};
  if (attachment.replaced)
    request.replaced_fd = static_cast<std::uint32_t>(before.value().front().fd.get());
  if (const int error = call(BPF_PROG_ATTACH, request); error != 0)
    return tcx_failure("attach", ifindex, error);
  for (std::size_t i = 1; i < before.value().size(); ++i) {
    if (Result<void> done = detach(ifindex, direction, before.value()[i]); !done)
      return done.error();
  }
  const Result<std::vector<Program>> now = attached(ifindex, direction);
  if (!now) return now.error();
  for (const Program& program : now.value()) {
    if (is_ours(program)) break;
    TcFilter& other = attachment.ahead.emplace_back();
    other.kind = "tcx";
    other.program = program.name;
  }
  return attachment;
}

Result<bool> detach_tcx(int ifindex, Direction direction) {
  const Result<std::vector<Program>> there = ours(ifindex, direction);
  if (!there) return there.error();
  for (const Program& program : there.value()) {
    if (Result<void> done = detach(ifindex, direction, program); !done) return done.error();
  }
  return !there.value().empty();
}

Result<std::vector<TcxProgram>> tcx_programs(int ifindex, Direction direction) {
  std::vector<TcxProgram> found;
  if (!has_tcx()) return found;
  const Result<Ids> ids = attached_ids(ifindex, direction);
  if (!ids) return ids.error();
  for (std::size_t i = 0; i < ids.value().programs.size(); ++i) {
    const Result<std::optional<Program>> program = program_of_id(ids.value().programs[i]);
    if (!program) return program.error();
    if (!program.value()) continue;
    found.push_back({.id = program.value()->id,
                     .link_id = ids.value().links[i],
                     .name = program.value()->name,
                     .ours = is_ours(*program.value())});
  }
  return found;
}

bool carries_our_tcx(int ifindex, Direction direction) {
  const Result<std::vector<Program>> there = ours(ifindex, direction);
  return there && !there.value().empty();
}

}  // namespace vtap::host
