// SPDX-License-Identifier: Apache-2.0
#include "confine/user.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "confine/capabilities.hpp"
#include "confine/errors.hpp"
#include "vtap/fd.hpp"

namespace vtap::confine {
namespace {

constexpr mode_t kDirectoryMode = 0755;
/// The state is two directories deep; anything deeper is not ours.
constexpr int kDeepest = 4;

std::optional<User> find_user(const std::string& name) {
  std::array<char, 16384> buffer{};
  passwd entry{};
  passwd* found = nullptr;
  if (::getpwnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found) != 0) return {};
  if (found == nullptr) return {};
  return User{.uid = found->pw_uid, .gid = found->pw_gid, .name = found->pw_name};
}

User current_user() {
  const uid_t uid = ::geteuid();
  std::array<char, 16384> buffer{};
  passwd entry{};
  passwd* found = nullptr;
  const bool known =
      ::getpwuid_r(uid, &entry, buffer.data(), buffer.size(), &found) == 0 && found != nullptr;
  return {.uid = uid,
          .gid = ::getegid(),
          .name = known ? std::string(found->pw_name) : "number " + std::to_string(uid)};
}

/// One file, by a descriptor of itself, so that nobody can put another in its place meanwhile.
Result<bool> take_over(int parent, const char* name, const User& user) {
  const UniqueFd fd(::openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return false;  // has gone
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return failed(std::string("cannot look at ") + name, errno);
  const bool directory = S_ISDIR(status.st_mode);
  const bool ours =
      directory || ((S_ISREG(status.st_mode) || S_ISSOCK(status.st_mode)) && status.st_nlink == 1);
  if (!ours || (status.st_uid == user.uid && status.st_gid == user.gid)) return directory;
  if (::fchownat(fd.get(), "", user.uid, user.gid, AT_EMPTY_PATH) != 0) {
    return failed(std::string("cannot give ") + name + " to user " + user.name, errno);
  }
  return directory;
}

Result<void> take_over_tree(int parent, const char* name, const User& user, int depth) {
  const Result<bool> directory = take_over(parent, name, user);
  if (!directory) return directory.error();
  if (!directory.value() || depth == kDeepest) return {};
  UniqueFd fd(::openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return {};
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(::fdopendir(fd.get()), &::closedir);
  if (!entries) return {};
  const int here = fd.release();                            // closedir closes it
  while (const dirent* entry = ::readdir(entries.get())) {  // NOLINT(concurrency-mt-unsafe)
    const std::string_view found = entry->d_name;
    if (found == "." || found == "..") continue;
    if (auto done = take_over_tree(here, entry->d_name, user, depth + 1); !done) return done;
  }
  return {};
}

}  // namespace

Result<User> choose_user(const std::string& wanted) {
  const User now = current_user();
  if (wanted.empty()) {
    if (now.uid != 0) return now;
    return find_user(kDefaultUser).value_or(now);
  }
  std::optional<User> user = find_user(wanted);
  if (!user) {
    return Error{"there is no user \"" + wanted +
                     "\" (--user); make it (`adduser --system --group " + wanted +
                     "`), or name one that is there",
                 ErrorKind::usage};
  }
  if (now.uid != 0 && user->uid != now.uid) {
    return Error{
        "only root can run the broker as user " + wanted + " (--user); this is user " + now.name,
        ErrorKind::usage};
  }
  return std::move(*user);
}

Result<void> become_user(const User& user) {
  if (user.uid == ::getuid() && user.uid == ::geteuid() &&
      (user.uid != 0 || user.gid == ::getegid()))
    return {};
  const auto refused = [&](const char* what) {
    return failed("cannot run as user " + user.name + ": " + what, errno, ErrorKind::unsupported);
  };
  // Without this the last root id of a process takes its capabilities along.
  if (::prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0) return refused("keeping capabilities");
  if (::initgroups(user.name.c_str(), user.gid) != 0) return refused("initgroups");
  if (::setresgid(user.gid, user.gid, user.gid) != 0) return refused("setresgid");
  if (::setresuid(user.uid, user.uid, user.uid) != 0) return refused("setresuid");
  if (::prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) != 0) return refused("keeping capabilities");
  return keep_capabilities(held_capabilities());
}

void join_group(const std::string& name) {
  std::vector<char> buffer(std::size_t{64} << 10);  // members count, too
  group entry{};
  group* found = nullptr;
  const int error = ::getgrnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found);
  const int count = ::getgroups(0, nullptr);
  if (error != 0 || found == nullptr || count < 0) return;
  std::vector<gid_t> groups(static_cast<std::size_t>(count));
  if (::getgroups(count, groups.data()) != count) return;
  if (std::find(groups.begin(), groups.end(), entry.gr_gid) != groups.end()) return;
  groups.push_back(entry.gr_gid);
  // Refused: whoever would give a file to that group hears of it then.
  static_cast<void>(::setgroups(groups.size(), groups.data()));
}

Result<void> make_directories(const std::string& path, const User& user) {
  if (::geteuid() != 0) return {};
  std::filesystem::path made;
  for (const auto& part : std::filesystem::path(path)) {
    made /= part;
    if (::mkdir(made.c_str(), kDirectoryMode) != 0) {
      if (errno == EEXIST) continue;
      return failed("cannot make the directory " + made.string(), errno);
    }
    // The chmod, because the umask may have taken bits.
    if (::chmod(made.c_str(), kDirectoryMode) != 0 ||
        ::lchown(made.c_str(), user.uid, user.gid) != 0) {
      return failed("cannot give " + made.string() + " to user " + user.name, errno);
    }
  }
  return {};
}

Result<void> hand_over(const std::string& directory, const User& user) {
  if (::geteuid() != 0) return {};
  return take_over_tree(AT_FDCWD, directory.c_str(), user, 0);
}

}  // namespace vtap::confine
