// SPDX-License-Identifier: Apache-2.0
// What a confined thread can still do. Each attempt runs in a child process, as nothing of it can
// be taken back. As root every refusal is also seen to be one: unconfined, the same attempt
// succeeds.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "confine/capabilities.hpp"
#include "confine/filter.hpp"
#include "confine/landlock.hpp"
#include "confine/process.hpp"
#include "confine/thread.hpp"
#include "vtap/fd.hpp"

namespace vtap::confine {
namespace {

using Attempt = std::function<int()>;  ///< 0, or the errno

constexpr int kCannotConfine = 200;
constexpr int kThrew = 201;
constexpr int kKilled = 1000;  ///< and the signal

bool is_root() { return ::geteuid() == 0; }

/// Runs it in a child process; what it returned, or kKilled + signal.
int in_child(const Attempt& attempt) {
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

int in_confined_child(Role role, const Attempt& attempt) {
  return in_child([&] {
    if (const auto done = confine_this_thread(role); !done) return kCannotConfine;
    return attempt();
  });
}

/// What a call returned, as an Attempt does.
int outcome(long result) { return result < 0 ? errno : 0; }

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

// ---- what is refused

int create_map() {
  bpf_attr request{};
  request.map_type = BPF_MAP_TYPE_ARRAY;
  request.key_size = request.value_size = 4;
  request.max_entries = 1;
  return outcome(::syscall(SYS_bpf, BPF_MAP_CREATE, &request, sizeof(request)));
}

int execute() {
  std::array<char*, 1> nothing{};
  ::execve("/bin/true", nothing.data(), nothing.data());
  return errno;
}

int read_memory_of_parent() {
  std::array<char, 8> here{};
  static char there = 'x';  // as fork made us, it is at the same place in the parent
  iovec local{here.data(), 1};
  iovec remote{&there, 1};
  return outcome(::process_vm_readv(::getppid(), &local, 1, &remote, 1, 0));
}

int write_memory_of_parent() {
  static char there = 'x';
  char value = 'x';
  iovec local{&value, 1};
  iovec remote{&there, 1};
  return outcome(::process_vm_writev(::getppid(), &local, 1, &remote, 1, 0));
}

int raise_capability() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> sets{};
  sets[0].effective = sets[0].permitted = 1U << CAP_NET_RAW;
  return outcome(::syscall(SYS_capset, &header, sets.data()));
}

int mount_something() {
  if (::unshare(CLONE_NEWNS) != 0) return errno;
  return outcome(::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
}

int map_code() {
  return ::mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
                 MAP_FAILED
             ? errno
             : 0;
}

int make_code_of_data() {
  void* const data =
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return outcome(::mprotect(data, 4096, PROT_READ | PROT_EXEC));
}

/// Raw: that of the C library would wait for a signal that the child may not handle.
int become_root() { return outcome(::syscall(SYS_setuid, 0)); }

struct Forbidden {
  const char* name;
  Attempt attempt;
  int unconfined = 0;  ///< what root gets
};

void PrintTo(const Forbidden& forbidden, std::ostream* out) { *out << forbidden.name; }

std::vector<Forbidden> forbidden_to_both() {
  return {
      {"OpenForWriting", [] { return outcome(::open("/dev/null", O_WRONLY)); }},
      {"CreateAFile",
       [path = (std::filesystem::temp_directory_path() / "vtap-confine-created").string()] {
         const int error = outcome(::open(path.c_str(), O_WRONLY | O_CREAT, 0600));
         if (error == 0) ::unlink(path.c_str());
         return error;
       }},
      {"WriteProcSys", [] { return outcome(::open("/proc/sys/net/ipv4/ip_forward", O_WRONLY)); }},
      {"WriteItsOwnMemoryFile", [] { return outcome(::open("/proc/self/mem", O_RDWR)); }},
      {"InternetSocket", [] { return outcome(::socket(AF_INET, SOCK_STREAM, 0)); }},
      {"UnixSocket", [] { return outcome(::socket(AF_UNIX, SOCK_STREAM, 0)); }},
      {"PacketSocket", [] { return outcome(::socket(AF_PACKET, SOCK_RAW, 0)); }},
      {"XdpSocket", [] { return outcome(::socket(AF_XDP, SOCK_RAW, 0)); }},
      {"FirewallSocket", [] { return outcome(::socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER)); }},
      {"CreateMap", create_map},
      {"Execute", execute},
      {"TraceParent",
       [] {
         const int error = outcome(::ptrace(PTRACE_SEIZE, ::getppid(), nullptr, nullptr));
         if (error == 0) ::ptrace(PTRACE_DETACH, ::getppid(), nullptr, nullptr);
         return error;
       }},
      {"ReadMemoryOfParent", read_memory_of_parent},
      {"WriteMemoryOfParent", write_memory_of_parent},
      {"SetUid", become_root},
      {"SignalParent", [] { return outcome(::kill(::getppid(), 0)); }},
      {"Mount", mount_something},
      {"NewUserNamespace", [] { return outcome(::unshare(CLONE_NEWNS)); }},
      {"RaiseCapability", raise_capability},
      {"Fork",
       [] {
         const long child = ::syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr);
         if (child == 0) ::_exit(0);
         return outcome(child);
       }},
      {"MapCode", map_code},
      {"MakeCodeOfData", make_code_of_data},
      {"ChangeMode", [] { return outcome(::chmod("/dev/null", 0666)); }},
      {"Unlink", [] { return outcome(::unlink("/no/such/file")); }, ENOENT},
  };
}

class Refused : public testing::TestWithParam<Forbidden> {};

TEST_P(Refused, ToAWorker) {
  EXPECT_EQ(in_confined_child(Role::worker, GetParam().attempt), EPERM);
}

TEST_P(Refused, ToAServer) {
  EXPECT_EQ(in_confined_child(Role::server, GetParam().attempt), EPERM);
}

/// Else the two above would say nothing.
TEST_P(Refused, ToNobodyElse) {
  if (!is_root()) GTEST_SKIP() << "only root can do all of this unconfined";
  EXPECT_EQ(in_child(GetParam().attempt), GetParam().unconfined);
}

INSTANTIATE_TEST_SUITE_P(Confine, Refused, testing::ValuesIn(forbidden_to_both()),
                         [](const auto& each) { return std::string(each.param.name); });

TEST(Confine, AWorkerReadsNoFile) {
  // With a sanitizer a worker may: it looks itself up for a report.
#ifndef VTAP_SANITIZED
  EXPECT_EQ(
      in_confined_child(Role::worker, [] { return outcome(::open("/etc/passwd", O_RDONLY)); }),
      EPERM);
  EXPECT_EQ(
      in_confined_child(Role::server, [] { return outcome(::open("/etc/passwd", O_RDONLY)); }),
      EPERM);
#endif
}

TEST(Confine, AWorkerHasNoNetlinkAServerOnlyThatOfRoutes) {
  const auto route = [] { return outcome(::socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)); };
  EXPECT_EQ(in_confined_child(Role::worker, route), EPERM);
  EXPECT_EQ(in_confined_child(Role::server, route), 0);
}

