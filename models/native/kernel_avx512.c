/* The kernel for x86-64 with AVX-512. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif
#define WIDTH 16
#define RUN dynse_run_avx512
#include "kernel.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
