// SPDX-License-Identifier: Apache-2.0
// broker/host against real devices. Every test has a network namespace of its own, which ends with
// it; devices of the machine are never touched. Needs root, iproute2 and ethtool.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/pkt_cls.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

#include "host/attach.hpp"
#include "host/far_end.hpp"
#include "host/foreign.hpp"
#include "host/link.hpp"
#include "host/link_watch.hpp"
#include "host/offload.hpp"
#include "host/port.hpp"
#include "host/state.hpp"
#include "host/tcx.hpp"
#include "vtap/fd.hpp"

namespace vtap::host {
namespace {

namespace fs = std::filesystem;

template <typename T>
testing::AssertionResult succeeded(const Result<T>& result) {
  if (result) return testing::AssertionSuccess();
  return testing::AssertionFailure() << result.error().message;
}

bool mentions(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

struct Output {
  int status = -1;
  std::string text;
};

Output shell(const std::string& command) {
  Output output;
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "re");
  if (pipe == nullptr) return output;
  std::array<char, 4096> buffer{};
  while (const std::size_t size = std::fread(buffer.data(), 1, buffer.size(), pipe)) {
    output.text.append(buffer.data(), size);
  }
  output.status = ::pclose(pipe);
  return output;
}

/// A program that returns a constant: raw instructions, so no object file is needed.
UniqueFd constant_program(bpf_prog_type type, const char* name, int verdict) {
  const std::array<bpf_insn, 2> code{
      bpf_insn{.code = BPF_ALU64 | BPF_MOV | BPF_K,
               .dst_reg = BPF_REG_0,
               .src_reg = 0,
               .off = 0,
               .imm = verdict},
      bpf_insn{.code = BPF_JMP | BPF_EXIT, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0}};
  return UniqueFd(::bpf_prog_load(type, name, "GPL", code.data(), code.size(), nullptr));
}

UniqueFd xdp_program(const char* name = "vtap_test") {
  return constant_program(BPF_PROG_TYPE_XDP, name, XDP_PASS);
}

UniqueFd tc_program(const char* name = "vtap_test", int verdict = TC_ACT_UNSPEC) {
  return constant_program(BPF_PROG_TYPE_SCHED_CLS, name, verdict);
}

std::uint32_t id_of(const UniqueFd& program) {
  bpf_prog_info info{};
  std::uint32_t size = sizeof info;
  return ::bpf_obj_get_info_by_fd(program.get(), &info, &size) == 0 ? info.id : 0;
}

class Host : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "SKIPPED: needs root for network namespaces";
    home_.reset(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(home_);
    ASSERT_EQ(::unshare(CLONE_NEWNET), 0) << "needs a kernel with network namespaces";
    std::string name = (fs::temp_directory_path() / "vtap-host-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    base_ = name;
    run("ip link set lo up");
    run("ip link add p0 numtxqueues 4 numrxqueues 4 type veth peer name p1");
    run("ip link set p0 up && ip link set p1 up");
  }

  void TearDown() override {
    if (home_) ::setns(home_.get(), CLONE_NEWNET);
    if (!base_.empty()) fs::remove_all(base_);
  }

  static std::string run(const std::string& command) {
    Output output = shell(command);
    EXPECT_EQ(output.status, 0) << command << ": " << output.text;
    return output.text;
  }

  [[nodiscard]] StateDir state() const { return StateDir::open(base_ / "state").value(); }

  static Link link(const std::string& name) {
    Result<Link> found = find_link(name);
    EXPECT_TRUE(succeeded(found));
    return found ? *found : Link{};
  }

  /// Everything that a detach must bring back, as the system's own tools see it.
  static std::string snapshot() {
    std::string text;
    for (const char* port : {"p0", "p1"}) {
      const std::string name = port;
      text += run("ip -d link show dev " + name);
      text += run("tc qdisc show dev " + name);
      text += shell("tc filter show dev " + name + " ingress").text;
      text += shell("tc filter show dev " + name + " egress").text;
      for (const Direction direction : {Direction::ingress, Direction::egress}) {
        text += carries_our_tcx(link(name).ifindex, direction) ? "ours by tcx\n" : "";
      }
      text += run("ethtool -k " + name);
      text += run("cat /proc/sys/net/ipv6/conf/" + name + "/disable_ipv6");
    }
    return text;
  }

  static bool is_on(const std::string& port, const std::string& feature) {
    const auto found = features(port);
    EXPECT_TRUE(succeeded(found));
    return found && found.value().contains(feature) && found.value().at(feature).active;
  }

  Result<Port> open(const std::string& name, Role role, Hook hook) {
    return Port::open(state(), {.name = name, .role = role, .hook = hook, .tcx = tcx_});
  }

  UniqueFd home_;
  fs::path base_;
  bool tcx_ = has_tcx();
};

// --- link ---

TEST_F(Host, LinkTellsWhatTheDeviceIs) {
  run("ip link set p0 mtu 1400 address 02:00:00:00:00:aa");
  const Link p0 = link("p0");
  EXPECT_EQ(p0.name, "p0");
  EXPECT_EQ(p0.mtu, 1400U);
  EXPECT_EQ(p0.mac, (std::array<std::uint8_t, 6>{2, 0, 0, 0, 0, 0xaa}));
  EXPECT_EQ(p0.kind, "veth");
  EXPECT_EQ(p0.driver, "veth");
  EXPECT_TRUE(p0.ethernet);
  EXPECT_TRUE(p0.up);
  EXPECT_TRUE(p0.carrier);
  EXPECT_FALSE(p0.promisc);
  EXPECT_EQ(p0.xdp_mode, XdpMode::none);
  EXPECT_EQ(find_link(p0.ifindex).value().name, "p0");
  EXPECT_EQ(natural_hook(p0), Hook::tc);

  run("ip link set p1 down");
  EXPECT_TRUE(link("p0").up);
  EXPECT_FALSE(link("p0").carrier);
  EXPECT_TRUE(link("lo").loopback);
}

TEST_F(Host, QueuesAreThoseInUse) {
  EXPECT_EQ(link("p0").rx_queues, 4U);
  run("ethtool -L p0 rx 2 tx 3");
  EXPECT_EQ(link("p0").rx_queues, 2U);
  EXPECT_EQ(link("p0").tx_queues, 3U);
}

TEST_F(Host, MissingDeviceIsAUsageError) {
  const Result<Link> missing = find_link("nosuch0");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().kind, ErrorKind::usage);
  EXPECT_TRUE(mentions(missing.error().message, "nosuch0"));
}

TEST_F(Host, VethPeersAreNoUppersButMacvlansAre) {
  EXPECT_FALSE(link("p0").has_uppers);
  EXPECT_FALSE(link("p1").has_uppers);
  run("ip link add link p0 name mv0 type macvlan");
  EXPECT_TRUE(link("p0").has_uppers);
  EXPECT_FALSE(link("p1").has_uppers);
  EXPECT_FALSE(link("mv0").has_uppers);
  EXPECT_EQ(link("mv0").kind, "macvlan");
}

TEST_F(Host, BridgePortsHaveAMaster) {
  run("ip link add br0 type bridge && ip link set p0 master br0");
  EXPECT_EQ(link("p0").master, link("br0").ifindex);
  EXPECT_FALSE(link("br0").has_master());
  EXPECT_FALSE(link("p1").has_master());
}

TEST_F(Host, CountersCount) {
  const Result<Counters> before = link_counters(link("p0").ifindex);
  ASSERT_TRUE(succeeded(before));
  run("ip addr add 192.0.2.1/24 dev p0 && ip neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev p0");
  run("bash -c 'echo x > /dev/udp/192.0.2.2/9'");
  const Result<Counters> after = link_counters(link("p0").ifindex);
  ASSERT_TRUE(succeeded(after));
  EXPECT_GT(after.value().tx_frames, before.value().tx_frames);
  EXPECT_GE(link("p0").counters.tx_bytes, after.value().tx_bytes);
  EXPECT_FALSE(link_counters(9999).ok());
}

TEST_F(Host, DefaultRoutesOfBothFamilies) {
  run("ip link add q0 type veth peer name q1 && ip link set q0 up && ip link set q1 up");
  const auto names = [] {
    std::vector<std::string> found;
    const Result<std::vector<DefaultRoute>> routes = default_route_links();
    EXPECT_TRUE(succeeded(routes));
    for (const DefaultRoute& route : routes.value()) found.push_back(route.name);
    std::sort(found.begin(), found.end());
    return found;
  };
  EXPECT_EQ(names(), std::vector<std::string>{});
  run("ip addr add 192.0.2.1/24 dev p0 && ip route add 203.0.113.0/24 via 192.0.2.2");
  run("ip route add default via 192.0.2.2 table 100");
  EXPECT_EQ(names(), std::vector<std::string>{}) << "neither is the default route";
  run("ip route add default via 192.0.2.2");
  EXPECT_EQ(names(), std::vector<std::string>{"p0"});
  run("ip -6 addr add 2001:db8::1/64 dev q0 nodad && ip -6 route add default via 2001:db8::2");
  EXPECT_EQ(names(), (std::vector<std::string>{"p0", "q0"}));
  run("ip route del default && ip -6 route del default");
  run("ip addr add 198.51.100.1/24 dev p1");
  run("ip route add default nexthop via 192.0.2.2 dev p0 nexthop via 198.51.100.2 dev p1");
  EXPECT_EQ(names(), (std::vector<std::string>{"p0", "p1"}));
}

TEST_F(Host, XdpFeaturesFollowTheKernel) {
  const std::optional<std::uint64_t> plain = xdp_features(link("p0").ifindex);
  if (!plain) GTEST_SKIP() << "SKIPPED: this kernel has no netdev family (6.3)";
  EXPECT_TRUE((*plain & xdp_act::basic) != 0);
  EXPECT_TRUE((*plain & xdp_act::ndo_xmit) == 0);
  run("ethtool -K p1 gro on");
  EXPECT_TRUE((*xdp_features(link("p0").ifindex) & xdp_act::ndo_xmit) != 0);
  EXPECT_EQ(xdp_features(9999), std::nullopt);
}

// --- link watch ---

/// The first event that `wanted` holds for, within three seconds.
template <typename Wanted>
std::optional<LinkEvent> await_event(LinkWatch& watch, const Wanted& wanted) {
  constexpr int timeout_ms = 3000;
  pollfd poll{.fd = watch.fd(), .events = POLLIN, .revents = 0};
  while (::poll(&poll, 1, timeout_ms) == 1) {
    const Result<LinkNews> news = watch.drain();
    if (!news) return std::nullopt;
    const auto& events = news.value().events;
    const auto found = std::find_if(events.begin(), events.end(), wanted);
    if (found != events.end()) return *found;
  }
  return std::nullopt;
}

TEST_F(Host, WatchTellsOfCarrierCreationAndDeletion) {
  Result<LinkWatch> watch = LinkWatch::open();
  ASSERT_TRUE(succeeded(watch));
  EXPECT_TRUE(watch->drain().value().events.empty());

  run("ip link set p1 down");
  // The kernel may hold back the news of a lost carrier for a second.
  const std::optional<LinkEvent> lost =
      await_event(*watch, [](const LinkEvent& event) { return event.name == "p0" && !event.up; });
  ASSERT_TRUE(lost.has_value());
  EXPECT_EQ(lost->ifindex, link("p0").ifindex);
  EXPECT_FALSE(lost->deleted);
  EXPECT_FALSE(lost->created);

  run("ip link add br0 type bridge");
  Result<LinkNews> news = watch->drain();
  EXPECT_TRUE(std::any_of(news->events.begin(), news->events.end(),
                          [](const LinkEvent& e) { return e.name == "br0" && e.created; }));
  run("ip link set p0 master br0 && ip link set p0 nomaster");
  news = watch->drain();
  EXPECT_TRUE(std::none_of(news->events.begin(), news->events.end(), [](const LinkEvent& e) {
    return e.deleted;
  })) << "leaving a bridge is no deletion";
  run("ip link del p0");
  news = watch->drain();
  EXPECT_TRUE(std::any_of(news->events.begin(), news->events.end(),
                          [](const LinkEvent& e) { return e.name == "p0" && e.deleted && !e.up; }));
}

TEST_F(Host, WatchAsksForAResyncWhenItLostEvents) {
  Result<LinkWatch> watch = LinkWatch::open();
  ASSERT_TRUE(succeeded(watch));
  const int small = 1;
  ASSERT_EQ(::setsockopt(watch->fd(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small), 0);
  for (int i = 0; i < 20; ++i) run("ip link set p0 mtu " + std::to_string(1400 + i));
  const Result<LinkNews> news = watch->drain();
  ASSERT_TRUE(succeeded(news));
  EXPECT_TRUE(news.value().resync);
  run("ip link set p0 mtu 1500");
  EXPECT_FALSE(watch->drain().value().resync) << "once is enough";
}

// --- features, promiscuous mode, sysctl ---

TEST_F(Host, FeaturesAreSetByTheKernelsNames) {
  const auto found = features("p0");
  ASSERT_TRUE(succeeded(found));
  for (const char* name :
       {"rx-gro", "rx-lro", "rx-gro-hw", "rx-vlan-hw-parse", "rx-vlan-stag-hw-parse",
        "tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"}) {
    EXPECT_TRUE(found.value().contains(name)) << name;
  }
  ASSERT_TRUE(is_on("p0", "tx-vlan-hw-insert"));
  ASSERT_TRUE(set_feature("p0", "tx-vlan-hw-insert", false).value());
  EXPECT_FALSE(is_on("p0", "tx-vlan-hw-insert"));
  EXPECT_TRUE(is_on("p0", "tx-vlan-stag-hw-insert"));
  EXPECT_TRUE(mentions(run("ethtool -k p0"), "tx-vlan-offload: off"));
  ASSERT_TRUE(set_feature("p0", "tx-vlan-hw-insert", true).value());
  EXPECT_TRUE(mentions(run("ethtool -k p0"), "tx-vlan-offload: on"));

  EXPECT_TRUE(set_feature("p0", "no-such-feature", true).value());
  EXPECT_TRUE(set_feature("p0", "rx-lro", false).value()) << "off it is, though fixed";
  EXPECT_FALSE(set_feature("p0", "rx-lro", true).value());
  EXPECT_FALSE(set_feature("nosuch0", "rx-gro", true).ok());
  EXPECT_FALSE(features("nosuch0").ok());
}

TEST_F(Host, PromiscuousModeIsTheInterfaceFlag) {
  const int ifindex = link("p0").ifindex;
  ASSERT_TRUE(succeeded(set_promisc(ifindex, true)));
  EXPECT_TRUE(link("p0").promisc);
  EXPECT_TRUE(link("p0").up) << "other flags stay";
  EXPECT_TRUE(mentions(run("ip link show p0"), "PROMISC"));
  ASSERT_TRUE(succeeded(set_promisc(ifindex, false)));
  EXPECT_FALSE(link("p0").promisc);
  EXPECT_FALSE(set_promisc(9999, true).ok());
}

TEST_F(Host, Ipv6CanBeTurnedOffPerPortAlsoWithADotInTheName) {
  run("ip link add eth1.100 type veth peer name q1");
  ASSERT_EQ(disable_ipv6("eth1.100").value(), std::optional<std::string>("0"));
  ASSERT_TRUE(succeeded(set_disable_ipv6("eth1.100", "1")));
  EXPECT_EQ(disable_ipv6("eth1.100").value(), std::optional<std::string>("1"));
  EXPECT_EQ(disable_ipv6("q1").value(), std::optional<std::string>("0"));
  EXPECT_EQ(disable_ipv6("nosuch0").value(), std::nullopt);
  EXPECT_TRUE(succeeded(set_disable_ipv6("nosuch0", "1")));

  const int ifindex = link("p0").ifindex;
  EXPECT_FALSE(has_global_ipv6(ifindex).value()) << "link-local only";
  run("ip -6 addr add 2001:db8::1/64 dev p0 nodad");
  EXPECT_TRUE(has_global_ipv6(ifindex).value());
  EXPECT_FALSE(has_global_ipv6(link("p1").ifindex).value());
}

// --- XDP ---

TEST_F(Host, XdpIsAttachedReplacedAndRemoved) {
  const int ifindex = link("p0").ifindex;
  const UniqueFd first = xdp_program("vtap_one");
  const UniqueFd second = xdp_program("vtap_two");
  ASSERT_TRUE(first && second);
  EXPECT_FALSE(detach_xdp(ifindex).value());

  const Result<XdpMode> mode = attach_xdp(ifindex, first.get());
  ASSERT_TRUE(succeeded(mode));
  EXPECT_EQ(mode.value(), XdpMode::native);
  EXPECT_EQ(link("p0").xdp_prog_id, id_of(first));
  EXPECT_EQ(link("p0").xdp_mode, XdpMode::native);

  ASSERT_TRUE(succeeded(attach_xdp(ifindex, second.get())));
  EXPECT_EQ(link("p0").xdp_prog_id, id_of(second));
  EXPECT_TRUE(detach_xdp(ifindex).value());
  EXPECT_EQ(link("p0").xdp_prog_id, 0U);
}

TEST_F(Host, ForeignXdpIsRefusedByNameAndLeftAlone) {
  const int ifindex = link("p0").ifindex;
  const UniqueFd foreign = xdp_program("firewall");
  const UniqueFd ours = xdp_program();
  ASSERT_EQ(::bpf_xdp_attach(ifindex, foreign.get(), 0, nullptr), 0);
  const Result<XdpMode> refused = attach_xdp(ifindex, ours.get());
  ASSERT_FALSE(refused.ok());
  EXPECT_TRUE(mentions(refused.error().message,
                       "\"firewall\" (id " + std::to_string(id_of(foreign)) + ")"));
  EXPECT_TRUE(mentions(refused.error().message, "ip link set dev p0 xdp off"))
      << refused.error().message;
  EXPECT_FALSE(detach_xdp(ifindex).value());
  EXPECT_EQ(link("p0").xdp_prog_id, id_of(foreign));
}

TEST_F(Host, TheDispatcherOfLibxdpIsForeignToo) {
  const UniqueFd dispatcher = xdp_program("xdp_dispatcher");
  ASSERT_EQ(::bpf_xdp_attach(link("p0").ifindex, dispatcher.get(), 0, nullptr), 0);
  const Result<XdpMode> refused = attach_xdp(link("p0").ifindex, xdp_program().get());
  ASSERT_FALSE(refused.ok());
  EXPECT_TRUE(mentions(refused.error().message, "xdp-loader unload p0 --all"));
}

TEST_F(Host, GenericModeOnlyWhereAllowed) {
  run("ip link add br0 type bridge");
  const int ifindex = link("br0").ifindex;  // bridges have no native XDP
  const UniqueFd first = xdp_program("vtap_one");
  const UniqueFd second = xdp_program("vtap_two");
  const Result<XdpMode> refused = attach_xdp(ifindex, first.get());
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().kind, ErrorKind::unsupported);
  EXPECT_TRUE(mentions(refused.error().message, "hook = \"tc\""));
  for (const UniqueFd* program : {&first, &second}) {
    const Result<XdpMode> mode = attach_xdp(ifindex, program->get(), true);
    ASSERT_TRUE(succeeded(mode));
    EXPECT_EQ(mode.value(), XdpMode::generic);
    EXPECT_EQ(link("br0").xdp_prog_id, id_of(*program));
    EXPECT_EQ(link("br0").xdp_mode, XdpMode::generic);
  }
  EXPECT_TRUE(detach_xdp(ifindex).value());
  EXPECT_EQ(link("br0").xdp_prog_id, 0U);
}

TEST_F(Host, OurGenericProgramGivesWayToNativeMode) {
  const int ifindex = link("p0").ifindex;
  const UniqueFd old = xdp_program("vtap_old");
  ASSERT_EQ(::bpf_xdp_attach(ifindex, old.get(), 1U << 1 /* XDP_FLAGS_SKB_MODE */, nullptr), 0);
  const Result<XdpMode> mode = attach_xdp(ifindex, xdp_program().get());
  ASSERT_TRUE(succeeded(mode));
  EXPECT_EQ(link("p0").xdp_mode, XdpMode::native);
}

// --- TC ---

std::string describe(const std::vector<TcFilter>& filters) {
  std::string text;
  for (const TcFilter& filter : filters) {
    if (filter.handle == 0) continue;
    text += std::to_string(filter.priority) + ":" + filter.kind + ":" + filter.program +
            (filter.ours ? "! " : " ");
  }
  return text;
}

std::string filters_of(int ifindex, Direction direction = Direction::ingress) {
  const Result<std::vector<TcFilter>> filters = tc_filters(ifindex, direction);
  EXPECT_TRUE(succeeded(filters));
  return describe(filters.value());
}

TEST_F(Host, TcIsAttachedReplacedAndRemovedInBothDirections) {
  const int ifindex = link("p0").ifindex;
  EXPECT_EQ(tc_qdisc(ifindex).value(), TcQdisc::none);
  EXPECT_FALSE(attach_tc(ifindex, Direction::ingress, tc_program().get()).ok());
  ASSERT_TRUE(succeeded(create_clsact(ifindex)));
  ASSERT_TRUE(succeeded(create_clsact(ifindex)));
  EXPECT_EQ(tc_qdisc(ifindex).value(), TcQdisc::clsact);
  for (const Direction direction : {Direction::ingress, Direction::egress}) {
    Result<TcAttachment> made = attach_tc(ifindex, direction, tc_program("vtap_one").get());
    ASSERT_TRUE(succeeded(made));
    EXPECT_EQ(made->priority, 1);
    EXPECT_FALSE(made->replaced);
    EXPECT_EQ(filters_of(ifindex, direction), "1:bpf:vtap_one! ");
    made = attach_tc(ifindex, direction, tc_program("vtap_two").get());
    ASSERT_TRUE(succeeded(made));
    EXPECT_TRUE(made->replaced);
    EXPECT_EQ(filters_of(ifindex, direction), "1:bpf:vtap_two! ");
  }
  EXPECT_TRUE(mentions(run("tc filter show dev p0 ingress"), "direct-action"));
  EXPECT_FALSE(remove_clsact_if_unused(ifindex).value());
  EXPECT_TRUE(detach_tc(ifindex, Direction::ingress).value());
  EXPECT_FALSE(detach_tc(ifindex, Direction::ingress).value());
  EXPECT_EQ(filters_of(ifindex, Direction::egress), "1:bpf:vtap_two! ");
  EXPECT_TRUE(detach_tc(ifindex, Direction::egress).value());
  EXPECT_TRUE(remove_clsact_if_unused(ifindex).value());
  EXPECT_EQ(tc_qdisc(ifindex).value(), TcQdisc::none);
}

constexpr const char* foreign_u32 = "u32 match u32 0 0 classid 1:1";

TEST_F(Host, TcGoesBesideFiltersOfOtherKinds) {
  const int ifindex = link("p0").ifindex;
  run("tc qdisc add dev p0 clsact");
  run(std::string("tc filter add dev p0 ingress protocol ip prio 1 ") + foreign_u32);
  run(std::string("tc filter add dev p0 ingress protocol all prio 2 ") + foreign_u32);
  const std::string before = run("tc filter show dev p0 ingress");

  Result<TcAttachment> made = attach_tc(ifindex, Direction::ingress, tc_program().get());
  ASSERT_TRUE(succeeded(made));
  EXPECT_EQ(made->priority, 3);
  ASSERT_EQ(made->ahead.size(), 4U) << "a u32 filter is its hash table and its match";
  EXPECT_EQ(made->ahead.front().kind, "u32");
  made = attach_tc(ifindex, Direction::ingress, tc_program("vtap_two").get());
  ASSERT_TRUE(succeeded(made));
  EXPECT_TRUE(made->replaced);
  EXPECT_EQ(made->priority, 3);
  EXPECT_TRUE(detach_tc(ifindex, Direction::ingress).value());
  EXPECT_EQ(run("tc filter show dev p0 ingress"), before);
  EXPECT_FALSE(remove_clsact_if_unused(ifindex).value());
}

/// A BPF filter as somebody else attaches it.
void attach_foreign(int ifindex, std::uint32_t priority, std::uint32_t handle, const char* name) {
  bpf_tc_hook hook{};
  hook.sz = sizeof hook;
  hook.ifindex = ifindex;
  hook.attach_point = BPF_TC_INGRESS;
  const UniqueFd program = tc_program(name);
  bpf_tc_opts options{};
  options.sz = sizeof options;
  options.prog_fd = program.get();
  options.priority = priority;
  options.handle = handle;
  ASSERT_EQ(::bpf_tc_attach(&hook, &options), 0);
}

TEST_F(Host, TcRunsBeforeForeignBpfOfTheSamePriorityWithoutTouchingIt) {
  const int ifindex = link("p0").ifindex;
  ASSERT_TRUE(succeeded(create_clsact(ifindex)));
  attach_foreign(ifindex, 1, 1, "other");
  const Result<TcAttachment> made = attach_tc(ifindex, Direction::ingress, tc_program().get());
  ASSERT_TRUE(succeeded(made));
  EXPECT_TRUE(made.value().ahead.empty());
  EXPECT_EQ(filters_of(ifindex), "1:bpf:vtap_test! 1:bpf:other ");
  EXPECT_TRUE(detach_tc(ifindex, Direction::ingress).value());
  EXPECT_EQ(filters_of(ifindex), "1:bpf:other ");
}

TEST_F(Host, ForeignFilterWithOurHandleIsNotOurs) {
  const int ifindex = link("p0").ifindex;
  ASSERT_TRUE(succeeded(create_clsact(ifindex)));
  attach_foreign(ifindex, 1, tc_handle, "other");
  ASSERT_TRUE(succeeded(attach_tc(ifindex, Direction::ingress, tc_program().get())));
  EXPECT_EQ(filters_of(ifindex), "1:bpf:other 2:bpf:vtap_test! ");
  EXPECT_TRUE(detach_tc(ifindex, Direction::ingress).value());
  EXPECT_EQ(filters_of(ifindex), "1:bpf:other ");
}

TEST_F(Host, AnIngressQdiscOfOthersIsUsed) {
  const int ifindex = link("p0").ifindex;
  run("tc qdisc add dev p0 ingress");
  EXPECT_EQ(tc_qdisc(ifindex).value(), TcQdisc::ingress);
  ASSERT_TRUE(succeeded(attach_tc(ifindex, Direction::ingress, tc_program().get())));
  EXPECT_EQ(filters_of(ifindex), "1:bpf:vtap_test! ");
  EXPECT_EQ(filters_of(ifindex, Direction::egress), "");
  const Result<TcAttachment> egress = attach_tc(ifindex, Direction::egress, tc_program().get());
  ASSERT_FALSE(egress.ok());
  EXPECT_TRUE(mentions(egress.error().message, "clsact"));
  EXPECT_TRUE(detach_tc(ifindex, Direction::ingress).value());
  EXPECT_FALSE(remove_clsact_if_unused(ifindex).value());
  EXPECT_EQ(tc_qdisc(ifindex).value(), TcQdisc::ingress);
}

// --- ports ---

/// Programs at TC as filters under a clsact, and by tcx.
class HostAtTc : public Host, public testing::WithParamInterface<bool> {
 protected:
  void SetUp() override {
    tcx_ = GetParam();
    if (tcx_ && !has_tcx()) GTEST_SKIP() << "SKIPPED: this kernel has no tcx (6.6)";
    Host::SetUp();
  }

