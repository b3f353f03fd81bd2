// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

/// The ethtool ioctl: unlike sysfs it always means the namespace of the calling thread. Internal to
/// this folder.
namespace vtap::host {

/// Runs SIOCETHTOOL with `request` (a struct of <linux/ethtool.h>). Returns what ioctl returned, or
/// a negative errno.
int ethtool_ioctl(const std::string& port, void* request) noexcept;

}  // namespace vtap::host
