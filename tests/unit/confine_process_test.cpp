// SPDX-License-Identifier: Apache-2.0
// The layers of confinement, each alone, as one hides behind the other; and the process as a whole.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <thread>

#include "confine/capabilities.hpp"
#include "confine/filter.hpp"
#include "confine/landlock.hpp"
#include "confine/process.hpp"
#include "support/attempts.hpp"
#include "vtap/fd.hpp"

namespace vtap::confine {
namespace {

/// Of restrict_files() alone.
int with_files(const FileRules& rules, const Attempt& attempt) {
  return in_child([&] {
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return kCannotConfine;
    if (!restrict_files(rules)) return kCannotConfine;
    return attempt();
  });
}

class Landlock : public testing::Test {
 protected:
  void SetUp() override {
    if (landlock_version() == 0) GTEST_SKIP() << "this kernel has no Landlock";
  }

  [[nodiscard]] int create_in(const std::string& directory, const FileRules& rules) const {
    return with_files(rules, [&] {
      const UniqueFd fd(::open((directory + "/file").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600));
      return fd ? 0 : errno;
    });
  }

  ScratchDirectory run_, other_;
};

TEST_F(Landlock, WritesWhereItMayAndNowhereElse) {
  const FileRules rules{.read = true, .writable = {run_.path()}, .network = true};
  EXPECT_EQ(create_in(run_.path(), rules), 0);
  EXPECT_EQ(create_in(other_.path(), rules), EACCES);
  std::ofstream(other_.path() + "/there") << "kept";
  const std::string there = other_.path() + "/there";
  EXPECT_EQ(with_files(rules, [&] { return outcome(::open(there.c_str(), O_RDONLY)); }), 0);
  EXPECT_EQ(with_files(rules, [&] { return outcome(::open(there.c_str(), O_RDWR)); }), EACCES);
  EXPECT_EQ(with_files(rules, [&] { return outcome(::unlink(there.c_str())); }), EACCES);
  EXPECT_EQ(with_files(rules, [&] { return outcome(::mkdir((there + "2").c_str(), 0700)); }),
            EACCES);
  EXPECT_EQ(with_files(rules, execute), EACCES);
}

TEST_F(Landlock, ReplacesAFileWhereItMayWrite) {
  const FileRules rules{.read = true, .writable = {run_.path()}, .network = true};
  const std::string file = run_.path() + "/tap.toml";
  std::ofstream(file) << "old";
  EXPECT_EQ(with_files(rules,
                       [&] {
                         std::ofstream(file + ".tmp") << "new";
                         return outcome(::rename((file + ".tmp").c_str(), file.c_str()));
                       }),
            0);
  std::ifstream changed(file);
  std::string text;
  changed >> text;
  EXPECT_EQ(text, "new");
}

TEST_F(Landlock, ReadsNothingIfItMayNot) {
  const FileRules rules{.read = false, .writable = {}, .network = true};
  EXPECT_EQ(with_files(rules, [] { return outcome(::open("/etc/passwd", O_RDONLY)); }), EACCES);
  EXPECT_EQ(with_files(rules, [] { return outcome(::open("/", O_RDONLY | O_DIRECTORY)); }), EACCES);
}

TEST_F(Landlock, TakesTheNetworkAway) {
  if (landlock_version() < 4) GTEST_SKIP() << "Landlock of this kernel knows no network";
  const auto bind = [] {
    const UniqueFd fd(::socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return outcome(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)));
  };
  EXPECT_EQ(with_files({.read = true, .writable = {}, .network = true}, bind), 0);
  EXPECT_EQ(with_files({.read = true, .writable = {}, .network = false}, bind), EACCES);
}

TEST(Capabilities, WhatIsGivenUpStaysAway) {
  if (!is_root()) GTEST_SKIP() << "needs root to have any";
  const auto raw_socket = [] { return outcome(::socket(AF_PACKET, SOCK_RAW, 0)); };
  EXPECT_EQ(in_child([&] {
              if (!keep_capabilities(capability(CAP_NET_RAW))) return kCannotConfine;
              return raw_socket();
            }),
            0);
  EXPECT_EQ(in_child([&] {
              if (!keep_capabilities(capability(CAP_NET_ADMIN))) return kCannotConfine;
              if (raise_capability() != EPERM) return kCannotConfine;
              return raw_socket();
            }),
            EPERM);
}

TEST(ControlFilter, RefusesWhatNobodyNeedsAndNothingElse) {
  const auto filtered = [](const Attempt& attempt) {
    return in_child([&] {
      if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return kCannotConfine;
      if (!allow_only(Calls::control)) return kCannotConfine;
      return attempt();
    });
  };
  EXPECT_EQ(filtered(execute), EPERM);
  EXPECT_EQ(filtered(mount_something), EPERM);
  EXPECT_EQ(filtered(read_memory_of_parent), EPERM);
  EXPECT_EQ(filtered(become_root), EPERM);
  EXPECT_EQ(filtered([] { return outcome(::open("/dev/null", O_WRONLY)); }), 0);
  EXPECT_EQ(filtered([] { return outcome(::socket(AF_INET, SOCK_DGRAM, 0)); }), 0);
  EXPECT_EQ(filtered(create_map), in_child(create_map));
}

// ---- the process

/// The id of a small program, whose descriptor stays open.
std::optional<std::uint32_t> load_program() {
  std::array<bpf_insn, 2> code{};
  code[0].code = BPF_ALU64 | BPF_MOV | BPF_K;  // r0 = 0
  code[1].code = BPF_JMP | BPF_EXIT;
  bpf_attr request{};
  request.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
  request.insns = reinterpret_cast<std::uint64_t>(code.data());
  request.insn_cnt = code.size();
  request.license = reinterpret_cast<std::uint64_t>("GPL");
  const long fd = ::syscall(SYS_bpf, BPF_PROG_LOAD, &request, sizeof(request));
  if (fd < 0) return std::nullopt;
  bpf_prog_info info{};
  bpf_attr question{};
  question.info.bpf_fd = static_cast<std::uint32_t>(fd);
  question.info.info_len = sizeof(info);
  question.info.info = reinterpret_cast<std::uint64_t>(&info);
  if (::syscall(SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &question, sizeof(question)) != 0) return {};
  return info.id;
}

class ConfinedProcess : public testing::Test {
 protected:
  void SetUp() override {
    if (!is_root()) GTEST_SKIP() << "needs root, to give it up";
    ASSERT_EQ(::chmod(base_.path().c_str(), 0755), 0);
  }