/// As for a server without capabilities: it may ask, but not change anything.
TEST(Confine, AServerChangesNoPort) {
  if (!is_root()) GTEST_SKIP() << "needs root to be refused anything new";
  const auto set_up = [] {
    const UniqueFd socket(::socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    struct {
      nlmsghdr header;
      ifinfomsg body;
    } request{};
    request.header = {.nlmsg_len = sizeof(request),
                      .nlmsg_type = RTM_SETLINK,
                      .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK,
                      .nlmsg_seq = 1,
                      .nlmsg_pid = 0};
    request.body.ifi_index = 1;  // lo, and nothing to change
    if (::send(socket.get(), &request, sizeof(request), 0) < 0) return errno;
    struct {
      nlmsghdr header;
      nlmsgerr error;
      std::array<char, 256> rest;
    } reply{};
    if (::recv(socket.get(), &reply, sizeof(reply), 0) < 0) return errno;
    return -reply.error.error;
  };
  EXPECT_EQ(in_child(set_up), 0);
  EXPECT_EQ(in_confined_child(Role::server, set_up), EPERM);
}

/// The fields of /proc/PID/status.
std::map<std::string, std::string> status_of(pid_t process) {
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

TEST(Confine, HoldsNoCapability) {
  for (const Role role : {Role::worker, Role::server}) {
    std::array<int, 2> ready{};
    std::array<int, 2> go_on{};
    ASSERT_EQ(::pipe(ready.data()), 0);
    ASSERT_EQ(::pipe(go_on.data()), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      const char done = confine_this_thread(role).ok() ? 'y' : 'n';
      char byte = 0;
      if (::write(ready[1], &done, 1) != 1 || ::read(go_on[0], &byte, 1) != 1) ::_exit(1);
      ::_exit(0);
    }
    char done = 0;
    ASSERT_EQ(::read(ready[0], &done, 1), 1);
    EXPECT_EQ(done, 'y');
    auto status = status_of(child);
    for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapAmb"}) {
      EXPECT_EQ(status[set], "0000000000000000") << set;
    }
    EXPECT_EQ(status["NoNewPrivs"], "1");
    EXPECT_EQ(status["Seccomp"], "2");
    ASSERT_EQ(::write(go_on[1], &done, 1), 1);
    int ended = 0;
    EXPECT_EQ(::waitpid(child, &ended, 0), child);
    for (const int fd : {ready[0], ready[1], go_on[0], go_on[1]}) ::close(fd);
  }
}

TEST(Confine, CallsOfAnotherArchitectureEndTheProcess) {
#if defined(__x86_64__) && !defined(VTAP_SANITIZED)
  // int 0x80 is the way to the 32-bit calls, whose number 11 is execve.
  const int ended = in_confined_child(Role::worker, [] {
    long result = 11;
    asm volatile("int $0x80" : "+a"(result) : "b"(0), "c"(0), "d"(0) : "memory");
    return 0;
  });
  // A kernel without 32-bit calls ends it on its own (SIGSEGV).
  EXPECT_TRUE(ended == kKilled + SIGSYS || ended == kKilled + SIGSEGV) << ended;
#else
  GTEST_SKIP() << "x86-64, without sanitizers";
#endif
}

// ---- what must go on

/// What a worker does all day, and what the C++ library does behind its back.
/// `sockets`: a connected pair; `event`, `epoll`: of which the second watches the first.
int work_with(const std::array<int, 2>& sockets, int event, int epoll) {
  const std::uint64_t one = 1;
  if (::write(event, &one, sizeof(one)) != sizeof(one)) return errno;
  epoll_event seen{};
  const timespec wait{0, 1000000};
  if (::epoll_pwait2(epoll, &seen, 1, &wait, nullptr) != 1) return 1;
  if (::epoll_wait(epoll, &seen, 1, 1) != 1) return 2;
  std::uint64_t count = 0;
  if (::read(event, &count, sizeof(count)) != sizeof(count)) return errno;
  if (::sendto(sockets[0], "x", 1, MSG_DONTWAIT, nullptr, 0) != 1) return errno;
  char byte = 0;
  if (::recvfrom(sockets[1], &byte, 1, MSG_DONTWAIT, nullptr, nullptr) != 1) return errno;
  for (std::size_t size = 64; size <= 64U << 20; size *= 4) {
    std::vector<char> memory(size, 'm');
    memory.resize(size * 2);
    if (memory[size - 1] != 'm') return 3;
  }
  std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::microseconds(50));
  if (std::chrono::steady_clock::now().time_since_epoch().count() == 0) return 4;
  if (std::chrono::system_clock::now().time_since_epoch().count() == 0) return 5;
  try {
    throw std::runtime_error("caught");
  } catch (const std::exception&) {
    return 0;
  }
}