  /// What of ours is at the ingress of p0.
  static std::string attached() {
    const int ifindex = link("p0").ifindex;
    return (carries_our_tcx(ifindex, Direction::ingress) ? "tcx " : "") + filters_of(ifindex);
  }
};

INSTANTIATE_TEST_SUITE_P(Either, HostAtTc, testing::Bool(),
                         [](const auto& way) { return std::string(way.param ? "Tcx" : "Filter"); });

TEST_P(HostAtTc, InlineIsSetUpAndLeftAsFound) {
  run("ethtool -K p0 gro on");
  const std::string before = snapshot();
  {
    Result<Port> port = open("p0", Role::tap_inline, Hook::tc);
    ASSERT_TRUE(succeeded(port));
    EXPECT_TRUE(port->warnings().empty());
    for (const char* name : {"rx-gro", "tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"}) {
      EXPECT_FALSE(is_on("p0", name)) << name;
    }
    EXPECT_TRUE(is_on("p0", "rx-vlan-hw-parse"));
    EXPECT_TRUE(link("p0").promisc);
    EXPECT_EQ(disable_ipv6("p0").value(), std::optional<std::string>("1"));
    ASSERT_TRUE(succeeded(port->attach_tc(Direction::ingress, tc_program().get())));
  }
  // The stop leaves everything.
  EXPECT_EQ(attached(), tcx_ ? "tcx " : "1:bpf:vtap_test! ");
  EXPECT_TRUE(link("p0").promisc);

  const Result<std::vector<std::string>> undone = detach_port(state(), "p0");
  ASSERT_TRUE(succeeded(undone));
  EXPECT_EQ(undone.value().size(), tcx_ ? 6U : 7U) << "the clsact comes on top";
  EXPECT_EQ(snapshot(), before);
  EXPECT_FALSE(fs::exists(base_ / "state")) << "nothing left behind";
}

TEST_F(Host, TapAtXdpIsSetUpAndLeftAsFound) {
  ASSERT_TRUE(is_on("p0", "rx-vlan-hw-parse"));
  const std::string before = snapshot();
  {
    Result<Port> port = open("p0", Role::tap_host, Hook::xdp);
    ASSERT_TRUE(succeeded(port));
    EXPECT_FALSE(is_on("p0", "rx-vlan-hw-parse"));
    EXPECT_FALSE(is_on("p0", "rx-vlan-stag-hw-parse"));
    EXPECT_TRUE(is_on("p0", "tx-vlan-hw-insert"));
    EXPECT_FALSE(link("p0").promisc);
    EXPECT_EQ(disable_ipv6("p0").value(), std::optional<std::string>("0"));
    ASSERT_TRUE(succeeded(port->attach_xdp(xdp_program().get())));
  }
  EXPECT_NE(link("p0").xdp_prog_id, 0U);
  ASSERT_TRUE(succeeded(detach_port(state(), "p0")));
  EXPECT_EQ(snapshot(), before);
}

TEST_F(Host, HostAtTcKeepsItsOffloads) {
  run("ethtool -K p0 gro on");
  const std::string before = snapshot();
  ASSERT_TRUE(succeeded(open("p0", Role::tap_host, Hook::tc)));
  EXPECT_EQ(snapshot(), before);
}

TEST_F(Host, SecondBrokerIsRefusedAndDetachTooWhileOneLives) {
  Result<Port> first = open("p0", Role::tap_span, Hook::tc);
  ASSERT_TRUE(succeeded(first));
  const std::string running = snapshot();
  for (const Role role : {Role::tap_span, Role::monitor}) {
    const Result<Port> second = open("p0", role, Hook::tc);
    ASSERT_FALSE(second.ok());
    EXPECT_TRUE(mentions(second.error().message, "p0"));
    EXPECT_TRUE(mentions(second.error().message, std::to_string(::getpid())));
  }
  EXPECT_FALSE(detach_port(state(), "p0").ok());
  EXPECT_EQ(snapshot(), running);
  EXPECT_TRUE(succeeded(open("p1", Role::tap_span, Hook::tc)));
}

TEST_F(Host, NamespacesDoNotShareClaims) {
  const Result<Port> first = open("p0", Role::tap_span, Hook::tc);
  ASSERT_TRUE(succeeded(first));
  ASSERT_EQ(::unshare(CLONE_NEWNET), 0);
  run("ip link add p0 type veth peer name p1");
  EXPECT_TRUE(succeeded(open("p0", Role::tap_span, Hook::tc)));
}

/// A broker that sets p0 up, attaches at both hooks and dies of SIGKILL.
void start_and_kill(const StateDir& state, bool tcx) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    Result<Port> port =
        Port::open(state, {.name = "p0", .role = Role::tap_inline, .hook = Hook::tc, .tcx = tcx});
    const bool good = port.ok() &&
                      port->attach_tc(Direction::ingress, tc_program("vtap_a").get()).ok() &&
                      port->attach_tc(Direction::egress, tc_program("vtap_b").get()).ok() &&
                      port->attach_xdp(xdp_program("vtap_c").get()).ok();
    if (!good) ::_exit(1);
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status)) << "the set-up failed";
}

