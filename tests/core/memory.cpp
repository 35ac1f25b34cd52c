#include "recurformer/core/memory.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <memory_resource>
#include <new>
#include <thread>
#include <type_traits>
#include <vector>

#include "../support/fake_device.hpp"

namespace {

using rf::CountingMemory;
using rf::HostSpace;

/// Has run out of memory.
class Exhausted : public std::pmr::memory_resource {
  void* do_allocate(std::size_t, std::size_t) override { throw std::bad_alloc(); }
  void do_deallocate(void*, std::size_t, std::size_t) override {}
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override { return this == &other; }
};

struct NoResource {};

static_assert(rf::MemoryResource<std::pmr::memory_resource> && rf::MemoryResource<CountingMemory>);
static_assert(rf::MemoryResource<rf::test::FakeDeviceMemory> && !rf::MemoryResource<int>);
static_assert(rf::MemorySpace<HostSpace> && rf::MemorySpace<rf::test::FakeDevice>);
static_assert(!rf::MemorySpace<NoResource> && !rf::MemorySpace<int>);
static_assert(!std::is_copy_constructible_v<CountingMemory>);

}  // namespace

TEST_CASE("memory: the default is the standard library's once somebody has set it, and huge pages before") {
  CountingMemory counting;
  auto* before = std::pmr::set_default_resource(&counting);
  CHECK(rf::default_memory() == &counting);
  CHECK(HostSpace::default_memory() == &counting);
  std::pmr::set_default_resource(std::pmr::new_delete_resource());
  CHECK(rf::default_memory() == rf::huge_pages());
  CHECK(HostSpace::default_memory() == rf::default_memory());
  std::pmr::set_default_resource(before);
}

TEST_CASE("memory: huge pages hold every byte, and large blocks start at one") {
  constexpr std::size_t page = rf::HugePages::page_bytes;
  rf::HugePages memory;
  // Among them: just under a page, which becomes one; a little more, and much more than that.
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, page / 2, page - page / 16, page, page + 1,
                                  2 * page - 1, 3 * page + 7})
    for (const std::size_t alignment : {std::size_t{8}, rf::tensor_alignment, 2 * page}) {
      CAPTURE(bytes);
      CAPTURE(alignment);
      auto* const block = static_cast<unsigned char*>(memory.allocate(bytes, alignment));
      CHECK(reinterpret_cast<std::uintptr_t>(block) % alignment == 0);
      if (bytes >= page - page / 16) CHECK(reinterpret_cast<std::uintptr_t>(block) % page == 0);
      std::memset(block, 1, bytes);
      memory.deallocate(block, bytes, alignment);
    }
}

TEST_CASE("memory: counting what is live, the peak and the number of allocations") {
  CountingMemory memory;
  CHECK(memory.live_bytes() == 0);
  CHECK(memory.peak_bytes() == 0);
  CHECK(memory.allocations() == 0);
  void* a = memory.allocate(100, rf::tensor_alignment);
  CHECK(reinterpret_cast<std::uintptr_t>(a) % rf::tensor_alignment == 0);
  void* b = memory.allocate(50, 8);
  CHECK(memory.live_bytes() == 150);
  memory.deallocate(a, 100, rf::tensor_alignment);
  CHECK(memory.live_bytes() == 50);
  void* c = memory.allocate(70, 64);
  CHECK(memory.live_bytes() == 120);
  CHECK(memory.peak_bytes() == 150);
  CHECK(memory.allocations() == 3);
  memory.deallocate(b, 50, 8);
  memory.deallocate(c, 70, 64);
  CHECK(memory.live_bytes() == 0);
  CHECK(memory.peak_bytes() == 150);
}

TEST_CASE("memory: counting nests, and failed requests do not count") {
  CountingMemory outer;
  CountingMemory inner(&outer);
  void* a = inner.allocate(10, 8);
  CHECK(outer.live_bytes() == 10);
  inner.deallocate(a, 10, 8);
  CHECK(outer.live_bytes() == 0);
  CHECK(inner.is_equal(inner));
  CHECK(!inner.is_equal(outer));

  Exhausted exhausted;
  CountingMemory counting(&exhausted);
  CHECK_THROWS_AS((void)counting.allocate(10, 8), std::bad_alloc);
  CHECK(counting.live_bytes() == 0);
  CHECK(counting.allocations() == 0);
  CHECK(counting.peak_bytes() == 0);
}

TEST_CASE("memory: several threads may count at once") {
  CountingMemory memory;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) {
        void* p = memory.allocate(16, 16);
        memory.deallocate(p, 16, 16);
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(memory.allocations() == 2000);
  CHECK(memory.live_bytes() == 0);
  CHECK(memory.peak_bytes() >= 16);
  CHECK(memory.peak_bytes() <= 64);
}

TEST_CASE("memory: copies and zeros of the host; nothing is fine, overlap too") {
  int from[] = {1, 2, 3, 4};
  int to[] = {9, 9, 9, 9};
  copy_bytes(HostSpace{}, to, HostSpace{}, from, 3 * sizeof(int));
  CHECK(std::vector<int>(to, to + 4) == std::vector<int>{1, 2, 3, 9});
  copy_bytes(HostSpace{}, from + 1, HostSpace{}, from, 3 * sizeof(int));
  CHECK(std::vector<int>(from, from + 4) == std::vector<int>{1, 1, 2, 3});
  HostSpace::zero(to + 1, 2 * sizeof(int));
  CHECK(std::vector<int>(to, to + 4) == std::vector<int>{1, 0, 0, 9});
  copy_bytes(HostSpace{}, nullptr, HostSpace{}, nullptr, 0);
  HostSpace::zero(nullptr, 0);
}
