#ifndef RECURFORMER_ARCH_SIMULATOR_FIBER_HPP
#define RECURFORMER_ARCH_SIMULATOR_FIBER_HPP

// Fibers: stacks that one operating-system thread switches between. On x86-64 a switch saves the registers
// that the System V ABI asks a callee to keep and swaps the stack pointer, some 8 ns; elsewhere it is
// swapcontext. The sanitizers are told about every switch.

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>
#include <vector>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#include "recurformer/arch/simulator/sanitizer.hpp"

#if defined(__x86_64__)
// void recurformer_switch_stack(void** save, void* load): one definition however many files include this
extern "C" void recurformer_switch_stack(void** save, void* load);
asm(R"(
.section .text.recurformer_switch_stack,"axG",@progbits,recurformer_switch_stack,comdat
.weak recurformer_switch_stack
.type recurformer_switch_stack,@function
recurformer_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size recurformer_switch_stack,.-recurformer_switch_stack
.text
)");
#endif

namespace rf::arch::simulator {

/// Memory for a stack with an inaccessible page below, so that a kernel that overruns it stops there, and
/// ThreadSanitizer's idea of the thread that runs on it. Both are costly to make, so stacks are kept.
class Stack {
 public:
  explicit Stack(std::size_t bytes) : guard_(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))), bytes_(bytes) {
    void* memory = mmap(nullptr, guard_ + bytes_, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, guard_, PROT_NONE);
    begin_ = static_cast<char*>(memory) + guard_;
#ifdef RECURFORMER_SIMULATOR_TSAN
    tsan_ = __tsan_create_fiber(0);
#endif
  }
  ~Stack() {
    if (!begin_) return;
#ifdef RECURFORMER_SIMULATOR_TSAN
    __tsan_destroy_fiber(tsan_);
#endif
    munmap(begin_ - guard_, guard_ + bytes_);
  }
  Stack(Stack&& other) noexcept
      : guard_(other.guard_),
        bytes_(other.bytes_),
        begin_(std::exchange(other.begin_, nullptr)),
        tsan_(other.tsan_) {}
  Stack& operator=(Stack&&) = delete;

  char* begin() const { return begin_; }
  std::size_t bytes() const { return bytes_; }
  void* tsan() const { return tsan_; }

 private:
  std::size_t guard_;
  std::size_t bytes_;
  char* begin_ = nullptr;
  void* tsan_ = nullptr;
};

/// A suspended computation. The default is the operating-system thread's own, which never ends.
class Fiber {
 public:
  Fiber() = default;
  /// Will run `entry` on `stack` at the first switch to it; `entry` never returns.
  Fiber(Stack& stack, void (*entry)())
      : stack_begin_(stack.begin()), stack_bytes_(stack.bytes()), tsan_(stack.tsan()) {
    unpoison(stack.begin(), stack.bytes());
#if defined(__x86_64__)
    const auto top = (reinterpret_cast<std::uintptr_t>(stack.begin()) + stack.bytes()) & ~std::uintptr_t{15};
    void** slot = reinterpret_cast<void**>(top);
    *--slot = nullptr;  // in place of a return address, so that rsp % 16 == 8 at entry
    *--slot = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; ++saved) *--slot = nullptr;
    stack_pointer_ = slot;
#else
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack.begin();
    context_.uc_stack.ss_size = stack.bytes();
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#endif
  }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Suspends this, the running fiber, and goes on with `to`. `last`: this one will never be resumed.
#ifdef RECURFORMER_SIMULATOR_TSAN
  __attribute__((no_sanitize("thread")))
#endif
  void
  switch_to(Fiber& to, [[maybe_unused]] bool last = false) {
#ifdef RECURFORMER_SIMULATOR_ASAN
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(last ? nullptr : &fake_stack, to.stack_begin_, to.stack_bytes_);
#endif
#ifdef RECURFORMER_SIMULATOR_TSAN
    if (!stack_begin_) tsan_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to.tsan_, 1);  // 1: no synchronisation
#endif
#if defined(__x86_64__)
    recurformer_switch_stack(&stack_pointer_, to.stack_pointer_);
#else
    swapcontext(&context_, &to.context_);
#endif
#ifdef RECURFORMER_SIMULATOR_ASAN
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }

  /// First thing on a new fiber. `from`, which switched here, may be the operating-system thread's own: its
  /// stack is known from now on.
  static void started([[maybe_unused]] Fiber& from) {
#ifdef RECURFORMER_SIMULATOR_ASAN
    const void* begin = nullptr;
    std::size_t bytes = 0;
    __sanitizer_finish_switch_fiber(nullptr, &begin, &bytes);
    from.stack_begin_ = begin;
    from.stack_bytes_ = bytes;
#endif
  }

 private:
#if defined(__x86_64__)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_{};
#endif
  [[maybe_unused]] const void* stack_begin_ = nullptr;
  [[maybe_unused]] std::size_t stack_bytes_ = 0;
  [[maybe_unused]] void* tsan_ = nullptr;
};

/// The i-th stack of this operating-system thread, kept for the next launch.
inline Stack& pooled_stack(std::size_t i, std::size_t bytes) {
  static thread_local std::vector<Stack> stacks;
  if (!stacks.empty() && stacks.front().bytes() != bytes) stacks.clear();
  while (stacks.size() <= i) stacks.emplace_back(bytes);
  return stacks[i];
}

}  // namespace rf::arch::simulator

#endif  // RECURFORMER_ARCH_SIMULATOR_FIBER_HPP
