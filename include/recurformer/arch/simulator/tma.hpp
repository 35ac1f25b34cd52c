#ifndef RECURFORMER_ARCH_SIMULATOR_TMA_HPP
#define RECURFORMER_ARCH_SIMULATOR_TMA_HPP

// TMA. A load lands as a whole at its issue, at the last moment, or at some random one, and then tells its
// mbarrier. A store reads shared memory and writes global memory at its issue, or only when its thread waits
// for it (to write: at the latest when the thread ends).

#include "recurformer/arch/simulator/mbarrier.hpp"
#include "recurformer/arch/simulator/proxy.hpp"
#include "recurformer/arch/swizzle.hpp"

namespace rf::arch::simulator {

/// What cuTensorMapEncodeTiled is told, innermost dimension first. Dimensions that are absent have extent 1.
struct TensorBox {
  unsigned char* base = nullptr;
  std::int64_t extents[3] = {1, 1, 1};  ///< of the tensor, elements
  std::int64_t strides[3] = {0, 0, 0};  ///< bytes
  int box[3] = {1, 1, 1};               ///< elements
  int rank = 0;
  int element_bytes = 0;
  Swizzle swizzle = Swizzle::none;

  int bytes() const { return box[0] * box[1] * box[2] * element_bytes; }
  int inner_bytes() const { return box[0] * element_bytes; }
};

/// Calls part(global, offset, bytes) for what a box at coordinates `at` has in common with the tensor, in
/// pieces within 16 bytes of the box, `offset` bytes from its beginning.
template <class Part>
void for_each_part(const TensorBox& map, const int (&at)[3], Part part) {
  const std::int64_t tensor_end = map.extents[0] * map.element_bytes;
  for (int z = 0; z < map.box[2]; ++z)
    for (int y = 0; y < map.box[1]; ++y) {
      const std::int64_t row = std::int64_t{at[1]} + y, plane = std::int64_t{at[2]} + z;
      if (row < 0 || row >= map.extents[1] || plane < 0 || plane >= map.extents[2]) continue;
      unsigned char* const global = map.base + row * map.strides[1] + plane * map.strides[2];
      const int offset = (z * map.box[1] + y) * map.inner_bytes();
      const std::int64_t row_begin = std::int64_t{at[0]} * map.element_bytes;
      for (int chunk = 0; chunk < map.inner_bytes(); chunk += 16) {
        const std::int64_t begin = std::max<std::int64_t>(0, row_begin + chunk);
        const std::int64_t end = std::min(tensor_end, row_begin + chunk + 16);
        if (begin < end)
          part(global + begin, offset + static_cast<int>(begin - row_begin), static_cast<int>(end - begin));
      }
    }
}

/// An asynchronous access to [address, address + bytes) of shared memory: checked before it starts.
inline void check_shared_tile(const TensorBox& map, SharedAddress address, const char* name, Caller caller) {
  if (map.rank == 0)
    throw SimulationError(
        text(name, " at ", place(caller), ": the tensor map was never made; use make_tensor_map"));
  shared_bytes(address, static_cast<std::size_t>(map.bytes()),
               static_cast<std::size_t>(std::max(128, pattern_bytes(map.swizzle))), name, caller);
}

inline void check_rank(const TensorBox& map, int rank, const char* name, Caller caller) {
  if (map.rank != 0 && map.rank != rank)
    throw SimulationError(text(name, " at ", place(caller), ": ", rank, " coordinates for a tensor map of ",
                               map.rank, " dimensions"));
}

/// Has `land` run sometime, then `bytes` bytes arrive at the mbarrier.
template <class Land>
void start_load(SharedAddress to, int bytes, SharedAddress barrier, Land land, const char* name,
                Caller caller) {
  Block& block = *this_thread().block;
  Mbarriers& barriers = unit<Mbarriers>(block);
  barriers.find(barrier, name, caller);
  unit<AsyncProxy>(block).check_seen(to, static_cast<std::size_t>(bytes), "writes", name, caller);
  const auto issued = std::make_shared<char>();  // a place for what has happened before
  release(issued.get());
  auto finish = [land, issued, &barriers, barrier, bytes, name, caller] {
    acquire(issued.get());
    land();
    barriers.complete(barrier, bytes, name, caller);
  };
  if (block.grid.lands_at_once())
    finish();
  else
    block.in_flight.push_back(finish);
}

inline void load_tensor(SharedAddress to, const TensorBox& map, const int (&at)[3], int rank,
                        SharedAddress barrier, Caller caller) {
  constexpr const char* name = "load_tensor";
  Bookkeeping hidden;
  check_rank(map, rank, name, caller);
  check_shared_tile(map, to, name, caller);
  AsyncProxy& proxy = unit<AsyncProxy>(*this_thread().block);
  const auto land = [&proxy, to, map, x = at[0], y = at[1], z = at[2]] {
    std::vector<unsigned char> tile(static_cast<std::size_t>(map.bytes()), 0);
    for_each_part(map, {x, y, z}, [&tile](const unsigned char* global, int offset, int bytes) {
      KernelAccess visible;
      std::memcpy(tile.data() + offset, global, static_cast<std::size_t>(bytes));
    });
    for (unsigned offset = 0; offset < tile.size(); offset += 16)
      proxy.write(swizzled(map.swizzle, to + offset), tile.data() + offset, 16);
  };
  start_load(to, map.bytes(), barrier, land, name, caller);
}

inline void check_bulk(const void* global, int bytes, const char* name, Caller caller) {
  if (bytes <= 0 || bytes % 16 != 0)
    throw SimulationError(
        text(name, " at ", place(caller), ": ", bytes, " bytes; must be a positive multiple of 16"));
  if (reinterpret_cast<std::uintptr_t>(global) % 16 != 0)
    throw SimulationError(text(name, " at ", place(caller), ": the global address is not a multiple of 16"));
}

inline void load_bulk(SharedAddress to, const void* from, int bytes, SharedAddress barrier, Caller caller) {
  constexpr const char* name = "load_bulk";
  Bookkeeping hidden;
  check_bulk(from, bytes, name, caller);
  shared_bytes(to, static_cast<std::size_t>(bytes), 16, name, caller);
  AsyncProxy& proxy = unit<AsyncProxy>(*this_thread().block);
  const auto land = [&proxy, to, from, bytes] {
    std::vector<unsigned char> line(static_cast<std::size_t>(bytes));
    {
      KernelAccess visible;
      std::memcpy(line.data(), from, line.size());
    }
    proxy.write(to, line.data(), line.size());
  };
  start_load(to, bytes, barrier, land, name, caller);
}

/// The stores of each thread, in bulk groups.
class BulkStores : public Unit {
 public:
  explicit BulkStores(Block& block) : threads_(block.threads.size()) {}

