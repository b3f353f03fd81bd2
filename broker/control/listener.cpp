// SPDX-License-Identifier: Apache-2.0
#include "control/listener.hpp"

#include <fcntl.h>
#include <grp.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <optional>
#include <thread>
#include <vector>

namespace vtap::control {
namespace {

constexpr mode_t kDirectoryMode = 0755;
constexpr mode_t kSocketMode = 0660;
constexpr int kBacklog = 64;  // callers that wait while all threads are busy

/// sun_path with its terminating zero; nothing when `path` does not fit.
std::optional<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) return std::nullopt;
  if (path.find('\0') != std::string::npos) return std::nullopt;
  std::copy(path.begin(), path.end(), address.sun_path);
  return address;
}

Error failed(const std::string& what, const std::string& path, int code) {
  const bool privilege = code == EACCES || code == EPERM || code == EROFS;
  return {
      "control socket " + path + ": " + what + ": " + std::strerror(code) +
          (privilege ? " (run as root, or set broker.control to a place that may be written)" : ""),
      privilege ? ErrorKind::unsupported : ErrorKind::runtime};
}

Error bad_path(const std::string& path) {
  if (path.empty()) return {"control socket: the path is empty", ErrorKind::usage};
  if (path.find('\0') != std::string::npos) {
    return {"control socket: the path contains a zero byte", ErrorKind::usage};
  }
  return {"control socket " + path + ": the path has " + std::to_string(path.size()) +
              " bytes, a Unix socket takes at most " +
              std::to_string(sizeof(sockaddr_un::sun_path) - 1) +
              "; set broker.control to a shorter one",
          ErrorKind::usage};
}

std::filesystem::path directory_of(const std::string& path) {
  const auto parent = std::filesystem::path(path).parent_path();
  return parent.empty() ? "." : parent;
}

/// Like `mkdir -p -m 0755`: what exists keeps its mode.
Result<void> make_directory(const std::string& path) {
  std::filesystem::path made;
  for (const auto& part : directory_of(path)) {
    made /= part;
    std::error_code ignored;
    if (std::filesystem::is_directory(made, ignored)) continue;
    // The chmod, because the umask may have taken bits.
    const bool ok =
        ::mkdir(made.c_str(), kDirectoryMode) == 0 && ::chmod(made.c_str(), kDirectoryMode) == 0;
    if (!ok &&
        errno != EEXIST) {  // EEXIST: somebody was faster; a file in its place fails the bind
      return failed("cannot make the directory " + made.string(), path, errno);
    }
  }
  return {};
}

/// Keeps two brokers that start at once from replacing each other's fresh socket between the probe
/// and the bind. Advisory and bounded: anybody who may read the directory can hold this lock, and
/// that must not keep a broker from starting.
class DirectoryLock {
 public:
  explicit DirectoryLock(const std::filesystem::path& directory)
      : fd_(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    using namespace std::chrono_literals;
    for (int tries = 0; tries < 100 && held_by_another(); ++tries) {
      std::this_thread::sleep_for(10ms);
    }
  }

 private:
  bool held_by_another() {
    return ::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  }

  Fd fd_;
};

/// Makes room for a new socket file: removes that of a dead broker, refuses everything else.
Result<void> clear_the_way(const std::string& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return {};
    return failed("cannot look at it", path, errno);
  }
  if (!S_ISSOCK(status.st_mode)) {
    return Error{"control socket " + path +
                 ": the file exists and is no socket; remove it, or set broker.control elsewhere"};
  }
  const int answer = probe_socket(path);
  if (answer == 0 || answer == EAGAIN) {
    return Error{"control socket " + path +
                 ": a broker with this control socket is already running; stop it first, or give "
                 "this one another broker.name"};
  }
  if (answer != ECONNREFUSED && answer != ENOENT) return failed("cannot probe it", path, answer);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return failed("cannot remove the leftover of a dead broker", path, errno);
  }
  return {};
}

/// False if there is no such group, or it is not ours to give.
bool give_to(const std::string& group, const std::string& path) {
  if (group.empty()) return false;
  std::vector<char> buffer(size_t{64} << 10);  // members count, too
  struct group entry {};
  struct group* found = nullptr;
  if (::getgrnam_r(group.c_str(), &entry, buffer.data(), buffer.size(), &found) != 0) return false;
  return found != nullptr && ::lchown(path.c_str(), static_cast<uid_t>(-1), entry.gr_gid) == 0;
}

}  // namespace

int probe_socket(const std::string& path) {
  const auto address = address_of(path);
  if (!address) return ENAMETOOLONG;
  const Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return errno;
  const auto* generic = reinterpret_cast<const sockaddr*>(&*address);
  return ::connect(fd.get(), generic, sizeof(*address)) == 0 ? 0 : errno;
}

Result<Listener> Listener::open(const std::string& path, const std::string& group) {
  if (!address_of(path)) return bad_path(path);
  if (auto made = make_directory(path); !made) return made.error();
  const DirectoryLock lock(directory_of(path));
  if (auto cleared = clear_the_way(path); !cleared) return cleared.error();

  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return failed("cannot make a socket", path, errno);
  Listener listener(path, std::move(fd));
  if (auto bound = listener.bind_and_listen(group); !bound) return bound.error();
  return listener;
}

Result<void> Listener::bind_and_listen(const std::string& group) {
  // The file inherits the mode of the socket, less the umask: set before the bind, it is never
  // wider than it should be, and the process-wide umask is left alone (other threads use it).
  if (::fchmod(fd(), kSocketMode) != 0) return failed("cannot set its mode", path_, errno);
  const auto address = address_of(path_);
  if (::bind(fd(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) != 0) {
    return failed("cannot bind", path_, errno);
  }
  struct stat status {};
  if (::lstat(path_.c_str(), &status) != 0) return failed("it has vanished", path_, errno);
  bound_ = true;
  device_ = status.st_dev;
  inode_ = status.st_ino;
  if (::chmod(path_.c_str(), kSocketMode) != 0) return failed("cannot set its mode", path_, errno);
  has_group_ = give_to(group, path_);
  if (::listen(fd(), kBacklog) != 0) return failed("cannot listen", path_, errno);
  return {};
}

Listener::~Listener() {
  if (!fd_ || !bound_) return;
  // Removed before it is closed: while it is open, its inode number cannot belong to another file,
  // and a broker that starts now still sees it answer.
  const DirectoryLock lock(directory_of(path_));
  struct stat status {};
  if (::lstat(path_.c_str(), &status) != 0) return;
  if (status.st_dev == device_ && status.st_ino == inode_) ::unlink(path_.c_str());
}

}  // namespace vtap::control