TEST_P(HostAtTc, DetachRestoresAfterKillMinusNineHoweverOften) {
  run("ethtool -K p0 gro on");
  const std::string before = snapshot();
  start_and_kill(state(), tcx_);
  EXPECT_EQ(attached(), tcx_ ? "tcx " : "1:bpf:vtap_a! ");
  EXPECT_NE(link("p0").xdp_prog_id, 0U);
  start_and_kill(state(),
                 tcx_);  // sees its predecessor's settings, must not take them for the originals
  EXPECT_EQ(attached(), tcx_ ? "tcx " : "1:bpf:vtap_a! ");

  ASSERT_TRUE(succeeded(detach_port(state(), "p0")));
  EXPECT_EQ(snapshot(), before);
  const Result<std::vector<std::string>> again = detach_port(state(), "p0");
  ASSERT_TRUE(succeeded(again));
  EXPECT_TRUE(again.value().empty());
  EXPECT_EQ(snapshot(), before);
  EXPECT_FALSE(fs::exists(base_ / "state"));
}

TEST_P(HostAtTc, DetachKeepsWhatOthersAddedAndWhatWasThere) {
  run("ip link set p0 promisc on");
  run("tc qdisc add dev p0 clsact");
  run(std::string("tc filter add dev p0 egress protocol all prio 7 ") + foreign_u32);
  const std::string before = snapshot();
  start_and_kill(state(), tcx_);
  ASSERT_TRUE(succeeded(detach_port(state(), "p0")));
  EXPECT_EQ(snapshot(), before);
}

