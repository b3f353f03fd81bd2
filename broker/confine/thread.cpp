// SPDX-License-Identifier: Apache-2.0
#include "confine/thread.hpp"

#include <sys/prctl.h>

#include <cerrno>

#include "confine/capabilities.hpp"
#include "confine/errors.hpp"
#include "confine/filter.hpp"
#include "confine/landlock.hpp"

namespace vtap::confine {

Result<void> confine_this_thread(Role role, const std::vector<std::string>& run_directories) {
  // Landlock and filters are for threads that can gain nothing by executing a file.
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
    return failed("cannot set no_new_privs", errno);
  FileRules files{.read = false, .writable = {}, .network = false};
  if (role == Role::server) files.writable = run_directories;
#ifdef VTAP_SANITIZED
  files.read = true;  // /proc/self/maps, for a report
#endif
  if (auto done = restrict_files(files); !done) return done;
  if (auto done = keep_capabilities(0); !done) return done;
  return allow_only(role == Role::worker ? Calls::worker : Calls::server);
}

}  // namespace vtap::confine
