#ifndef RECURFORMER_ARCH_SIMULATOR_WGMMA_HPP
#define RECURFORMER_ARCH_SIMULATOR_WGMMA_HPP

// wgmma by the layouts of the PTX manual. Each warp multiplies its own 16 rows: it reads shared memory at the
// issue or only when it waits, and writes its accumulators when it waits; in between they hold NaNs, and A's
// registers must stay as they are. Reads of one warp say nothing about the other three, so each has to
// release the operands after its own wait.

#include "recurformer/arch/simulator/proxy.hpp"
#include "recurformer/arch/simulator/warpgroup.hpp"
#include "recurformer/arch/swizzle.hpp"

namespace rf::arch {

/// Which dimension of an operand in shared memory is contiguous: k, or m (of A) and n (of B).
enum class Major : int { k = 0, mn = 1 };

namespace simulator {

/// An operand in shared memory, decoded from its descriptor.
class SharedOperand {
 public:
  /// `rows` of m or n, all 16 of k.
  SharedOperand(std::uint64_t descriptor, Major major, int rows, Caller caller)
      : start_(field(descriptor, 0)),
        leading_(field(descriptor, 16)),
        stride_(field(descriptor, 32)),
        swizzle_(swizzle_of(descriptor >> 62)),
        major_(major) {
    const auto row = static_cast<SharedAddress>(row_bytes(swizzle_));
    const auto pattern = static_cast<SharedAddress>(pattern_bytes(swizzle_));
    // what has to fit behind `start` in its row of the pattern: 16 of k, or m (n) up to a whole row
    const SharedAddress used = major == Major::k ? 32 : std::min(row, 2 * static_cast<SharedAddress>(rows));
    const bool interleaved = swizzle_ == Swizzle::none;
    if ((descriptor & unused_bits) != 0 ||
        (!interleaved && (start_ % pattern >= row || start_ % row + used > row)))
      throw SimulationError(text("multiply_add_64xNx16 at ", place(caller), ": a tile of ", row,
                                 "-byte rows starts at shared address ", start_,
                                 "; it must start in the first row of its pattern of ", pattern,
                                 " bytes, and ", used, " bytes must be left in that row"));
  }

  /// put(row - first, k, bits) for `rows` rows from `first` on and all k.
  template <class Put>
  void read(int first, int rows, Put put, Caller caller) const {
    constexpr const char* name = "multiply_add_64xNx16";
    const AsyncProxy& proxy = unit<AsyncProxy>(*this_thread().block);
    const int row_step = major_ == Major::k ? 1 : 8, k_step = major_ == Major::k ? 8 : 1;
    for (int r = 0; r < rows; r += row_step)
      for (int k = 0; k < 16; k += k_step) {
        const SharedAddress at = swizzled(swizzle_, chunk(first + r, k));
        std::uint16_t element[8];
        shared_bytes(at, 16, 16, name, caller);
        proxy.read(at, element, 16, name, caller);
        for (int e = 0; e < 8; ++e)
          put(r + (major_ == Major::k ? 0 : e), k + (major_ == Major::k ? e : 0), element[e]);
      }
  }

 private:
  /// Bits 14, 15, 30, 31, 46 to 61: zero, the base offset among them.
  static constexpr std::uint64_t unused_bits = 0x3fffc000c000c000;

  static SharedAddress field(std::uint64_t descriptor, int bit) {
    return static_cast<SharedAddress>(descriptor >> bit & 0x3fff) << 4;
  }
  static Swizzle swizzle_of(std::uint64_t code) {
    constexpr Swizzle swizzles[] = {Swizzle::none, Swizzle::bytes128, Swizzle::bytes64, Swizzle::bytes32};
    return swizzles[code];
  }