TEST_F(Host, DetachLeavesOurClsactToOthersWhoUseItNow) {
  tcx_ = false;
  start_and_kill(state(), tcx_);
  run(std::string("tc filter add dev p0 egress protocol all prio 7 ") + foreign_u32);
  ASSERT_TRUE(succeeded(detach_port(state(), "p0")));
  EXPECT_EQ(tc_qdisc(link("p0").ifindex).value(), TcQdisc::clsact);
  EXPECT_EQ(filters_of(link("p0").ifindex), "");
  EXPECT_TRUE(mentions(run("tc filter show dev p0 egress"), "u32"));
}

TEST_F(Host, AFilterFromBeforeTheKernelHadTcxGivesWay) {
  if (!has_tcx()) GTEST_SKIP() << "SKIPPED: this kernel has no tcx (6.6)";
  const std::string before = snapshot();
  start_and_kill(state(), false);
  const int ifindex = link("p0").ifindex;
  ASSERT_EQ(filters_of(ifindex), "1:bpf:vtap_a! ");
  start_and_kill(state(), true);
  EXPECT_EQ(filters_of(ifindex), "");
  EXPECT_TRUE(carries_our_tcx(ifindex, Direction::ingress));
  ASSERT_TRUE(succeeded(detach_port(state(), "p0")));
  EXPECT_EQ(snapshot(), before) << "the clsact is gone, too";
}

