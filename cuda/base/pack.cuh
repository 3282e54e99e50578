// pack: sixteen bytes of elements, the unit that a thread loads, stores and sends.
//
// User buffers need only the alignment of their element, and counts need not fill the last pack: loads and stores of
// user memory take both into account here, so nothing above knows of either. Inside the heap everything is whole packs.
#pragma once
#include "ptx/ptx.cuh"

namespace myelon {

template <class T>
union Pack {
  static constexpr u32 kElements = kPackBytes / sizeof(T);
  Bytes16 bytes;
  T element[kElements];
};

template <class T>
MYELON_DEVICE u64 pack_count(u64 elements) {
  return (elements + Pack<T>::kElements - 1) / Pack<T>::kElements;
}

MYELON_DEVICE bool is_pack_aligned(const void* address) {
  return (reinterpret_cast<u64>(address) & (kPackBytes - 1)) == 0;
}

// Whether pack `index` of `count` elements at `base` is whole and aligned: moved by one access.
template <class T>
MYELON_DEVICE bool is_plain_pack(const void* base, u64 index, u64 count) {
  return is_pack_aligned(base) && (index + 1) * Pack<T>::kElements <= count;
}

// Pack `index` of `count` elements at `base`, element by element. Elements past the end read as zero.
template <class T>
MYELON_DEVICE Pack<T> load_elements(const void* base, u64 index, u64 count) {
  constexpr u32 kElements = Pack<T>::kElements;
  const T* first = static_cast<const T*>(base) + index * kElements;
  Pack<T> pack;
  pack.bytes = Bytes16{{0, 0}};
  MYELON_UNROLL
  for (u32 k = 0; k < kElements; ++k) {
    if (index * kElements + k < count) pack.element[k] = first[k];
  }
  return pack;
}

// The same for a store; nothing past the end is touched.
template <class T>
MYELON_DEVICE void store_elements(void* base, u64 index, u64 count, Pack<T> pack) {
  constexpr u32 kElements = Pack<T>::kElements;
  T* first = static_cast<T*>(base) + index * kElements;
  MYELON_UNROLL
  for (u32 k = 0; k < kElements; ++k) {
    if (index * kElements + k < count) first[k] = pack.element[k];
  }
}

// Pack `index` at `base`, in the heap.
template <class T>
MYELON_DEVICE Pack<T> load_whole_pack(const u8* base, u64 index) {
  Pack<T> pack;
  pack.bytes = ld_weak_16(base + index * kPackBytes);
  return pack;
}

// Pack `index` of `count` elements at `base`. Elements past the end read as zero.
template <class T>
MYELON_DEVICE Pack<T> load_pack(const void* base, u64 index, u64 count) {
  if (!is_plain_pack<T>(base, index, count)) return load_elements<T>(base, index, count);
  return load_whole_pack<T>(static_cast<const u8*>(base), index);
}

// Stores pack `index` of `count` elements at `base`; nothing past the end is touched.
template <class T>
MYELON_DEVICE void store_pack(void* base, u64 index, u64 count, Pack<T> pack) {
  if (!is_plain_pack<T>(base, index, count)) return store_elements(base, index, count, pack);
  st_weak_16(static_cast<u8*>(base) + index * kPackBytes, pack.bytes);
}

template <class T>
MYELON_DEVICE_COLD Pack<T> load_elements_cold(const void* base, u64 index, u64 count) {
  return load_elements<T>(base, index, count);
}

template <class T>
MYELON_DEVICE_COLD void store_elements_cold(void* base, u64 index, u64 count, Pack<T> pack) {
  store_elements(base, index, count, pack);
}

// A user's buffer to a thread that moves one pack or few. What it takes to know a plain pack is computed once, and elements are
// moved out of the way: every instruction between two waits counts there. Slower than load_pack for buffers that are not aligned.
template <class T>
struct SmallOperand {
  u8* base;
  u64 count;
  u32 plain;  // packs from the first on that one access moves

  MYELON_DEVICE SmallOperand(const void* address, u64 elements)
      : base(static_cast<u8*>(const_cast<void*>(address))),
        count(elements),
        plain(is_pack_aligned(address) ? static_cast<u32>(elements / Pack<T>::kElements) : 0) {}

  MYELON_DEVICE Pack<T> load(u32 index) const {
    if (index >= plain) return load_elements_cold<T>(base, index, count);
    Pack<T> pack;
    pack.bytes = ld_weak_16(base + static_cast<u64>(index) * kPackBytes);
    return pack;
  }

  MYELON_DEVICE void store(u32 index, Pack<T> pack) const {
    if (index >= plain) return store_elements_cold(base, index, count, pack);
    st_weak_16(base + static_cast<u64>(index) * kPackBytes, pack.bytes);
  }
};

}  // namespace myelon
