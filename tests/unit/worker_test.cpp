// SPDX-License-Identifier: Apache-2.0
// What threads share, without sockets and without root. Runs under ThreadSanitizer as well.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>
#include <memory>
#include <thread>

#include "io/tee.hpp"
#include "support/frames.hpp"
#include "support/memory_broker.hpp"
#include "support/threads.hpp"
#include "worker/crossing.hpp"

namespace vtap::test {
namespace {

using pipeline::Burst;
using pipeline::FrameAddress;
using pipeline::FrameNumber;
using pipeline::FramePool;
using pipeline::TxDescriptor;
using pipeline::UmemView;
using worker::Crossing;
using worker::CrossingFrame;
using worker::CrossingSink;
using worker::Lent;
using worker::Returned;

/// Lets the other thread run, where both share a core.
void relax() { std::this_thread::yield(); }

void write_mark(UmemView umem, FrameNumber frame, std::uint64_t mark) {
  std::memcpy(umem.at(umem.start(frame)), &mark, sizeof(mark));
}
std::uint64_t read_mark(UmemView umem, FrameAddress address) {
  std::uint64_t mark = 0;
  std::memcpy(&mark, umem.at(address), sizeof(mark));
  return mark;
}

// ---- frames that cross

constexpr std::uint32_t kLender = 0;
constexpr std::uint32_t kUser = 1;

const pipeline::TimedFrame kNoneTimed;

TEST(Crossing, TheTimedFrameTakesItsTimeAlong) {
  Crossing crossing(2);
  Lent lent;
  const std::uint64_t now = 5;
  pipeline::TimedFrame timed{FrameAddress{4096}, 3};
  CrossingSink sink(crossing.forward(kLender, kUser), 0, lent, Crossing::kCapacity, now, timed,
                    false);
  const std::vector<TxDescriptor> frames = {
      {FrameAddress{2048}, 60}, {FrameAddress{4096}, 60}, {FrameAddress{0}, 60}};
  EXPECT_EQ(sink.post(frames).taken, 3U);
  timed = {FrameAddress{2048}, 0};
  EXPECT_EQ(sink.post(frames).taken, 3U);
  std::vector<std::uint64_t> times;
  crossing.forward(kLender, kUser).consume_all([&](const CrossingFrame& frame) {
    times.push_back(frame.timed_ns);
  });
  EXPECT_EQ(times, (std::vector<std::uint64_t>{0, 3, 0, 0, 0, 0}));
}

TEST(Crossing, LendsNoMoreThanTheWayHomeHolds) {
  Crossing crossing(2);
  Lent lent;
  const std::uint64_t now = 5;
  CrossingSink first(crossing.forward(kLender, kUser), 0, lent, Crossing::kCapacity, now,
                     kNoneTimed, true);
  CrossingSink second(crossing.forward(kLender, kUser), 1, lent, Crossing::kCapacity, now,
                      kNoneTimed, false);
  const std::vector<TxDescriptor> many(3000, TxDescriptor{FrameAddress{4096}, 60});
  EXPECT_EQ(first.post(many).taken, 3000U);
  const auto posted = second.post(many);
  EXPECT_EQ(posted.taken, Crossing::kCapacity - 3000);
  EXPECT_EQ(posted.refusal, pipeline::Sink::Refusal::ring_full);
  EXPECT_EQ(lent.frames, Crossing::kCapacity);
  EXPECT_EQ(lent.originals, 3000U) << "the first takes originals";
  // Taken over by the other worker, but still out: the queue has room, the way home might not.
  std::uint32_t taken = 0;
  crossing.forward(kLender, kUser).consume_all([&](const CrossingFrame& frame) {
    EXPECT_EQ(frame.target, taken < 3000 ? 0U : 1U);
    EXPECT_EQ(frame.posted_ns, now);
    EXPECT_EQ(frame.frame.length, 60U);
    ++taken;
  });
  EXPECT_EQ(taken, Crossing::kCapacity);
  EXPECT_EQ(first.post(many).taken, 0U);
  for (std::uint32_t i = 0; i < taken; ++i) {
    ASSERT_TRUE(crossing.home(kUser, kLender).push({FrameNumber{2}, false}));
  }
  EXPECT_EQ(crossing.home(kUser, kLender).consume_all([&](const Returned&) { --lent.frames; }),
            taken);
  EXPECT_EQ(first.post(many).taken, 3000U);
}

/// What waits in the queue of a scheduled monitor is lent for long, and leaves room for the rest.
TEST(Crossing, LendsMoreWhereFramesWait) {
  constexpr std::uint32_t kWaiting = 1000;
  Crossing crossing(2, kWaiting);
  Lent lent;
  const std::uint64_t now = 5;
  CrossingSink sink(crossing.forward(kLender, kUser), 0, lent, crossing.lendable(), now, kNoneTimed,
                    false);
  const std::vector<TxDescriptor> many(2 * Crossing::kCapacity, TxDescriptor{{}, 60});
  const auto take_over = [&] {
    return crossing.forward(kLender, kUser).consume_all([](const CrossingFrame&) {});
  };
  EXPECT_EQ(sink.post(many).taken, Crossing::kCapacity) << "the way there is no longer";
  EXPECT_LT(crossing.forward(kLender, kUser).write_available(), Crossing::kCapacity);
  EXPECT_EQ(take_over(), Crossing::kCapacity);
  EXPECT_EQ(crossing.forward(kLender, kUser).write_available(), Crossing::kCapacity);
  EXPECT_EQ(sink.post(many).taken, kWaiting);
  take_over();
  for (std::uint32_t i = 0; i < Crossing::kCapacity + kWaiting; ++i) {
    ASSERT_TRUE(crossing.home(kUser, kLender).push({FrameNumber{2}, false})) << i;
  }
}

TEST(Crossing, PairsOfWorkersDoNotMix) {
  Crossing crossing(3);
  for (std::uint32_t from = 0; from < 3; ++from) {
    for (std::uint32_t to = 0; to < 3; ++to) {
      crossing.forward(from, to).push({{}, 0, from * 3 + to});
      crossing.home(from, to).push({FrameNumber{from * 3 + to}, false});
    }
  }
  for (std::uint32_t from = 0; from < 3; ++from) {
    for (std::uint32_t to = 0; to < 3; ++to) {
      CrossingFrame frame;
      Returned returned;
      ASSERT_TRUE(crossing.forward(from, to).pop(frame) && crossing.home(from, to).pop(returned));
      EXPECT_EQ(frame.target, from * 3 + to);
      EXPECT_EQ(returned.frame, FrameNumber{from * 3 + to});
      EXPECT_EQ(crossing.forward(from, to).read_available(), 0U);
    }
  }
}

/// Two threads, as two workers: one lends its frames to both targets of the other, which keeps them
/// for a while, as a ring does, and sends them home.
class Lending : public testing::Test {
 protected:
  Lending() { pin_to_cpu(0); }

