// runtime: runs a whole grid on the calling OS thread, a fiber per CUDA thread, all CTAs resident at once.
//
// Fibers yield at barriers, failed polls and sleeps only. A rank is one OS thread, so everything between
// two yields is atomic inside a rank and concurrent between ranks, which is the harder half to get right. Injected
// delays (CpuLaunch::delay_seed) make fibers sit out rounds and ranks sleep, at yields and between the stores that
// peers see, from a seeded sequence.
#pragma once
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu/fiber.cuh"
#include "cpu/launch.cuh"

namespace myelon {

struct BulkLoads;

// A barrier of a CTA or of one of its warps.
struct Barrier {
  u32 ended;       // threads that returned
  u32 arrived;     // threads at the barrier
  u32 generation;  // times it was passed
  u32 vetoes[2];   // false votes of the time under way, by its generation's parity
};

constexpr u32 kWarpThreads = 32;
constexpr u32 kMaxWarps = 32;

struct Cta {
  u8* shared;
  u32 index;
  u32 threads;
  Barrier barrier;
  Barrier warp_barrier[kMaxWarps];
  u64 given[kMaxWarps][2][kWarpThreads][2];  // packs being shuffled in a warp, by the parity of its barrier's generation
  BulkLoads* bulk_loads;
  u32 loads_under_way;  // of bulk_loads
};

struct Grid {
  const CpuLaunch* launch;
  void (*body)(const void* args);
  Fiber main;
  Fiber* fibers;
  Cta* ctas;
  u32 live;
  u32 blocked;      // fibers at barriers that are not passed yet
  u32 idle_yields;  // yields since something last moved on
  u64 delay_state;
};

static thread_local Grid* grid = nullptr;
static thread_local Fiber* current = nullptr;

MYELON_SCHEDULER u64 next_random(u64& state) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

inline void sleep_us(u32 us) {
  timespec time = {0, static_cast<long>(us) * 1000};
  nanosleep(&time, nullptr);
}

// One fiber in 64 sits out a few rounds; one yield in 4096 stops the whole rank for up to 200 us.
MYELON_SCHEDULER void inject_delay() {
  if (grid->delay_state == 0) return;
  const u64 draw = next_random(grid->delay_state);
  if ((draw & 63) == 0) current->asleep = static_cast<u32>(draw >> 8) & 31;
  if ((draw & 4095) == 1) sleep_us(static_cast<u32>(draw >> 16) % 200);
}

// Between two stores that peers see: one in 1024 is late, and its rank with it.
MYELON_SCHEDULER void inject_store_delay() {
  if (grid->delay_state == 0) return;
  const u64 draw = next_random(grid->delay_state);
  if ((draw & 1023) == 2) sleep_us(static_cast<u32>(draw >> 16) % 200);
}

// Something moved on: the peers are not what this rank waits for.
MYELON_SCHEDULER void note_progress() { grid->idle_yields = 0; }

// Lets another fiber run. When nothing moved for two rounds, lets another OS thread run: the peers are behind.
MYELON_SCHEDULER void yield() {
  inject_delay();
  if (++grid->idle_yields > 2 * grid->live) {
    grid->idle_yields = 0;
    sched_yield();
  }
  Fiber* from = current;
  Fiber* to = from->next;
  while (to->asleep != 0) {
    --to->asleep;
    to = to->next;
  }
  if (to == from) return;
  current = to;
  switch_fiber(*from, *to, false);
}

[[noreturn]] MYELON_SCHEDULER void fail(const char* what) {
  fprintf(stderr, "myelon cpu device: %s (ordinal %u, cta %u, thread %u)\n", what, grid->launch->ordinal,
          current->cta->index, current->thread);
  abort();
}

// Fibers that came to a barrier, or, negative, that may leave one. When all are at barriers that lack somebody, nothing moves.
MYELON_SCHEDULER void note_blocked(i32 fibers) {
  grid->blocked += static_cast<u32>(fibers);
  if (grid->blocked == grid->live) fail("all threads wait at a barrier, but not at the same");
}

MYELON_SCHEDULER void leave_barrier(Barrier& barrier) {
  if (barrier.arrived != 0) fail("a thread returned while others wait at a barrier");
  ++barrier.ended;
}

MYELON_SCHEDULER void run_fiber() {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom;
  size_t bytes;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  if (grid->main.stack == nullptr) {
    // The first fiber of a launch comes from the OS thread's own stack.
    grid->main.stack = static_cast<u8*>(const_cast<void*>(bottom));
    grid->main.stack_bytes = bytes;
  }
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(grid->launch->order);
#endif
  grid->body(grid->launch->args);
#if defined(__SANITIZE_THREAD__)
  __tsan_release(grid->launch->order);
#endif
  Fiber* ended = current;
  Cta& cta = *ended->cta;
  leave_barrier(cta.barrier);
  leave_barrier(cta.warp_barrier[ended->thread / kWarpThreads]);
  if (ended->stores_under_way != 0) fail("a thread returned with bulk stores under way");
  if (cta.barrier.ended == cta.threads && cta.loads_under_way != 0) fail("a CTA ended with bulk loads under way");
  note_progress();
  ended->previous->next = ended->next;
  ended->next->previous = ended->previous;
  Fiber* to = --grid->live == 0 ? &grid->main : ended->next;
  current = to;
  switch_fiber(*ended, *to, true);
  __builtin_unreachable();
}

#if defined(__SANITIZE_THREAD__)
// Making one costs ThreadSanitizer far more than switching to it: kept from launch to launch.
MYELON_SCHEDULER void* sanitizer_fiber(u64 index) {
  static thread_local void** fibers = nullptr;
  static thread_local u64 count = 0;
  if (index >= count) {
    fibers = static_cast<void**>(realloc(fibers, (index + 1) * sizeof(void*)));
    for (; count <= index; ++count) fibers[count] = __tsan_create_fiber(0);
  }
  return fibers[index];
}
#endif

MYELON_SCHEDULER void run_grid(const CpuLaunch* launch, void (*body)(const void*)) {
  const u64 shared_stride = (static_cast<u64>(launch->shared_bytes) + 127) / 128 * 128;
  const u64 fibers = static_cast<u64>(launch->grid) * launch->block;
  u8* shared = static_cast<u8*>(aligned_alloc(128, shared_stride * launch->grid + 128));
  // Garbage, as on a GPU: a kernel that reads shared memory it did not write must not get away with zeros.
  memset(shared, 0xa5, shared_stride * launch->grid);

  Grid run = {};
  run.launch = launch;
  run.body = body;
  run.fibers = static_cast<Fiber*>(calloc(fibers, sizeof(Fiber)));
  run.ctas = static_cast<Cta*>(calloc(launch->grid, sizeof(Cta)));
  run.live = static_cast<u32>(fibers);
  run.delay_state = launch->delay_seed;
  for (u32 cta = 0; cta < launch->grid; ++cta) {
    run.ctas[cta].shared = shared + cta * shared_stride;
    run.ctas[cta].index = cta;
    run.ctas[cta].threads = launch->block;
  }
  for (u64 i = 0; i < fibers; ++i) {
    Fiber& fiber = run.fibers[i];
    fiber.cta = &run.ctas[i / launch->block];
    fiber.thread = static_cast<u32>(i % launch->block);
    fiber.next = &run.fibers[(i + 1) % fibers];
    fiber.previous = &run.fibers[(i + fibers - 1) % fibers];
    fiber.stack = launch->stacks + i * launch->stack_bytes;
    fiber.stack_bytes = launch->stack_bytes;
#if defined(__SANITIZE_THREAD__)
    fiber.sanitizer = sanitizer_fiber(i);
#endif
    prepare_fiber(fiber, run_fiber);
  }
#if defined(__SANITIZE_THREAD__)
  run.main.sanitizer = __tsan_get_current_fiber();
  __tsan_release(launch->order);
#endif
  grid = &run;
  current = &run.fibers[0];
  switch_fiber(run.main, run.fibers[0], false);
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(launch->order);
#endif
  for (u64 i = 0; i < fibers; ++i) {
    current = &run.fibers[i];
    if (*reinterpret_cast<u64*>(current->stack) != kStackCanary) fail("a thread used more stack than there is");
    free(current->copies);
    free(current->bulk_stores);
  }
#if defined(__SANITIZE_ADDRESS__)
  // A fiber never returns from its first frame, which leaves that frame's red zones on memory that is used again, by the
  // next launch or, once the stacks are unmapped, by anybody.
  __asan_unpoison_memory_region(launch->stacks, fibers * launch->stack_bytes);
#endif
  grid = nullptr;
  current = nullptr;
  for (u32 cta = 0; cta < launch->grid; ++cta) free(run.ctas[cta].bulk_loads);
  free(run.fibers);
  free(run.ctas);
  free(shared);
}

}  // namespace myelon
