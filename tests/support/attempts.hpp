// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <string>

/// What tests of confinement try, in child processes, as nothing of it can be taken back.
namespace vtap::confine {

using Attempt = std::function<int()>;  ///< 0, or the errno

inline constexpr int kCannotConfine = 200;
inline constexpr int kThrew = 201;
inline constexpr int kKilled = 1000;  ///< and the signal

inline bool is_root() { return ::geteuid() == 0; }

/// Runs it in a child process; what it returned, or kKilled + signal.
inline int in_child(const Attempt& attempt) {
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      ::_exit(attempt());
    } catch (...) {  // else the tests would go on in the child
      ::_exit(kThrew);
    }
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : kKilled + WTERMSIG(status);
}

/// What a call returned, as an Attempt does.
inline int outcome(long result) { return result < 0 ? errno : 0; }

class ScratchDirectory {
 public:
  ScratchDirectory() { EXPECT_NE(::mkdtemp(path_.data()), nullptr); }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  ~ScratchDirectory() { std::filesystem::remove_all(path_); }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_ = (std::filesystem::temp_directory_path() / "vtap-confine-XXXXXX").string();
};

inline int create_map() {
  bpf_attr request{};
  request.map_type = BPF_MAP_TYPE_ARRAY;
  request.key_size = request.value_size = 4;
  request.max_entries = 1;
  return outcome(::syscall(SYS_bpf, BPF_MAP_CREATE, &request, sizeof(request)));
}

inline int execute() {
  std::array<char*, 1> nothing{};
  ::execve("/bin/true", nothing.data(), nothing.data());
  return errno;
}

inline int read_memory_of_parent() {
  std::array<char, 8> here{};
  static char there = 'x';  // as fork made us, it is at the same place in the parent
  iovec local{here.data(), 1};
  iovec remote{&there, 1};
  return outcome(::process_vm_readv(::getppid(), &local, 1, &remote, 1, 0));
}

inline int raise_capability() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> sets{};
  sets[0].effective = sets[0].permitted = 1U << CAP_NET_RAW;
  return outcome(::syscall(SYS_capset, &header, sets.data()));
}

inline int mount_something() {
  if (::unshare(CLONE_NEWNS) != 0) return errno;
  return outcome(::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
}

/// Raw: that of the C library would wait for a signal that the child may not handle.
inline int become_root() { return outcome(::syscall(SYS_setuid, 0)); }

/// The fields of /proc/PID/status.
inline std::map<std::string, std::string> status_of(pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/status");
  std::map<std::string, std::string> fields;
  for (std::string line; std::getline(file, line);) {
    const auto colon = line.find(':');
    if (colon == std::string::npos) continue;
    const auto value = line.find_first_not_of(" \t", colon + 1);
    fields[line.substr(0, colon)] = value == std::string::npos ? "" : line.substr(value);
  }
  return fields;
}

}  // namespace vtap::confine
