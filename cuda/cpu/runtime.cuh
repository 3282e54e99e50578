// runtime: runs a whole grid on the calling OS thread, a fiber per CUDA thread, all CTAs resident at once.
//
// Fibers yield at barriers, failed polls and warp-wide operations only. A rank is one OS thread, so everything between
// two yields is atomic inside a rank and concurrent between ranks, which is the harder half to get right. Injected
// delays (CpuLaunch::delay_seed) make fibers sit out rounds and ranks sleep, from a seeded sequence.
#pragma once
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu/fiber.cuh"
#include "cpu/launch.cuh"

namespace myelon {

struct Cta {
  u8* shared;
  u32 index;
  u32 threads;
  u32 ended;       // threads that returned
  u32 arrived;     // threads at the barrier
  u32 generation;  // barriers completed
};

struct Grid {
  const CpuLaunch* launch;
  void (*body)(const void* args);
  Fiber main;
  Fiber* fibers;
  Cta* ctas;
  u32 live;
  u32 idle_yields;  // yields since something last moved on
  u64 delay_state;
};

// Everything a launch needs is kept from launch to launch: an OS thread belongs to one stream.
struct Pool {
  Fiber* fibers = nullptr;
  Cta* ctas = nullptr;
  u8* shared = nullptr;
  u64 fiber_count = 0, cta_count = 0, shared_bytes = 0;
};

static thread_local Pool pool;
static thread_local Grid* grid = nullptr;
static thread_local Fiber* current = nullptr;

inline u64 next_random(u64& state) {
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
inline void inject_delay() {
  if (grid->delay_state == 0) return;
  const u64 draw = next_random(grid->delay_state);
  if ((draw & 63) == 0) current->asleep = static_cast<u32>(draw >> 8) & 31;
  if ((draw & 4095) == 1) sleep_us(static_cast<u32>(draw >> 16) % 200);
}

// Lets another fiber run. When nothing moved for two rounds, lets another OS thread run: the peers are behind.
inline void yield() {
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

[[noreturn]] inline void fail(const char* what) {
  fprintf(stderr, "myelon cpu device: %s (ordinal %u, cta %u, thread %u)\n", what, grid->launch->ordinal,
          current->cta->index, current->thread);
  abort();
}

inline void run_fiber() {
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
  if (ended->cta->arrived != 0) fail("a thread returned while others of its CTA wait at a barrier");
  ++ended->cta->ended;
  grid->idle_yields = 0;
  ended->previous->next = ended->next;
  ended->next->previous = ended->previous;
  Fiber* to = --grid->live == 0 ? &grid->main : ended->next;
  current = to;
  switch_fiber(*ended, *to, true);
  __builtin_unreachable();
}

inline void prepare_pool(u64 fibers, u64 ctas, u64 shared_bytes) {
  if (fibers > pool.fiber_count) {
    pool.fibers = static_cast<Fiber*>(realloc(pool.fibers, fibers * sizeof(Fiber)));
    for (u64 i = pool.fiber_count; i < fibers; ++i) {
      pool.fibers[i] = Fiber();
      pool.fibers[i].stack = allocate_fiber_stack();
      pool.fibers[i].stack_bytes = kFiberStackBytes;
#if defined(__SANITIZE_THREAD__)
      pool.fibers[i].sanitizer = __tsan_create_fiber(0);
#endif
    }
    pool.fiber_count = fibers;
  }
  if (ctas > pool.cta_count) {
    pool.ctas = static_cast<Cta*>(realloc(pool.ctas, ctas * sizeof(Cta)));
    pool.cta_count = ctas;
  }
  if (shared_bytes > pool.shared_bytes) {
    free(pool.shared);
    pool.shared = static_cast<u8*>(aligned_alloc(128, shared_bytes));
    pool.shared_bytes = shared_bytes;
  }
}

inline void run_grid(const CpuLaunch* launch, void (*body)(const void*)) {
  const u64 shared_stride = (static_cast<u64>(launch->shared_bytes) + 127) / 128 * 128;
  const u64 fibers = static_cast<u64>(launch->grid) * launch->block;
  prepare_pool(fibers, launch->grid, shared_stride * launch->grid);
  // Garbage, as on a GPU: a kernel that reads shared memory it did not write must not get away with zeros.
  if (shared_stride != 0) memset(pool.shared, 0xa5, shared_stride * launch->grid);

  Grid run = {};
  run.launch = launch;
  run.body = body;
  run.fibers = pool.fibers;
  run.ctas = pool.ctas;
  run.live = static_cast<u32>(fibers);
  run.delay_state = launch->delay_seed;
  for (u32 cta = 0; cta < launch->grid; ++cta) {
    run.ctas[cta] = Cta{pool.shared + cta * shared_stride, cta, launch->block, 0, 0, 0};
  }
  for (u64 i = 0; i < fibers; ++i) {
    Fiber& fiber = run.fibers[i];
    fiber.cta = &run.ctas[i / launch->block];
    fiber.thread = static_cast<u32>(i % launch->block);
    fiber.next = &run.fibers[(i + 1) % fibers];
    fiber.previous = &run.fibers[(i + fibers - 1) % fibers];
    fiber.asleep = 0;
#if !defined(__SANITIZE_THREAD__)
    fiber.sanitizer = nullptr;
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
  grid = nullptr;
  current = nullptr;
}

}  // namespace myelon