  static constexpr std::uint32_t kFrames = 512;
  static constexpr std::uint32_t kTargets = 2;
  static constexpr std::uint64_t kMarks = 60'000;

  void lend() {
    Random random(1);
    CrossingSink first(crossing_.forward(kLender, kUser), 0, lent_, crossing_.lendable(), now_,
                       kNoneTimed, false);
    CrossingSink second(crossing_.forward(kLender, kUser), 1, lent_, crossing_.lendable(), now_,
                        kNoneTimed, false);
    for (std::uint64_t mark = 1; mark <= kMarks;) {
      take_home();
      Burst burst;
      for (std::uint32_t n = random.between(1, 64); n > 0 && pool_.available() > 0; --n) {
        const FrameNumber frame = pool_.take();
        write_mark(umem_.view(), frame, mark++);
        burst.push(umem_.view().start(frame), 60, 0);
      }
      if (burst.size == 0) {
        relax();
        continue;
      }
      posted_[0] += pipeline::Pipeline::forward(burst, pool_, umem_.view(), first);
      posted_[1] += pipeline::Pipeline::forward(burst, pool_, umem_.view(), second);
      for (std::uint32_t i = 0; i < burst.size; ++i) {
        pool_.release(umem_.view().number(burst.address[i]));
      }
    }
    lender_done_ = true;
    while (lent_.frames != 0) {
      take_home();
      relax();
    }
  }

  void take_home() {
    crossing_.home(kUser, kLender).consume_all([&](const Returned& returned) {
      --lent_.frames;
      pool_.release(returned.frame);
    });
  }

