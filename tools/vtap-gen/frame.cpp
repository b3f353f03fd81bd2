// SPDX-License-Identifier: Apache-2.0
#include "frame.hpp"

#include <netinet/in.h>

#include <algorithm>
#include <span>
#include <string>

#include "gen_config.h"

namespace vtap::gen {
namespace {

/// Appends big-endian fields.
class Writer {
 public:
  explicit Writer(std::vector<std::uint8_t>& out) : out_(out) {}

  void u8(unsigned value) { out_.push_back(static_cast<std::uint8_t>(value)); }
  void u16(unsigned value) {
    u8(value >> 8 & 0xff);
    u8(value & 0xff);
  }
  void u32(std::uint32_t value) {
    u16(value >> 16);
    u16(value & 0xffff);
  }
  void bytes(std::span<const std::uint8_t> data) {
    out_.insert(out_.end(), data.begin(), data.end());
  }
  [[nodiscard]] std::uint32_t position() const { return static_cast<std::uint32_t>(out_.size()); }

 private:
  std::vector<std::uint8_t>& out_;
};

/// One's complement sum of 16-bit words (RFC 1071); an odd last byte is padded with zero.
std::uint32_t sum_words(std::span<const std::uint8_t> data, std::uint32_t sum = 0) {
  for (std::size_t i = 0; i < data.size(); i += 2) {
    sum += static_cast<std::uint32_t>(data[i] << 8 | (i + 1 < data.size() ? data[i + 1] : 0));
    sum = (sum & 0xffff) + (sum >> 16);
  }
  return sum;
}

void store_u16(std::vector<std::uint8_t>& bytes, std::size_t offset, std::uint32_t value) {
  bytes[offset] = static_cast<std::uint8_t>(value >> 8 & 0xff);
  bytes[offset + 1] = static_cast<std::uint8_t>(value & 0xff);
}

}  // namespace

Result<Frame> build_frame(const FrameSpec& spec) {
  if (spec.src.v6() != spec.dst.v6())
    return Error{"--src and --dst are of different families", ErrorKind::usage};
  const bool v6 = spec.src.v6();
  const bool udp = spec.proto == Proto::udp;
  const std::size_t l4_header = udp ? 8 : 20;
  const std::size_t l3 = 14U + (spec.vlan ? 4 : 0);
  const std::size_t l4 = l3 + (v6 ? 40 : 20);
  const std::size_t header_len = l4 + l4_header;
  // The program writes the headers in words of eight bytes.
  const std::size_t least = (header_len + 7) / 8 * 8;
  static_assert(GEN_HEADER_WORDS * 8 >= 14 + 4 + 40 + 20);
  if (spec.size < least || spec.size > max_frame_size)
    return Error{"--size " + std::to_string(spec.size) + ": such frames have from " +
                     std::to_string(least) + " to " + std::to_string(max_frame_size) + " bytes",
                 ErrorKind::usage};

  Frame frame;
  frame.header_len = static_cast<std::uint32_t>(header_len);
  frame.bytes.reserve(spec.size);
  Writer out(frame.bytes);
  const auto proto = static_cast<unsigned>(udp ? IPPROTO_UDP : IPPROTO_TCP);
  const auto l4_len = static_cast<unsigned>(spec.size - l4);

  out.bytes(spec.dst_mac);
  out.bytes(spec.src_mac);
  if (spec.vlan) {
    out.u16(0x8100);
    out.u16(*spec.vlan);
  }
  out.u16(v6 ? 0x86dd : 0x0800);

  if (v6) {
    out.u32(0x60000000);
    out.u16(l4_len);
    out.u8(proto);
    out.u8(64);
  } else {
    out.u16(0x4500);
    out.u16(l4_len + 20);
    out.u32(0x00004000);  // identification 0, do not fragment
    out.u8(64);
    out.u8(proto);
    frame.off_ip_csum = out.position();
    out.u16(0);
  }
  out.bytes(spec.src.bytes);
  frame.off_address = out.position() - 4;
  out.bytes(spec.dst.bytes);

  frame.off_port = out.position();
  out.u16(spec.src_port);
  out.u16(spec.dst_port);
  if (udp) {
    out.u16(l4_len);
    frame.off_l4_csum = out.position();
    out.u16(0);
  } else {
    out.u32(1);       // sequence
    out.u32(1);       // acknowledgement
    out.u16(0x5010);  // five words, ACK
    out.u16(65535);   // window
    frame.off_l4_csum = out.position();
    out.u16(0);
    out.u16(0);  // urgent
  }
  frame.off_payload = out.position();
  for (unsigned i = 0; frame.bytes.size() < spec.size; ++i) out.u8(i & 0xff);

  const std::span all(frame.bytes);
  if (!v6) store_u16(frame.bytes, frame.off_ip_csum, ~sum_words(all.subspan(l3, 20)) & 0xffff);
  std::uint32_t sum = sum_words(spec.src.bytes, proto + l4_len);
  sum = sum_words(spec.dst.bytes, sum);
  sum = ~sum_words(all.subspan(l4), sum) & 0xffff;
  store_u16(frame.bytes, frame.off_l4_csum, udp && sum == 0 ? 0xffff : sum);
  return frame;
}

}  // namespace vtap::gen
