// SPDX-License-Identifier: Apache-2.0
#include "control/tcp.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace vtap::control {
namespace {

constexpr int kBacklog = 64;  // callers that wait while all threads are busy
constexpr std::uint8_t kLoopbackNet = 127;

/// Room for both families.
struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;
  bool loopback = false;

  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  [[nodiscard]] sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

/// Length 0 if `text` is no address.
Address address_of(const std::string& text, std::uint16_t port) {
  Address address;
  in_addr v4{};
  in6_addr v6{};
  if (::inet_pton(AF_INET, text.c_str(), &v4) == 1) {
    auto* out = reinterpret_cast<sockaddr_in*>(&address.storage);
    out->sin_family = AF_INET;
    out->sin_addr = v4;
    out->sin_port = htons(port);
    address.length = sizeof(*out);
    address.loopback = ntohl(v4.s_addr) >> 24U == kLoopbackNet;
  } else if (::inet_pton(AF_INET6, text.c_str(), &v6) == 1) {
    auto* out = reinterpret_cast<sockaddr_in6*>(&address.storage);
    out->sin6_family = AF_INET6;
    out->sin6_addr = v6;
    out->sin6_port = htons(port);
    address.length = sizeof(*out);
    address.loopback = IN6_IS_ADDR_LOOPBACK(&v6) != 0;
  }
  return address;
}

std::uint16_t port_of(int fd) {
  Address bound;
  bound.length = sizeof(bound.storage);
  ::getsockname(fd, bound.get(), &bound.length);
  const bool v6 = bound.storage.ss_family == AF_INET6;
  return ntohs(v6 ? reinterpret_cast<const sockaddr_in6*>(&bound.storage)->sin6_port
                  : reinterpret_cast<const sockaddr_in*>(&bound.storage)->sin_port);
}

}  // namespace

Result<TcpListener> TcpListener::open(const std::string& address, std::uint16_t port) {
  const std::string where = "API on " + address + " port " + std::to_string(port) + ": ";
  const auto failed = [&](const char* what) {
    const bool privilege = errno == EACCES || errno == EPERM;
    return Error{where + what + ": " + std::strerror(errno),
                 privilege ? ErrorKind::unsupported : ErrorKind::runtime};
  };
  const Address wanted = address_of(address, port);
  if (wanted.length == 0) return Error{where + "this is no IP address", ErrorKind::usage};
  Fd fd(::socket(wanted.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return failed("cannot make a socket");
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  // "::" is IPv6 alone, whatever the machine's default: who wants both says both.
  if (wanted.storage.ss_family == AF_INET6) {
    ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
  }
  if (::bind(fd.get(), wanted.get(), wanted.length) != 0) return failed("cannot bind");
  if (::listen(fd.get(), kBacklog) != 0) return failed("cannot listen");
  const std::uint16_t bound = port_of(fd.get());
  return TcpListener(std::move(fd), bound, wanted.loopback);
}

}  // namespace vtap::control
