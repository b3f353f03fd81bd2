// SPDX-License-Identifier: Apache-2.0
#include "config/broker.hpp"

#include <sched.h>
#include <sys/un.h>

namespace vtap::config {
namespace {

constexpr std::uint64_t kMaxWorkers = 64;
constexpr std::uint64_t kMinFrames = 1024;  // fewer starve the second port of a redirect
constexpr std::uint64_t kMaxFrames = 4'194'304;
constexpr std::uint64_t kFramesStep = 64;  // a burst

constexpr std::string_view kWorkersForm = R"("auto", a number, or a list of CPUs like [2, 3])";

void read_cpu(const Field& field, std::vector<std::uint32_t>& cpus) {
  const auto number = field.integer(0, CPU_SETSIZE - 1, "a CPU number");
  if (!number) {
    return;
  }
  const auto cpu = static_cast<std::uint32_t>(*number);
  if (std::find(cpus.begin(), cpus.end(), cpu) != cpus.end()) {
    field.error("CPU " + std::to_string(cpu) + " is listed twice; each worker has its own");
  } else if (cpus.size() == kMaxWorkers) {
    field.error("more than " + std::to_string(kMaxWorkers) + " workers; list fewer CPUs");
  } else {
    cpus.push_back(cpu);
  }
}

void read_workers(const Field& field, Broker& broker) {
  broker.workers_at = field.at();
  if (field.is_list()) {
    field.each_of_list("CPUs like [2, 3]",
                       [&](const Field& cpu) { read_cpu(cpu, broker.worker_cpus); });
  } else if (field.is_text()) {
    static constexpr auto kAuto = std::to_array<Choice<bool>>({{"auto", true}});
    static_cast<void>(field.choice(kAuto));  // only checked: "auto" is the absence of both forms
  } else if (const auto count = field.integer(1, kMaxWorkers, kWorkersForm)) {
    broker.worker_count = static_cast<std::uint32_t>(*count);
  }
}

void read_frames(const Field& field, Broker& broker) {
  const auto frames = field.integer(kMinFrames, kMaxFrames);
  if (frames && *frames % kFramesStep != 0) {
    field.error(std::to_string(*frames) + " is no multiple of " + std::to_string(kFramesStep) +
                "; write " + std::to_string(*frames / kFramesStep * kFramesStep));
  } else if (frames) {
    broker.frames = static_cast<std::uint32_t>(*frames);
  }
}

void read_frame_size(const Field& field, Broker& broker) {
  // The sizes that every AF_XDP driver takes: powers of two up to a page, with room for a frame.
  const auto size = field.integer(0, UINT32_MAX);
  if (size && *size != 2048 && *size != 4096) {
    field.error(std::to_string(*size) + " is not possible; write 2048 or 4096");
  } else if (size) {
    broker.frame_size = static_cast<std::uint32_t>(*size);
  }
}

/// A file's path: absolute, as nobody knows where a service starts.
void read_path(const Field& field, std::string& path) {
  const auto* text = field.text();
  if (text == nullptr) return;
  if (text->empty() || text->front() != '/' || text->find('\0') != std::string::npos) {
    field.error(quoted(*text) + " is no path of a file; it starts with '/'");
    return;
  }
  path = *text;
}

void read_control(const Field& field, Broker& broker) {
  const auto* path = field.text();
  if (path == nullptr) {
    return;
  }
  if (path->empty() || path->front() != '/' || path->find('\0') != std::string::npos ||
      path->size() >= sizeof(sockaddr_un::sun_path)) {
    field.error(quoted(*path) + " is no path of a socket; it starts with '/' and has at most " +
                std::to_string(sizeof(sockaddr_un::sun_path) - 1) + " bytes");
    return;
  }
  broker.control = *path;
}

void read_metrics(const Field& field, Broker& broker) {
  const auto* address = field.text();
  if (address == nullptr || address->empty()) {
    return;
  }
  broker.metrics = field.parsed(parse_endpoint);
}

/// The table, and what its keys on the API say; they are judged together.
struct BrokerDraft {
  Broker& broker;
  std::optional<Field> api = {}, token_file = {}, cert = {}, key = {};
  Api made = {};
};

/// Of the keys on the API each wants others.
void check_api(const BrokerDraft& draft) {
  const auto& [broker, api, token_file, cert, key, made] = draft;
  if (!api) {
    for (const auto* field : {&token_file, &cert, &key}) {
      if (*field) (*field)->error("belongs to api = \"127.0.0.1:9470\"; write that, or remove it");
    }
    return;
  }
  if (made.at.address.empty()) return;  // off, or refused
  if (!token_file) {
    api->error("TCP asks clients for a token; write api_token_file = \"/etc/vtap/token\"");
  }
  if (cert && !key) cert->error("belongs to an api_key; write both, or remove it");
  if (key && !cert) key->error("belongs to an api_cert; write both, or remove it");
  if (!made.at.loopback && !cert && !key) {
    api->error("other hosts reach " + made.at.address +
               ", so TLS is needed; write api_cert and api_key, or an address of the loopback");
  }
}

constexpr auto kUmemKeys = std::to_array<Key<Broker>>({
    {"frames", read_frames},
    {"frame_size", read_frame_size},
});

constexpr auto kLevels = std::to_array<Choice<LogLevel>>({{"trace", LogLevel::trace},
                                                          {"debug", LogLevel::debug},
                                                          {"info", LogLevel::info},
                                                          {"warn", LogLevel::warn},
                                                          {"error", LogLevel::error}});
constexpr auto kFormats =
    std::to_array<Choice<LogFormat>>({{"text", LogFormat::text}, {"json", LogFormat::json}});
constexpr auto kPolls = std::to_array<Choice<Poll>>(
    {{"adaptive", Poll::adaptive}, {"busy", Poll::busy}, {"interrupt", Poll::interrupt}});

constexpr auto kLogKeys = std::to_array<Key<Broker>>({
    {"level",
     [](const Field& f, Broker& broker) {
       broker.log_level = f.choice(kLevels).value_or(broker.log_level);
     }},
    {"format",
     [](const Field& f, Broker& broker) {
       broker.log_format = f.choice(kFormats).value_or(broker.log_format);
     }},
});

constexpr auto kBrokerKeys = std::to_array<Key<BrokerDraft>>({
    {"name",
     [](const Field& f, BrokerDraft& draft) {
       draft.broker.name = f.parsed(parse_name).value_or(draft.broker.name);
     }},
    {"workers", [](const Field& f, BrokerDraft& draft) { read_workers(f, draft.broker); }},
    {"umem",
     [](const Field& f, BrokerDraft& draft) {
       if (const auto* table = f.table("a table: { frames = 32768, frame_size = 2048 }")) {
         read_keys(f.findings(), *table, "umem", kUmemKeys, draft.broker);
       }
     }},
    {"poll",
     [](const Field& f, BrokerDraft& draft) {
       draft.broker.poll = f.choice(kPolls).value_or(draft.broker.poll);
     }},
    {"control", [](const Field& f, BrokerDraft& draft) { read_control(f, draft.broker); }},
    {"api",
     [](const Field& f, BrokerDraft& draft) {
       draft.api.emplace(f);
       const auto* text = f.text();
       if (text == nullptr || text->empty()) return;  // "" is none, as of metrics
       draft.made.at = f.parsed(parse_endpoint).value_or(Endpoint{});
     }},
    {"api_token_file",
     [](const Field& f, BrokerDraft& draft) {
       draft.token_file.emplace(f);
       read_path(f, draft.made.token_file);
     }},
    {"api_cert",
     [](const Field& f, BrokerDraft& draft) {
       draft.cert.emplace(f);
       read_path(f, draft.made.cert);
     }},
    {"api_key",
     [](const Field& f, BrokerDraft& draft) {
       draft.key.emplace(f);
       read_path(f, draft.made.key);
     }},
    {"metrics", [](const Field& f, BrokerDraft& draft) { read_metrics(f, draft.broker); }},
    {"log",
     [](const Field& f, BrokerDraft& draft) {
       if (const auto* table = f.table(R"(a table: { level = "info", format = "text" })")) {
         read_keys(f.findings(), *table, "log", kLogKeys, draft.broker);
       }
     }},
});

}  // namespace

void read_broker(const Field& field, Broker& broker) {
  if (const auto* table = field.table("one table: [broker]")) {
    BrokerDraft draft{broker};
    read_keys(field.findings(), *table, "[broker]", kBrokerKeys, draft);
    check_api(draft);
    if (!draft.made.at.address.empty()) broker.api = std::move(draft.made);
  }
}

void complete(Broker& broker) {
  if (broker.control.empty()) {
    broker.control = "/run/vtap/" + broker.name + ".sock";
  }
}

}  // namespace vtap::config
