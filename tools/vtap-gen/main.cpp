// SPDX-License-Identifier: Apache-2.0
#include <bpf/libbpf.h>
#include <sched.h>

#include <CLI/CLI.hpp>
#include <bit>
#include <cstdarg>
#include <cstdio>
#include <functional>
#include <iostream>
#include <limits>
#include <map>

#include "commands.hpp"

namespace vtap::gen {
namespace {

int exit_code(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::runtime:
    case ErrorKind::conflict:
      return 1;
    case ErrorKind::usage:
      return 2;
    case ErrorKind::unsupported:
      return 3;
  }
  return 1;
}

int finish(const Result<void>& result) {
  if (result) return 0;
  std::cerr << "vtap-gen: " << result.error().message << '\n';
  return exit_code(result.error().kind);
}

int print_nothing(libbpf_print_level /*level*/, const char* /*format*/, va_list /*args*/) {
  return 0;
}

/// A CLI11 transformation: text that `parse` takes is stored in `out`.
template <typename T>
std::function<bool(const CLI::results_t&)> parsed_into(T& out,
                                                       Result<T> (*parse)(const std::string&)) {
  return [&out, parse](const CLI::results_t& texts) {
    auto value = parse(texts.at(0));
    if (!value) throw CLI::ValidationError(value.error().message);
    out = std::move(value).value();
    return true;
  };
}

void add_generate(CLI::App& app, GenerateOptions& options) {
  options.frame.src = parse_address("10.0.0.1").value();
  options.frame.dst = parse_address("10.0.0.2").value();
  options.frame.src_mac = parse_mac("02:00:00:00:00:01").value();
  options.frame.dst_mac = parse_mac("02:00:00:00:00:02").value();
  options.frame.src_port = 1024;
  options.frame.dst_port = 9;
  const std::map<std::string, Proto> protos{{"udp", Proto::udp}, {"tcp", Proto::tcp}};

  app.add_option("--port", options.port, "port the frames are redirected to");
  app.add_option("--size", options.frame.size,
                 "bytes of a frame from the destination MAC to the end of the payload, tag "
                 "included, FCS not: 64 here is 68 on a wire")
      ->capture_default_str();
  app.add_option("--proto", options.frame.proto, "udp (default) or tcp")
      ->transform(CLI::CheckedTransformer(protos));
  app.add_option("--src", parsed_into(options.frame.src, parse_address),
                 "source address, IPv4 or IPv6 (10.0.0.1)");
  app.add_option("--dst", parsed_into(options.frame.dst, parse_address),
                 "destination address (10.0.0.2)");
  app.add_option("--src-mac", parsed_into(options.frame.src_mac, parse_mac), "(02:00:00:00:00:01)");
  app.add_option("--dst-mac", parsed_into(options.frame.dst_mac, parse_mac), "(02:00:00:00:00:02)");
  app.add_option("--src-port", options.frame.src_port, "of the first flow")->capture_default_str();
  app.add_option("--dst-port", options.frame.dst_port)->capture_default_str();
  app.add_option("--vlan", options.frame.vlan, "802.1Q tag with this id")
      ->check(CLI::Range(0, 4094));
  app.add_option("--flows", options.flows, "flows, one frame of each in turn")
      ->check(CLI::Range(1U, 1U << 30))
      ->capture_default_str();
  app.add_option("--flows-per-address", options.flows_per_address,
                 "flows that differ in the source port only; then comes the next source address "
                 "(power of two; 1: addresses only)")
      ->check(CLI::Range(1U, 32768U))
      ->capture_default_str();
  auto* count = app.add_option("--count", options.count, "frames to send, then stop")
                    ->check(CLI::Range(1U, std::numeric_limits<std::uint32_t>::max()));
  app.add_option("--seconds", options.seconds, "time to send, then stop")
      ->check(CLI::Range(0.001, 86400.0))
      ->excludes(count);
  app.add_option("--rate", options.rate,
                 "frames per second, evenly spaced (the CPU is busy all the same); without: as "
                 "fast as the port takes them")
      ->check(CLI::Range(1U, 100'000'000U));
  app.add_option("--cpu", options.cpu, "pin to this CPU")
      ->check(CLI::Range(0U, static_cast<unsigned>(CPU_SETSIZE - 1)));
  app.add_flag(
      "--stamp", options.stamp,
      "UDP over IPv4: the time of sending in the first eight bytes of the payload, and no UDP "
      "checksum");
  app.add_flag("--json", options.json, "result as JSON");
}

int run(int argc, char** argv) {
  CLI::App app{
      "Generator of live frames, counting sink, and the forwarders and taps that vtap-broker is "
      "compared with.\nWithout a command: sends frames into --port until --count, --seconds or "
      "SIGINT. The frames come out at the peer of a veth, which takes them only while it has a "
      "NAPI: an XDP program on the peer, or GRO.",
      "vtap-gen"};
  app.require_subcommand(0, 1);
  bool verbose = false;
  app.add_flag("--verbose", verbose, "messages of libbpf on stderr");
  GenerateOptions generate_options;
  add_generate(app, generate_options);

  SinkOptions sink_options;
  auto* sink_command = app.add_subcommand(
      "sink",
      "count the frames that arrive, drop them (XDP, native); counts at the end, and at SIGUSR1");
  sink_command->add_option("--port", sink_options.port)->required();
  sink_command->add_option("--seconds", sink_options.seconds, "default: until SIGINT or SIGTERM")
      ->check(CLI::Range(0.001, 86400.0));
  sink_command->add_flag("--latency", sink_options.latency,
                         "also how long after their stamp (--stamp) frames arrive");
  sink_command->add_flag("--json", sink_options.json);

  ForwardOptions forward_options;
  auto* forward_command = app.add_subcommand("forward", "redirect between two ports, nothing else");
  const std::map<std::string, Hook> hooks{{"xdp", Hook::xdp}, {"tc", Hook::tc}};
  forward_command->add_option("--hook", forward_options.hook, "xdp or tc")
      ->required()
      ->transform(CLI::CheckedTransformer(hooks));
  forward_command->add_option("--ports", forward_options.ports, "A,B")->required()->delimiter(',');
  forward_command->add_option("--monitor", forward_options.monitor,
                              "at XDP: broadcast to the other port and this one");

  CloneTapOptions clone_options;
  clone_options.first_host = parse_address("10.0.0.1").value();
  auto* clone_command = app.add_subcommand(
      "clone-tap",
      "redirect between two ports at TC, or pass at one; frames whose source or destination is in "
      "a hash map are cloned to the monitors");
  clone_command->add_option("--ports", clone_options.ports, "A,B, or A of a host")
      ->required()
      ->delimiter(',');
  clone_command->add_option("--monitor", clone_options.monitors, "up to four")
      ->required()
      ->delimiter(',');
  clone_command
      ->add_option("--hosts", clone_options.hosts,
                   "IPv4 addresses in the map; 0: no map, every frame is cloned")
      ->check(CLI::Range(0U, 10'000'000U))
      ->capture_default_str();
  clone_command->add_option("--first-host", parsed_into(clone_options.first_host, parse_address),
                            "the first of them, the others follow (10.0.0.1)");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : exit_code(ErrorKind::usage);
  }
  if (!verbose) libbpf_set_print(print_nothing);

  if (sink_command->parsed()) return finish(sink(sink_options));
  if (forward_command->parsed()) return finish(forward(forward_options));
  if (clone_command->parsed()) return finish(clone_tap(clone_options));
  if (generate_options.port.empty())
    return finish(Error{"--port or a command is needed; see --help", ErrorKind::usage});
  if (!std::has_single_bit(generate_options.flows_per_address))
    return finish(Error{"--flows-per-address: a power of two", ErrorKind::usage});
  return finish(generate(generate_options));
}

}  // namespace
}  // namespace vtap::gen

int main(int argc, char** argv) {
  try {
    return vtap::gen::run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "vtap-gen: " << error.what() << '\n';
    return 1;
  }
}
