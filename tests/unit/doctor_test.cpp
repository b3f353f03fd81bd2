// SPDX-License-Identifier: Apache-2.0
// The doctor's checks on facts built by hand, and what it reads below another root.
#include "doctor/doctor.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "doctor/checks.hpp"
#include "doctor/facts.hpp"
#include "doctor/view.hpp"

namespace vtap::doctor {
namespace {

namespace fs = std::filesystem;

bool mentions(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

host::Link card(const std::string& name, int ifindex) {
  host::Link link;
  link.name = name;
  link.ifindex = ifindex;
  link.mtu = 1500;
  link.ethernet = link.up = link.carrier = true;
  link.driver = "ice";
  link.rx_queues = link.tx_queues = 4;
  link.xdp_features = host::xdp_act::basic | host::xdp_act::redirect | host::xdp_act::ndo_xmit |
                      host::xdp_act::zero_copy;
  return link;
}

host::Link veth(const std::string& name, int ifindex) {
  host::Link link = card(name, ifindex);
  link.kind = link.driver = "veth";
  link.xdp_features = host::xdp_act::basic | host::xdp_act::redirect | host::xdp_act::ndo_xmit;
  return link;
}

/// An inline pair of cards at XDP and a monitor, one policy between them, two workers; all is well.
Facts fine() {
  Facts facts;
  facts.config.file = "tap.toml";
  config::Tap tap;
  tap.name = "wan";
  tap.ports = {"eth1", "eth2"};
  facts.config.taps = {tap};
  config::Monitor monitor;
  monitor.name = "ids";
  monitor.port = "eth3";
  facts.config.monitors = {monitor};
  config::Policy policy;
  policy.name = "all";
  policy.taps = {0};
  policy.monitors = {0};
  facts.config.policies = {policy};
  for (const auto& [name, ifindex] : {std::pair{"eth1", 1}, {"eth2", 2}, {"eth3", 3}}) {
    PortFacts port;
    port.name = name;
    const bool tapped = ifindex != 3;
    port.owner = tapped ? "tap wan" : "monitor ids";
    port.spec = {.name = name,
                 .role = tapped ? host::Role::tap_inline : host::Role::monitor,
                 .hook = host::Hook::xdp};
    if (tapped) port.output = ifindex == 1 ? 1 : 0;
    port.link = card(name, ifindex);
    facts.ports.push_back(port);
  }
  facts.machine.kernel = "6.1.0 x86_64";
  facts.machine.probed = true;
  facts.machine.probes = {{.what = "BPF map type hash", .why = "classification"}};
  facts.machine.workers = {{.number = 2, .governor = "performance", .siblings = {2, 6}},
                           {.number = 3, .governor = "performance", .siblings = {3, 7}}};
  for (Cpu& cpu : facts.machine.workers) cpu.isolated = cpu.tickless = true;
  facts.attempt.problems.push_back({{}, "test", "test", "loops are not looked for"});
  return facts;
}

Diagnoses run(Check check, const Facts& facts) {
  Diagnoses found;
  check(facts, found);
  std::erase_if(found, [](const Diagnosis& each) { return each.finding.severity == Severity::ok; });
  return found;
}

/// The one finding of a check.
Diagnosis only(Check check, const Facts& facts) {
  Diagnoses found = run(check, facts);
  EXPECT_EQ(found.size(), 1U);
  if (found.empty()) return {};
  EXPECT_FALSE(found.front().finding.id.empty());
  EXPECT_FALSE(found.front().finding.subject.empty());
  EXPECT_FALSE(found.front().finding.what.empty());
  EXPECT_FALSE(found.front().finding.why.empty());
  EXPECT_EQ(found.front().finding.safe, found.front().remedy.has_value());
  return found.front();
}

TEST(Doctor, NothingIsFoundWhereAllIsWell) {
  Facts facts = fine();
  facts.attempt.problems.clear();
  facts.attempt.resolved.fan.sets.resize(1);
  facts.attempt.resolved.taps.resize(1);
  facts.attempt.resolved.monitors.resize(1);
  facts.attempt.resolved.monitors[0].link = *facts.ports[2].link;
  for (const Diagnosis& each : diagnose(facts)) {
    const Finding& finding = each.finding;
    if (finding.id == "loop") continue;  // a card leads out of the namespace
    EXPECT_EQ(finding.severity, Severity::ok) << finding.id << ": " << finding.what;
  }
}

TEST(DoctorMachine, KernelWithoutAFeature) {
  Facts facts = fine();
  facts.machine.probes.push_back({.what = "BPF map type xskmap", .works = false, .why = "taps"});
  EXPECT_EQ(only(check_kernel, facts).finding.severity, Severity::error);
  EXPECT_TRUE(mentions(only(check_kernel, facts).finding.what, "xskmap"));
  facts.machine.probes.back().needed = false;
  EXPECT_EQ(only(check_kernel, facts).finding.severity, Severity::hint);
}

TEST(DoctorMachine, KernelIsNotPraisedWhenNothingWasTried) {
  Facts facts = fine();
  facts.machine.probed = false;
  facts.machine.probes.clear();
  Diagnoses found;
  check_kernel(facts, found);
  EXPECT_TRUE(found.empty());
}

TEST(DoctorMachine, Realtime) {
  Facts facts = fine();
  EXPECT_TRUE(run(check_realtime, facts).empty());
  facts.machine.realtime = true;
  EXPECT_EQ(only(check_realtime, facts).finding.severity, Severity::error);
}

TEST(DoctorMachine, MissingCapabilities) {
  Facts facts = fine();
  facts.machine.privileges.missing = {"CAP_NET_ADMIN", "CAP_BPF"};
  facts.machine.privileges.executable = "/usr/sbin/vtap-broker";
  EXPECT_EQ(only(check_capabilities, facts).finding.fix,
            "setcap cap_net_admin,cap_bpf+ep /usr/sbin/vtap-broker");
  facts.machine.privileges.out_of_reach = {"CAP_BPF"};
  const std::string fix = only(check_capabilities, facts).finding.fix;
  EXPECT_TRUE(mentions(fix, "CAP_BPF")) << fix;
  EXPECT_FALSE(mentions(fix, "CAP_NET_ADMIN")) << fix;
}

TEST(DoctorMachine, LockedMemoryCountsForEverySocket) {
  Facts facts = fine();
  Privileges& mine = facts.machine.privileges;
  mine.may_lock = mine.may_raise = false;
  const std::uint64_t frames =
      std::uint64_t{facts.config.broker.frames} * facts.config.broker.frame_size;
  mine.memlock = mine.memlock_most = 2 * frames;  // two workers with a queue each
  EXPECT_TRUE(run(check_memlock, facts).empty());
  mine.memlock = 2 * frames - 1;
  EXPECT_EQ(only(check_memlock, facts).finding.severity, Severity::error);
  mine.memlock_most = ~std::uint64_t{0};
  EXPECT_TRUE(run(check_memlock, facts).empty()) << "everybody may raise it as far as that";
  mine.memlock_most = 2 * frames - 1;
  mine.may_raise = true;
  EXPECT_TRUE(run(check_memlock, facts).empty());
  mine.may_raise = false;
  mine.may_lock = true;
  EXPECT_TRUE(run(check_memlock, facts).empty());
}

TEST(DoctorMachine, BpffsIsMountedSafely) {
  Facts facts = fine();
  facts.machine.bpffs = false;
  const Diagnosis found = only(check_bpffs, facts);
  EXPECT_EQ(found.finding.severity, Severity::hint);
  EXPECT_TRUE(std::holds_alternative<MountBpffs>(found.remedy.value()));
}

TEST(DoctorMachine, TunIsNeededAtTcAlone) {
  Facts facts = fine();
  facts.machine.tun = false;
  engine::ResolvedTap tap;
  tap.hook = host::Hook::xdp;
  facts.attempt.resolved.taps = {tap};
  EXPECT_TRUE(run(check_tun, facts).empty());
  facts.attempt.resolved.taps[0].egress = true;
  EXPECT_EQ(only(check_tun, facts).finding.fix, "modprobe tun");
}

TEST(DoctorCpus, Hints) {
  Facts facts = fine();
  auto& workers = facts.machine.workers;
  workers[0].isolated = workers[0].tickless = false;
  EXPECT_EQ(only(check_isolation, facts).finding.subject, "CPU 2");
  workers[1].governor = "powersave";
  EXPECT_EQ(only(check_governor, facts).finding.fix,
            "echo performance | tee /sys/devices/system/cpu/cpu3/cpufreq/scaling_governor");
  workers[1].siblings = {2, 3};
  workers[0].siblings = {2, 3};
  EXPECT_EQ(only(check_siblings, facts).finding.subject, "CPU 2,3");
  facts.machine.irqbalance = true;
  for (const Check check : {check_isolation, check_governor, check_siblings, check_irqbalance}) {
    EXPECT_EQ(only(check, facts).finding.severity, Severity::hint);
  }
}

TEST(DoctorCpus, NoGovernorIsNoFinding) {
  Facts facts = fine();
  facts.machine.workers[0].governor.clear();
  EXPECT_TRUE(run(check_governor, facts).empty());
}

TEST(DoctorPorts, LinkDown) {
  Facts facts = fine();
  facts.ports[2].link->up = false;
  EXPECT_EQ(only(check_links, facts).finding.fix, "ip link set dev eth3 up");
  facts.ports[2].link->up = true;
  facts.ports[2].link->carrier = false;
  EXPECT_TRUE(mentions(only(check_links, facts).finding.fix, "cable"));
  facts.ports[2].far_end.emplace();
  facts.ports[2].far_end->name = "p0";
  facts.ports[2].far_end->netns = "mon";
  EXPECT_EQ(only(check_links, facts).finding.fix, "ip netns exec mon ip link set dev p0 up");
}

TEST(DoctorPorts, FrameSize) {
  Facts facts = fine();
  facts.ports[0].link->mtu = facts.ports[1].link->mtu = facts.ports[2].link->mtu = 2048 - 18;
  EXPECT_TRUE(run(check_mtu, facts).empty());
  facts.ports[0].redirect = true;  // the packet's headroom is in the frame as well
  EXPECT_EQ(only(check_mtu, facts).finding.id, "mtu-frame-size");
  facts.ports[0].redirect = false;
  for (PortFacts& port : facts.ports) port.link->mtu = 2048 - 17;
  Diagnoses found = run(check_mtu, facts);
  ASSERT_EQ(found.size(), 2U);
  EXPECT_TRUE(mentions(found[0].finding.fix, "frame_size = 4096 }"));
  for (PortFacts& port : facts.ports) port.link->mtu = 9000;
  found = run(check_mtu, facts);
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].finding.fix.rfind("ip link set dev eth1 mtu 4078", 0), 0U);
}

TEST(DoctorPorts, MonitorMtuIsAskedOfTheTapsOfItsPolicies) {
  Facts facts = fine();
  facts.ports[2].link->mtu = 1400;
  EXPECT_EQ(only(check_mtu, facts).finding.fix, "ip link set dev eth3 mtu 1500");
  facts.config.policies[0].slice = 1414;
  EXPECT_TRUE(run(check_mtu, facts).empty());
  facts.config.policies[0].slice = 1415;
  EXPECT_EQ(only(check_mtu, facts).finding.id, "mtu-monitor");
  facts.config.policies[0].slice = 100;
  facts.config.policies[0].slice_after = 5;  // the first packets are whole
  EXPECT_EQ(only(check_mtu, facts).finding.id, "mtu-monitor");
  facts.config.policies[0].taps.clear();
  EXPECT_TRUE(run(check_mtu, facts).empty());
}

TEST(DoctorPorts, Rings) {
  Facts facts = fine();
  facts.ports[0].rings = {.rx = 256, .rx_max = 4096, .tx = 256, .tx_max = 4096};
  EXPECT_EQ(only(check_rings, facts).finding.fix, "ethtool -G eth1 rx 4096");
  facts.ports[0].rings->rx = 1024;
  EXPECT_TRUE(run(check_rings, facts).empty());
  facts.ports[0].rings = {.rx = 256, .rx_max = 256};
  EXPECT_TRUE(run(check_rings, facts).empty());
  facts.ports[2].rings = {.rx = 256, .rx_max = 4096, .tx = 512, .tx_max = 2048};
  EXPECT_EQ(only(check_rings, facts).finding.fix, "ethtool -G eth3 tx 2048");
}

TEST(DoctorXdp, UnfinishedFrames) {
  Facts facts = fine();
  PortFacts& port = facts.ports[0];
  EXPECT_TRUE(run(check_unfinished, facts).empty()) << "a card finishes its frames";
  port.link = veth("eth1", 1);
  EXPECT_TRUE(mentions(only(check_unfinished, facts).finding.fix, "hook = \"tc\""));
  port.far_end.emplace();
  port.far_end->name = "l0";
  port.far_end->netns = "left";
  EXPECT_TRUE(mentions(only(check_unfinished, facts).finding.fix, "hook = \"tc\""))
      << "nobody knows the other end's settings";
  port.far_end->features = {{"tx-checksum-ip-generic", {.active = true}},
                            {"tx-vlan-hw-insert", {.active = false}},
                            {"tx-scatter-gather", {.active = true}}};
  EXPECT_EQ(only(check_unfinished, facts).finding.fix,
            "ip netns exec left ethtool -K l0 tx-checksum-ip-generic off");
  port.far_end->features["tx-checksum-ip-generic"].active = false;
  EXPECT_TRUE(run(check_unfinished, facts).empty());
  port.far_end.reset();
  port.spec.hook = host::Hook::tc;
  EXPECT_TRUE(run(check_unfinished, facts).empty());
}

TEST(DoctorXdp, OutputThatTakesNoFrames) {
  Facts facts = fine();
  const auto without = host::xdp_act::basic | host::xdp_act::redirect;
  facts.ports[1].link->xdp_features = without;
  EXPECT_TRUE(run(check_outputs, facts).empty()) << "a card may show it with its first program";
  facts.ports[1].in_use = true;
  EXPECT_EQ(only(check_outputs, facts).finding.severity, Severity::error);
  facts.ports[1].in_use = false;
  facts.ports[1].link = veth("eth2", 2);
  EXPECT_TRUE(run(check_outputs, facts).empty());
  facts.ports[1].link->xdp_features = without;
  facts.ports[1].far_end.emplace();
  facts.ports[1].far_end->name = "r0";
  EXPECT_EQ(only(check_outputs, facts).finding.fix, "ethtool -K r0 gro on");
  facts.ports[0].spec.hook = facts.ports[1].spec.hook = host::Hook::tc;
  EXPECT_TRUE(run(check_outputs, facts).empty());
}

TEST(DoctorXdp, OutputOnAnOldKernelIsJudgedByItsFarEnd) {
  Facts facts = fine();
  facts.ports[1].link = veth("eth2", 2);
  facts.ports[1].link->xdp_features.reset();
  facts.ports[1].far_end.emplace();
  facts.ports[1].far_end->name = "r0";
  facts.ports[1].far_end->features = {{"rx-gro", {.active = true}}};
  EXPECT_TRUE(run(check_outputs, facts).empty());
  facts.ports[1].far_end->features["rx-gro"].active = false;
  EXPECT_EQ(only(check_outputs, facts).finding.id, "no-ndo-xmit");
}

TEST(DoctorXdp, FramesInSeveralBuffersGoWhereTheDriverSaysSo) {
  host::Link input = card("eth1", 1);
  host::Link output = card("eth2", 2);
  const std::uint64_t one_buffer = output.xdp_features.value();
  EXPECT_FALSE(host::loses_long_frames(input, output));
  input.mtu = host::kOneBufferMtu + 1;
  EXPECT_TRUE(host::loses_long_frames(input, output));
  output.xdp_features = one_buffer | host::xdp_act::ndo_xmit_sg;
  EXPECT_FALSE(host::loses_long_frames(input, output));
  output.xdp_features = host::xdp_act::basic;  // nothing told before a program is there
  EXPECT_FALSE(host::loses_long_frames(input, output));
  output.xdp_features.reset();  // before Linux 6.3
  EXPECT_TRUE(host::loses_long_frames(input, output));
  input.mtu = host::kOneBufferMtu;
  EXPECT_FALSE(host::loses_long_frames(input, output));
}

TEST(DoctorXdp, MonitorOfABroadcast) {
  Facts facts = fine();
  facts.ports[2].link = veth("eth3", 3);
  facts.ports[2].link->xdp_features = host::xdp_act::basic;
  EXPECT_TRUE(run(check_outputs, facts).empty());
  facts.ports[2].broadcast = true;
  EXPECT_EQ(only(check_outputs, facts).finding.severity, Severity::warning);
}

TEST(DoctorXdp, ForeignFilters) {
  Facts facts = fine();
  PortFacts& port = facts.ports[0];
  using Where = host::ForeignProgram::Where;
  port.foreign = {{.where = Where::tc_ingress, .name = "cilium", .id = 7, .remove = "take it"}};
  EXPECT_TRUE(run(check_foreign, facts).empty()) << "XDP comes before TC";
  port.spec.hook = host::Hook::tc;
  EXPECT_EQ(only(check_foreign, facts).finding.fix, "take it");
  EXPECT_TRUE(mentions(only(check_foreign, facts).finding.what, "\"cilium\" (id 7)"));
  port.foreign[0].ahead_of_ours = false;
  EXPECT_TRUE(run(check_foreign, facts).empty());
  port.foreign[0] = {.where = Where::tc_egress, .name = "x", .remove = "take it"};
  EXPECT_TRUE(run(check_foreign, facts).empty()) << "nobody looks at what leaves here";
  port.egress = true;
  EXPECT_EQ(only(check_foreign, facts).finding.id, "foreign-tc");
}

TEST(DoctorXdp, GenericMode) {
  Facts facts = fine();
  facts.ports[0].link->xdp_features = 0;
  EXPECT_EQ(only(check_xdp_features, facts).finding.id, "generic-xdp");
  facts.ports[0].spec.hook = host::Hook::tc;
  EXPECT_TRUE(run(check_xdp_features, facts).empty());
}

TEST(DoctorSettings, WhatTheBrokerWillTurnIsNoFindingBeforeItRuns) {
  Facts facts = fine();
  facts.ports[0].features = {
      {"rx-vlan-hw-parse", {.requested = true, .active = true, .changeable = true}},
      {"rx-lro", {.requested = true, .active = true, .changeable = true}},
      {"rx-gro", {.requested = true, .active = true, .changeable = true}}};
  EXPECT_TRUE(run(check_offloads, facts).empty());
  facts.ports[0].in_use = true;
  const Diagnoses found = run(check_offloads, facts);
  ASSERT_EQ(found.size(), 2U) << "GRO is no matter at XDP";
  EXPECT_EQ(found[0].finding.id, "lro");
  EXPECT_EQ(found[1].finding.id, "vlan-offload");
  EXPECT_EQ(found[1].finding.fix, "ethtool -K eth1 rx-vlan-hw-parse off");
  const auto& remedy = std::get<SetUpAgain>(found[1].remedy.value());
  EXPECT_EQ(remedy.port, "eth1");
  EXPECT_EQ(remedy.demand.features_off, std::vector<std::string>{"rx-vlan-hw-parse"});
}

TEST(DoctorSettings, WhatCannotBeTurnedIsAFindingInAnyCase) {
  Facts facts = fine();
  facts.ports[0].features = {{"rx-vlan-hw-parse", {.requested = true, .active = true}}};
  const Diagnosis found = only(check_offloads, facts);
  EXPECT_FALSE(found.finding.safe);
  EXPECT_TRUE(mentions(found.finding.fix, "hook = \"tc\""));
}

TEST(DoctorSettings, MonitorThatGetsClones) {
  Facts facts = fine();
  facts.ports[2].in_use = true;
  facts.ports[2].features = {
      {"tx-tcp-segmentation", {.requested = true, .active = true, .changeable = true}}};
  EXPECT_TRUE(run(check_offloads, facts).empty());
  facts.ports[2].spec.skb_output = true;
  EXPECT_EQ(only(check_offloads, facts).finding.id, "tx-offload");
}

TEST(DoctorSettings, LroOfAHost) {
  Facts facts = fine();
  facts.ports[0].spec.role = host::Role::tap_host;
  facts.ports[0].spec.hook = host::Hook::tc;
  facts.ports[0].features = {{"rx-lro", {.active = true, .changeable = true}}};
  const Diagnosis found = only(check_host_lro, facts);
  EXPECT_EQ(found.finding.fix, "ethtool -K eth1 rx-lro off");
  EXPECT_FALSE(found.finding.safe) << "the next start would set it back";
  facts.ports[0].spec.role = host::Role::tap_inline;
  EXPECT_TRUE(run(check_host_lro, facts).empty());
}

TEST(DoctorSettings, Promiscuous) {
  Facts facts = fine();
  EXPECT_TRUE(run(check_promisc, facts).empty());
  for (PortFacts& port : facts.ports) port.in_use = true;
  facts.ports[0].link->promisc = true;
  facts.ports[1].held_here = true;
  const Diagnosis found = only(check_promisc, facts);
  EXPECT_EQ(found.finding.subject, "eth2");
  EXPECT_TRUE(std::get<SetUpAgain>(found.remedy.value()).demand.promisc);
  EXPECT_TRUE(std::get<SetUpAgain>(found.remedy.value()).held_here);
}

TEST(DoctorSettings, Ipv6) {
  Facts facts = fine();
  facts.ports[2].ipv6_on = true;
  EXPECT_TRUE(run(check_ipv6, facts).empty());
  facts.ports[2].in_use = true;
  EXPECT_TRUE(std::get<SetUpAgain>(only(check_ipv6, facts).remedy.value()).demand.no_ipv6);
  facts.ports[2].in_use = false;
  facts.ports[2].global_ipv6 = true;
  EXPECT_FALSE(only(check_ipv6, facts).finding.safe) << "an address is somebody's";
}

TEST(DoctorQueues, TooMany) {
  Facts facts = fine();
  facts.ports[0].link->rx_queues = 65;
  EXPECT_TRUE(run(check_queue_limit, facts).empty());
  facts.ports[0].redirect = true;
  EXPECT_EQ(only(check_queue_limit, facts).finding.fix, "ethtool -L eth1 combined 64");
  facts.ports[0].link->rx_queues = 64;
  EXPECT_TRUE(run(check_queue_limit, facts).empty());
}

TEST(DoctorQueues, NotCovered) {
  Facts facts = fine();
  facts.ports[0].redirect = true;
  EXPECT_TRUE(run(check_queue_cover, facts).empty()) << "nobody serves any yet";
  facts.running.emplace();
  for (std::uint32_t queue = 0; queue < 3; ++queue) {
    facts.running->queues.push_back({.port = "eth1", .queue = queue, .rx = true});
  }
  facts.running->queues.push_back({.port = "eth3", .queue = 3, .rx = true});
  facts.running->queues.push_back({.port = "eth1", .queue = 3, .rx = false});
  const Finding found = only(check_queue_cover, facts).finding;
  EXPECT_TRUE(mentions(found.what, "4 RX queues now, the broker serves 3"));
  EXPECT_EQ(found.fix.rfind("ethtool -L eth1 combined 3", 0), 0U);
  facts.running->queues.back().rx = true;
  EXPECT_TRUE(run(check_queue_cover, facts).empty());
}

TEST(DoctorQueues, IdleWorkersAndSharedQueues) {
  Facts facts = fine();
  for (PortFacts& port : facts.ports) port.link->rx_queues = port.link->tx_queues = 1;
  EXPECT_EQ(only(check_queues_of_workers, facts).finding.id, "shared-tx-queues");
  facts.config.monitors[0].rate = config::Rate{.packets = false, .per_second = 1000};
  EXPECT_TRUE(run(check_queues_of_workers, facts).empty()) << "one worker serves it anyway";
  facts.machine.workers.emplace_back().number = 4;
  EXPECT_EQ(only(check_queues_of_workers, facts).finding.id, "idle-workers");
  facts.ports[1].egress = true;
  EXPECT_TRUE(run(check_queues_of_workers, facts).empty()) << "what leaves comes from any CPU";
}

TEST(DoctorQueues, ZeroCopy) {
  Facts facts = fine();
  EXPECT_TRUE(run(check_zero_copy, facts).empty());
  facts.ports[2].link->xdp_features = host::xdp_act::basic;
  EXPECT_EQ(only(check_zero_copy, facts).finding.severity, Severity::hint);
  facts.running.emplace();
  facts.running->queues = {{.port = "eth3", .queue = 0, .zero_copy = true},
                           {.port = "eth3", .queue = 1, .zero_copy = false}};
  EXPECT_EQ(only(check_zero_copy, facts).finding.severity, Severity::hint);
  EXPECT_TRUE(mentions(only(check_zero_copy, facts).finding.what, "1 of 2 sockets"));
  facts.ports[2].link->xdp_features = host::xdp_act::basic | host::xdp_act::zero_copy;
  facts.ports[2].link->xdp_mode = host::XdpMode::native;
  EXPECT_EQ(only(check_zero_copy, facts).finding.severity, Severity::warning) << "refused";
  facts.running->queues[1].zero_copy = true;
  EXPECT_TRUE(run(check_zero_copy, facts).empty());
}

TEST(DoctorConfig, ProblemsOfTheEngineAreErrorsWithACommand) {
  Facts facts = fine();
  facts.attempt.problems = {{{}, "master", "eth1", "eth1 belongs to a bridge"}};
  Finding found = only(check_config, facts).finding;
  EXPECT_EQ(found.severity, Severity::error);
  EXPECT_EQ(found.fix, "ip link set dev eth1 nomaster");
  facts.attempt.problems[0].id = "uppers";
  facts.ports[0].uppers = {"vlan7", "mv0"};
  EXPECT_EQ(only(check_config, facts).finding.fix, "ip link del dev vlan7; ip link del dev mv0");
  facts.attempt.problems[0].id = "foreign-xdp";
  facts.ports[0].foreign = {{.name = "x", .id = 3, .remove = "ip link set dev eth1 xdp off"}};
  EXPECT_EQ(only(check_config, facts).finding.fix, "ip link set dev eth1 xdp off");
  facts.attempt.problems[0] = {{}, "workers", "workers", "CPU 9 is not usable"};
  EXPECT_TRUE(mentions(only(check_config, facts).finding.fix, "[broker] of tap.toml"));
}

// --- reading the machine ---

TEST(DoctorGather, CpuLists) {
  EXPECT_EQ(cpu_list("0-2,5"), (std::vector<std::uint32_t>{0, 1, 2, 5}));
  EXPECT_EQ(cpu_list("7"), std::vector<std::uint32_t>{7});
  EXPECT_TRUE(cpu_list("").empty());
  EXPECT_TRUE(cpu_list("(null)").empty());
}

/// A directory that stands for the root of a machine.
class Root : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "doctor-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
  }
  void TearDown() override { fs::remove_all(root_); }

  void write(const fs::path& file, const std::string& text) const {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text;
  }

  fs::path root_;
};