  /// Where, but for the swizzle, the 16 bytes are that begin at (row, k): eight of k or eight rows.
  SharedAddress chunk(int row, int k) const {
    const auto r = static_cast<SharedAddress>(row), c = static_cast<SharedAddress>(k);
    const auto bytes = static_cast<SharedAddress>(row_bytes(swizzle_));
    if (major_ == Major::k) {
      const SharedAddress at = start_ + r / 8 * stride_ + r % 8 * bytes;
      return at + (swizzle_ == Swizzle::none ? c / 8 * leading_ : 2 * c);
    }
    if (swizzle_ == Swizzle::none) return start_ + r / 8 * stride_ + c / 8 * leading_ + c % 8 * 16;
    const SharedAddress elements = bytes / 2;  // of m or n in a row of the pattern
    return start_ + r / elements * leading_ + r % elements * 2 + c / 8 * stride_ + c % 8 * bytes;
  }

  SharedAddress start_, leading_, stride_;
  Swizzle swizzle_;
  Major major_;
};

/// Registers of a thread that it names to a fence or a wait.
struct RegisterRange {
  const void* begin = nullptr;
  std::size_t bytes = 0;

  bool contains(const void* registers, std::size_t size) const {
    const auto* at = static_cast<const unsigned char*>(registers);
    const auto* first = static_cast<const unsigned char*>(begin);
    return first <= at && at + size <= first + bytes;
  }
  bool overlaps(const RegisterRange& other) const {
    const auto* a = static_cast<const unsigned char*>(begin);
    const auto* b = static_cast<const unsigned char*>(other.begin);
    return a < b + other.bytes && b < a + bytes;
  }
};
using RegisterRanges = std::array<RegisterRange, 4>;

inline bool names(const RegisterRanges& ranges, const void* registers, std::size_t bytes) {
  return std::any_of(ranges.begin(), ranges.end(),
                     [&](const RegisterRange& range) { return range.contains(registers, bytes); });
}

/// What the warps of a block have given to their tensor cores.
class Multiplies : public Unit {
 public:
  /// What is the same in all lanes.
  struct Shape {
    int columns = 0;
    float (*convert)(std::uint16_t) = nullptr;
    Major major_a = Major::k;
    Major major_b = Major::k;
    Caller caller;
  };
  /// What a lane passes.
  struct Operands {
    float* d = nullptr;
    const std::uint32_t* a_registers = nullptr;  ///< 4, or null: A is in shared memory
    std::uint64_t a = 0;
    std::uint64_t b = 0;
    bool accumulate = false;
  };

  explicit Multiplies(Block& block) : warps_(block.warps.size()), fenced_(block.threads.size()) {}

  /// What happens in a warp's multiplies is ordered for ThreadSanitizer by this.
  const void* order(int warp) const { return &warps_[static_cast<std::size_t>(warp)]; }

  /// The functions below are called once per warp, with what each of its lanes passes.
  void fence(int warp, const RegisterRanges* const* lanes) {
    for (int l = 0; l < warp_size; ++l)
      for (const RegisterRange& range : *lanes[l])
        if (range.bytes != 0 && !find(warp, range.begin)) remember(warp, l, range);
  }

  void issue(int warp, const Shape& shape, const Operands* const* lanes, bool reads_now) {
    Multiply multiply{.d = accumulator(warp, shape, lanes),
                      .shape = shape,
                      .operands = *lanes[0],
                      .a_lanes = {},
                      .a = {},
                      .b = {}};
    ++multiply.d->pending;
    if (lanes[0]->a_registers)
      for (int l = 0; l < warp_size; ++l) {
        check_fenced(warp, l, lanes[l]->a_registers, sizeof(Left::content), true, shape.caller);
        Left& left = multiply.a_lanes.emplace_back();
        left.registers = lanes[l]->a_registers;
        std::memcpy(left.content, left.registers, sizeof left.content);
      }
    if (reads_now) multiply.read(warp);
    queue(warp).open.push_back(std::move(multiply));
  }

  void commit(int warp) {
    Queue& own = queue(warp);
    own.committed.push_back(std::move(own.open));
    own.open.clear();
  }

