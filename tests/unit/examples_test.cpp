// SPDX-License-Identifier: Apache-2.0
// Every example that the product ships is a config that it takes, without a warning.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <string>
#include <vector>

#include "config/config.hpp"

namespace vtap::config {
namespace {

std::vector<std::string> examples() {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(VTAP_EXAMPLES)) {
    if (entry.path().extension() == ".toml") files.push_back(entry.path().string());
  }
  std::ranges::sort(files);
  return files;
}

std::string text_of(const std::vector<Diagnostic>& diagnostics, const std::string& file) {
  std::string text;
  for (const Diagnostic& diagnostic : diagnostics) text += format(diagnostic, file) + '\n';
  return text;
}

class Example : public testing::TestWithParam<std::string> {};

TEST_P(Example, LoadsWithoutErrorOrWarning) {
  const std::string& file = GetParam();
  const Parsed parsed = load(file);
  EXPECT_TRUE(parsed.config) << text_of(parsed.errors, file);
  EXPECT_TRUE(parsed.warnings.empty()) << text_of(parsed.warnings, file);
}

INSTANTIATE_TEST_SUITE_P(Config, Example, testing::ValuesIn(examples()), [](const auto& test) {
  std::string name = std::filesystem::path(test.param).stem().string();
  std::ranges::replace_if(
      name, [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
  return name;
});

// What others rely on: the demo, the README and tap.toml(5) name these files.
TEST(Examples, AreThere) {
  std::vector<std::string> names;
  for (const std::string& file : examples()) {
    names.push_back(std::filesystem::path(file).filename().string());
  }
  for (const char* name : {"demo.toml", "minimal.toml", "span.toml", "vnf.toml", "hypervisor.toml",
                           "lab-broker.toml", "ids-feed.toml"}) {
    EXPECT_NE(std::ranges::find(names, name), names.end()) << name;
  }
}

}  // namespace
}  // namespace vtap::config
