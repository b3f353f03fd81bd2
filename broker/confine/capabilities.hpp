// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "vtap/result.hpp"

/// Linux capabilities, as sets of bits.
namespace vtap::confine {

using CapabilitySet = std::uint64_t;

constexpr CapabilitySet capability(unsigned number) { return CapabilitySet{1} << number; }

/// What opening ports, loading programs and a reload need: NET_ADMIN, NET_RAW, BPF, PERFMON,
/// IPC_LOCK.
extern const CapabilitySet kControlCapabilities;
/// What BPF_PROG_GET_FD_BY_ID needs: SYS_ADMIN.
extern const CapabilitySet kLookupCapabilities;
/// All that a broker must have when it starts.
extern const CapabilitySet kNeededCapabilities;

/// "CAP_NET_ADMIN", ..., in the order of their numbers.
std::vector<std::string> names_of(CapabilitySet set);

/// The calling thread's permitted set.
CapabilitySet held_capabilities() noexcept;
/// The calling thread's effective set.
CapabilitySet effective_capabilities() noexcept;

/// Permitted and effective set of the calling thread become `kept`, inheritable and ambient empty.
/// Errors: runtime, also when the thread does not have one of `kept`.
Result<void> keep_capabilities(CapabilitySet kept);

/// For the whole process, before it has threads: no program that it might execute gets a
/// capability (bounding set empty, secure bits locked), nor what its file's mode would add
/// (no_new_privs). Without CAP_SETPCAP the first two stay as they are; no_new_privs makes up for
/// them. Errors: runtime.
Result<void> give_up_new_privileges();

}  // namespace vtap::confine
