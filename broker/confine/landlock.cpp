// SPDX-License-Identifier: Apache-2.0
#include "confine/landlock.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "confine/errors.hpp"
#include "vtap/fd.hpp"

namespace vtap::confine {
namespace {

// As <linux/landlock.h> has them since Landlock version 5; Debian 12's knows less.
constexpr std::uint64_t kExecute = 1U << 0;
constexpr std::uint64_t kWriteFile = 1U << 1;
constexpr std::uint64_t kReadFile = 1U << 2;
constexpr std::uint64_t kReadDirectory = 1U << 3;
constexpr std::uint64_t kMakeAndRemove = 0x1ff0;  ///< bits 4 to 12
constexpr std::uint64_t kTruncate = 1U << 14;     ///< version 3
constexpr std::uint64_t kIoctlDevice = 1U << 15;  ///< version 5
constexpr std::uint64_t kBindTcp = 1U << 0;       ///< version 4, of the network
constexpr std::uint64_t kConnectTcp = 1U << 1;
constexpr int kRulePathBeneath = 1;
constexpr std::uint32_t kVersionQuestion = 1U << 0;

struct RulesetAttributes {
  std::uint64_t files = 0;
  std::uint64_t network = 0;
};

struct [[gnu::packed]] PathRule {
  std::uint64_t allowed = 0;
  std::int32_t parent_fd = -1;
};

std::uint64_t writing(int version) {
  std::uint64_t rights = kWriteFile | kMakeAndRemove;
  if (version >= 3) rights |= kTruncate;
  if (version >= 5) rights |= kIoctlDevice;
  return rights;
}

Result<void> allow(int ruleset, const std::string& path, std::uint64_t rights) {
  const UniqueFd fd(::open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!fd && (errno == ENOENT || errno == EACCES)) return {};
  struct stat status {};
  if (!fd || ::fstat(fd.get(), &status) != 0) return failed("cannot look at " + path, errno);
  if (!S_ISDIR(status.st_mode)) rights &= kWriteFile | kReadFile | kTruncate | kIoctlDevice;
  const PathRule rule{.allowed = rights, .parent_fd = fd.get()};
  if (::syscall(SYS_landlock_add_rule, ruleset, kRulePathBeneath, &rule, 0) != 0) {
    return failed("cannot let Landlock allow " + path, errno);
  }
  return {};
}

}  // namespace

int landlock_version() noexcept {
  const long version =
      ::syscall(SYS_landlock_create_ruleset, nullptr, std::size_t{0}, kVersionQuestion);
  return version < 0 ? 0 : static_cast<int>(version);
}

Result<void> restrict_files(const FileRules& rules) {
  const int version = landlock_version();
  if (version == 0) return {};
  const std::uint64_t write = writing(version);
  // Reading is left alone or forbidden: where it is left alone it is no business of the ruleset.
  RulesetAttributes attributes{.files = kExecute | write};
  if (!rules.read) attributes.files |= kReadFile | kReadDirectory;
  if (!rules.network && version >= 4) attributes.network = kBindTcp | kConnectTcp;
  const std::size_t size = version >= 4 ? sizeof(attributes) : sizeof(attributes.files);
  const UniqueFd ruleset(
      static_cast<int>(::syscall(SYS_landlock_create_ruleset, &attributes, size, 0)));
  if (!ruleset) return failed("cannot make a Landlock ruleset", errno);
  const std::uint64_t allowed = write | (rules.read ? 0 : kReadFile | kReadDirectory);
  for (const std::string& path : rules.writable) {
    if (auto done = allow(ruleset.get(), path, allowed); !done) return done;
  }
  if (::syscall(SYS_landlock_restrict_self, ruleset.get(), 0) != 0) {
    return failed("cannot put Landlock in force", errno);
  }
  return {};
}

}  // namespace vtap::confine
