// ptx: the instructions everything above is written in. `ptx/` is the GPU's form of them, `cpu/` the host's.
#pragma once
#if defined(MYELON_CPU)
#include "cpu/async_copy.cuh"
#include "cpu/bulk_copy.cuh"
#include "cpu/convert.cuh"
#include "cpu/memory.cuh"
#include "cpu/platform.cuh"
#include "cpu/special.cuh"
#include "cpu/warp.cuh"
#else
#include "ptx/async_copy.cuh"
#include "ptx/bulk_copy.cuh"
#include "ptx/convert.cuh"
#include "ptx/memory.cuh"
#include "ptx/platform.cuh"
#include "ptx/special.cuh"
#include "ptx/warp.cuh"
#endif