/// On a thread of its own, as the broker's are, so that the thread's end is tried, too.
int work_on_a_thread(Role role) {
  std::array<int, 2> sockets{};
  if (::socketpair(AF_UNIX, SOCK_DGRAM, 0, sockets.data()) != 0) return errno;
  const int event = ::eventfd(0, EFD_NONBLOCK);
  const int epoll = ::epoll_create1(0);
  epoll_event watched{};
  watched.events = EPOLLIN;
  if (::epoll_ctl(epoll, EPOLL_CTL_ADD, event, &watched) != 0) return errno;
  int result = -1;
  std::thread([&] {
    result = confine_this_thread(role).ok() ? work_with(sockets, event, epoll) : kCannotConfine;
  }).join();
  // The caller itself is as free as before.
  if (UniqueFd(::socket(AF_INET, SOCK_DGRAM, 0)).get() < 0) return 6;
  return result;
}

TEST(Confine, AWorkerWorks) {
  EXPECT_EQ(in_child([] { return work_on_a_thread(Role::worker); }), 0);
}
TEST(Confine, AServerDoesTheSame) {
  EXPECT_EQ(in_child([] { return work_on_a_thread(Role::server); }), 0);
}

TEST(Confine, AServerServes) {
  const auto serve = [] {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const UniqueFd listener(::socket(AF_INET, SOCK_STREAM, 0));
    const UniqueFd client(::socket(AF_INET, SOCK_STREAM, 0));
    socklen_t size = sizeof(address);
    auto* const generic = reinterpret_cast<sockaddr*>(&address);
    if (::bind(listener.get(), generic, size) != 0 || ::listen(listener.get(), 1) != 0 ||
        ::getsockname(listener.get(), generic, &size) != 0 ||
        ::connect(client.get(), generic, size) != 0 || ::send(client.get(), "?", 1, 0) != 1) {
      return errno;
    }
    int result = -1;
    std::thread([&] {
      if (!confine_this_thread(Role::server)) return;
      const UniqueFd accepted(
          ::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      char byte = 0;
      const int one = 1;
      if (!accepted || ::recv(accepted.get(), &byte, 1, 0) != 1 ||
          ::setsockopt(accepted.get(), SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one)) != 0 ||
          ::send(accepted.get(), "!", 1, MSG_NOSIGNAL) != 1 ||
          ::shutdown(accepted.get(), SHUT_WR) != 0) {
        result = errno;
        return;
      }
      result = 0;
    }).join();
    char answer = 0;
    if (::recv(client.get(), &answer, 1, 0) != 1) return errno;
    return result != 0 ? result : answer == '!' ? 0 : 1;
  };
  EXPECT_EQ(in_child(serve), 0);
}

