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

// Pack `index` of `count` elements at `base`. Elements past the end read as zero.
template <class T>
MYELON_DEVICE Pack<T> load_pack(const void* base, u64 index, u64 count) {
  constexpr u32 kElements = Pack<T>::kElements;
  const T* first = static_cast<const T*>(base) + index * kElements;
  Pack<T> pack;
  if (is_pack_aligned(base) && (index + 1) * kElements <= count) {
    pack.bytes = ld_weak_16(first);
    return pack;
  }
  pack.bytes = Bytes16{{0, 0}};
  MYELON_UNROLL
  for (u32 k = 0; k < kElements; ++k) {
    if (index * kElements + k < count) pack.element[k] = first[k];
  }
  return pack;
}

// Stores pack `index` of `count` elements at `base`; nothing past the end is touched.
template <class T>
MYELON_DEVICE void store_pack(void* base, u64 index, u64 count, Pack<T> pack) {
  constexpr u32 kElements = Pack<T>::kElements;
  T* first = static_cast<T*>(base) + index * kElements;
  if (is_pack_aligned(base) && (index + 1) * kElements <= count) {
    st_weak_16(first, pack.bytes);
    return;
  }
  MYELON_UNROLL
  for (u32 k = 0; k < kElements; ++k) {
    if (index * kElements + k < count) first[k] = pack.element[k];
  }
}

}  // namespace myelon