TEST_F(Host, TcxOfOthersStays) {
  if (!has_tcx()) GTEST_SKIP() << "SKIPPED: this kernel has no tcx (6.6)";
  const int ifindex = link("p0").ifindex;
  const UniqueFd theirs = tc_program("theirs");
  // By the library of Debian 12, which knows no tcx, but passes the number on.
  constexpr auto tcx_ingress = static_cast<bpf_attach_type>(46);
  ASSERT_EQ(::bpf_prog_attach(theirs.get(), ifindex, tcx_ingress, 0), 0);
  const Result<TcAttachment> made = attach_tcx(ifindex, Direction::ingress, tc_program().get());
  ASSERT_TRUE(succeeded(made));
  EXPECT_FALSE(made.value().replaced);
  EXPECT_TRUE(made.value().ahead.empty());
  std::array<std::uint32_t, 4> ids{};
  std::uint32_t count = ids.size();
  ASSERT_EQ(::bpf_prog_query(ifindex, tcx_ingress, 0, nullptr, ids.data(), &count), 0);
  ASSERT_EQ(count, 2U);
  EXPECT_EQ(ids[1], id_of(theirs)) << "ours runs first";
  ASSERT_TRUE(detach_tcx(ifindex, Direction::ingress).value());
  count = ids.size();
  ASSERT_EQ(::bpf_prog_query(ifindex, tcx_ingress, 0, nullptr, ids.data(), &count), 0);
  ASSERT_EQ(count, 1U);
  EXPECT_EQ(ids[0], id_of(theirs));
}