  /// A copy in two steps, each done once.
  struct Store {
    std::function<void(std::vector<unsigned char>&)> read;         ///< shared memory
    std::function<void(const std::vector<unsigned char>&)> write;  ///< global memory
    std::vector<unsigned char> tile;

    void finish_read() {
      if (read) read(tile);
      read = nullptr;
    }
    void finish() {
      finish_read();
      if (write) write(tile);
      write = nullptr;
    }
  };

  void start(Thread& thread, Store store) {
    Grid& grid = thread.block->grid;
    if (grid.lands_at_once()) store.finish_read();
    if (!store.read && grid.lands_at_once()) store.finish();
    of(thread).open.push_back(std::move(store));
  }
  void commit(Thread& thread) {
    Groups& groups = of(thread);
    groups.committed.push_back(std::move(groups.open));
    groups.open.clear();
  }
  void wait(Thread& thread, std::size_t newest) {
    auto& groups = of(thread).committed;
    for (; groups.size() > newest; groups.pop_front())
      for (Store& store : groups.front()) store.finish();
  }
  void wait_for_reads(Thread& thread, std::size_t newest) {
    auto& groups = of(thread).committed;
    for (std::size_t i = 0; i + newest < groups.size(); ++i)
      for (Store& store : groups[i]) store.finish_read();
  }

  void thread_ends(Thread& thread) override {
    Groups& groups = of(thread);
    bool reading = !groups.open.empty();
    for (const auto& group : groups.committed)
      for (const Store& store : group) reading |= store.read != nullptr;
    if (reading)
      throw SimulationError(text("thread ", thread.index, " of block ", name_of(*thread.block),
                                 " ends while its stores may still read shared memory; commit_stores and "
                                 "wait_for_store_reads<0> first"));
    wait(thread, 0);
  }

 private:
  struct Groups {
    std::vector<Store> open;
    std::deque<std::vector<Store>> committed;
  };
  Groups& of(const Thread& thread) { return threads_[static_cast<std::size_t>(thread.index)]; }

  std::vector<Groups> threads_;
};

inline void store_tensor(const TensorBox& map, const int (&at)[3], int rank, SharedAddress from,
                         Caller caller) {
  constexpr const char* name = "store_tensor";
  Bookkeeping hidden;
  check_rank(map, rank, name, caller);
  check_shared_tile(map, from, name, caller);
  Thread& thread = this_thread();
  const AsyncProxy& proxy = unit<AsyncProxy>(*thread.block);
  const auto read = [&proxy, from, map, caller](std::vector<unsigned char>& tile) {
    tile.resize(static_cast<std::size_t>(map.bytes()));
    for (unsigned offset = 0; offset < tile.size(); offset += 16)
      proxy.read(swizzled(map.swizzle, from + offset), tile.data() + offset, 16, name, caller);
  };
  const auto write = [map, x = at[0], y = at[1], z = at[2]](const std::vector<unsigned char>& tile) {
    for_each_part(map, {x, y, z}, [&tile](unsigned char* global, int offset, int bytes) {
      KernelAccess visible;
      std::memcpy(global, tile.data() + offset, static_cast<std::size_t>(bytes));
    });
  };
  unit<BulkStores>(*thread.block).start(thread, {.read = read, .write = write, .tile = {}});
}

inline void store_bulk(void* to, SharedAddress from, int bytes, Caller caller) {
  constexpr const char* name = "store_bulk";
  Bookkeeping hidden;
  check_bulk(to, bytes, name, caller);
  shared_bytes(from, static_cast<std::size_t>(bytes), 16, name, caller);
  Thread& thread = this_thread();
  const AsyncProxy& proxy = unit<AsyncProxy>(*thread.block);
  const auto read = [&proxy, from, bytes, caller](std::vector<unsigned char>& line) {
    line.resize(static_cast<std::size_t>(bytes));
    proxy.read(from, line.data(), line.size(), name, caller);
  };
  const auto write = [to](const std::vector<unsigned char>& line) {
    KernelAccess visible;
    std::memcpy(to, line.data(), line.size());
  };
  unit<BulkStores>(*thread.block).start(thread, {.read = read, .write = write, .tile = {}});
}

}  // namespace rf::arch::simulator

#endif  // RECURFORMER_ARCH_SIMULATOR_TMA_HPP