  void wait(int warp, std::size_t newest, const RegisterRanges* const* lanes) {
    Queue& own = queue(warp);
    for (; own.committed.size() > newest; own.committed.pop_front())
      for (Multiply& multiply : own.committed.front()) {
        multiply.check_a(lanes);
        multiply.read(warp);
        multiply.compute();
        --multiply.d->pending;
      }
    for (auto it = own.accumulators.begin(); it != own.accumulators.end();) {
      if (it->pending == 0) {
        deliver(warp, *it, lanes);
        it = own.accumulators.erase(it);
      } else {
        ++it;
      }
    }
  }

  void thread_ends(Thread& thread) override {
    const Queue& own = queue(thread.warp());
    if (!own.open.empty() || !own.committed.empty())
      throw SimulationError(text("thread ", thread.index, " of block ", name_of(*thread.block),
                                 " ends with multiplies in flight; commit_multiplies and "
                                 "wait_for_multiplies<0> first"));
  }

 private:
  static constexpr std::uint32_t poison_bits = 0x7fc0dead;

  /// The accumulator registers of a warp while multiplies on them are under way.
  struct Accumulator {
    std::array<float*, warp_size> registers{};  ///< of each lane
    int columns = 0;
    std::vector<float> sum;  ///< (16, columns)
    int pending = 0;         ///< multiplies
    Caller caller;

    /// Element `i` of lane `l`'s registers.
    float& element(int l, int i) {
      return sum[static_cast<std::size_t>((l / 4 + 8 * (i / 2 % 2)) * columns + 8 * (i / 4) + 2 * (l % 4) +
                                          i % 2)];
    }
    std::size_t bytes() const { return static_cast<std::size_t>(columns / 2) * sizeof(float); }
  };

  /// A lane's registers of A, and what they held at the issue.
  struct Left {
    const std::uint32_t* registers = nullptr;
    std::uint32_t content[4] = {};
  };

  struct Multiply {
    Accumulator* d = nullptr;
    Shape shape;
    Operands operands;
    std::vector<Left> a_lanes;  ///< of each lane, if A is in registers
    std::vector<float> a;       ///< (16, 16), the warp's rows, once read
    std::vector<float> b;       ///< (16, columns), once read

    /// The wait that ends this names A's registers, which nobody has written since the issue.
    void check_a(const RegisterRanges* const* lanes) const {
      for (std::size_t l = 0; l < a_lanes.size(); ++l) {
        if (!names(*lanes[l], a_lanes[l].registers, sizeof(Left::content)))
          throw SimulationError(text("wait_for_multiplies ends the multiplies begun at ", place(shape.caller),
                                     "; name the registers of their A in it, so that the compiler writes "
                                     "them after"));
        if (std::memcmp(a_lanes[l].registers, a_lanes[l].content, sizeof(Left::content)) != 0)
          throw SimulationError(text("the registers of A of multiply_add_64xNx16 at ", place(shape.caller),
                                     " were written before the wait for it"));
      }
    }

    void read(int warp) {
      if (a.empty()) {
        a.resize(16 * 16);
        for (std::size_t l = 0; l < a_lanes.size(); ++l)
          for (std::size_t e = 0; e < 8; ++e) {
            const std::size_t row = l / 4 + 8 * (e / 2 % 2), k = 2 * (l % 4) + e % 2 + 8 * (e / 4);
            a[16 * row + k] =
                shape.convert(static_cast<std::uint16_t>(a_lanes[l].content[e / 2] >> (16 * (e % 2))));
          }
        if (a_lanes.empty())
          SharedOperand(operands.a, shape.major_a, 64, shape.caller)
              .read(
                  warp % 4 * 16, 16,
                  [this](int m, int k, std::uint16_t bits) {
                    a[static_cast<std::size_t>(16 * m + k)] = shape.convert(bits);
                  },
                  shape.caller);
      }
      if (b.empty()) {
        b.resize(static_cast<std::size_t>(16 * shape.columns));
        SharedOperand(operands.b, shape.major_b, shape.columns, shape.caller)
            .read(
                0, shape.columns,
                [this](int n, int k, std::uint16_t bits) {
                  b[static_cast<std::size_t>(k * shape.columns + n)] = shape.convert(bits);
                },
                shape.caller);
      }
    }
    /// Sums run over k in order, one rounding each; the machine adds in an order and width of its own.
    void compute() {
      if (!operands.accumulate) std::fill(d->sum.begin(), d->sum.end(), 0.0f);
      const int columns = shape.columns;
      for (int m = 0; m < 16; ++m)
        for (int k = 0; k < 16; ++k) {
          const float left = a[static_cast<std::size_t>(16 * m + k)];
          const float* const right = b.data() + k * columns;
          float* const sum = d->sum.data() + m * columns;
          for (int n = 0; n < columns; ++n) sum[n] += left * right[n];
        }
    }
  };

