// SPDX-License-Identifier: Apache-2.0
#include "host/state.hpp"

#include <fcntl.h>
#include <linux/if.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <system_error>

namespace vtap::host {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr int claim_attempts = 100;
constexpr const char* boot_id_file = "/proc/sys/kernel/random/boot_id";

std::string words(int error) { return std::error_code(error, std::generic_category()).message(); }

Error failed(const std::string& what, const fs::path& file, int error) {
  const bool denied = error == EACCES || error == EPERM || error == EROFS;
  return {what + " " + file.string() + ": " + words(error),
          denied ? ErrorKind::unsupported : ErrorKind::runtime};
}

/// Whole content of a small file; `error` is 0 or the errno.
struct Content {
  std::string text;
  int error = 0;
};

Content read_all(int fd) {
  Content content;
  std::array<char, 4096> buffer{};
  while (true) {
    const ssize_t size = ::read(fd, buffer.data(), buffer.size());
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) content.error = errno;
    if (size <= 0) return content;
    content.text.append(buffer.data(), static_cast<std::size_t>(size));
  }
}

Content read_file(const fs::path& file) {
  const UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return {{}, errno};
  return read_all(fd.get());
}

/// 0 or the errno.
int write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t size = ::write(fd, text.data(), text.size());
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return errno;
    text.remove_prefix(static_cast<std::size_t>(size));
  }
  return 0;
}

/// The new content is there as a whole or not at all, also after a power cut.
Result<void> write_atomically(const fs::path& file, const std::string& text) {
  const fs::path temporary = file.string() + ".tmp";
  const UniqueFd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd) return failed("cannot create", temporary, errno);
  if (const int error = write_all(fd.get(), text); error != 0) {
    return failed("cannot write", temporary, error);
  }
  if (::fsync(fd.get()) != 0) return failed("cannot write", temporary, errno);
  if (::rename(temporary.c_str(), file.c_str()) != 0) return failed("cannot replace", file, errno);
  const UniqueFd directory(::open(file.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory || ::fsync(directory.get()) != 0) {
    return failed("cannot write", file.parent_path(), errno);
  }
  return {};
}

fs::path journal_file(const StateDir& dir, const std::string& port) {
  return dir.path() / (port + ".json");
}

Json to_json(const Changes& changes, int ifindex) {
  Json json{{"ifindex", ifindex}, {"features", changes.features}, {"clsact", changes.clsact}};
  if (changes.promisc) json["promisc"] = *changes.promisc;
  if (changes.disable_ipv6) json["disable_ipv6"] = *changes.disable_ipv6;
  return json;
}

struct Stored {
  int ifindex = 0;
  Changes changes;
};

/// Throws nlohmann's exceptions; they stop in read_journal.
Stored from_json(const Json& json) {
  Stored stored;
  stored.ifindex = json.at("ifindex").get<int>();
  stored.changes.features = json.at("features").get<std::map<std::string, bool>>();
  stored.changes.clsact = json.at("clsact").get<bool>();
  if (json.contains("promisc")) stored.changes.promisc = json.at("promisc").get<bool>();
  if (json.contains("disable_ipv6")) {
    stored.changes.disable_ipv6 = json.at("disable_ipv6").get<std::string>();
  }
  return stored;
}

Result<std::optional<Stored>> read_journal(const StateDir& dir, const std::string& port) {
  const fs::path file = journal_file(dir, port);
  const Content content = read_file(file);
  if (content.error == ENOENT) return std::optional<Stored>();
  if (content.error != 0) return failed("cannot read", file, content.error);
  try {
    return std::optional<Stored>(from_json(Json::parse(content.text)));
  } catch (const Json::exception& error) {
    return Error{file.string() + ", which holds the original settings of " + port +
                 ", is damaged: " + error.what() +
                 ". Set the port's offloads back by hand, then remove the file"};
  }
}

Error held(const std::string& port, int lock) {
  const Content content = ::lseek(lock, 0, SEEK_SET) == 0 ? read_all(lock) : Content{};
  const std::string holder = content.text.substr(0, content.text.find('\n'));
  return Error{"port " + port + " is in use by " +
               (holder.empty() ? std::string("another vtap process") : holder) +
               " in this network namespace; stop that one first"};
}

/// True while `file` still is the file that was opened: its last holder may have removed it.
bool still_linked(int fd, const fs::path& file) {
  struct stat opened {};
  struct stat named {};
  return ::fstat(fd, &opened) == 0 && ::stat(file.c_str(), &named) == 0 &&
         opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
}

/// The locked lock file, an empty descriptor when the attempt must be repeated, or an Error.
Result<UniqueFd> try_claim(const StateDir& dir, const fs::path& file, const std::string& port) {
  if (Result<void> created = dir.create(); !created) return created.error();
  UniqueFd fd(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd && errno == ENOENT) return UniqueFd();  // the directory was removed meanwhile
  if (!fd) return failed("cannot open", file, errno);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) return UniqueFd();
    if (errno == EWOULDBLOCK) return held(port, fd.get());
    return failed("cannot lock", file, errno);
  }
  if (!still_linked(fd.get(), file)) return UniqueFd();
  return fd;
}

}  // namespace

bool valid_port_name(const std::string& name) {
  if (name.empty() || name.size() >= IFNAMSIZ || name == "." || name == "..") return false;
  return std::none_of(name.begin(), name.end(), [](char c) {
    return c == '/' || c == ':' || static_cast<unsigned char>(c) <= ' ' || c == '\x7f';
  });
}

