// SPDX-License-Identifier: Apache-2.0
#include <fstream>
#include <memory>
#include <stdexcept>

#include "command_line.hpp"
#include "pcapng_tally.hpp"
#include "shell.hpp"

namespace vtap::ctl {
namespace {

struct Wanted {
  std::string policy, tap, filter, file = "-";
  std::string snaplen, frames, rate;  ///< numbers; empty: not said
};

std::string path_of(const Wanted& wanted) {
  std::string query;
  const auto add = [&](const char* key, const std::string& value) {
    if (value.empty()) return;
    query += (query.empty() ? "?" : "&") + std::string(key) + "=" + encoded(value);
  };
  add("policy", wanted.policy);
  add("tap", wanted.tap);
  add("filter", wanted.filter);
  add("snaplen", wanted.snaplen);
  add("frames", wanted.frames);
  add("rate", wanted.rate);
  return "/v1/capture" + query;
}

Result<Exit> capture(const Session& session, const Wanted& wanted) {
  std::ofstream file;
  const bool to_file = wanted.file != "-";
  if (!to_file && session.io.terminal()) {
    return Error{"a capture is not for a terminal: write it to a file with -w FILE, or into a pipe",
                 ErrorKind::usage};
  }
  std::ostream& out = to_file ? file : session.io.out;
  PcapngTally tally;
  Client::Streaming streaming;
  Result<void> done;
  const auto take = [&](std::string_view bytes) {
    // Only what is granted makes the file.
    if (to_file && !file.is_open()) file.open(wanted.file, std::ios::binary | std::ios::trunc);
    out << tally.take(bytes) << std::flush;
    return static_cast<bool>(out);
  };
  session.io.interruptible([&] { done = session.client.stream(path_of(wanted), streaming, take); },
                           [&] { streaming.end(); });
  if (!done && tally.captured() == 0) return done.error();
  session.io.err << tally.captured() << " frames captured, " << tally.dropped() << " dropped\n";
  if (!done) return done.error();
  if (to_file && !file) return Error{"cannot write to " + wanted.file};
  return Exit::done;  // who reads a pipe may end when he likes
}

}  // namespace

void add_capture(CLI::App& app, Shell& shell) {
  CLI::App* command = app.add_subcommand(
      "capture", "Live pcapng of copies, for a file or a pipe into Wireshark or tcpdump -r -");
  auto wanted = std::make_shared<Wanted>();
  CLI::Option* policy =
      command->add_option("--policy", wanted->policy, "What this policy sends (default: all do)");
  policy->type_name(kPolicy);
  command->add_option("--tap", wanted->tap, "What policies send of this tap")
      ->type_name(kTap)
      ->excludes(policy);
  command->add_option("--filter", wanted->filter, "pcap-filter(7); numbers, no names")
      ->type_name("EXPRESSION");
  command->add_option("-w,--write", wanted->file, "Where to; - or nothing: standard output")
      ->type_name(kFile);
  whole_number(command->add_option("--snaplen", wanted->snaplen, "Bytes of a frame"))
      ->type_name("BYTES");
  whole_number(command->add_option("--frames", wanted->frames, "Ends after so many"))
      ->type_name("N");
  whole_number(command->add_option("--rate", wanted->rate,
                                   "Frames a second at most; others are dropped (default: 20000)"))
      ->type_name("N");
  command->callback([&shell, wanted] {
    shell.action = [wanted](const Session& session) { return capture(session, *wanted); };
  });
}

}  // namespace vtap::ctl
