// SPDX-License-Identifier: Apache-2.0
#include "plan/kernel_filters.hpp"

#include <linux/bpf.h>

#include <string>

#include "filter/translate.hpp"

namespace vtap::plan {

std::vector<Result<void>> kernel_filters(const config::Config& config) {
  std::vector<Result<void>> results;
  results.reserve(config.policies.size());
  std::size_t used = 0;
  for (const config::Policy& policy : config.policies) {
    Result<void>& result = results.emplace_back();
    if (!policy.filter) continue;
    std::vector<bpf_insn> code;
    result = filter::translate(policy.filter->program(), code);
    if (!result) continue;
    if (used + code.size() > kMostFilterInstructions) {
      result = Error{"the filters before it take the " + std::to_string(kMostFilterInstructions) +
                     " instructions that a frame can be asked to wait for"};
    } else {
      used += code.size();
    }
  }
  return results;
}

}  // namespace vtap::plan