TEST_F(Host, TcxOfOthersThatCameBeforeOursIsTold) {
  if (!has_tcx()) GTEST_SKIP() << "SKIPPED: this kernel has no tcx (6.6)";
  const int ifindex = link("p0").ifindex;
  ASSERT_TRUE(succeeded(attach_tcx(ifindex, Direction::egress, tc_program().get())));
  constexpr auto tcx_egress = static_cast<bpf_attach_type>(47);
  constexpr unsigned int before = 1U << 3;  // BPF_F_BEFORE
  ASSERT_EQ(::bpf_prog_attach(tc_program("theirs").get(), ifindex, tcx_egress, before), 0);
  const Result<TcAttachment> again =
      attach_tcx(ifindex, Direction::egress, tc_program("vtap_two").get());
  ASSERT_TRUE(succeeded(again));
  EXPECT_TRUE(again.value().replaced);
  ASSERT_EQ(again.value().ahead.size(), 1U);
  EXPECT_EQ(again.value().ahead.front().program, "theirs");
  EXPECT_TRUE(detach_tcx(ifindex, Direction::egress).value());
}

TEST_F(Host, ProgramsOfOthersAreListedWithTheCommandThatRemovesThem) {
  EXPECT_TRUE(foreign_programs(link("p0")).value().empty());
  const UniqueFd firewall = xdp_program("firewall");
  ASSERT_EQ(::bpf_xdp_attach(link("p0").ifindex, firewall.get(), XDP_FLAGS_SKB_MODE, nullptr), 0);
  run("tc qdisc add dev p0 clsact");
  run("tc filter add dev p0 ingress pref 7 protocol ip u32 match u32 0 0 flowid 1:1");
  run("tc filter add dev p0 egress pref 8 bpf bytecode '1,6 0 0 0,' flowid 1:1");
  const auto found = foreign_programs(link("p0"));
  ASSERT_TRUE(succeeded(found));
  ASSERT_EQ(found.value().size(), 3U);
  EXPECT_EQ(found.value()[0].name, "firewall");
  EXPECT_EQ(found.value()[0].id, id_of(firewall));
  EXPECT_EQ(found.value()[0].remove, "ip link set dev p0 xdpgeneric off");
  EXPECT_EQ(found.value()[1].where, ForeignProgram::Where::tc_ingress);
  EXPECT_EQ(found.value()[1].name, "u32");
  EXPECT_EQ(found.value()[2].where, ForeignProgram::Where::tc_egress);
  for (const ForeignProgram& each : found.value()) run(each.remove);
  EXPECT_TRUE(foreign_programs(link("p0")).value().empty());
}

