// SPDX-License-Identifier: Apache-2.0
#include "pcap.hpp"

#include <fstream>
#include <iterator>
#include <stdexcept>

namespace vtap::test {
namespace {

constexpr std::uint32_t kMagic = 0xa1b2c3d4;
constexpr std::uint32_t kVersion = 2 | 4 << 16;  // 2.4
constexpr std::uint32_t kSnapLength = 65535;
constexpr std::uint32_t kEthernet = 1;
constexpr std::uint64_t kMicro = 1'000'000;

class Reader {
 public:
  Reader(const std::filesystem::path& path, std::string content)
      : path_(path), content_(std::move(content)) {}

  [[nodiscard]] bool at_end() const { return at_ == content_.size(); }

  std::uint32_t word() {
    const Bytes bytes = take(4);
    return bytes[0] | bytes[1] << 8 | bytes[2] << 16 | static_cast<std::uint32_t>(bytes[3]) << 24;
  }

  Bytes take(std::size_t n) {
    if (content_.size() - at_ < n) throw std::runtime_error(path_.string() + " is cut off");
    const auto* const from = reinterpret_cast<const std::uint8_t*>(content_.data()) + at_;
    at_ += n;
    return {from, from + n};
  }

 private:
  std::filesystem::path path_;
  std::string content_;
  std::size_t at_ = 0;
};

void put(std::ofstream& out, std::uint32_t word) {
  for (int shift = 0; shift < 32; shift += 8) out.put(static_cast<char>(word >> shift & 0xff));
}

}  // namespace

std::vector<PcapFrame> read_pcap(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path.string());
  Reader reader(path, {std::istreambuf_iterator<char>(in), {}});
  if (reader.word() != kMagic) throw std::runtime_error(path.string() + " is no pcap of ours");
  reader.take(20);
  std::vector<PcapFrame> frames;
  while (!reader.at_end()) {
    PcapFrame frame;
    frame.us = reader.word() * kMicro;
    frame.us += reader.word();
    const std::uint32_t length = reader.word();
    reader.word();  // on the wire: the same
    frame.bytes = reader.take(length);
    frames.push_back(std::move(frame));
  }
  return frames;
}

void write_pcap(const std::filesystem::path& path, const std::vector<PcapFrame>& frames) {
  std::ofstream out(path, std::ios::binary);
  for (const std::uint32_t word : {kMagic, kVersion, 0U, 0U, kSnapLength, kEthernet}) {
    put(out, word);
  }
  for (const PcapFrame& frame : frames) {
    const auto length = static_cast<std::uint32_t>(frame.bytes.size());
    put(out, static_cast<std::uint32_t>(frame.us / kMicro));
    put(out, static_cast<std::uint32_t>(frame.us % kMicro));
    put(out, length);
    put(out, length);
    out.write(reinterpret_cast<const char*>(frame.bytes.data()), length);
  }
  if (!out.flush()) throw std::runtime_error("cannot write " + path.string());
}

}  // namespace vtap::test
