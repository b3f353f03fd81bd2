// SPDX-License-Identifier: Apache-2.0
#include "bpf/rig.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/pkt_cls.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string_view>

namespace vtap::test {
namespace {

std::optional<std::string> missing_privilege() {
  if (::geteuid() != 0) return "needs root";
  const UniqueFd map(::bpf_map_create(BPF_MAP_TYPE_ARRAY, "vtap_probe", 4, 4, 1, nullptr));
  if (!map) return std::string("needs BPF: ") + std::strerror(errno);
  return {};
}

/// Pins the calling thread to the last CPU it may use, and returns it: most mistakes about CPUs go
/// unnoticed on number 0.
std::uint32_t pin() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (::sched_getaffinity(0, sizeof(allowed), &allowed) != 0) throw std::runtime_error("affinity");
  int last = CPU_SETSIZE - 1;
  while (!CPU_ISSET(last, &allowed)) --last;
  CPU_ZERO(&allowed);
  CPU_SET(last, &allowed);
  if (::sched_setaffinity(0, sizeof(allowed), &allowed) != 0) throw std::runtime_error("affinity");
  return static_cast<std::uint32_t>(last);
}

std::uint32_t acquire(const __u32& word) {
  return std::atomic_ref(const_cast<__u32&>(word)).load(std::memory_order_acquire);
}

Fate fate_of(io::ProgramHook hook, std::uint32_t verdict) {
  if (hook == io::ProgramHook::xdp) {
    return verdict == XDP_PASS       ? Fate::passed
           : verdict == XDP_DROP     ? Fate::dropped
           : verdict == XDP_REDIRECT ? Fate::redirected
                                     : Fate::other;
  }
  return verdict == static_cast<std::uint32_t>(TC_ACT_UNSPEC) ? Fate::passed
         : verdict == TC_ACT_SHOT                             ? Fate::dropped
         : verdict == TC_ACT_REDIRECT                         ? Fate::redirected
                                                              : Fate::other;
}

}  // namespace

bool runnable(io::ProgramHook hook, const Bytes& frame) {
  if (frame.size() < kLeastFrame) return false;
  if (hook == io::ProgramHook::xdp) return true;
  const std::uint32_t type = std::uint32_t{frame[12]} << 8 | frame[13];
  const std::size_t header = type == 0x0800 ? 20 : type == 0x86dd ? 40 : 1;
  return frame.size() >= kLeastFrame + header;
}

void BpfTest::SetUp() {
  const auto missing = missing_privilege();
  if (missing) {
    const char* const ci = std::getenv("CI");
    if (ci != nullptr && std::string_view(ci) == "true") FAIL() << "in CI: " << *missing;
    GTEST_SKIP() << "SKIPPED: bpf layer: " << *missing;
  }
  io::capture_libbpf_log();
}

Tee::Tee(std::uint32_t frames, std::uint32_t frame_size)
    : memory_(require(io::TeeMemory::create(frames, frame_size))), cpu_(pin()) {
  for (std::uint32_t frame = 0; frame < frames; ++frame) mine_.push_back(frame);
}

void Tee::give(std::uint32_t count) {
  const auto umem = memory_.umem();
  std::uint32_t prod = cpu().free_prod;
  for (; count > 0 && !mine_.empty() && prod - acquire(cpu().free_cons) < VTAP_RING_SLOTS;
       --count) {
    std::memset(umem.at(umem.start(pipeline::FrameNumber{mine_.front()})), kPoison, frame_size());
    cpu().free_ring[prod++ & (VTAP_RING_SLOTS - 1)] = mine_.front();
    mine_.pop_front();
  }
  std::atomic_ref(cpu().free_prod).store(prod, std::memory_order_release);
}

std::vector<Copy> Tee::take() {
  const auto umem = memory_.umem();
  const std::uint32_t prod = acquire(cpu().desc_prod);
  std::vector<Copy> copies;
  std::uint32_t cons = cpu().desc_cons;
  for (; cons != prod; ++cons) {
    const vtap_desc& desc = cpu().desc_ring[cons & (VTAP_RING_SLOTS - 1)];
    const std::uint8_t* const start = umem.at(umem.start(pipeline::FrameNumber{desc.frame}));
    copies.push_back({desc, Bytes(start, start + desc.len)});
    EXPECT_TRUE(std::all_of(start + desc.len, start + frame_size(),
                            [](std::uint8_t byte) { return byte == kPoison; }))
        << "something was written behind a copy of " << desc.len << " bytes";
    mine_.push_back(desc.frame);
  }
  std::atomic_ref(cpu().desc_cons).store(cons, std::memory_order_release);
  return copies;
}

