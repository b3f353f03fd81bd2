// SPDX-License-Identifier: Apache-2.0
#include "support/memory_broker.hpp"

#include <algorithm>
#include <stdexcept>

namespace vtap::test {
namespace {

plan::Plan make_plan(config::Config config) {
  plan::Plan plan;
  plan.config = std::move(config);
  auto tables = plan::compile(plan.config);
  if (!tables) throw std::runtime_error(tables.error().message);
  plan.tables = std::move(*tables);
  return plan;
}

}  // namespace

pipeline::Sink::Posted MemorySink::post(std::span<const pipeline::TxDescriptor> frames) noexcept {
  ++posts_;
  const std::size_t room = limit_ - std::min<std::size_t>(limit_, held_.size());
  const auto taken = static_cast<std::uint32_t>(std::min(room, frames.size()));
  for (const pipeline::TxDescriptor& frame : frames.first(taken)) {
    const std::uint8_t* const bytes = umem_.at(frame.address);
    sent_.emplace_back(bytes, bytes + frame.length);
    held_.push_back(umem_.number(frame.address));
  }
  return {taken, refusal_};
}

void MemorySink::complete(pipeline::FramePool& pool, std::size_t frames) {
  for (; frames > 0 && !held_.empty(); --frames) {
    pool.release(held_.front());
    held_.pop_front();
  }
}

MemoryBroker::MemoryBroker(config::Config config, std::uint32_t frames)
    : plan_(make_plan(std::move(config))),
      shared_(plan_),
      umem_(frames),
      pool_(pipeline::FrameNumber{0}, frames) {
  std::vector<pipeline::Sink*> sinks;
  for (std::size_t i = 0; i < plan_.config.monitors.size(); ++i) {
    sinks_.push_back(std::make_unique<MemorySink>(umem_.view()));
    sinks.push_back(sinks_.back().get());
  }
  pipeline_ = std::make_unique<pipeline::Pipeline>(shared_, umem_.view(), pool_, sinks);
}

config::Config MemoryBroker::parse(std::string_view toml) {
  auto parsed = config::parse(toml, "test.toml");
  std::string findings;
  for (const auto& error : parsed.errors) findings += config::format(error, "test.toml") + "\n";
  if (!parsed.config) throw std::runtime_error(findings);
  return std::move(*parsed.config);
}

pipeline::Burst MemoryBroker::receive(std::span<const Arrival> arrivals) {
  pipeline::Burst burst;
  for (const Arrival& arrival : arrivals) {
    if (burst.full() || pool_.available() == 0) break;
    const auto address = umem_.view().start(pool_.take());
    std::ranges::copy(arrival.bytes, umem_.view().at(address));
    burst.push(address, static_cast<std::uint32_t>(arrival.bytes.size()), arrival.port);
  }
  return burst;
}

void MemoryBroker::release(const pipeline::Burst& burst) {
  for (std::uint32_t i = 0; i < burst.size; ++i) {
    pool_.release(umem_.view().number(burst.address[i]));
  }
}

void MemoryBroker::send(std::span<const Arrival> arrivals, std::uint64_t now) {
  pipeline::Burst burst = receive(arrivals);
  pipeline_->process(burst, now);
  release(burst);
}

void MemoryBroker::complete_all() {
  for (const auto& sink : sinks_) sink->complete(pool_, MemorySink::kUnlimited);
}

}  // namespace vtap::test
