// bulk_copy: half of a bulk copy is done at once, the other half when it is waited for and not before.
//
// So a place that is used again too early is overwritten, and one that nobody waited for holds garbage. Proxies do not exist
// here: a missing fence between them cannot show.
#pragma once
#include "cpu/memory.cuh"

namespace myelon {

// Bits from the lowest: 16 arrivals missing in this phase, 16 arrivals of a phase, 31 bytes under way, the phase's parity.
struct alignas(8) Mbarrier {
  u64 word;
};

constexpr u64 kParityBit = 1ull << 63;
constexpr u32 kBytesShift = 32;

inline u32 missing_arrivals(u64 word) { return word & 0xffff; }
inline u64 missing_bytes(u64 word) { return (word & ~kParityBit) >> kBytesShift; }

// A plain store: ThreadSanitizer reports who uses the barrier without having waited for this.
inline void mbarrier_init(Mbarrier* barrier, u32 arrivals) { barrier->word = arrivals | arrivals << 16; }

// Adds `change`; when nothing is missing any more, the next phase begins.
inline void mbarrier_change(Mbarrier* barrier, u64 change) {
  const u64 word = __atomic_add_fetch(&barrier->word, change, __ATOMIC_RELEASE);
  if (missing_arrivals(word) != 0 || missing_bytes(word) != 0) return;
  note_progress();
  __atomic_add_fetch(&barrier->word, kParityBit + ((word >> 16) & 0xffff), __ATOMIC_RELAXED);
}

inline void mbarrier_arrive_expect_release_cta(Mbarrier* barrier, u32 bytes) {
  if (missing_arrivals(__atomic_load_n(&barrier->word, __ATOMIC_RELAXED)) == 0) fail("more arrivals than a phase has");
  mbarrier_change(barrier, (static_cast<u64>(bytes) << kBytesShift) - 1);
}

inline void mbarrier_arrive_release_cta(Mbarrier* barrier) { mbarrier_arrive_expect_release_cta(barrier, 0); }

// Bytes of a load that are in place.
inline void mbarrier_complete(Mbarrier* barrier, u64 bytes) {
  const u64 word = __atomic_load_n(&barrier->word, __ATOMIC_RELAXED);
  if (bytes > missing_bytes(word)) fail("more bytes loaded than their mbarrier expects");
  mbarrier_change(barrier, 0 - (bytes << kBytesShift));
}

// What is left of a bulk load.
struct BulkLoad {
  Mbarrier* barrier;
  u8* destination;
  const u8* source;
  u32 bytes;
};

struct BulkLoads {
  static constexpr u32 kCapacity = 256;
  BulkLoad load[kCapacity];
};

// The list is the scheduler's, all threads of a CTA add to it and take from it.
MYELON_SCHEDULER void add_bulk_load(BulkLoad load) {
  Cta& cta = *current->cta;
  if (cta.bulk_loads == nullptr) cta.bulk_loads = static_cast<BulkLoads*>(calloc(1, sizeof(BulkLoads)));
  if (cta.loads_under_way == BulkLoads::kCapacity) fail("more bulk loads under way than the CPU device keeps");
  cta.bulk_loads->load[cta.loads_under_way++] = load;
}

// Takes a load that completes on `barrier`.
MYELON_SCHEDULER bool take_bulk_load(const Mbarrier* barrier, BulkLoad* taken) {
  Cta& cta = *current->cta;
  for (u32 i = 0; i < cta.loads_under_way; ++i) {
    BulkLoad& load = cta.bulk_loads->load[i];
    if (load.barrier != barrier) continue;
    *taken = load;
    load = cta.bulk_loads->load[--cta.loads_under_way];
    return true;
  }
  return false;
}

inline void copy_bytes(u8* destination, const u8* source, u32 bytes) {
  for (u32 at = 0; at < bytes; at += 8) {
    *reinterpret_cast<u64*>(destination + at) = *reinterpret_cast<const u64*>(source + at);
  }
}

inline void check_bulk_copy(const void* a, const void* b, u32 bytes) {
  const u64 bits = reinterpret_cast<u64>(a) | reinterpret_cast<u64>(b) | bytes;
  if (bytes == 0 || (bits & 15) != 0) fail("a bulk copy that is empty or not in units of 16 bytes");
}

inline void bulk_load(void* shared_destination, const void* global_source, u32 bytes, Mbarrier* barrier) {
  check_bulk_copy(shared_destination, global_source, bytes);
  u8* destination = static_cast<u8*>(shared_destination);
  const u8* source = static_cast<const u8*>(global_source);
  const u32 half = bytes / 2;
  add_bulk_load({barrier, destination + half, source + half, bytes - half});
  copy_bytes(destination, source, half);
  mbarrier_complete(barrier, half);
}

inline bool mbarrier_try_wait_acquire_cta(Mbarrier* barrier, u32 parity) {
  const u64 word = __atomic_load_n(&barrier->word, __ATOMIC_ACQUIRE);
  if (word >> 63 != parity) return true;
  if (missing_arrivals(word) != 0) return false;
  // Everybody has arrived and somebody waits: the bytes cannot come later than now.
  BulkLoad load;
  while (take_bulk_load(barrier, &load)) {
    copy_bytes(load.destination, load.source, load.bytes);
    mbarrier_complete(barrier, load.bytes);
  }
  return __atomic_load_n(&barrier->word, __ATOMIC_ACQUIRE) >> 63 != parity;
}

// What is left of a bulk store; `source` is a copy of its own once it has been read.
struct BulkStore {
  u8* destination;
  u8* source;
  u32 bytes;
  bool was_read;
};

struct BulkStores {
  static constexpr u32 kCapacity = 64;
  BulkStore store[kCapacity];
  u32 committed;
};

inline void bulk_store(void* global_destination, const void* shared_source, u32 bytes) {
  check_bulk_copy(global_destination, shared_source, bytes);
  if (current->bulk_stores == nullptr) current->bulk_stores = static_cast<BulkStores*>(calloc(1, sizeof(BulkStores)));
  if (current->stores_under_way == BulkStores::kCapacity) fail("more bulk stores under way than the CPU device keeps");
  u8* destination = static_cast<u8*>(global_destination);
  u8* source = static_cast<u8*>(const_cast<void*>(shared_source));
  const u32 half = bytes / 2;
  inject_store_delay();
  copy_bytes(destination, source, half);
  current->bulk_stores->store[current->stores_under_way++] = {destination + half, source + half, bytes - half, false};
}

inline void bulk_store_commit() {
  if (current->bulk_stores != nullptr) current->bulk_stores->committed = current->stores_under_way;
}

inline void bulk_store_wait_read() {
  for (u32 i = 0; current->bulk_stores != nullptr && i < current->bulk_stores->committed; ++i) {
    BulkStore& store = current->bulk_stores->store[i];
    if (store.was_read) continue;
    u8* copy = static_cast<u8*>(malloc(store.bytes));
    copy_bytes(copy, store.source, store.bytes);
    store.source = copy;
    store.was_read = true;
  }
}

inline void bulk_store_wait() {
  bulk_store_wait_read();
  if (current->bulk_stores == nullptr) return;
  BulkStores& stores = *current->bulk_stores;
  for (u32 i = 0; i < stores.committed; ++i) {
    inject_store_delay();
    copy_bytes(stores.store[i].destination, stores.store[i].source, stores.store[i].bytes);
    free(stores.store[i].source);
  }
  current->stores_under_way -= stores.committed;
  memmove(stores.store, stores.store + stores.committed, current->stores_under_way * sizeof(BulkStore));
  stores.committed = 0;
}

MYELON_DEVICE void fence_proxy_async() {}

}  // namespace myelon
