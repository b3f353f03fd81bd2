// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <optional>

#include "objects.hpp"
#include "toml_view.hpp"

namespace vtap::ctl {
namespace {

struct MonitorOptions {
  std::string port, rate;
  std::optional<std::uint64_t> queue;
};

Table monitors(const Json& objects) {
  Table table({{"monitor"}, {"port"}, {"rate"}, {"queue", true}});
  for (const Json& monitor : objects) {
    const std::uint64_t queue = count_of(monitor, "queue");
    table.row({text_of(monitor, "name"), text_of(monitor, "port"), text_of(monitor, "rate"),
               queue == 0 ? "-" : std::to_string(queue)});
  }
  return table;
}

const Kind kMonitors{"monitor", "monitors", kMonitor, monitors};

Result<Json> monitor_json(const MonitorOptions& options) {
  if (options.port.empty()) {
    return Error{"a monitor needs the port that its copies leave by: --port INTERFACE",
                 ErrorKind::usage};
  }
  Json monitor = {{"port", options.port}};
  if (!options.rate.empty()) monitor["rate"] = options.rate;
  if (options.queue) monitor["queue"] = *options.queue;
  return monitor;
}

void add_monitor_edit(CLI::App& group, Shell& shell, Edit edit) {
  auto options = std::make_shared<MonitorOptions>();
  CLI::App& app =
      add_edit(group, shell, kMonitors, edit, [options] { return monitor_json(*options); });
  app.add_option("--port", options->port, "The copies leave by it")->type_name(kInterface);
  app.add_option("--rate", options->rate, "No more than this, like 1Gbit/s or 50kpps")
      ->type_name("RATE");
  whole_number(app.add_option("--queue", options->queue, "So many frames may wait for it"))
      ->type_name("FRAMES");
  exclude_others(app, "--from");
}

}  // namespace

void add_monitor(CLI::App& app, Shell& shell) {
  CLI::App& group = add_group(app, shell, kMonitors, "Where copies go");
  add_monitor_edit(group, shell, Edit::add);
  add_monitor_edit(group, shell, Edit::replace);
  add_rm(group, shell, kMonitors);
}

}  // namespace vtap::ctl