  /// In a child that was confined as `user`.
  [[nodiscard]] int confined_as(const std::string& user,
                                const std::function<int(Process&)>& attempt) const {
    return in_child([&] {
      auto who = choose_user(user);
      if (!who) return kCannotConfine;
      auto process = Process::confine(
          {.user = *who, .own_directory = run_, .run_directories = {run_}, .writable = {run_}});
      if (!process) return kCannotConfine;
      return attempt(*process);
    });
  }

  ScratchDirectory base_;
  std::string run_ = base_.path() + "/run";
};

TEST_F(ConfinedProcess, IsAnotherUserWithFiveCapabilities) {
  EXPECT_EQ(confined_as("nobody",
                        [](Process&) {
                          auto status = status_of(::getpid());
                          if (status["Uid"].substr(0, 2) == "0\t") return 1;
                          if (status["CapEff"] != "000000c000007000") return 2;
                          if (status["CapPrm"] != status["CapEff"]) return 3;
                          if (status["CapBnd"] != "0000000000000000") return 4;
                          if (status["CapAmb"] != "0000000000000000") return 5;
                          if (status["CapInh"] != "0000000000000000") return 6;
                          if (status["NoNewPrivs"] != "1" || status["Seccomp"] != "2") return 7;
                          return 0;
                        }),
            0);
}

TEST_F(ConfinedProcess, WritesItsRunDirectoryOnly) {
  for (const char* user : {"nobody", "root"}) {
    EXPECT_EQ(confined_as(user,
                          [&](Process&) {
                            std::ofstream inside(run_ + "/file");
                            if (!(inside << "x").flush()) return 1;
                            std::ofstream outside(base_.path() + "/file");
                            return outside.is_open() ? 2 : 0;
                          }),
              0)
        << user;
    std::filesystem::remove_all(run_);
  }
}

TEST_F(ConfinedProcess, OpensProgramsThroughOneThreadOnly) {
  const auto id = load_program();
  ASSERT_TRUE(id);
  EXPECT_EQ(confined_as("nobody",
                        [&](Process& process) {
                          bpf_attr request{};
                          request.prog_id = *id;
                          if (outcome(::syscall(SYS_bpf, BPF_PROG_GET_FD_BY_ID, &request,
                                                sizeof(request))) != EPERM) {
                            return 1;
                          }
                          const UniqueFd fd(process.programs().open(*id));
                          if (!fd) return errno;
                          const UniqueFd none(process.programs().open(0x7ffffff0));
                          return none.get() >= 0 || errno != ENOENT ? 2 : 0;
                        }),
            0);
}

TEST_F(ConfinedProcess, ThreadsGiveUpTheRest) {
  EXPECT_EQ(confined_as("nobody",
                        [](Process& process) {
                          int raw = 0;
                          std::thread([&] {
                            process.starts(Role::worker)();
                            raw = outcome(::socket(AF_PACKET, SOCK_RAW, 0));
                          }).join();
                          if (raw != EPERM) return 1;
                          return outcome(::socket(AF_PACKET, SOCK_RAW, 0));  // control: may
                        }),
            0);
}

TEST_F(ConfinedProcess, FindsTheStateOfAnotherUser) {
  std::filesystem::create_directories(run_ + "/state/deep");
  std::ofstream(run_ + "/state/deep/port.json") << "{}";
  ASSERT_EQ(::chmod((run_ + "/state/deep/port.json").c_str(), 0600), 0);
  std::ofstream(base_.path() + "/secret") << "not ours";
  ASSERT_EQ(::link((base_.path() + "/secret").c_str(), (run_ + "/state/linked").c_str()), 0);
  std::filesystem::create_symlink(base_.path() + "/secret", run_ + "/state/symbolic");
  EXPECT_EQ(confined_as("nobody",
                        [&](Process&) {
                          std::ofstream file(run_ + "/state/deep/port.json");
                          return file.is_open() ? 0 : 1;
                        }),
            0);
  struct stat status {};
  ASSERT_EQ(::stat((base_.path() + "/secret").c_str(), &status), 0);
  EXPECT_EQ(status.st_uid, 0U) << "a second name gave a file away";
}

TEST(User, IsNamedOrRefused) {
  EXPECT_EQ(choose_user("no-such-user-here").error().kind, ErrorKind::usage);
  const auto now = choose_user("");
  ASSERT_TRUE(now);
  if (is_root()) {
    EXPECT_EQ(choose_user("root").value().uid, 0U);
  } else {
    EXPECT_EQ(now.value().uid, ::geteuid());
    EXPECT_EQ(choose_user("root").error().kind, ErrorKind::usage);
  }
}

}  // namespace
}  // namespace vtap::confine
