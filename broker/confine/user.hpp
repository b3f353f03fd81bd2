// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <string>

#include "vtap/result.hpp"

namespace vtap::confine {

/// The user a broker runs as when it is started as root and no other is named.
inline constexpr const char* kDefaultUser = "vtap";

struct User {
  uid_t uid = 0;
  gid_t gid = 0;
  std::string name;
};

/// Whom the process is to run as. `wanted` empty: `vtap` if the process is root and there is such a
/// user, else whoever it is now. Errors: usage for a user that does not exist, or that is another
/// one while the process is not root.
Result<User> choose_user(const std::string& wanted);

/// Makes the whole process run as `user`, with its groups; does nothing if it does already.
/// The permitted capabilities stay, and all of them become effective. Call before there are
/// threads. Errors: unsupported without CAP_SETUID and CAP_SETGID.
Result<void> become_user(const User& user);

/// The process is in that group as well from now on, beside its others, so that it may give its
/// files to it. Does nothing if there is no such group, or without CAP_SETGID. Call before there
/// are threads.
void join_group(const std::string& name);

/// Like `mkdir -p -m 0755`, and what is made belongs to `user`. What exists stays as it is. Does
/// nothing unless the process is root. Errors: runtime.
Result<void> make_directories(const std::string& path, const User& user);

/// Gives a directory and all that is below to `user`, so that a broker that runs as another user
/// than the last one finds its state. Follows no symbolic link, and leaves alone what has a second
/// hard link. Does nothing unless the process is root, or if there is no such directory. Errors:
/// runtime.
Result<void> hand_over(const std::string& directory, const User& user);

}  // namespace vtap::confine
