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
#include <cstdint>
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

#include "confine/thread.hpp"
#include "support/attempts.hpp"
#include "vtap/fd.hpp"

namespace vtap::confine {
namespace {

int in_confined_child(Role role, const Attempt& attempt) {
  return in_child([&] {
    if (const auto done = confine_this_thread(role); !done) return kCannotConfine;
    return attempt();
  });
}

// ---- what is refused

int write_memory_of_parent() {
  static char there = 'x';
  char value = 'x';
  iovec local{&value, 1};
  iovec remote{&there, 1};
  return outcome(::process_vm_writev(::getppid(), &local, 1, &remote, 1, 0));
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

TEST(Confine, HoldsNoCapability) {
  for (const Role role : {Role::worker, Role::server}) {
    std::array<int, 2> ready{};
    std::array<int, 2> go_on{};
    ASSERT_EQ(::pipe(ready.data()), 0);
    ASSERT_EQ(::pipe(go_on.data()), 0);
    const pid_t child = ::fork();
    std::uint64_t done = 0;  // eight bytes, which a worker may write
    if (child == 0) {
      done = confine_this_thread(role).ok() ? 1 : 2;
      if (::write(ready[1], &done, sizeof(done)) != sizeof(done)) ::_exit(1);
      ::_exit(::read(go_on[0], &done, sizeof(done)) == sizeof(done) ? 0 : 1);
    }
    ::close(ready[1]);  // so that a child that dies is not waited for
    ASSERT_EQ(::read(ready[0], &done, sizeof(done)), static_cast<ssize_t>(sizeof(done)));
    EXPECT_EQ(done, 1U);
    auto status = status_of(child);
    for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapAmb"}) {
      EXPECT_EQ(status[set], "0000000000000000") << set;
    }
    EXPECT_EQ(status["NoNewPrivs"], "1");
    EXPECT_EQ(status["Seccomp"], "2");
    ASSERT_EQ(::write(go_on[1], &done, sizeof(done)), static_cast<ssize_t>(sizeof(done)));
    int ended = 0;
    EXPECT_EQ(::waitpid(child, &ended, 0), child);
    for (const int fd : {ready[0], go_on[0], go_on[1]}) ::close(fd);
  }
}

#if defined(__x86_64__) && !defined(VTAP_SANITIZED)
TEST(Confine, CallsOfAnotherArchitectureEndTheProcess) {
  // int 0x80 is the way to the 32-bit calls, whose number 11 is execve.
  const int ended = in_confined_child(Role::worker, [] {
    long result = 11;
    asm volatile("int $0x80" : "+a"(result) : "b"(0), "c"(0), "d"(0) : "memory");
    return 0;
  });
  // A kernel without 32-bit calls ends it on its own (SIGSEGV).
  EXPECT_TRUE(ended == kKilled + SIGSYS || ended == kKilled + SIGSEGV) << ended;
}
#endif

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
  if (::sendto(sockets[0], nullptr, 0, MSG_DONTWAIT, nullptr, 0) != 0) return errno;
  if (::recvfrom(sockets[1], nullptr, 0, MSG_DONTWAIT, nullptr, nullptr) != 0) return errno;
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

/// Descriptors are shared: those of clients must not be a way out for a worker.
TEST(Confine, AWorkerSendsNoData) {
#ifndef VTAP_SANITIZED  // a report is written like this
  std::array<int, 2> sockets{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, sockets.data()), 0);
  const int fd = sockets[0];
  const auto write_to = [fd] { return outcome(::write(fd, "data", 4)); };
  const auto send_to = [fd] { return outcome(::send(fd, "data", 4, 0)); };
  const auto pass_on = [fd] {
    const msghdr nothing{};
    return outcome(::sendmsg(fd, &nothing, MSG_NOSIGNAL));
  };
  for (const Attempt& attempt : {Attempt(write_to), Attempt(send_to), Attempt(pass_on)}) {
    EXPECT_EQ(in_child(attempt), 0);
    EXPECT_EQ(in_confined_child(Role::worker, attempt), EPERM);
  }
  EXPECT_EQ(in_confined_child(Role::server, send_to), 0);
  EXPECT_EQ(in_confined_child(Role::server, pass_on), EPERM);
  for (const int each : sockets) ::close(each);
#endif
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

}  // namespace
}  // namespace vtap::confine