TEST_F(Root, CapabilitiesByName) {
  // All but CAP_BPF (39) and CAP_IPC_LOCK (14); the latter not even within reach.
  write("proc/thread-self/status",
        "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000017fffffbfff\nCapBnd:\t"
        "000001ffffffbfff\n");
  const Privileges found = gather_privileges(root_);
  EXPECT_EQ(found.missing, (std::vector<std::string>{"CAP_IPC_LOCK", "CAP_BPF"}));
  EXPECT_EQ(found.out_of_reach, std::vector<std::string>{"CAP_IPC_LOCK"});
  EXPECT_FALSE(found.may_lock);
  EXPECT_TRUE(found.may_raise);
}

TEST_F(Root, Machine) {
  write("sys/kernel/realtime", "1\n");
  write("sys/devices/system/cpu/isolated", "1-2\n");
  write("sys/devices/system/cpu/nohz_full", "2\n");
  write("sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "schedutil\n");
  write("sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "2,6\n");
  write("proc/1234/comm", "irqbalance\n");
  Machine machine = gather_machine({2, 3}, root_);
  EXPECT_TRUE(machine.realtime);
  EXPECT_TRUE(machine.irqbalance);
  EXPECT_FALSE(machine.bpffs);
  EXPECT_FALSE(machine.tun);
  EXPECT_FALSE(machine.probed) << "no capability can be seen";
  ASSERT_EQ(machine.workers.size(), 2U);
  EXPECT_EQ(machine.workers[0].governor, "schedutil");
  EXPECT_EQ(machine.workers[0].siblings, (std::vector<std::uint32_t>{2, 6}));
  EXPECT_TRUE(machine.workers[0].isolated && machine.workers[0].tickless);
  EXPECT_FALSE(machine.workers[1].isolated || machine.workers[1].tickless);
  write("sys/kernel/realtime", "0\n");
  write("proc/1234/comm", "sh\n");
  machine = gather_machine({}, root_);
  EXPECT_FALSE(machine.realtime || machine.irqbalance);
}

// --- what comes out ---

std::vector<Finding> three() {
  return {
      {.id = "a", .severity = Severity::hint, .subject = "s", .what = "w", .why = "y", .fix = "f"},
      {.id = "b",
       .severity = Severity::error,
       .subject = "eth1",
       .what = "x\n\"\x1b[31m",
       .why = "y",
       .fix = "g",
       .safe = true},
      {.id = "c",
       .severity = Severity::warning,
       .subject = "s",
       .what = "w",
       .why = "y",
       .fix = "h",
       .safe = true,
       .fixed = true}};
}

TEST(DoctorOutput, JsonThereAndBack) {
  const auto findings = three();
  const auto back = from_json(to_json(findings));
  ASSERT_TRUE(back);
  ASSERT_EQ(back.value().size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(back.value()[i].id, findings[i].id);
    EXPECT_EQ(back.value()[i].severity, findings[i].severity);
    EXPECT_EQ(back.value()[i].subject, findings[i].subject);
    EXPECT_EQ(back.value()[i].what, findings[i].what);
    EXPECT_EQ(back.value()[i].why, findings[i].why);
    EXPECT_EQ(back.value()[i].fix, findings[i].fix);
    EXPECT_EQ(back.value()[i].safe, findings[i].safe);
    EXPECT_EQ(back.value()[i].fixed, findings[i].fixed);
  }
  EXPECT_EQ(to_json({}), R"({"findings":[]})");
  EXPECT_FALSE(from_json("{}"));
  EXPECT_FALSE(from_json("nonsense"));
}

TEST(DoctorOutput, ViewHasTheWorstFirstAndNoControlCharacters) {
  const std::string text = view(three());
  EXPECT_EQ(text.rfind("error: eth1: x?\"?[31m [b]\n    why: y\n    fix: g\n", 0), 0U) << text;
  EXPECT_TRUE(mentions(text, "fixed: s: w [c]\n    why: y\nhint: "));
  EXPECT_TRUE(mentions(text, "\n1 error, 0 warnings, 1 hint; 1 fixed\n"));
}

TEST(DoctorOutput, ErrorsThatAreLeftCount) {
  auto findings = three();
  EXPECT_TRUE(has_error(findings));
  findings[1].fixed = true;
  EXPECT_FALSE(has_error(findings));
}

TEST(DoctorOutput, LogLine) {
  EXPECT_EQ(log_line(three()[1]), "doctor: eth1: x?\"?[31m; fix: g [b]");
}

TEST(DoctorRunning, FromTheCounters) {
  stats::Snapshot snapshot;
  snapshot.taps.resize(1);
  stats::TapPort port;
  port.name = "eth1";
  port.queues = {{.queue = 0, .direction = "rx+tx", .zero_copy = true}};
  snapshot.taps[0].ports = {port};
  stats::Monitor monitor;
  monitor.name = "ids";
  monitor.port = "eth3";
  monitor.queues = {{.queue = 1, .direction = "tx", .zero_copy = false}};
  snapshot.monitors = {monitor};
  snapshot.workers = {{.cpu = 5}};
  const Running running = running_from(snapshot);
  ASSERT_EQ(running.queues.size(), 2U);
  EXPECT_TRUE(running.queues[0].rx && running.queues[0].zero_copy);
  EXPECT_EQ(running.queues[1].port, "eth3");
  EXPECT_FALSE(running.queues[1].rx || running.queues[1].zero_copy);
  EXPECT_EQ(running.worker_cpus, std::vector<std::uint32_t>{5});
}

}  // namespace
}  // namespace vtap::doctor
