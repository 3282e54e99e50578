// All-reduce between processes, in C: one rank a GPU, or over the CPU device.
//
//   cc -std=c11 all_reduce.c $(pkg-config --cflags --libs myelon-ccl) -o all_reduce
//   ./all_reduce --ranks 4      starts its ranks itself
//   mpirun -np 2 ./all_reduce   or torchrun --no-python, or srun
//
// For ranks on GPUs add -DMYELON_EXAMPLE_CUDA and CUDA's runtime: -I/usr/local/cuda/include -L/usr/local/cuda/lib64 -lcudart
#define _POSIX_C_SOURCE 200809L

#include <myelon.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef MYELON_EXAMPLE_CUDA
#include <cuda_runtime_api.h>
#endif

enum { COUNT = 1 << 16, MOST_RANKS = 8 };

static void check(myelonStatus_t status) {
    if (status != myelonSuccess) {
        fprintf(stderr, "%s\n", myelonGetLastError());
        exit(1);
    }
}

// Memory of a rank's device: the host's own where that is the CPU.
#ifdef MYELON_EXAMPLE_CUDA
static void check_cuda(cudaError_t error) {
    if (error != cudaSuccess) {
        fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(error));
        exit(1);
    }
}

static float *allocate(int device, size_t bytes) {
    void *memory = NULL;
    if (device < 0) return malloc(bytes);
    check_cuda(cudaSetDevice(device));
    check_cuda(cudaMalloc(&memory, bytes));
    return memory;
}

static void release(int device, float *memory) {
    if (device < 0) free(memory);
    else check_cuda(cudaFree(memory));
}

static void copy(int device, float *to, const float *from, size_t bytes) {
    if (device < 0) memcpy(to, from, bytes);
    else check_cuda(cudaMemcpy(to, from, bytes, cudaMemcpyDefault));
}
#else
static float *allocate(int device, size_t bytes) {
    if (device >= 0) {
        fprintf(stderr, "this rank is on GPU %d: build the example with -DMYELON_EXAMPLE_CUDA\n", device);
        exit(1);
    }
    return malloc(bytes);
}

static void release(int device, float *memory) {
    (void)device;
    free(memory);
}

static void copy(int device, float *to, const float *from, size_t bytes) {
    (void)device;
    memcpy(to, from, bytes);
}
#endif

// Every rank gives its number and 1 more, and all see the sum.
static int reduce(myelonComm_t comm) {
    static float values[COUNT];
    int rank, ranks, device, wrong = 0;
    const char *engine;
    check(myelonCommRank(comm, &rank));
    check(myelonCommWorldSize(comm, &ranks));
    check(myelonCommDevice(comm, &device));
    check(myelonCommEngine(comm, &engine));

    float *data = allocate(device, sizeof values);
    if (data == NULL) {
        fprintf(stderr, "rank %d has no memory\n", rank);
        return 1;
    }
    for (int i = 0; i < COUNT; i++) values[i] = (float)(rank + 1);
    copy(device, data, values, sizeof values);

    // In place, on the default stream.
    check(myelonAllReduce(comm, data, data, COUNT, myelonF32, myelonSum, NULL));
    check(myelonCommSynchronize(comm, NULL));

    copy(device, values, data, sizeof values);
    for (int i = 0; i < COUNT; i++) wrong += values[i] != (float)(ranks * (ranks + 1) / 2);
    printf("rank %d of %d: %g, %d wrong (%s on the %s)\n", rank, ranks, values[0], wrong, engine, device < 0 ? "CPU" : "GPU");
    // Before the memory goes: the communicator waits for its last operation.
    check(myelonCommDestroy(comm));
    release(device, data);
    return wrong != 0;
}

// A process for each rank. Forked before the library is called: its threads would stay behind.
static int start(int ranks) {
    int ids[2], failed = 0;
    if (pipe(ids) != 0) return perror("pipe"), 1;
    for (int rank = 0; rank < ranks; rank++) {
        pid_t child = fork();
        if (child < 0) return perror("fork"), 1;
        if (child > 0) continue;

        myelonUniqueId_t id;
        myelonComm_t comm;
        // Each rank takes one id; what is written at once can be read at once.
        if (read(ids[0], &id, sizeof id) != (ssize_t)sizeof id) return 1;
#ifdef MYELON_EXAMPLE_CUDA
        check(myelonCommInitRank(&comm, ranks, &id, rank, rank, NULL));
#else
        check(myelonCommInitRank(&comm, ranks, &id, rank, -1, NULL));
#endif
        return reduce(comm);
    }
    // The ranks meet at this process, which outlives them.
    myelonUniqueId_t id;
    check(myelonGetUniqueId(&id));
    for (int rank = 0; rank < ranks; rank++) failed |= write(ids[1], &id, sizeof id) != (ssize_t)sizeof id;
    for (int rank = 0, status; rank < ranks; rank++) failed |= wait(&status) < 0 || status != 0;
    return failed;
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--ranks") == 0) {
        int ranks = atoi(argv[2]);
        if (ranks >= 1 && ranks <= MOST_RANKS) return start(ranks);
    }
    if (argc != 1) {
        fprintf(stderr, "usage: %s [--ranks 1..%d]; without, a launcher has started this\n", argv[0], MOST_RANKS);
        return 2;
    }
    myelonComm_t comm;
    check(myelonCommInitEnv(&comm, NULL));
    return reduce(comm);
}
