// Work on ranges by several threads: those of the OpenMP runtime that torch has loaded, or some of our own.
#pragma once
#include <cstdint>

namespace compress_native {

using Work = void (*)(const void* context, int64_t begin, int64_t end);
// void GOMP_parallel(void (*)(void*), void*, unsigned threads, unsigned flags), which every OpenMP runtime for
// GCC-compiled code has.
using OpenMp = void (*)(void (*)(void*), void*, unsigned, unsigned);

void use_openmp(OpenMp entry);
// Parts for each thread: small enough to share out, large enough that taking one costs nothing.
constexpr int kParts = 8;
// Calls work on parts of [0, count) from up to `threads` threads and returns when all are done.
void run(Work work, const void* context, int64_t count, int threads, int parts = kParts);

}  // namespace compress_native
