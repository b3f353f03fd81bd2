// SPDX-License-Identifier: Apache-2.0
#include "host/ethtool.hpp"

#include <linux/if.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "vtap/fd.hpp"

namespace vtap::host {

int ethtool_ioctl(const std::string& port, void* request) noexcept {
  if (port.size() >= IFNAMSIZ) return -ENODEV;
  const UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd) return -errno;
  ifreq ifr{};
  std::memcpy(ifr.ifr_name, port.c_str(), port.size());
  ifr.ifr_data = static_cast<char*>(request);
  const int result = ::ioctl(fd.get(), SIOCETHTOOL, &ifr);
  return result < 0 ? -errno : result;
}

}  // namespace vtap::host
