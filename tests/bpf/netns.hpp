// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>

#include "bpf/rig.hpp"
#include "vtap/fd.hpp"

/// Real devices, in network namespaces that end with the test, however it ends.
namespace vtap::test {

/// A new network namespace, without IPv6's own frames, in which the calling thread is while this
/// lives.
class Namespace {
 public:
  Namespace();
  ~Namespace();
  Namespace(const Namespace&) = delete;
  Namespace& operator=(const Namespace&) = delete;

 private:
  UniqueFd home_;
};

/// Runs a shell command that must succeed.
void command(const std::string& line);

/// A veth pair, both ends up.
struct Veth {
  Veth(std::string one, std::string other, unsigned mtu = 1500);
  std::string one, other;
  [[nodiscard]] int ifindex() const;
  [[nodiscard]] int other_ifindex() const;
};

/// What a sender leaves to its hardware: struct virtio_net_hdr (Virtio 1.2, 5.1.6), whose header of
/// the kernel is no C++.
struct Offload {
  static constexpr std::uint8_t kNeedsChecksum = 1;
  static constexpr std::uint8_t kTcp4 = 1;
  std::uint8_t flags = 0;
  std::uint8_t gso_type = 0;
  std::uint16_t header_length = 0;
  std::uint16_t gso_size = 0;
  std::uint16_t csum_start = 0;
  std::uint16_t csum_offset = 0;
};

/// Sends frames out of a device as they are.
class Sender {
 public:
  explicit Sender(int ifindex);
  /// errno, or 0.
  int send(const Bytes& frame) const;
  int send(const Offload& offload, const Bytes& frame) const;

 private:
  UniqueFd plain_, offloading_;
};

/// The port of a virtual machine: a tap device with the machine's end of it, offloads allowed.
class VmPort {
 public:
  explicit VmPort(const std::string& name);
  [[nodiscard]] int ifindex() const { return ifindex_; }
  int send(const Offload& offload, const Bytes& frame) const;

 private:
  UniqueFd guest_;
  int ifindex_ = 0;
};

void attach_native_xdp(int ifindex, int program_fd);
void attach_tc_ingress(int ifindex, int program_fd);

/// Waits until it holds; false after two seconds.
bool eventually(const std::function<bool()>& holds);

/// Every test in a namespace of its own.
class NetnsTest : public BpfTest {
 protected:
  void SetUp() override {
    BpfTest::SetUp();
    if (!IsSkipped() && !HasFatalFailure()) namespace_.emplace();
  }

 private:
  std::optional<Namespace> namespace_;
};

}  // namespace vtap::test