TEST(Confine, AnAbortEndsTheProcess) {
  const int ended = in_confined_child(Role::worker, [] {
    std::abort();
    return 0;
  });
  EXPECT_EQ(ended, kKilled + SIGABRT);
}

// ---- the layers on their own, as one hides behind the other

/// Of restrict_files() alone.
int with_files(const FileRules& rules, const Attempt& attempt) {
  return in_child([&] {
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return kCannotConfine;
    if (!restrict_files(rules)) return kCannotConfine;
    return attempt();
  });
}

class Landlock : public testing::Test {
 protected:
  void SetUp() override {
    if (landlock_version() == 0) GTEST_SKIP() << "this kernel has no Landlock";
  }

  [[nodiscard]] int create_in(const std::string& directory, const FileRules& rules) const {
    return with_files(rules, [&] {
      const UniqueFd fd(::open((directory + "/file").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600));
      return fd ? 0 : errno;
    });
  }

  ScratchDirectory run_, other_;
};

TEST_F(Landlock, WritesWhereItMayAndNowhereElse) {
  const FileRules rules{.read = true, .writable = {run_.path()}, .network = true};
  EXPECT_EQ(create_in(run_.path(), rules), 0);
  EXPECT_EQ(create_in(other_.path(), rules), EACCES);
  std::ofstream(other_.path() + "/there") << "kept";
  const std::string there = other_.path() + "/there";
  EXPECT_EQ(with_files(rules, [&] { return outcome(::open(there.c_str(), O_RDONLY)); }), 0);
  EXPECT_EQ(with_files(rules, [&] { return outcome(::open(there.c_str(), O_RDWR)); }), EACCES);
  EXPECT_EQ(with_files(rules, [&] { return outcome(::unlink(there.c_str())); }), EACCES);
  EXPECT_EQ(with_files(rules, [&] { return outcome(::mkdir((there + "2").c_str(), 0700)); }),
            EACCES);
  EXPECT_EQ(with_files(rules, execute), EACCES);
}

TEST_F(Landlock, ReplacesAFileWhereItMayWrite) {
  const FileRules rules{.read = true, .writable = {run_.path()}, .network = true};
  const std::string file = run_.path() + "/tap.toml";
  std::ofstream(file) << "old";
  EXPECT_EQ(with_files(rules,
                       [&] {
                         std::ofstream(file + ".tmp") << "new";
                         return outcome(::rename((file + ".tmp").c_str(), file.c_str()));
                       }),
            0);
  std::ifstream changed(file);
  std::string text;
  changed >> text;
  EXPECT_EQ(text, "new");
}