TEST_F(Host, OursAreNotForeignAndOrderCounts) {
  if (!has_tcx()) GTEST_SKIP() << "SKIPPED: this kernel has no tcx (6.6)";
  const int ifindex = link("p0").ifindex;
  ASSERT_TRUE(succeeded(attach_xdp(ifindex, xdp_program().get())));
  ASSERT_TRUE(succeeded(attach_tcx(ifindex, Direction::ingress, tc_program().get())));
  EXPECT_TRUE(foreign_programs(link("p0")).value().empty());
  constexpr auto tcx_ingress = static_cast<bpf_attach_type>(46);
  constexpr unsigned int before = 1U << 3;  // BPF_F_BEFORE
  ASSERT_EQ(::bpf_prog_attach(tc_program("behind").get(), ifindex, tcx_ingress, 0), 0);
  ASSERT_EQ(::bpf_prog_attach(tc_program("before").get(), ifindex, tcx_ingress, before), 0);
  const auto found = foreign_programs(link("p0"));
  ASSERT_TRUE(succeeded(found));
  ASSERT_EQ(found.value().size(), 2U);
  EXPECT_EQ(found.value()[0].name, "before");
  EXPECT_TRUE(found.value()[0].ahead_of_ours);
  EXPECT_EQ(found.value()[1].name, "behind");
  EXPECT_FALSE(found.value()[1].ahead_of_ours);
  EXPECT_EQ(found.value()[0].remove, "bpftool net detach tcx_ingress dev p0");
}

