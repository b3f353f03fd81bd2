// SPDX-License-Identifier: Apache-2.0
#include "capture/pcapng.hpp"

#include <cstring>

namespace vtap::capture {
namespace {

constexpr std::uint32_t kSection = 0x0A0D0D0A, kInterface = 1, kStatistics = 5, kPacket = 6;
constexpr std::uint32_t kByteOrder = 0x1A2B3C4D;
constexpr std::uint16_t kEthernet = 1;  // LINKTYPE_ETHERNET
// Options, each of its block.
constexpr std::uint16_t kName = 2, kResolution = 9, kApplication = 4, kDropped = 5;

template <typename T>
void add(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

/// Blocks, options and frames end on 4 bytes.
void pad(std::string& out, std::size_t size) { out.append((4 - size % 4) % 4, '\0'); }

void add_option(std::string& out, std::uint16_t code, std::string_view value) {
  add(out, code);
  add(out, static_cast<std::uint16_t>(value.size()));
  out += value;
  pad(out, value.size());
}

void end_options(std::string& out) { add<std::uint32_t>(out, 0); }

void add_time(std::string& out, std::uint64_t ns) {
  add(out, static_cast<std::uint32_t>(ns >> 32));
  add(out, static_cast<std::uint32_t>(ns));
}

/// A block whose body `fill` appends: its length is before and behind it.
template <typename Fill>
void add_block(std::string& out, std::uint32_t type, Fill&& fill) {
  const std::size_t begin = out.size();
  add(out, type);
  add<std::uint32_t>(out, 0);
  fill();
  const auto length = static_cast<std::uint32_t>(out.size() - begin + sizeof(std::uint32_t));
  add(out, length);
  std::memcpy(out.data() + begin + sizeof(type), &length, sizeof(length));
}

}  // namespace

void add_section(std::string& out, std::string_view application) {
  add_block(out, kSection, [&] {
    add(out, kByteOrder);
    add<std::uint16_t>(out, 1);  // version 1.0
    add<std::uint16_t>(out, 0);
    add<std::uint64_t>(out, ~0ULL);  // as long as it gets
    add_option(out, kApplication, application);
    end_options(out);
  });
}

void add_interface(std::string& out, std::string_view name, std::uint32_t most) {
  add_block(out, kInterface, [&] {
    add(out, kEthernet);
    add<std::uint16_t>(out, 0);
    add(out, most);
    add_option(out, kName, name);
    add_option(out, kResolution, std::string_view("\x09", 1));  // 10^-9 s
    end_options(out);
  });
}

void add_packet(std::string& out, const Packet& packet, std::span<const std::uint8_t> frame) {
  add_block(out, kPacket, [&] {
    add(out, packet.interface);
    add_time(out, packet.time_ns);
    add(out, static_cast<std::uint32_t>(frame.size()));
    add(out, packet.original);
    out.append(reinterpret_cast<const char*>(frame.data()), frame.size());
    pad(out, frame.size());
  });
}

void add_statistics(std::string& out, std::uint32_t interface, std::uint64_t time_ns,
                    std::uint64_t dropped) {
  add_block(out, kStatistics, [&] {
    add(out, interface);
    add_time(out, time_ns);
    char value[sizeof(dropped)];
    std::memcpy(value, &dropped, sizeof(dropped));
    add_option(out, kDropped, std::string_view(value, sizeof(value)));
    end_options(out);
  });
}

}  // namespace vtap::capture