  void use() {
    Random random(2);
    std::deque<FrameNumber> ring;
    std::array<std::uint64_t, kTargets> last{};
    while (true) {
      const bool last_round = lender_done_;
      const std::size_t taken =
          crossing_.forward(kLender, kUser).consume_all([&](const CrossingFrame& crossing) {
            const std::uint64_t mark = read_mark(umem_.view(), crossing.frame.address);
            if (mark <= last[crossing.target]) ++disorder_;
            last[crossing.target] = mark;
            ++received_[crossing.target];
            ring.push_back(umem_.view().number(crossing.frame.address));
          });
      std::size_t completed = last_round ? ring.size() : random.below(128);
      for (; completed > 0 && !ring.empty(); --completed) {
        if (!crossing_.home(kUser, kLender).push({ring.front(), false})) ++lost_;
        ring.pop_front();
      }
      if (last_round && taken == 0 && ring.empty()) return;
      relax();
    }
  }

  Crossing crossing_{2};
  MemoryUmem umem_{kFrames};
  FramePool pool_{FrameNumber{0}, kFrames};
  Lent lent_;
  std::uint64_t now_ = 0;
  std::atomic<bool> lender_done_{false};
  std::array<std::uint64_t, kTargets> posted_{}, received_{};
  std::uint64_t disorder_ = 0, lost_ = 0;
};

TEST_F(Lending, FramesCrossInOrderAndComeHome) {
  std::thread user = thread_on(1, [this] { use(); });
  lend();
  user.join();
  EXPECT_EQ(received_, posted_);
  EXPECT_GT(posted_[0], 0U);
  EXPECT_EQ(disorder_, 0U);
  EXPECT_EQ(lost_, 0U) << "the way home was full";
  EXPECT_EQ(pool_.available(), pool_.total());
}

// ---- tee rings

std::uint64_t now_ns() {
  return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

#ifdef __x86_64__
constexpr bool kPublishesByStore = true;
#else
constexpr bool kPublishesByStore = false;
#endif

/// The program's side of a tee ring (xdp/common.bpf.h), in C++ on plain memory, with the memory
/// orders of the machine's own program. The sanitizer sees no barriers but atomics, so an exchange
/// stands for BPF's fetching atomics.
class FakeProgram {
 public:
  FakeProgram(vtap_cpu& cpu, UmemView umem, int doorbell)
      : FakeProgram(cpu, umem, doorbell, cpu, 0) {}
  FakeProgram(vtap_cpu& cpu, UmemView umem, int doorbell, vtap_cpu& lead, std::uint32_t number)
      : cpu_(cpu), lead_(lead), number_(number), umem_(umem), doorbell_(doorbell) {}

  /// Copies a frame that holds only `mark`. False: missed.
  bool copy(std::uint64_t mark) {
    if (cpu_.free_cons == cpu_.free_prod_seen) {
      cpu_.free_prod_seen = __atomic_fetch_add(&cpu_.free_prod, 0, __ATOMIC_SEQ_CST);
      if (cpu_.free_cons == cpu_.free_prod_seen) return false;
    }
    if (cpu_.desc_prod - cpu_.desc_cons_seen >= VTAP_RING_SLOTS) {
      cpu_.desc_cons_seen = __atomic_fetch_add(&cpu_.desc_cons, 0, __ATOMIC_SEQ_CST);
      if (cpu_.desc_prod - cpu_.desc_cons_seen >= VTAP_RING_SLOTS) return false;
    }
    const FrameNumber frame{cpu_.free_ring[cpu_.free_cons % VTAP_RING_SLOTS]};
    write_mark(umem_, frame, mark);
    vtap_desc& desc = cpu_.desc_ring[cpu_.desc_prod % VTAP_RING_SLOTS];
    desc = {};
    const bool timed = cpu_.desc_prod % VTAP_TIMED_EVERY == 0;
    desc.time = copy_time(timed);
    if (timed) desc.flags = VTAP_DESC_TIMED;
    desc.frame = static_cast<std::uint32_t>(frame);
    desc.len = sizeof(mark);
    desc.port = kPort;
    if (kPublishesByStore) {
      __atomic_store_n(&cpu_.desc_prod, cpu_.desc_prod + 1, __ATOMIC_RELEASE);
    } else {
      __atomic_exchange_n(&cpu_.desc_prod, cpu_.desc_prod + 1, __ATOMIC_SEQ_CST);
    }
    __atomic_store_n(&cpu_.free_cons, cpu_.free_cons + 1, __ATOMIC_RELEASE);
    ring_doorbell();
    return true;
  }

  static constexpr std::uint8_t kPort = 3;

  /// How often it rang.
  [[nodiscard]] std::uint64_t rings() const { return rings_; }

 private:
  std::uint64_t copy_time(bool timed) {
    std::uint32_t found = __atomic_load_n(&lead_.maker, __ATOMIC_RELAXED);
    if (found == number_ + 1) {
      if (timed) cpu_.time = now_ns();
      return cpu_.time;
    }
    const bool alone = found == VTAP_NO_MAKER &&
                       __atomic_compare_exchange_n(&lead_.maker, &found, number_ + 1, false,
                                                   __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    cpu_.time = now_ns();
    if (!alone && __atomic_load_n(&lead_.maker, __ATOMIC_RELAXED) != VTAP_MANY_MAKERS) {
      __atomic_store_n(&lead_.maker, std::uint32_t{VTAP_MANY_MAKERS}, __ATOMIC_RELAXED);
    }
    return cpu_.time;
  }

  void ring_doorbell() {
    if (__atomic_load_n(&cpu_.sleeping, __ATOMIC_RELAXED) == 0) return;
    if (__atomic_exchange_n(&cpu_.sleeping, 0, __ATOMIC_SEQ_CST) == 0) return;
    ++rings_;
    const std::uint64_t one = 1;
    EXPECT_EQ(write(doorbell_, &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
  }

  vtap_cpu& cpu_;
  vtap_cpu& lead_;
  std::uint32_t number_;
  UmemView umem_;
  int doorbell_;
  std::uint64_t rings_ = 0;
};

class Tee : public testing::Test {
 protected:
  static constexpr std::uint32_t kFrames = 16384;

  Tee() { pin_to_cpu(0); }
  ~Tee() override { close(doorbell_); }

  std::vector<vtap_cpu*> rings(std::size_t count) {
    std::vector<vtap_cpu*> pointers;
    while (cpus_.size() < count) cpus_.push_back(std::make_unique<vtap_cpu>());
    for (const auto& cpu : cpus_) pointers.push_back(cpu.get());
    return pointers;
  }

  std::vector<FakeProgram> all_programs() {
    std::vector<FakeProgram> programs;
    for (const auto& cpu : cpus_) {
      const auto number = static_cast<std::uint32_t>(programs.size());
      programs.emplace_back(*cpu, umem_.view(), doorbell_, *cpus_[0], number);
    }
    return programs;
  }

  /// One burst: the marks in it.
  std::vector<std::uint64_t> receive(io::TeeSource& source) {
    Burst burst;
    source.receive(burst, now_ns());
    std::vector<std::uint64_t> marks;
    for (std::uint32_t i = 0; i < burst.size; ++i) {
      EXPECT_EQ(burst.length[i], sizeof(std::uint64_t));
      EXPECT_EQ(burst.port[i], FakeProgram::kPort);
      marks.push_back(read_mark(umem_.view(), burst.address[i]));
      pool_.release(umem_.view().number(burst.address[i]));
    }
    return marks;
  }

  /// Sleeps as a worker does. False: nobody rang for ten seconds.
  bool sleep(const io::TeeSource& source) {
    pollfd fd{doorbell_, POLLIN, 0};
    const timespec settle{0, io::TeeSource::kSettle.count()};
    if (ppoll(&fd, 1, &settle, nullptr) == 0) {
      if (!source.empty()) return true;
      if (poll(&fd, 1, 10'000) != 1) return false;
    }
    std::uint64_t ignored = 0;
    return read(doorbell_, &ignored, sizeof(ignored)) == static_cast<ssize_t>(sizeof(ignored));
  }

  MemoryUmem umem_{kFrames, 64};
  FramePool pool_{FrameNumber{0}, kFrames};
  std::vector<std::unique_ptr<vtap_cpu>> cpus_;
  int doorbell_ = eventfd(0, EFD_CLOEXEC);
};

TEST_F(Tee, CopiesArriveInOrderAndTheirFramesAreReplaced) {
  io::TeeSource source(rings(1), umem_.view(), pool_, 1024);
  FakeProgram program(*cpus_[0], umem_.view(), doorbell_);
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
  while (sent < 100'000) {
    for (int i = 0; i < 100; ++i) ASSERT_TRUE(program.copy(++sent));
    for (auto marks = receive(source); !marks.empty(); marks = receive(source)) {
      for (const std::uint64_t mark : marks) ASSERT_EQ(mark, ++received);
    }
    ASSERT_EQ(pool_.available() + source.frames_out(), pool_.total());
  }
  EXPECT_EQ(received, sent);
  EXPECT_EQ(source.teed_bytes().read(), sent * sizeof(std::uint64_t));
  EXPECT_EQ(source.copied_bytes().read(), 0U) << "the copies lie where they are sent from";
}

/// While its worker still wakes up: CPUs that have delivered nothing share half of the frames.
/// The first copy, and then each VTAP_TIMED_EVERY-th: by the time of its making, also where one CPU
/// makes them all, and its other stamps stand still.
TEST_F(Tee, SomeCopiesAreTimed) {
  io::TeeSource source(rings(1), umem_.view(), pool_, 1024);
  std::vector<FakeProgram> programs = all_programs();
  std::uint64_t last = 0;
  for (std::uint32_t made = 0; made < 4 * VTAP_TIMED_EVERY; made += 16) {
    const std::uint64_t before = now_ns();
    for (std::uint64_t mark = 0; mark < 16; ++mark) ASSERT_TRUE(programs[0].copy(mark));
    Burst burst;
    source.receive(burst, now_ns());
    ASSERT_EQ(burst.size, 16U);
    if (made % VTAP_TIMED_EVERY != 0) {
      EXPECT_EQ(burst.timed.since_ns, 0U) << made;
    } else {
      EXPECT_TRUE(burst.timed.is(burst.address[0])) << made;
      EXPECT_FALSE(burst.timed.is(burst.address[1]));
      EXPECT_GE(burst.timed.since_ns, before);
      EXPECT_LE(burst.timed.since_ns, now_ns());
      EXPECT_GT(burst.timed.since_ns, last);
      last = burst.timed.since_ns;
    }
    for (std::uint32_t i = 0; i < burst.size; ++i)
      pool_.release(umem_.view().number(burst.address[i]));
  }
}

TEST_F(Tee, AFirstBurstFindsFrames) {
  constexpr std::uint32_t kBudget = 8192;
  const io::TeeSource source(rings(2), umem_.view(), pool_, kBudget);
  std::vector<FakeProgram> programs = all_programs();
  for (FakeProgram& program : programs) {
    std::uint64_t copies = 0;
    while (program.copy(copies + 1)) ++copies;
    EXPECT_EQ(copies, kBudget / 4);
  }
  EXPECT_EQ(pool_.available() + source.frames_out(), pool_.total());
}

TEST_F(Tee, RingsHoldNoMoreThanTheBudget) {
  constexpr std::uint32_t kBudget = 2048;
  io::TeeSource source(rings(2), umem_.view(), pool_, kBudget);
  FakeProgram program(*cpus_[0], umem_.view(), doorbell_);
  std::uint64_t mark = 0;
  // A worker that takes less than the program copies.
  for (int round = 0; round < 200; ++round) {
    while (program.copy(++mark)) {
    }
    receive(source);
    source.refill();
    ASSERT_LE(source.frames_out(), kBudget);
    ASSERT_EQ(pool_.available() + source.frames_out(), pool_.total());
  }
}

TEST_F(Tee, CopiesOfSeveralCpusComeInTheOrderOfTheirMaking) {
  io::TeeSource source(rings(3), umem_.view(), pool_, 3072);
  std::vector<FakeProgram> programs = all_programs();
  Random random(1);
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
  while (sent < 50'000) {
    for (std::uint32_t turns = random.below(20); turns > 0; --turns) {
      FakeProgram& program = programs[random.below(3)];
      for (std::uint32_t n = random.below(10); n > 0; --n) ASSERT_TRUE(program.copy(++sent));
    }
    for (auto marks = receive(source); !marks.empty(); marks = receive(source)) {
      for (const std::uint64_t mark : marks) ASSERT_EQ(mark, ++received);
    }
    ASSERT_EQ(pool_.available() + source.frames_out(), pool_.total());
  }
  EXPECT_EQ(received, sent);
}

/// A sender that moves from CPU to CPU while the worker looks at their rings one after the other.
TEST_F(Tee, ASendersCopiesStayInOrderWhenItMoves) {
  constexpr std::uint64_t kPhases = 8;
  constexpr std::uint64_t kPatienceNs = 5'000'000'000;
  {
    io::TeeSource source(rings(2), umem_.view(), pool_, 2048);
    std::atomic<bool> done{false};
    std::atomic<std::uint64_t> looks_alone{0};
    std::uint64_t sent = 0;
    std::uint64_t phases_alone = 0;
    std::thread sender = thread_on(1, [&] {
      std::vector<FakeProgram> programs = all_programs();
      const auto send = [&](std::uint64_t cpu) {
        if (programs[cpu % 2].copy(sent + 1)) {
          ++sent;
        } else {
          relax();
        }
      };
      // In phases of moving about and of staying, so that CPUs stand alone, too.
      for (std::uint64_t phase = 0; phase < kPhases; phase += 2) {
        for (const std::uint64_t end = sent + 20'000; sent < end;) send(sent / 3);
        const std::uint64_t before = looks_alone;
        const std::uint64_t give_up = now_ns() + kPatienceNs;
        while (looks_alone < before + 10 && now_ns() < give_up) send(phase / 2);
        phases_alone += looks_alone > before ? 1 : 0;
      }
      done = true;
    });
    std::uint64_t received = 0;
    std::uint64_t misplaced = 0;
    for (bool last = false; !last;) {
      last = done;
      for (auto marks = receive(source); !marks.empty(); marks = receive(source)) {
        for (const std::uint64_t mark : marks) misplaced += mark == ++received ? 0 : 1;
        looks_alone += std::atomic_ref(cpus_[0]->maker).load() <= cpus_.size() ? 1 : 0;
      }
      source.refill();
      relax();
    }
    sender.join();
    EXPECT_EQ(received, sent);
    EXPECT_EQ(misplaced, 0U);
    EXPECT_EQ(phases_alone, kPhases / 2) << "hardly ever alone: not all was tested";
  }
}

TEST_F(Tee, CopiesAreCopiedOverWhereTheUmemIsOtherMemory) {
  MemoryUmem array{kFrames, 64};
  io::TeeSource source(rings(1), umem_.view(), array.view(), pool_, 1024);
  FakeProgram program(*cpus_[0], array.view(), doorbell_);
  for (std::uint64_t mark = 1; mark <= 5'000; ++mark) {
    ASSERT_TRUE(program.copy(mark));
    ASSERT_EQ(receive(source), std::vector{mark});
    ASSERT_EQ(source.copied_bytes().read(), mark * sizeof(mark));
  }
  EXPECT_EQ(source.teed_bytes().read(), source.copied_bytes().read());
}

TEST_F(Tee, DoesNotSleepWhereCopiesWait) {
  io::TeeSource source(rings(2), umem_.view(), pool_, 1024);
  FakeProgram program(*cpus_[1], umem_.view(), doorbell_);
  EXPECT_TRUE(source.prepare_sleep());
  EXPECT_EQ(cpus_[0]->sleeping, 1U);
  EXPECT_EQ(cpus_[1]->sleeping, 1U);
  source.wake();
  EXPECT_EQ(cpus_[0]->sleeping, 0U);
  EXPECT_EQ(cpus_[1]->sleeping, 0U);
  program.copy(1);
  EXPECT_FALSE(source.prepare_sleep());
  EXPECT_EQ(cpus_[0]->sleeping, 0U) << "an awake worker is not rung for";
  EXPECT_EQ(cpus_[1]->sleeping, 0U);
}

/// A program on a thread of its own, under load.
TEST_F(Tee, NothingIsLostBetweenTheThreads) {
  constexpr std::uint64_t kCopies = 400'000;
  {
    io::TeeSource source(rings(1), umem_.view(), pool_, 512);
    std::thread program = thread_on(1, [this] {
      FakeProgram fake(*cpus_[0], umem_.view(), doorbell_);
      for (std::uint64_t mark = 1; mark <= kCopies;) {
        if (fake.copy(mark)) {
          ++mark;
        } else {
          relax();
        }
      }
    });
    std::uint64_t received = 0;
    bool in_order = true;
    while (received < kCopies) {
      const auto marks = receive(source);
      for (const std::uint64_t mark : marks) in_order &= mark == ++received;
      if (marks.empty()) {
        source.refill();
        relax();
      }
    }
    program.join();
    EXPECT_TRUE(in_order);
    EXPECT_EQ(pool_.available() + source.frames_out(), pool_.total());
  }
}

/// Worker and program start together, round by round: one falls asleep, the other copies a frame.
/// Whichever comes second must see the first; where the program publishes by a store, then the
/// worker's second look must.
TEST_F(Tee, ASleeperOrItsProgramSeesTheOther) {
  constexpr std::uint64_t kRounds = 300'000;
  io::TeeSource source(rings(1), umem_.view(), pool_, 512);
  FakeProgram fake(*cpus_[0], umem_.view(), doorbell_);
  std::atomic<std::uint64_t> round{0};
  std::atomic<std::uint64_t> copied{0};
  std::atomic<bool> done{false};
  const auto await = [](const std::atomic<std::uint64_t>& value, std::uint64_t target,
                        const std::atomic<bool>& stop) {
    for (int spins = 0; value < target && !stop; ++spins) {
      if (spins > 1000) relax();
    }
  };
  std::thread program = thread_on(1, [&] {
    for (std::uint64_t mark = 1; !done; ++mark) {
      await(round, mark, done);
      if (done) break;
      fake.copy(mark);
      copied = mark;
    }
  });
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(3);
  std::uint64_t asleep = 0;
  std::uint64_t lost = 0;
  std::uint64_t rings = 0;
  std::uint64_t rounds = 0;
  while (rounds < kRounds && std::chrono::steady_clock::now() < end) {
    round = ++rounds;
    // The two paths are not equally long: shifts them against each other.
    for (volatile std::uint64_t spin = rounds % 64; spin > 0;) spin = spin - 1;
    const bool sleeps = source.prepare_sleep();
    await(copied, rounds, done);
    const bool rang = fake.rings() != rings;
    rings = fake.rings();
    asleep += sleeps ? 1 : 0;
    lost += sleeps && !rang && (!kPublishesByStore || source.empty()) ? 1 : 0;
    source.wake();
    ASSERT_EQ(receive(source), std::vector{rounds});
  }
  done = true;
  program.join();
  EXPECT_EQ(lost, 0U) << "slept in " << asleep << " of " << rounds << " rounds";
  EXPECT_GT(asleep, 0U);
}

/// The program copies one frame at the very moment at which the worker goes to sleep, again and
/// again: a wakeup that got lost leaves the worker waiting.
TEST_F(Tee, NoWakeupIsLost) {
  constexpr std::uint64_t kCopies = 50'000;
  io::TeeSource source(rings(2), umem_.view(), pool_, 512);
  std::atomic<std::uint64_t> received{0};
  std::atomic<bool> give_up{false};
  std::thread program = thread_on(1, [&] {
    FakeProgram fake(*cpus_[1], umem_.view(), doorbell_);
    Random random(1);
    for (std::uint64_t mark = 1; mark <= kCopies && !give_up; ++mark) {
      fake.copy(mark);
      while (received < mark && !give_up) {
        if (random.percent(10)) relax();
      }
      // Sometimes the worker is asleep by then, sometimes on its way.
      for (volatile std::uint32_t spin = random.below(200); spin > 0;) spin = spin - 1;
    }
  });
  std::uint64_t sleeps = 0;
  while (received < kCopies && !give_up) {
    const auto marks = receive(source);
    received += marks.size();
    if (!marks.empty() || received >= kCopies) continue;
    if (source.prepare_sleep()) {
      ++sleeps;
      if (!sleep(source)) give_up = true;
    }
    source.wake();
  }
  program.join();
  EXPECT_EQ(received, kCopies) << "a copy waited, and nobody rang";
  EXPECT_GT(sleeps, kCopies / 100) << "hardly ever asleep: nothing was tested";
}

}  // namespace
}  // namespace vtap::test
