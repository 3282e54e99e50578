// fiber: one CUDA thread as a stack and a saved stack pointer.
//
// A switch saves the callee-saved registers of the platform's C ABI and nothing else: kernels change neither the
// rounding mode nor the signal mask. Fibers never migrate between OS threads, so thread-local addresses stay valid.
#pragma once
#include "abi.cuh"

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
asm(R"(
.text
.hidden myelon_fiber_switch
.globl myelon_fiber_switch
.type myelon_fiber_switch, @function
myelon_fiber_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size myelon_fiber_switch, .-myelon_fiber_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.hidden myelon_fiber_switch
.globl myelon_fiber_switch
.type myelon_fiber_switch, %function
myelon_fiber_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size myelon_fiber_switch, .-myelon_fiber_switch
)");
#else
#error "the CPU device has fibers for x86-64 and aarch64; add this processor's switch here"
#endif

// What schedules fibers. It runs on one OS thread and between them, so it needs no orderings, and ThreadSanitizer, to
// which fibers are threads, must not look at it: a kernel's races would drown in reports of this.
#if defined(__SANITIZE_THREAD__)
#define MYELON_SCHEDULER inline __attribute__((noinline, no_sanitize("thread")))
#else
#define MYELON_SCHEDULER inline
#endif

extern "C" void myelon_fiber_switch(void** save_stack_pointer, void* load_stack_pointer);

namespace myelon {

struct Cta;
struct PendingCopies;
struct BulkStores;

struct Fiber {
  void* stack_pointer;
  u8* stack;
  u64 stack_bytes;
  Cta* cta;
  Fiber* next;      // ring of live fibers
  Fiber* previous;
  u32 thread;
  u32 asleep;       // rounds of the ring to sit out: an injected delay
  void* sanitizer;  // ThreadSanitizer's fiber, or AddressSanitizer's fake stack
  PendingCopies* copies;  // cp.async under way
  BulkStores* bulk_stores;
  u32 stores_under_way;  // of bulk_stores
};

// The lowest word of a stack: overwritten by a kernel that needs more than there is.
constexpr u64 kStackCanary = 0x6d79656c6f6e2121ull;

// Lays out a first frame that "returns" into `entry`.
MYELON_SCHEDULER void prepare_fiber(Fiber& fiber, void (*entry)()) {
  *reinterpret_cast<u64*>(fiber.stack) = kStackCanary;
  void** top = reinterpret_cast<void**>(fiber.stack + fiber.stack_bytes);
#if defined(__x86_64__)
  // INVARIANT: at `entry`, the stack pointer is 8 below a multiple of 16, as after a call.
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
#else
  top -= 20;
  for (int i = 0; i < 20; ++i) top[i] = nullptr;
  top[11] = reinterpret_cast<void*>(entry);
#endif
  fiber.stack_pointer = top;
}

// Leaves `from` for `to`. `finished`: `from` never runs again.
MYELON_SCHEDULER void switch_fiber(Fiber& from, Fiber& to, bool finished) {
#if defined(__SANITIZE_THREAD__)
  // Without synchronisation: threads of a CTA must order themselves, as on a GPU.
  __tsan_switch_to_fiber(to.sanitizer, 1);
#elif defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(finished ? nullptr : &from.sanitizer, to.stack, to.stack_bytes);
#endif
  (void)finished;
  myelon_fiber_switch(&from.stack_pointer, to.stack_pointer);
#if defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  __sanitizer_finish_switch_fiber(from.sanitizer, nullptr, nullptr);
#endif
}

}  // namespace myelon
