/* What engine.c and its kernels share: sizes, shapes, and the kernels' one entry. */
#ifndef DYNSE_ENGINE_H
#define DYNSE_ENGINE_H
#include <stddef.h>
#include <stdint.h>

#define LANES 16 /* floats of a vector; padded widths are multiples of it */
#define TILE 4   /* frames that share the reading of weights */
#define CHUNK 64 /* frames of a block before the next block */
#define MAX_CHANNELS 1024
#define MAX_BANDS 512
#define MAX_TAPS 16
#define LIST_SLACK 8 /* a list is written by eights and read by fours */

/* A matrix [n][width] of which LANES columns have few rows that are not zero, in a run: for each
 * such group of columns the first of them and how many. */
typedef struct {
    const int32_t *first, *count;
    size_t groups, rows;
} Banded;

typedef struct {
    int32_t bins, bands, residual, hidden, gate_hidden, taps, blocks, gated;
    int32_t pooled; /* hidden units of a gating subnet that are; the others hear their frame */
    const int32_t *dilations; /* [blocks] */
    const int32_t *windows;   /* [blocks] frames that a gating subnet pools over */
    Banded pool, spread;      /* bins -> bands, bands -> bins */
} Shape;

/* What a chunk needs beside the state: of each frame so many floats. */
typedef struct {
    float *power;   /* bins, padded */
    float *in;      /* 2 * bands: features; at the end the bands' mask */
    float *x;       /* residual */
    float *history; /* hidden: gated activations that the depthwise convolution remembers */
    float *score;   /* hidden: of the gates */
    float *units;   /* gate_hidden */
    float *h;       /* hidden, for the frames of a tile: around the depthwise convolution */
    uint16_t open[MAX_CHANNELS + LIST_SLACK]; /* the open channels of a tile or a frame alone */
    uint16_t all[MAX_CHANNELS];
} Scratch;

/* Indices of the bits set in a byte, and how many; filled when the module loads. */
extern uint16_t dynse_positions[256][8];
extern uint8_t dynse_how_many[256];

/* N <= CHUNK frames from a state, which is renewed. `state` is [heard, level, nothing up to LANES,
 * floor[bands], per block pooling and history], `sums` [blocks][gate_hidden]; scores may be NULL.
 * Buffers should begin at a multiple of 64 bytes: vectors that straddle cache lines cost a
 * fifth. */
#define RUN_ARGUMENTS                                                                              \
    int N, const Shape *s, const float *weights, float *state, double *sums, int64_t clock,        \
        Scratch *m, const float *spectrum, float *mask, uint8_t *gates, float *scores,             \
        int force_open
typedef void Run(RUN_ARGUMENTS);
Run dynse_run_base, dynse_run_avx2, dynse_run_avx512;

#endif
