// SPDX-License-Identifier: Apache-2.0
#include "controller/persist.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "vtap/fd.hpp"

namespace vtap::controller {
namespace {

Error failed(const std::string& what, const std::string& file) {
  const int error = errno;
  const bool privilege = error == EACCES || error == EPERM || error == EROFS;
  return {
      what + " " + file + ": " + std::strerror(error) +
          (privilege ? " (the user that the broker runs as must be allowed to write there)" : ""),
      privilege ? ErrorKind::unsupported : ErrorKind::runtime};
}

bool write_all(int fd, const std::string& content) {
  std::size_t done = 0;
  while (done < content.size()) {
    const ssize_t count = ::write(fd, content.data() + done, content.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    done += static_cast<std::size_t>(count);
  }
  return true;
}

/// So that a rename is there after a power cut, too.
void sync_directory(const std::string& file) {
  const std::string directory = std::filesystem::path(file).parent_path();
  const UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd) ::fsync(fd.get());
}

}  // namespace

Result<FileDraft> FileDraft::write(const std::string& file, const std::string& content) {
  std::error_code error;
  const std::string real = std::filesystem::canonical(file, error);
  if (error) return Error{"writing " + file + ": " + error.message()};
  struct stat found {};
  if (::stat(real.c_str(), &found) != 0) return failed("looking at", real);
  std::string draft = real + ".XXXXXX";
  const UniqueFd fd(::mkostemp(draft.data(), O_CLOEXEC));
  if (!fd) return failed("making a file beside", real);
  FileDraft made(real, draft);
  if (!write_all(fd.get(), content)) return failed("writing", draft);
  // The mode last: a change of the owner clears parts of it. The owner only root can keep; the
  // group has to stay, as the mode is for it.
  if (::fchown(fd.get(), found.st_uid, found.st_gid) != 0 &&
      ::fchown(fd.get(), static_cast<uid_t>(-1), found.st_gid) != 0) {
    return failed("giving the group of " + real + " to", draft);
  }
  if (::fchmod(fd.get(), found.st_mode & 07777) != 0) return failed("setting the mode of", draft);
  if (::fsync(fd.get()) != 0) return failed("writing", draft);
  return made;
}

FileDraft::FileDraft(FileDraft&& other) noexcept
    : file_(std::move(other.file_)), draft_(std::move(other.draft_)) {
  other.draft_.clear();
}

FileDraft::~FileDraft() {
  if (!draft_.empty()) ::unlink(draft_.c_str());
}

Result<void> FileDraft::commit() {
  if (::rename(draft_.c_str(), file_.c_str()) != 0) return failed("replacing", file_);
  draft_.clear();
  sync_directory(file_);
  return {};
}

}  // namespace vtap::controller