std::uint32_t Tee::waiting() const { return acquire(cpu().desc_prod) - cpu().desc_cons; }
std::uint32_t Tee::free_there() const { return cpu().free_prod - acquire(cpu().free_cons); }

std::ostream& operator<<(std::ostream& to, Fate fate) {
  static constexpr std::array<const char*, 4> kNames{"passed", "dropped", "redirected", "other"};
  return to << kNames[static_cast<std::size_t>(fate)];
}

Fate run_program(int program_fd, io::ProgramHook hook, const Bytes& frame, const __sk_buff* skb) {
  LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = frame.data(),
              .data_size_in = static_cast<std::uint32_t>(frame.size()), .ctx_in = skb,
              .ctx_size_in = static_cast<std::uint32_t>(skb == nullptr ? 0 : sizeof(*skb)));
  if (::bpf_prog_test_run_opts(program_fd, &options) != 0) {
    ADD_FAILURE() << "BPF_PROG_TEST_RUN at " << name_of(hook) << " of " << frame.size()
                  << " bytes: " << std::strerror(errno);
    return Fate::other;
  }
  return fate_of(hook, options.retval);
}

void run_live(int program_fd, int ifindex, const Bytes& frame, std::uint32_t frames) {
  xdp_md context{};
  context.data_end = static_cast<__u32>(frame.size());
  context.ingress_ifindex = static_cast<__u32>(ifindex);
  LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = frame.data(),
              .data_size_in = static_cast<std::uint32_t>(frame.size()), .ctx_in = &context,
              .ctx_size_in = sizeof(context), .repeat = static_cast<int>(frames),
              .flags = BPF_F_TEST_XDP_LIVE_FRAMES, .batch_size = 64);
  EXPECT_EQ(::bpf_prog_test_run_opts(program_fd, &options), 0) << std::strerror(errno);
}

const char* name_of(io::ProgramHook hook) { return hook == io::ProgramHook::xdp ? "XDP" : "TC"; }

Compiled::Compiled(const config::Config& config, std::vector<plan::Placement> placements)
    : tables(require(plan::compile(config, std::move(placements)))),
      maps(require(io::ClassMaps::load(tables))),
      clones(require(io::CloneMaps::load(config, tables))) {}

vtap_port_config constants(const plan::Tables& tables, std::uint32_t tap, const Tee& tee) {
  vtap_port_config config{};
  config.mode = VTAP_MODE_HOST;
  config.capture = VTAP_CAPTURE_TEE;
  config.frame_size = tee.frame_size();
  config.frames = tee.memory().umem().frames;
  config.generation = 1;
  config.match_all = tables.taps[tap].match_all ? 1 : 0;
  config.match_none = tables.taps[tap].match_none ? 1 : 0;
  config.clones = tables.taps[tap].clones ? 1 : 0;
  config.tap_class = tables.taps[tap].tap_class;
  config.stale_ns = 500'000'000;
  config.classes = tables.config;
  return config;
}

config::Config no_policy() {
  config::Config config;
  config.taps.resize(1);
  config.monitors.resize(1);
  return config;
}

config::Config one_policy(std::vector<config::Match> match) {
  config::Config config = no_policy();
  auto& policy = config.policies.emplace_back();
  policy.taps = {0};
  policy.monitors = {0};
  policy.match = std::move(match);
  return config;
}

std::uint64_t missed(const vtap_port_counters& count) {
  return count.no_free_frame + count.ring_full + count.too_long + count.super_packet +
         count.leg_lost + count.no_socket + count.stale_worker + count.copy_failed;
}

std::uint64_t decided(const vtap_port_counters& count) {
  return count.forwarded + count.passed + count.consumed + count.to_broker + count.no_output;
}

void expect_ledgers(const vtap_port_counters& count) {
  EXPECT_EQ(count.rx_frames, decided(count));
  EXPECT_EQ(count.matched, count.copied + missed(count));
  EXPECT_EQ(count.load_failed, 0U);
  EXPECT_EQ(count.copy_failed, 0U);
}

Bytes udp_frame(std::size_t length, std::uint16_t dport) {
  FrameBuilder frame;
  frame.ethernet().type(0x0800).ipv4({}).udp(1000, dport);
  return frame.payload(length - frame.size()).build();
}

}  // namespace vtap::test
