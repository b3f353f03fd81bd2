// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "doctor/checks.hpp"

namespace vtap::doctor {
namespace {

std::string list(const std::vector<std::uint32_t>& cpus) {
  std::string text;
  for (const std::uint32_t cpu : cpus) text += (text.empty() ? "" : ",") + std::to_string(cpu);
  return text;
}

template <typename Wanted>
std::vector<std::uint32_t> cpus_where(const Facts& facts, const Wanted& wanted) {
  std::vector<std::uint32_t> cpus;
  for (const Cpu& cpu : facts.machine.workers) {
    if (wanted(cpu)) cpus.push_back(cpu.number);
  }
  return cpus;
}

}  // namespace

void check_isolation(const Facts& facts, Diagnoses& out) {
  const auto shared =
      cpus_where(facts, [](const Cpu& cpu) { return !cpu.isolated && !cpu.tickless; });
  if (shared.empty()) return;
  out.push_back({{.id = "cpu-isolation",
                  .severity = Severity::hint,
                  .subject = "CPU " + list(shared),
                  .what = "workers run where the scheduler puts other work, too",
                  .why = "a worker that waits for its CPU lets rings run full: missed.ring_full",
                  .fix = "isolcpus=managed_irq,domain," + list(shared) +
                         " nohz_full=" + list(shared) + "    # on the kernel's command line"}});
}

void check_governor(const Facts& facts, Diagnoses& out) {
  const auto slow = cpus_where(
      facts, [](const Cpu& cpu) { return !cpu.governor.empty() && cpu.governor != "performance"; });
  if (slow.empty()) return;
  std::string files;
  for (const std::uint32_t cpu : slow) {
    files += " /sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/cpufreq/scaling_governor";
  }
  out.push_back({{.id = "cpu-governor",
                  .severity = Severity::hint,
                  .subject = "CPU " + list(slow),
                  .what = "the frequency governor is not \"performance\"",
                  .why = "a worker that sleeps between bursts wakes on a slow clock",
                  .fix = "echo performance | tee" + files}});
}

void check_siblings(const Facts& facts, Diagnoses& out) {
  const auto& workers = facts.machine.workers;
  for (std::size_t i = 0; i < workers.size(); ++i) {
    for (std::size_t j = i + 1; j < workers.size(); ++j) {
      const auto& siblings = workers[i].siblings;
      if (std::find(siblings.begin(), siblings.end(), workers[j].number) == siblings.end()) {
        continue;
      }
      out.push_back({{.id = "cpu-siblings",
                      .severity = Severity::hint,
                      .subject = "CPU " + list({workers[i].number, workers[j].number}),
                      .what = "two workers are hardware threads of one core",
                      .why = "they share its caches and execution units: together they do far "
                             "less than on two cores",
                      .fix = "workers = [...] in [broker] of " + facts.config.file +
                             ", with CPUs of different cores (lscpu -e=CPU,CORE)"}});
    }
  }
}

void check_irqbalance(const Facts& facts, Diagnoses& out) {
  if (!facts.machine.irqbalance) return;
  out.push_back({{.id = "irqbalance",
                  .severity = Severity::hint,
                  .subject = "machine",
                  .what = "irqbalance runs",
                  .why = "it moves the interrupts of tapped ports between CPUs, to those of the "
                         "workers as well; rings and caches follow late",
                  .fix = "systemctl disable --now irqbalance"}});
}

}  // namespace vtap::doctor
