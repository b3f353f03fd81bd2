// SPDX-License-Identifier: Apache-2.0
#include "address.hpp"

#include <arpa/inet.h>

#include <cstdio>

namespace vtap::gen {

Result<Address> parse_address(const std::string& text) {
  Address address{.bytes = std::vector<std::uint8_t>(16)};
  if (inet_pton(AF_INET6, text.c_str(), address.bytes.data()) == 1) return address;
  if (inet_pton(AF_INET, text.c_str(), address.bytes.data()) == 1) {
    address.bytes.resize(4);
    return address;
  }
  return Error{"'" + text + "' is not an IPv4 or IPv6 address", ErrorKind::usage};
}

Result<Mac> parse_mac(const std::string& text) {
  Mac mac{};
  int used = 0;
  const int fields = std::sscanf(text.c_str(), "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &mac[0],
                                 &mac[1], &mac[2], &mac[3], &mac[4], &mac[5], &used);
  if (fields == 6 && static_cast<std::size_t>(used) == text.size()) return mac;
  return Error{"'" + text + "' is not a MAC address such as 02:00:00:00:00:01", ErrorKind::usage};
}

}  // namespace vtap::gen
