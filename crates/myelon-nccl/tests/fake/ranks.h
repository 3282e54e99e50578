// What the scenarios of `ranks` have in common: NCCL's functions, linked or looked up, and checks that end the process in words.
#pragma once
#include "nccl.h"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <dlfcn.h>
#include <unistd.h>

#ifdef OPENED
inline void *symbol(const char *name) {
  static void *library = dlopen(getenv("NCCL_SO_PATH"), RTLD_NOW | RTLD_LOCAL);
  void *found = library ? dlsym(library, name) : nullptr;
  if (!found) fprintf(stderr, "%s: %s\n", name, dlerror()), exit(9);
  return found;
}
#define NCCL(function) reinterpret_cast<decltype(&function)>(symbol(#function))
#else
#define NCCL(function) function
#endif

inline void check(bool holds, const char *what, int line, long seen) {
  if (holds) return;
  fprintf(stderr, "line %d: %s does not hold, seen %ld; last error: %s\n", line, what, seen, NCCL(ncclGetLastError)(nullptr));
  _exit(1);
}
inline void equal(long seen, long expected, const char *what, int line) { check(seen == expected, what, line, seen); }
#define CHECK(condition) check(condition, #condition, __LINE__, 0)
#define EQUAL(code, expected) equal(code, expected, #code " == " #expected, __LINE__)
#define OK(code) EQUAL(code, ncclSuccess)

inline int ranks = 2;

template <typename T> std::vector<T> filled(size_t count, T value) { return std::vector<T>(count, value); }

template <typename T> void all_are(const std::vector<T> &values, T expected, int line) {
  for (T value : values) check(value == expected, "every value is as expected", line, long(value));
}

inline float sum() { return ranks * (ranks + 1) / 2; }

// Scenarios whose ranks are processes, and one rank of such; whether there is one of that name. In processes.cc.
bool processes(const std::string &scenario);
void process(const std::string &scenario, int rank, const char *id);
