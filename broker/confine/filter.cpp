// SPDX-License-Identifier: Apache-2.0
#include "confine/filter.hpp"

#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/netlink.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <initializer_list>
#include <memory>

#include "confine/errors.hpp"

namespace vtap::confine {
namespace {

/// A filter in the making. The first error is kept, and everything after it does nothing.
class Filter {
 public:
  explicit Filter(std::uint32_t otherwise)
      : filter_(::seccomp_init(otherwise), &::seccomp_release) {
    if (!filter_) keep(-ENOMEM);
    if (!filter_) return;
    keep(::seccomp_attr_set(filter_.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS));
    keep(::seccomp_attr_set(filter_.get(), SCMP_FLTATR_CTL_LOG, 1));
    keep(::seccomp_attr_set(filter_.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2));  // a tree, not a chain
  }

  /// Calls that this architecture does not have are left out.
  void add(std::uint32_t action, std::initializer_list<const char*> names) {
    for (const char* name : names) add_if(action, name, {});
  }

  /// Where all of `conditions` on its arguments hold.
  void add_if(std::uint32_t action, const char* name,
              std::initializer_list<scmp_arg_cmp> conditions) {
    if (error_ != 0) return;
    const int number = ::seccomp_syscall_resolve_name(name);
    if (number == __NR_SCMP_ERROR) return;  // newer than this libseccomp
    const int done =
        ::seccomp_rule_add_array(filter_.get(), action, number,
                                 static_cast<unsigned>(conditions.size()), conditions.begin());
    // EDOM: this architecture has no such call.
    if (done != -EDOM) keep(done);
  }

  Result<void> load() {
    if (error_ == 0) keep(::seccomp_load(filter_.get()));
    if (error_ == 0) return {};
    return failed("cannot put a system call filter in force (CONFIG_SECCOMP_FILTER)", -error_,
                  ErrorKind::unsupported);
  }

 private:
  void keep(int error) {
    if (error_ == 0) error_ = error;
  }