  struct Queue {
    std::list<Accumulator> accumulators;
    std::vector<Multiply> open;
    std::deque<std::vector<Multiply>> committed;
  };
  /// Registers that a fence has covered, and what they held.
  struct Fenced {
    RegisterRange range;
    std::vector<unsigned char> content;
  };

  Queue& queue(int warp) { return warps_[static_cast<std::size_t>(warp)]; }
  std::vector<Fenced>& fenced(int warp, int lane) {
    return fenced_[static_cast<std::size_t>(warp * warp_size + lane)];
  }

  /// The accumulator in flight that has a lane's registers at `registers`, or null.
  Accumulator* find(int warp, const void* registers) {
    for (Accumulator& candidate : queue(warp).accumulators)
      for (const float* begin : candidate.registers)
        if (begin == registers) return &candidate;
    return nullptr;
  }

  void remember(int warp, int lane, const RegisterRange& range) {
    forget(warp, lane, range);
    const auto* begin = static_cast<const unsigned char*>(range.begin);
    fenced(warp, lane).push_back({range, std::vector<unsigned char>(begin, begin + range.bytes)});
  }
  void forget(int warp, int lane, const RegisterRange& range) {
    std::erase_if(fenced(warp, lane), [&](const Fenced& entry) { return entry.range.overlaps(range); });
  }

  void check_fenced(int warp, int lane, const void* registers, std::size_t bytes, bool reads, Caller caller) {
    for (const Fenced& entry : fenced(warp, lane))
      if (entry.range.contains(registers, bytes)) {
        const auto offset = static_cast<const unsigned char*>(registers) -
                            static_cast<const unsigned char*>(entry.range.begin);
        if (!reads || std::memcmp(registers, entry.content.data() + offset, bytes) == 0) return;
      }
    throw SimulationError(text("multiply_add_64xNx16 at ", place(caller),
                               ": its registers were touched since the last fence that named them; "
                               "fence_multiplies(registers…) after the last access to them"));
  }

  /// The accumulator of an instruction: in flight already, or from now on.
  Accumulator* accumulator(int warp, const Shape& shape, const Operands* const* lanes) {
    if (Accumulator* known = find(warp, lanes[0]->d)) {
      if (known->columns != shape.columns)
        throw SimulationError(text("multiply_add_64xNx16 at ", place(shape.caller), ": N is ", shape.columns,
                                   " on registers in flight with N ", known->columns));
      return known;
    }
    Accumulator& made = queue(warp).accumulators.emplace_back();
    made.columns = shape.columns;
    made.caller = shape.caller;
    made.sum.resize(static_cast<std::size_t>(16 * shape.columns));
    for (int l = 0; l < warp_size; ++l) {
      float* const registers = lanes[l]->d;
      check_fenced(warp, l, registers, made.bytes(), lanes[l]->accumulate, shape.caller);
      made.registers[static_cast<std::size_t>(l)] = registers;
      for (int i = 0; i < shape.columns / 2; ++i) {
        made.element(l, i) = registers[i];
        std::memcpy(&registers[i], &poison_bits, sizeof(float));
      }
    }
    return &made;
  }

