// SPDX-License-Identifier: Apache-2.0
// What the broker writes, as libpcap reads it and as vtapctl counts it.
#include "capture/pcapng.hpp"

#include <gtest/gtest.h>
#include <pcap/pcap.h>

#include <cstdio>
#include <memory>
#include <stdexcept>
#include <vector>

#include "pcapng_tally.hpp"

namespace vtap::capture {
namespace {

constexpr std::uint64_t kTime = 1'700'000'000'123'456'789;

std::string sample(std::size_t frames) {
  std::string out;
  add_section(out, "test");
  add_interface(out, "eth1", 1500);
  add_interface(out, "a-longer-name", 1500);
  for (std::size_t i = 0; i < frames; ++i) {
    const std::vector<std::uint8_t> frame(14 + i, static_cast<std::uint8_t>(i));
    const auto original = static_cast<std::uint32_t>(frame.size() + 5);
    add_packet(out, {.interface = i % 2 == 0 ? 0U : 1U, .time_ns = kTime + i, .original = original},
               frame);
  }
  add_statistics(out, 0, kTime, 3);
  add_statistics(out, 1, kTime, 4);
  return out;
}

TEST(Pcapng, LibpcapReadsIt) {
  const std::string bytes = sample(9);
  std::FILE* const file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  ASSERT_EQ(std::fwrite(bytes.data(), 1, bytes.size(), file), bytes.size());
  std::rewind(file);
  char why[PCAP_ERRBUF_SIZE] = "";
  const std::unique_ptr<pcap_t, decltype(&pcap_close)> pcap(
      pcap_fopen_offline_with_tstamp_precision(file, PCAP_TSTAMP_PRECISION_NANO, why), &pcap_close);
  ASSERT_TRUE(pcap) << why;
  EXPECT_EQ(pcap_datalink(pcap.get()), DLT_EN10MB);
  EXPECT_EQ(pcap_snapshot(pcap.get()), 1500);
  pcap_pkthdr* header = nullptr;
  const u_char* data = nullptr;
  for (unsigned i = 0; i < 9; ++i) {
    ASSERT_EQ(pcap_next_ex(pcap.get(), &header, &data), 1) << pcap_geterr(pcap.get());
    EXPECT_EQ(header->caplen, 14 + i);
    EXPECT_EQ(header->len, 19 + i);
    EXPECT_EQ(std::vector<u_char>(data, data + header->caplen),
              std::vector<u_char>(14 + i, static_cast<u_char>(i)));
    EXPECT_EQ(header->ts.tv_sec, 1'700'000'000);
    EXPECT_EQ(header->ts.tv_usec, 123'456'789 + i);  // ns
  }
  EXPECT_EQ(pcap_next_ex(pcap.get(), &header, &data), PCAP_ERROR_BREAK) << pcap_geterr(pcap.get());
}

TEST(PcapngTally, CountsAndPassesOnWholeBlocksHoweverTheyCome) {
  const std::string bytes = sample(20);
  for (const std::size_t piece : {1U, 3U, 7U, 64U, 100'000U}) {
    ctl::PcapngTally tally;
    std::string out;
    for (std::size_t at = 0; at < bytes.size(); at += piece) {
      out += tally.take(std::string_view(bytes).substr(at, piece));
    }
    EXPECT_EQ(out, bytes);
    EXPECT_EQ(tally.captured(), 20U);
    EXPECT_EQ(tally.dropped(), 7U);
  }
  ctl::PcapngTally torn;
  std::string section;
  add_section(section, "test");
  EXPECT_EQ(torn.take(std::string_view(bytes).substr(0, section.size() + 5)), section);
  EXPECT_THROW(ctl::PcapngTally().take(R"({"error":"what is this"})"), std::runtime_error);
}

}  // namespace
}  // namespace vtap::capture