TEST_F(Landlock, ReadsNothingIfItMayNot) {
  const FileRules rules{.read = false, .writable = {}, .network = true};
  EXPECT_EQ(with_files(rules, [] { return outcome(::open("/etc/passwd", O_RDONLY)); }), EACCES);
  EXPECT_EQ(with_files(rules, [] { return outcome(::open("/", O_RDONLY | O_DIRECTORY)); }), EACCES);
}

TEST_F(Landlock, TakesTheNetworkAway) {
  if (landlock_version() < 4) GTEST_SKIP() << "Landlock of this kernel knows no network";
  const auto bind = [] {
    const UniqueFd fd(::socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return outcome(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)));
  };
  EXPECT_EQ(with_files({.read = true, .writable = {}, .network = true}, bind), 0);
  EXPECT_EQ(with_files({.read = true, .writable = {}, .network = false}, bind), EACCES);
}

TEST(Capabilities, WhatIsGivenUpStaysAway) {
  if (!is_root()) GTEST_SKIP() << "needs root to have any";
  const auto raw_socket = [] { return outcome(::socket(AF_PACKET, SOCK_RAW, 0)); };
  EXPECT_EQ(in_child([&] {
              if (!keep_capabilities(capability(CAP_NET_RAW))) return kCannotConfine;
              return raw_socket();
            }),
            0);
  EXPECT_EQ(in_child([&] {
              if (!keep_capabilities(capability(CAP_NET_ADMIN))) return kCannotConfine;
              if (raise_capability() != EPERM) return kCannotConfine;
              return raw_socket();
            }),
            EPERM);
}

TEST(ControlFilter, RefusesWhatNobodyNeedsAndNothingElse) {
  const auto filtered = [](const Attempt& attempt) {
    return in_child([&] {
      if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return kCannotConfine;
      if (!allow_only(Calls::control)) return kCannotConfine;
      return attempt();
    });
  };
  EXPECT_EQ(filtered(execute), EPERM);
  EXPECT_EQ(filtered(mount_something), EPERM);
  EXPECT_EQ(filtered(read_memory_of_parent), EPERM);
  EXPECT_EQ(filtered(become_root), EPERM);
  EXPECT_EQ(filtered([] { return outcome(::open("/dev/null", O_WRONLY)); }), 0);
  EXPECT_EQ(filtered([] { return outcome(::socket(AF_INET, SOCK_DGRAM, 0)); }), 0);
  EXPECT_EQ(filtered(create_map), in_child(create_map));
}

// ---- the process

/// The id of a small program, whose descriptor stays open.
std::optional<std::uint32_t> load_program() {
  std::array<bpf_insn, 2> code{};
  code[0].code = BPF_ALU64 | BPF_MOV | BPF_K;  // r0 = 0
  code[1].code = BPF_JMP | BPF_EXIT;
  bpf_attr request{};
  request.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
  request.insns = reinterpret_cast<std::uint64_t>(code.data());
  request.insn_cnt = code.size();
  request.license = reinterpret_cast<std::uint64_t>("GPL");
  const long fd = ::syscall(SYS_bpf, BPF_PROG_LOAD, &request, sizeof(request));
  if (fd < 0) return std::nullopt;
  bpf_prog_info info{};
  bpf_attr question{};
  question.info.bpf_fd = static_cast<std::uint32_t>(fd);
  question.info.info_len = sizeof(info);
  question.info.info = reinterpret_cast<std::uint64_t>(&info);
  if (::syscall(SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &question, sizeof(question)) != 0) return {};
  return info.id;
}

class ConfinedProcess : public testing::Test {
 protected:
  void SetUp() override {
    if (!is_root()) GTEST_SKIP() << "needs root, to give it up";
    ASSERT_EQ(::chmod(base_.path().c_str(), 0755), 0);
  }

  /// In a child that was confined as `user`.
  [[nodiscard]] int confined_as(const std::string& user,
                                const std::function<int(Process&)>& attempt) const {
    return in_child([&] {
      auto who = choose_user(user);
      if (!who) return kCannotConfine;
      auto process = Process::confine(
          {.user = *who, .own_directory = run_, .run_directories = {run_}, .writable = {run_}});
      if (!process) return kCannotConfine;
      return attempt(*process);
    });
  }

