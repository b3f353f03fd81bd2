// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vtap/abi.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "vtap/fd.hpp"
#include "vtap/result.hpp"

struct bpf_object;
struct ring_buffer;

/// libbpf with ownership and errors.
namespace vtap::io {

/// An Error from a negative errno; EPERM and EOPNOTSUPP become `unsupported`, with a hint.
Error bpf_error(const std::string& what, int negative_errno);

/// Sends libbpf's own messages nowhere but into the text of the next bpf_error(). Call once.
void capture_libbpf_log();

/// Shared mapping of a mmapable array map.
class Mapping {
 public:
  static Result<Mapping> open(int map_fd, std::size_t bytes);
  /// Memory of its own, zeroed.
  static Result<Mapping> anonymous(std::size_t bytes);
  Mapping(Mapping&& other) noexcept
      : base_(std::exchange(other.base_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(base_, other.base_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();

  [[nodiscard]] std::uint8_t* base() const noexcept { return base_; }
  [[nodiscard]] std::size_t size() const noexcept { return bytes_; }

 private:
  Mapping(std::uint8_t* base, std::size_t bytes) noexcept : base_(base), bytes_(bytes) {}
  static Result<Mapping> map(const char* what, int fd, std::size_t bytes, int flags);
  std::uint8_t* base_;
  std::size_t bytes_;  ///< a multiple of the page size
};

/// Owns an opened skeleton of type T and its `destroy` function.
template <typename T, void (*Destroy)(T*)>
using Skeleton = std::unique_ptr<T, decltype([](T* skeleton) { Destroy(skeleton); })>;

/// Possible CPUs of this machine.
Result<std::uint32_t> possible_cpus();

}  // namespace vtap::io