TEST_F(Host, FarEndOfAPairHereAndElsewhere) {
  auto end = far_end(link("p0"));
  ASSERT_TRUE(end);
  EXPECT_EQ(end->name, "p1");
  EXPECT_TRUE(end->here && end->up);
  EXPECT_EQ(end->command("true"), "true");
  EXPECT_TRUE(end->features.contains("rx-gro"));
  run("ip link set p1 down");
  EXPECT_FALSE(far_end(link("p0"))->up);
  run("ip link add mv0 link p1 type macvlan");
  EXPECT_FALSE(far_end(link("mv0")));
  EXPECT_FALSE(ring_sizes("p0"));

  const std::string name = "vtap-it-" + std::to_string(::getpid()) + "-host";
  run("ip netns add " + name);
  run("ip link set p1 netns " + name);
  end = far_end(link("p0"));
  EXPECT_EQ(end->name, "p1");
  EXPECT_EQ(end->netns, name);
  EXPECT_FALSE(end->here || end->up);
  EXPECT_TRUE(end->features.contains("rx-gro")) << "read over there";
  run(end->command("ip link set p1 up"));
  EXPECT_TRUE(far_end(link("p0"))->up);
  EXPECT_EQ(link("p0").name, "p0") << "this thread has stayed where it was";
  run("ip netns del " + name);
}

TEST_F(Host, SetUpAgainIsJournalledSoThatDetachUndoesIt) {
  run("ethtool -K p0 gro off");
  const std::string before = snapshot();
  Demand demand;
  demand.features_off = {"rx-gro"};
  demand.promisc = true;
  {
    Result<Port> port = open("p0", Role::tap_inline, Hook::tc);
    ASSERT_TRUE(succeeded(port));
    run("ethtool -K p0 gro on && ip link set p0 promisc off");
    EXPECT_FALSE(set_up_again(state(), "p0", demand, false).ok()) << "GRO is not in its journal";
    EXPECT_TRUE(is_on("p0", "rx-gro"));
    ASSERT_TRUE(succeeded(set_up_again(state(), "p0", demand, true)));
    EXPECT_FALSE(is_on("p0", "rx-gro"));
    EXPECT_TRUE(link("p0").promisc);
    // The port's own journal was read before: its restore must know of the addition.
    ASSERT_TRUE(succeeded(port->restore()));
    EXPECT_TRUE(is_on("p0", "rx-gro")) << "as the doctor found it";
    EXPECT_FALSE(link("p0").promisc);
  }
  run("ethtool -K p0 gro off");
  EXPECT_EQ(snapshot(), before);
  ASSERT_TRUE(succeeded(set_up_again(state(), "p0", demand, false)));
  EXPECT_TRUE(link("p0").promisc);
  ASSERT_TRUE(succeeded(detach_port(state(), "p0")));
  EXPECT_EQ(snapshot(), before);
}

TEST_F(Host, DetachFindsARenamedDeviceAndIgnoresANewOne) {
  start_and_kill(state(), tcx_);
  run("ip link set p0 down && ip link set p0 name moved && ip link set moved up");
  ASSERT_TRUE(succeeded(detach_port(state(), "p0")));
  EXPECT_FALSE(link("moved").promisc);
  EXPECT_EQ(link("moved").xdp_prog_id, 0U);
  run("ip link set moved down && ip link set moved name p0 && ip link set p0 up");

  start_and_kill(state(), tcx_);
  run("ip link del p0 && ip link add p0 type veth peer name p1");
  run("ip link set p0 promisc on && ethtool -K p0 tx-vlan-hw-insert off");
  const std::string before = snapshot();
  const Result<std::vector<std::string>> undone = detach_port(state(), "p0");
  ASSERT_TRUE(succeeded(undone));
  EXPECT_TRUE(undone.value().empty());
  EXPECT_EQ(snapshot(), before);

  run("ip link del p0");
  EXPECT_TRUE(succeeded(detach_port(state(), "p0")));
}

TEST_F(Host, ANewRoleSetsBackWhatItDoesNotNeed) {
  start_and_kill(state(), tcx_);
  const Result<Port> port = open("p0", Role::tap_host, Hook::tc);
  ASSERT_TRUE(succeeded(port));
  EXPECT_FALSE(link("p0").promisc);
  EXPECT_TRUE(is_on("p0", "tx-vlan-hw-insert"));
  EXPECT_EQ(disable_ipv6("p0").value(), std::optional<std::string>("0"));
}

TEST_F(Host, MonitorsAreRefusedWhereTheyWouldHarm) {
  const auto refusal = [this](Role role, const std::string& name = "p0") {
    const Result<Port> port = open(name, role, Hook::tc);
    if (port) return std::string();
    EXPECT_EQ(port.error().kind, ErrorKind::usage);
    return port.error().message;
  };
  EXPECT_TRUE(mentions(refusal(Role::tap_host, "lo"), "Ethernet"));
  run("ip addr add 192.0.2.1/24 dev p0 && ip route add default via 192.0.2.2");
  EXPECT_TRUE(mentions(refusal(Role::monitor), "default route"));
  run("ip route del default && ip link add link p0 name mv0 type macvlan");
  EXPECT_TRUE(mentions(refusal(Role::monitor), "on top"));
  EXPECT_TRUE(mentions(refusal(Role::tap_inline), "on top"));
  EXPECT_EQ(refusal(Role::tap_host), "");
  run("ip link del mv0 && ip link add br0 type bridge && ip link set p0 master br0");
  EXPECT_TRUE(mentions(refusal(Role::monitor), "nomaster"));
  EXPECT_EQ(refusal(Role::tap_host), "");
  EXPECT_FALSE(link("p1").promisc);
}

TEST_F(Host, APortWithAnIpv6AddressKeepsItWithAWarning) {
  run("ip -6 addr add 2001:db8::1/64 dev p0 nodad");
  const Result<Port> port = open("p0", Role::monitor, Hook::tc);
  ASSERT_TRUE(succeeded(port));
  ASSERT_EQ(port.value().warnings().size(), 1U);
  EXPECT_TRUE(mentions(port.value().warnings().front(), "IPv6"));
  EXPECT_EQ(disable_ipv6("p0").value(), std::optional<std::string>("0"));
  EXPECT_TRUE(mentions(run("ip -6 addr show dev p0"), "2001:db8::1"));
}

}  // namespace
}  // namespace vtap::host
