// SPDX-License-Identifier: Apache-2.0
#include "io/bpf.hpp"

#include <bpf/libbpf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace vtap::io {
namespace {

// libbpf has one print function per process and no user pointer; programs are loaded by one thread.
thread_local std::string libbpf_log;
constexpr std::size_t kLogLimit = 2000;

/// Keeps the end of what is said: there the verifier says why.
int keep_message(libbpf_print_level level, const char* format, va_list arguments) {
  if (level != LIBBPF_WARN) return 0;
  va_list again;
  va_copy(again, arguments);
  const int length = std::vsnprintf(nullptr, 0, format, arguments);
  if (length > 0) {
    std::string message(static_cast<std::size_t>(length), '\0');
    std::vsnprintf(message.data(), message.size() + 1, format, again);
    libbpf_log += message;
    if (libbpf_log.size() > kLogLimit) {
      libbpf_log.replace(0, libbpf_log.size() - kLogLimit, "... ");
    }
  }
  va_end(again);
  return length;
}

}  // namespace

void capture_libbpf_log() { libbpf_set_print(keep_message); }

Error bpf_error(const std::string& what, int negative_errno) {
  const int error = -negative_errno;
  std::string message = what + ": " + std::strerror(error);
  auto kind = ErrorKind::runtime;
  if (error == EPERM || error == EACCES) {
    kind = ErrorKind::unsupported;
    message += "; needs root or CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON and CAP_IPC_LOCK";
  } else if (error == EOPNOTSUPP || error == ENOSYS || error == ENOPROTOOPT) {
    kind = ErrorKind::unsupported;
    message += "; this kernel lacks the feature (6.1 or later is needed)";
  }
  if (!libbpf_log.empty()) message += "; libbpf: " + std::exchange(libbpf_log, {});
  return {std::move(message), kind};
}

Result<Mapping> Mapping::map(const char* what, int fd, std::size_t bytes, int flags) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  bytes = (bytes + page - 1) / page * page;
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (base == MAP_FAILED) return bpf_error(std::string("mapping ") + what, -errno);
  return Mapping(static_cast<std::uint8_t*>(base), bytes);
}

Result<Mapping> Mapping::open(int map_fd, std::size_t bytes) {
  return map("a BPF array", map_fd, bytes, MAP_SHARED);
}

Result<Mapping> Mapping::anonymous(std::size_t bytes) {
  return map("memory for frames", -1, bytes, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE);
}

Mapping::~Mapping() {
  if (base_ != nullptr) munmap(base_, bytes_);
}

Result<std::uint32_t> possible_cpus() {
  const int cpus = libbpf_num_possible_cpus();
  if (cpus <= 0) return bpf_error("counting possible CPUs", cpus);
  return static_cast<std::uint32_t>(cpus);
}

}  // namespace vtap::io
