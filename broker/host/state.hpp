// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "vtap/fd.hpp"
#include "vtap/result.hpp"

/// What survives a kill -9: which settings were changed from which values, and who holds a port.
namespace vtap::host {

inline constexpr const char* default_state_dir = "/run/vtap/state";

/// True for a name that can be a network device, and therefore a file name.
bool valid_port_name(const std::string& name);

/// Directory with the state of the ports of one network namespace:
/// <base>/<boot id>-<namespace cookie>/<port>.json and <port>.lock.
class StateDir {
 public:
  /// State of the calling thread's network namespace. Creates nothing yet.
  static Result<StateDir> open(const std::filesystem::path& base = default_state_dir);

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

  Result<void> create() const;
  /// Removes the directory, and the base, if nothing is in it.
  void remove_if_empty() const noexcept;

 private:
  explicit StateDir(std::filesystem::path path) : path_(std::move(path)) {}

  std::filesystem::path path_;
};

/// Original values of what was changed on a port.
struct Changes {
  std::map<std::string, bool> features;     ///< feature name, what was requested
  std::optional<bool> promisc;              ///< interface flag
  std::optional<std::string> disable_ipv6;  ///< content of the sysctl
  bool clsact = false;                      ///< the clsact qdisc was made by the broker

  [[nodiscard]] bool empty() const noexcept {
    return features.empty() && !promisc && !disable_ipv6 && !clsact;
  }
  bool operator==(const Changes&) const = default;
};

/// The stored changes of one port. Whoever uses it holds the port's claim. What is in memory is
/// what is on disk: every change is written (temporary file, fsync, rename) before the call
/// returns.
class Journal {
 public:
  /// Reads what is stored for the port; changes of another device of that name (other ifindex)
  /// are dropped. Error: the file is unreadable or damaged.
  static Result<Journal> load(const StateDir& dir, const std::string& port, int ifindex);

  /// ifindex of the device that a journal of this name belongs to; disengaged: no journal.
  static Result<std::optional<int>> stored_ifindex(const StateDir& dir, const std::string& port);

  [[nodiscard]] const Changes& changes() const noexcept { return changes_; }

  /// Reads again what is stored: a doctor of the same process may have added to it.
  Result<void> refresh();

  /// Whether all these original values are stored already.
  [[nodiscard]] bool covers(const Changes& found) const;

  /// Adds original values, to be called before they are changed. What is stored already stays: it
  /// is the older truth.
  Result<void> remember(const Changes& found);

  /// Replaces the content, after values were set back. Empty: the file goes.
  Result<void> keep_only(Changes rest);

  /// Deletes the file. Success when there is none.
  Result<void> erase();

 private:
  Journal(StateDir dir, std::string port, int ifindex)
      : dir_(std::move(dir)), port_(std::move(port)), ifindex_(ifindex) {}

  [[nodiscard]] Changes merged_with(const Changes& found) const;
  Result<void> write(const Changes& changes) const;

  StateDir dir_;
  std::string port_;
  int ifindex_;
  Changes changes_;
};

/// The right to work on a port, for one broker per network namespace at a time: a locked file with
/// the holder's process id. It ends with the object or with the process, however that dies.
class PortClaim {
 public:
  /// `owner`: what the holder calls itself. Error: another process holds the port; names the port
  /// and who holds it.
  static Result<PortClaim> acquire(const StateDir& dir, const std::string& port,
                                   const std::string& owner);

  /// Who holds the port now, in the words of its claim; disengaged: nobody. Claims nothing.
  static std::optional<std::string> holder(const StateDir& dir, const std::string& port);

  PortClaim(PortClaim&&) noexcept = default;
  PortClaim& operator=(PortClaim&& other) noexcept;
  PortClaim(const PortClaim&) = delete;
  PortClaim& operator=(const PortClaim&) = delete;
  ~PortClaim();

 private:
  PortClaim(UniqueFd fd, std::filesystem::path file) : fd_(std::move(fd)), file_(std::move(file)) {}
  void release() noexcept;

  UniqueFd fd_;
  std::filesystem::path file_;
};

}  // namespace vtap::host