  std::unique_ptr<void, void (*)(scmp_filter_ctx)> filter_;
  int error_ = 0;
};

constexpr std::uint32_t kAllow = SCMP_ACT_ALLOW;
constexpr std::uint32_t kRefuse = SCMP_ACT_ERRNO(EPERM);

/// An argument (counted from 0) has this value.
constexpr scmp_arg_cmp is(unsigned argument, scmp_datum_t value) {
  return {.arg = argument, .op = SCMP_CMP_EQ, .datum_a = value, .datum_b = 0};
}
/// None of these bits is set in an argument.
constexpr scmp_arg_cmp without(unsigned argument, scmp_datum_t bits) {
  return {.arg = argument, .op = SCMP_CMP_MASKED_EQ, .datum_a = bits, .datum_b = 0};
}

/// What no part of the broker does, on any thread, and what an intruder would like to.
void refuse_what_nobody_needs(Filter& filter) {
  filter.add(kRefuse, {"execve", "execveat", "ptrace", "process_vm_readv", "process_vm_writev",
                       "process_madvise", "kcmp", "pidfd_getfd", "pidfd_send_signal"});
  filter.add(kRefuse, {"mount", "umount2", "umount", "fsopen", "fsconfig", "fsmount", "fspick",
                       "move_mount", "open_tree", "mount_setattr", "pivot_root", "chroot", "setns",
                       "unshare", "open_by_handle_at", "name_to_handle_at", "mknod", "mknodat"});
  filter.add(
      kRefuse,
      {"init_module",  "finit_module",  "delete_module",   "kexec_load",    "kexec_file_load",
       "reboot",       "swapon",        "swapoff",         "acct",          "syslog",
       "settimeofday", "clock_settime", "clock_settime64", "clock_adjtime", "clock_adjtime64",
       "adjtimex",     "stime",         "sethostname",     "setdomainname", "iopl",
       "ioperm",       "modify_ldt",    "vhangup",         "quotactl",      "quotactl_fd"});
  filter.add(kRefuse, {"add_key", "request_key", "keyctl", "userfaultfd", "perf_event_open",
                       "io_uring_setup", "io_uring_enter", "io_uring_register", "personality",
                       "lookup_dcookie", "fanotify_init", "migrate_pages", "move_pages"});
  filter.add(kRefuse,
             {"setuid", "setuid32", "setgid", "setgid32", "setreuid", "setreuid32", "setregid",
              "setregid32", "setresuid", "setresuid32", "setresgid", "setresgid32", "setfsuid",
              "setfsuid32", "setfsgid", "setfsgid32", "setgroups", "setgroups32"});
}

/// Memory, locks, clocks, ending: what any thread of C++ code does. No memory becomes executable.
void allow_running(Filter& filter) {
  filter.add(kAllow, {"futex", "futex_time64", "sched_yield", "getcpu", "membarrier", "rseq",
                      "set_robust_list", "restart_syscall", "rt_sigreturn", "sigreturn",
                      "rt_sigprocmask", "exit", "exit_group", "getpid", "gettid", "getrandom"});
  filter.add(kAllow, {"clock_gettime", "clock_gettime64", "gettimeofday", "time", "clock_nanosleep",
                      "clock_nanosleep_time64", "nanosleep"});
  filter.add(kAllow, {"brk", "munmap", "mremap", "madvise"});
  for (const char* call : {"mmap", "mmap2", "mprotect"}) {
    filter.add_if(kAllow, call, {without(2, PROT_EXEC)});
  }
  // abort() signals itself.
  filter.add_if(kAllow, "tgkill", {is(0, static_cast<scmp_datum_t>(::getpid()))});
}

void allow_waiting(Filter& filter) {
  filter.add(kAllow, {"poll", "ppoll", "ppoll_time64", "epoll_wait", "epoll_pwait", "epoll_pwait2",
                      "read"});
}

/// AF_XDP: sendto and recvfrom wake the kernel up, without data and without an address; eventfds
/// are written eight bytes at a time. Else the thread has nothing to say to any descriptor, which
/// it shares with all others.
void allow_packets(Filter& filter) {
  allow_waiting(filter);
  for (const char* call : {"sendto", "recvfrom"}) {
    filter.add_if(kAllow, call, {is(1, 0), is(2, 0), is(4, 0)});
  }
  filter.add_if(kAllow, "write", {is(2, sizeof(std::uint64_t))});
  filter.add_if(kAllow, "write", {is(0, STDERR_FILENO)});
}

/// Clients' connections; and the kernel's counters of ports and policies, which are read without
/// any capability: route netlink, and maps that the broker has open. No sendmsg: it passes
/// descriptors on.
void allow_requests(Filter& filter) {
  allow_waiting(filter);
  filter.add(kAllow, {"accept4", "accept", "recvfrom", "recv", "sendto", "send", "readv", "writev",
                      "write", "shutdown", "close", "getsockopt", "setsockopt", "getsockname",
                      "getpeername", "eventfd2", "epoll_ctl"});
  for (const scmp_datum_t command : {F_GETFD, F_SETFD, F_GETFL, F_SETFL}) {
    filter.add_if(kAllow, "fcntl", {is(1, command)});
    filter.add_if(kAllow, "fcntl64", {is(1, command)});
  }
  filter.add_if(kAllow, "socket", {is(0, AF_NETLINK), is(2, NETLINK_ROUTE)});
  filter.add(kAllow, {"bind"});  // of such a socket
  filter.add_if(kAllow, "bpf", {is(0, BPF_MAP_LOOKUP_ELEM)});
}

#ifdef VTAP_SANITIZED
void allow_sanitizers(Filter& filter) {
  filter.add(kAllow, {"sigaltstack", "prctl", "readlink", "readlinkat", "rt_sigaction", "close",
                      "fstat", "newfstatat", "stat", "lseek", "sched_getaffinity", "getrlimit",
                      "prlimit64", "getppid", "uname"});
  filter.add(kAllow, {"write"});
  constexpr scmp_datum_t kWriting = O_ACCMODE | O_CREAT | O_TRUNC;
  filter.add_if(kAllow, "openat", {without(2, kWriting)});
  filter.add_if(kAllow, "open", {without(1, kWriting)});
}
#endif

}  // namespace

Result<void> allow_only(Calls calls) {
  Filter filter(calls == Calls::control ? kAllow : kRefuse);
  if (calls == Calls::control) {
    refuse_what_nobody_needs(filter);
    // Where the kernel lacks a function that a program would use, libbpf looks for it in modules,
    // for which CAP_SYS_ADMIN is needed, and takes EPERM for a reason to load nothing (libbpf 1.1
    // on Linux 6.1). None of them is in a module: there are no more.
    filter.add_if(SCMP_ACT_ERRNO(ENOENT), "bpf", {is(0, BPF_BTF_GET_NEXT_ID)});
    return filter.load();
  }
  allow_running(filter);
  if (calls == Calls::worker) allow_packets(filter);
  if (calls == Calls::server) allow_requests(filter);
  if (calls == Calls::opener) {
    filter.add_if(kAllow, "bpf", {is(0, BPF_PROG_GET_FD_BY_ID)});
  }
#ifdef VTAP_SANITIZED
  allow_sanitizers(filter);
#endif
  return filter.load();
}

}  // namespace vtap::confine
