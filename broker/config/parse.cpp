// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cerrno>
#include <exception>
#include <fstream>
#include <system_error>
#include <tuple>

#include "config/broker.hpp"
#include "config/config.hpp"
#include "config/policy.hpp"
#include "config/ports.hpp"
#include "config/reader.hpp"

namespace vtap::config {
namespace {

constexpr Position kStart{1, 1};
constexpr std::size_t kMaxFileBytes = std::size_t{16} << 20;
constexpr std::size_t kMaxKeyParts = 64;

/// What the tables of a file are read into, in the order of kFileKeys.
struct Document {
  Config config;
  PortOwners owners;
  Names taps;
  Names monitors;
  Names policies;
};

constexpr auto kFileKeys = std::to_array<Key<Document>>({
    {"broker", [](const Field& f, Document& document) { read_broker(f, document.config.broker); }},
    {"tap",
     [](const Field& f, Document& document) {
       f.each_table("a list of tables: [[tap]]", [&](const Field&, const toml::table& table) {
         read_tap(f.findings(), table, document.owners, document.taps, document.config);
       });
     },
     "a [[tap]] table with name, mode and ports"},
    {"monitor",
     [](const Field& f, Document& document) {
       f.each_table("a list of tables: [[monitor]]", [&](const Field&, const toml::table& table) {
         read_monitor(f.findings(), table, document.owners, document.monitors, document.config);
       });
       share_queues(f.findings(), document.config);
     },
     "a [[monitor]] table with name and port"},
    // Last: policies refer to taps, monitors and the frame size.
    {"policy",
     [](const Field& f, Document& document) {
       f.each_table("a list of tables: [[policy]]", [&](const Field&, const toml::table& table) {
         read_policy(f.findings(), table, document.policies, document.config);
       });
       limit_flow_tables(f.findings(), document.config);
     }},
});

void read_file(Findings& findings, const toml::table& root, Document& document) {
  read_keys(findings, root, "the file", kFileKeys, document);
  complete(document.config.broker);
  if (!root.contains("policy")) {
    findings.warnings.push_back({kStart, "the file has no [[policy]]: nothing will be copied"});
  }
}

/// Line of the first dotted key with too many parts, or 0. Each part is a table inside the one
/// before, and toml++ frees them recursively: a long enough key would overflow the stack.
std::uint32_t line_of_deep_key(std::string_view text) {
  std::uint32_t line = 1;
  std::size_t dots = 0;
  char inside = 0;     // of a text: its quote; of a comment: '#'
  bool lines = false;  // the text has three quotes at each end, and may go over lines
  const auto three = [&](std::size_t at) {
    return at + 2 < text.size() && text[at + 1] == text[at] && text[at + 2] == text[at];
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\n') {
      ++line;
      if (!lines) inside = 0;
      if (inside == 0) dots = 0;
    } else if (inside == '#') {
      continue;
    } else if (inside == '"' && c == '\\' && i + 1 < text.size() && text[i + 1] != '\n') {
      ++i;
    } else if (inside != 0) {
      if (c != inside || (lines && !three(i))) continue;
      if (lines) i += 2;
      // Two more may follow: then those before were the text's own.
      for (int more = 0; lines && more < 2 && i + 1 < text.size() && text[i + 1] == c; ++more) ++i;
      inside = 0;
      lines = false;
    } else if (c == '"' || c == '\'') {
      inside = c;
      lines = three(i);
      if (lines) i += 2;
    } else if (c == '#') {
      inside = c;
    } else if (c == '=' || c == ',') {
      dots = 0;
    } else if (c == '.' && ++dots > kMaxKeyParts) {
      return line;
    }
  }
  return 0;
}

void sort(std::vector<Diagnostic>& diagnostics) {
  std::stable_sort(diagnostics.begin(), diagnostics.end(), [](const auto& a, const auto& b) {
    return std::tie(a.at.line, a.at.column) < std::tie(b.at.line, b.at.column);
  });
}

Parsed refused(Position at, std::string message) {
  Parsed parsed;
  parsed.errors.push_back({at, std::move(message)});
  return parsed;
}

/// Reads at most one byte more than a config may have, so that /dev/zero ends too.
Result<std::string> contents(const std::string& file) {
  errno = 0;
  std::ifstream stream(file, std::ios::binary);
  std::string text;
  std::array<char, 4096> chunk{};
  while (stream && text.size() <= kMaxFileBytes) {
    stream.read(chunk.data(), chunk.size());
    text.append(chunk.data(), static_cast<std::size_t>(stream.gcount()));
  }
  if (!stream.eof() && text.size() <= kMaxFileBytes) {
    return Error{"cannot be read: " + std::generic_category().message(errno), ErrorKind::usage};
  }
  return text;
}

}  // namespace

Parsed parse(std::string_view text, std::string file) {
  if (text.size() > kMaxFileBytes) {
    return refused({}, "is longer than 16 MiB; is this the config?");
  }
  if (const auto line = line_of_deep_key(text)) {
    return refused({line, 1}, "a key with more than " + std::to_string(kMaxKeyParts) +
                                  " parts; no key of a config has more than 3");
  }
  Findings findings;
  Document document;
  document.config.file = std::move(file);
  try {
    read_file(findings, toml::parse(text), document);
  } catch (const toml::parse_error& error) {
    return refused(position(error.source()), std::string(error.description()));
  } catch (const std::exception& error) {
    return refused({}, std::string("cannot be parsed: ") + error.what());
  }
  sort(findings.errors);
  sort(findings.warnings);
  Parsed parsed{std::nullopt, std::move(findings.errors), std::move(findings.warnings)};
  if (parsed.errors.empty()) {
    parsed.config = std::move(document.config);
  }
  return parsed;
}

Result<std::string> read(const std::string& file) {
  auto text = contents(file);
  if (text) return text;
  return Error{format({.at = {}, .message = text.error().message}, file), ErrorKind::usage};
}

Parsed load(const std::string& file) {
  auto text = contents(file);
  return text ? parse(*text, file) : refused({}, text.error().message);
}

std::string format(const Diagnostic& diagnostic, std::string_view file) {
  std::string raw(file);
  if (diagnostic.at.line != 0) {
    raw += ':' + std::to_string(diagnostic.at.line) + ':' + std::to_string(diagnostic.at.column);
  }
  raw.append(": ").append(diagnostic.message);
  // A message may quote the file: control characters must not break the line or reach a terminal.
  static constexpr std::string_view kHex = "0123456789abcdef";
  std::string line;
  for (const char c : raw) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte != 0x7f) {
      line += c;
    } else {
      line.append("\\x").append({kHex[byte >> 4U], kHex[byte & 0xfU]});
    }
  }
  return line;
}

}  // namespace vtap::config