  ScratchDirectory base_;
  std::string run_ = base_.path() + "/run";
};

TEST_F(ConfinedProcess, IsAnotherUserWithFiveCapabilities) {
  EXPECT_EQ(confined_as("nobody",
                        [](Process&) {
                          auto status = status_of(::getpid());
                          if (status["Uid"].substr(0, 2) == "0\t") return 1;
                          if (status["CapEff"] != "000000c000007000") return 2;
                          if (status["CapPrm"] != status["CapEff"]) return 3;
                          if (status["CapBnd"] != "0000000000000000") return 4;
                          if (status["CapAmb"] != "0000000000000000") return 5;
                          if (status["CapInh"] != "0000000000000000") return 6;
                          if (status["NoNewPrivs"] != "1" || status["Seccomp"] != "2") return 7;
                          return 0;
                        }),
            0);
}

TEST_F(ConfinedProcess, WritesItsRunDirectoryOnly) {
  for (const char* user : {"nobody", "root"}) {
    EXPECT_EQ(confined_as(user,
                          [&](Process&) {
                            std::ofstream inside(run_ + "/file");
                            if (!(inside << "x").flush()) return 1;
                            std::ofstream outside(base_.path() + "/file");
                            return outside.is_open() ? 2 : 0;
                          }),
              0)
        << user;
    std::filesystem::remove_all(run_);
  }
}

TEST_F(ConfinedProcess, OpensProgramsThroughOneThreadOnly) {
  const auto id = load_program();
  ASSERT_TRUE(id);
  EXPECT_EQ(confined_as("nobody",
                        [&](Process& process) {
                          bpf_attr request{};
                          request.prog_id = *id;
                          if (outcome(::syscall(SYS_bpf, BPF_PROG_GET_FD_BY_ID, &request,
                                                sizeof(request))) != EPERM) {
                            return 1;
                          }
                          const UniqueFd fd(process.programs().open(*id));
                          if (!fd) return errno;
                          const UniqueFd none(process.programs().open(0x7ffffff0));
                          return none.get() >= 0 || errno != ENOENT ? 2 : 0;
                        }),
            0);
}

TEST_F(ConfinedProcess, ThreadsGiveUpTheRest) {
  EXPECT_EQ(confined_as("nobody",
                        [](Process& process) {
                          int raw = 0;
                          std::thread([&] {
                            process.starts(Role::worker)();
                            raw = outcome(::socket(AF_PACKET, SOCK_RAW, 0));
                          }).join();
                          if (raw != EPERM) return 1;
                          return outcome(::socket(AF_PACKET, SOCK_RAW, 0));  // control: may
                        }),
            0);
}

TEST_F(ConfinedProcess, FindsTheStateOfAnotherUser) {
  std::filesystem::create_directories(run_ + "/state/deep");
  std::ofstream(run_ + "/state/deep/port.json") << "{}";
  ASSERT_EQ(::chmod((run_ + "/state/deep/port.json").c_str(), 0600), 0);
  std::ofstream(base_.path() + "/secret") << "not ours";
  ASSERT_EQ(::link((base_.path() + "/secret").c_str(), (run_ + "/state/linked").c_str()), 0);
  std::filesystem::create_symlink(base_.path() + "/secret", run_ + "/state/symbolic");
  EXPECT_EQ(confined_as("nobody",
                        [&](Process&) {
                          std::ofstream file(run_ + "/state/deep/port.json");
                          return file.is_open() ? 0 : 1;
                        }),
            0);
  struct stat status {};
  ASSERT_EQ(::stat((base_.path() + "/secret").c_str(), &status), 0);
  EXPECT_EQ(status.st_uid, 0U) << "a second name gave a file away";
}

TEST(User, IsNamedOrRefused) {
  EXPECT_EQ(choose_user("no-such-user-here").error().kind, ErrorKind::usage);
  const auto now = choose_user("");
  ASSERT_TRUE(now);
  if (is_root()) {
    EXPECT_EQ(choose_user("root").value().uid, 0U);
  } else {
    EXPECT_EQ(now.value().uid, ::geteuid());
    EXPECT_EQ(choose_user("root").error().kind, ErrorKind::usage);
  }
}

}  // namespace
}  // namespace vtap::confine
