// SPDX-License-Identifier: Apache-2.0
#include "confine/capabilities.hpp"

#include <cap-ng.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cctype>
#include <cerrno>
#include <utility>

#include "confine/errors.hpp"

namespace vtap::confine {

const CapabilitySet kControlCapabilities = capability(CAP_NET_ADMIN) | capability(CAP_NET_RAW) |
                                           capability(CAP_BPF) | capability(CAP_PERFMON) |
                                           capability(CAP_IPC_LOCK);
const CapabilitySet kLookupCapabilities = capability(CAP_SYS_ADMIN);
const CapabilitySet kNeededCapabilities = kControlCapabilities | kLookupCapabilities;

namespace {

CapabilitySet set_of_this_thread(capng_type_t which) noexcept {
  CapabilitySet set = 0;
  capng_get_caps_process();
  for (unsigned number = 0; number <= CAP_LAST_CAP; ++number) {
    if (capng_have_capability(which, number) != 0) set |= capability(number);
  }
  return set;
}

}  // namespace

std::vector<std::string> names_of(CapabilitySet set) {
  std::vector<std::string> names;
  for (unsigned number = 0; number <= CAP_LAST_CAP; ++number) {
    if ((set & capability(number)) == 0) continue;
    std::string name = std::string("CAP_") + capng_capability_to_name(number);
    for (char& c : name) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    names.push_back(std::move(name));
  }
  return names;
}

CapabilitySet held_capabilities() noexcept { return set_of_this_thread(CAPNG_PERMITTED); }

CapabilitySet effective_capabilities() noexcept { return set_of_this_thread(CAPNG_EFFECTIVE); }

// The system call and not libcap-ng: it has to be this thread's alone, and nothing else of it.
Result<void> keep_capabilities(CapabilitySet kept) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> sets{};
  for (std::size_t word = 0; word < sets.size(); ++word) {
    const auto bits = static_cast<std::uint32_t>(kept >> (32 * word));
    sets[word] = {.effective = bits, .permitted = bits, .inheritable = 0};
  }
  if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0) {
    return failed("cannot empty the ambient capabilities", errno);
  }
  if (::syscall(SYS_capset, &header, sets.data()) != 0) {
    return failed("cannot give up capabilities", errno);
  }
  return {};
}

Result<void> give_up_new_privileges() {
  if ((held_capabilities() & capability(CAP_SETPCAP)) != 0) {
    for (unsigned number = 0; number <= CAP_LAST_CAP; ++number) {
      // EINVAL: the kernel is older than this capability.
      if (::prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0 && errno != EINVAL) {
        return failed("cannot reduce the capability bounding set", errno);
      }
    }
    constexpr unsigned kBits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
                               SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED |
                               SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
    if (::prctl(PR_SET_SECUREBITS, kBits, 0, 0, 0) != 0) {
      return failed("cannot lock the secure bits", errno);
    }
  }
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
    return failed("cannot set no_new_privs", errno);
  return {};
}

}  // namespace vtap::confine