Result<StateDir> StateDir::open(const fs::path& base) {
  const Content boot = read_file(boot_id_file);
  if (boot.error != 0) return failed("cannot read", boot_id_file, boot.error);
  const UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  std::uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  if (!socket || ::getsockopt(socket.get(), SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &size) != 0) {
    return Error{"cannot identify the network namespace (SO_NETNS_COOKIE): " + words(errno),
                 ErrorKind::unsupported};
  }
  const std::string id = boot.text.substr(0, boot.text.find('\n'));
  return StateDir(base / (id + "-" + std::to_string(cookie)));
}

Result<void> StateDir::create() const {
  std::error_code error;
  fs::create_directories(path_, error);
  if (error) return failed("cannot create the state directory", path_, error.value());
  return {};
}

void StateDir::remove_if_empty() const noexcept {
  // rmdir refuses what is not empty.
  if (::rmdir(path_.c_str()) == 0) ::rmdir(path_.parent_path().c_str());
}

Result<Journal> Journal::load(const StateDir& dir, const std::string& port, int ifindex) {
  Result<std::optional<Stored>> stored = read_journal(dir, port);
  if (!stored) return stored.error();
  Journal journal(dir, port, ifindex);
  if (!stored.value()) return journal;
  if (stored.value()->ifindex == ifindex) {
    journal.changes_ = std::move(stored.value()->changes);
    return journal;
  }
  if (Result<void> erased = journal.erase(); !erased) return erased.error();
  return journal;
}

Result<std::optional<int>> Journal::stored_ifindex(const StateDir& dir, const std::string& port) {
  const Result<std::optional<Stored>> stored = read_journal(dir, port);
  if (!stored) return stored.error();
  if (!stored.value()) return std::optional<int>();
  return std::optional<int>(stored.value()->ifindex);
}

Result<void> Journal::refresh() {
  Result<Journal> now = load(dir_, port_, ifindex_);
  if (!now) return now.error();
  changes_ = std::move(now->changes_);
  return {};
}

bool Journal::covers(const Changes& found) const { return merged_with(found) == changes_; }

Changes Journal::merged_with(const Changes& found) const {
  Changes merged = changes_;
  merged.features.insert(found.features.begin(), found.features.end());  // keeps those it has
  if (!merged.promisc) merged.promisc = found.promisc;
  if (!merged.disable_ipv6) merged.disable_ipv6 = found.disable_ipv6;
  merged.clsact = merged.clsact || found.clsact;
  return merged;
}

Result<void> Journal::remember(const Changes& found) {
  if (Result<void> read = refresh(); !read) return read;
  Changes merged = merged_with(found);
  if (merged == changes_) return {};
  if (Result<void> written = write(merged); !written) return written;
  changes_ = std::move(merged);
  return {};
}

Result<void> Journal::keep_only(Changes rest) {
  if (rest.empty()) return erase();
  if (rest == changes_) return {};
  if (Result<void> written = write(rest); !written) return written;
  changes_ = std::move(rest);
  return {};
}

Result<void> Journal::erase() {
  const fs::path file = journal_file(dir_, port_);
  if (::unlink(file.c_str()) != 0 && errno != ENOENT) return failed("cannot remove", file, errno);
  ::unlink((file.string() + ".tmp").c_str());  // left by a crash between write and rename
  changes_ = {};
  return {};
}

Result<void> Journal::write(const Changes& changes) const {
  if (Result<void> created = dir_.create(); !created) return created;
  return write_atomically(journal_file(dir_, port_), to_json(changes, ifindex_).dump(2) + "\n");
}

Result<PortClaim> PortClaim::acquire(const StateDir& dir, const std::string& port,
                                     const std::string& owner) {
  if (!valid_port_name(port)) {
    return Error{"\"" + port + "\" cannot be the name of a network device", ErrorKind::usage};
  }
  fs::path file = dir.path() / (port + ".lock");
  for (int attempt = 0; attempt < claim_attempts; ++attempt) {
    Result<UniqueFd> fd = try_claim(dir, file, port);
    if (!fd) return fd.error();
    if (!*fd) continue;
    const std::string holder = owner + " (process " + std::to_string(::getpid()) + ")\n";
    int error = ::ftruncate(fd->get(), 0) == 0 ? 0 : errno;
    if (error == 0) error = write_all(fd->get(), holder);
    PortClaim claim(std::move(*fd), file);
    if (error != 0) return failed("cannot write", file, error);
    return claim;
  }
  return Error{"cannot lock " + file.string() + ": others keep removing it"};
}

std::optional<std::string> PortClaim::holder(const StateDir& dir, const std::string& port) {
  if (!valid_port_name(port)) return std::nullopt;
  const fs::path file = dir.path() / (port + ".lock");
  const Content locks = read_file("/proc/locks");
  struct stat named {};
  if (::stat(file.c_str(), &named) != 0) return std::nullopt;
  // "1: FLOCK  ADVISORY  WRITE 4711 00:19:1234 0 EOF": the file of a broker that was killed stays.
  const std::string inode = ":" + std::to_string(named.st_ino) + " 0 EOF";
  if (locks.error == 0 && locks.text.find(inode) == std::string::npos) return std::nullopt;
  const std::string text = read_file(file).text;
  return text.substr(0, text.find('\n'));
}

PortClaim& PortClaim::operator=(PortClaim&& other) noexcept {
  if (this != &other) {
    release();
    fd_ = std::move(other.fd_);
    file_ = std::move(other.file_);
  }
  return *this;
}

PortClaim::~PortClaim() { release(); }

void PortClaim::release() noexcept {
  if (!fd_) return;
  ::unlink(file_.c_str());  // while locked: whoever waits sees that the file is another one
  fd_.reset();
}

}  // namespace vtap::host