  /// Writes the registers of a finished accumulator.
  void deliver(int warp, Accumulator& done, const RegisterRanges* const* lanes) {
    for (int l = 0; l < warp_size; ++l) {
      float* const registers = done.registers[static_cast<std::size_t>(l)];
      const RegisterRange range{registers, done.bytes()};
      if (!names(*lanes[l], registers, range.bytes))
        throw SimulationError(text("wait_for_multiplies ends the multiplies begun at ", place(done.caller),
                                   "; name their accumulators in it, so that the compiler reads them after"));
      for (int i = 0; i < done.columns / 2; ++i) {
        if (std::memcmp(&registers[i], &poison_bits, sizeof(float)) != 0)
          throw SimulationError(text("the accumulators of multiply_add_64xNx16 at ", place(done.caller),
                                     " were written before the wait for it"));
        registers[i] = done.element(l, i);
      }
      forget(warp, l, range);
    }
  }

  std::vector<Queue> warps_;
  std::vector<std::vector<Fenced>> fenced_;  ///< of each thread
};

/// Runs action(multiplies, warp, in) once per warp, with what its lanes pass, as the next step of its
/// warpgroup.
template <class In, class Action>
void multiply_step(const In& in, const WarpgroupStep& step, Action action) {
  Thread& thread = this_thread();
  Multiplies& multiplies = unit<Multiplies>(*thread.block);
  Warpgroups& groups = unit<Warpgroups>(*thread.block);
  const void* const order = multiplies.order(thread.warp());
  release(order);
  Nothing out;
  collective(
      all_lanes, in, out,
      [&](const In* const* ins, auto, unsigned) {
        acquire(order);
        groups.step(thread, step);
        action(multiplies, thread.warp(), ins);
        release(order);
      },
      step.name, step.caller);
  acquire(order);
}

inline void fence_multiplies(const RegisterRanges& registers, Caller caller) {
  Bookkeeping hidden;
  multiply_step(registers, {"fence_multiplies", caller, {}},
                [](Multiplies& multiplies, int warp, const RegisterRanges* const* lanes) {
                  multiplies.fence(warp, lanes);
                });
}

inline void multiply_add(const Multiplies::Shape& shape, const Multiplies::Operands& operands) {
  Bookkeeping hidden;
  const bool reads_now = this_thread().block->grid.lands_at_once();
  multiply_step(operands,
                {"multiply_add_64xNx16",
                 shape.caller,
                 {operands.a, operands.b, operands.accumulate, static_cast<std::uint64_t>(shape.columns)}},
                [&](Multiplies& multiplies, int warp, const Multiplies::Operands* const* lanes) {
                  for (int l = 1; l < warp_size; ++l)
                    if (lanes[l]->a != lanes[0]->a || lanes[l]->b != lanes[0]->b ||
                        lanes[l]->accumulate != lanes[0]->accumulate)
                      throw SimulationError(text("multiply_add_64xNx16 at ", place(shape.caller),
                                                 ": the lanes of warp ", warp, " pass different operands"));
                  multiplies.issue(warp, shape, lanes, reads_now);
                });
}

inline void commit_multiplies(Caller caller) {
  Bookkeeping hidden;
  multiply_step(Nothing{}, {"commit_multiplies", caller, {}},
                [](Multiplies& multiplies, int warp, auto) { multiplies.commit(warp); });
}

inline void wait_for_multiplies(std::size_t newest, const RegisterRanges& registers, Caller caller) {
  Bookkeeping hidden;
  multiply_step(registers, {"wait_for_multiplies", caller, {newest, 0, 0, 0}},
                [newest](Multiplies& multiplies, int warp, const RegisterRanges* const* lanes) {
                  multiplies.wait(warp, newest, lanes);
                });
}

}  // namespace simulator
}  // namespace rf::arch

#endif  // RECURFORMER_ARCH_SIMULATOR_WGMMA_HPP
