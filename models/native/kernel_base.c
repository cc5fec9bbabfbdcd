/* The kernel for whatever the compiler makes by default: NEON on ARM, SSE2 on x86-64. */
#define WIDTH 4
#define RUN dynse_run_base
#include "kernel.h"
