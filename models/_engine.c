/* Inference of a gated Conv-FSENet that never touches what the gates switch off.
 *
 * One thread, no allocation. A call's frames are taken in chunks, and each layer runs over all
 * frames of a chunk before the next begins, so that weights are read from a near cache. In a
 * block, the first 1x1 convolution is a list of dot products, the second a list of scaled
 * additions, over open channels only; a closed channel's row and column are not read. Four frames
 * share a list, the union of theirs, which is little longer than one's, as gates change slowly;
 * what is left over of a chunk, and a frame alone, goes by its own. engine.py has the measurements
 * behind that.
 *
 * Every output is summed in one order whatever the chunk, so any way of cutting a recording gives
 * the same bits. engine.py packs the buffers and documents their layout; sizes are checked here
 * all the same.
 *
 * Vectors are GCC/Clang vector extensions, 16 floats wide, lowered to whatever the machine has;
 * on x86-64 with GCC the step is cloned for AVX-512 and AVX2.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define LAYOUT 2 /* of the buffers; engine.py wants the same */
#define LANES 16
#define PANEL 32 /* columns of a dense layer's weights that lie together */
#define TILE 4   /* frames that share the reading of weights */
#define CHUNK 64 /* frames of a layer before the next layer */
#define MAX_CHANNELS 1024
#define MAX_BANDS 512
#define MAX_TAPS 16
#define LIST_SLACK 8 /* a list is written by eights and read by fours */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t bits __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint8_t bytes __attribute__((vector_size(LANES), aligned(1)));
typedef double wide __attribute__((vector_size(8 * LANES), aligned(8)));
typedef uint16_t eight __attribute__((vector_size(16), aligned(2)));

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#define INLINE static inline __attribute__((always_inline))
/* Or the compiler takes the elements out of the register, one by one, at more cost. */
#define IN_MEMORY(array) __asm__("" : "+m"(array))
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (bits){__VA_ARGS__})
#endif

/* A matrix [n][width] of which LANES columns have few rows that are not zero, in a run: for each
 * such group of columns the first of them and how many. */
typedef struct {
    const int32_t *first, *count;
    size_t groups, rows;
} Banded;

typedef struct {
    int32_t bins, bands, residual, hidden, gate_hidden, taps, blocks, gated;
    const int32_t *dilations; /* [blocks] */
    const int32_t *windows;   /* [blocks] frames that a gating subnet pools over */
    Banded pool, spread;      /* bins -> bands, bands -> bins */
} Shape;

/* The order of the packed weights; padded widths are multiples of LANES. "Panels" of a matrix
 * [n][width] are [n][PANEL] pieces one after the other; an odd vector at the end joins the last. */
typedef struct {
    const float *squeeze;      /* [gate_hidden][residual] */
    const float *hidden_bias;  /* [gate_hidden] */
    const float *expand;       /* panels of [gate_hidden][hidden] */
    const float *score_bias;   /* [hidden] */
    const float *inward;       /* [hidden][residual] */
    const float *inward_bias;  /* [hidden] */
    const float *inward_slope; /* [hidden] */
    const float *depthwise;    /* [taps][hidden] */
    const float *depthwise_bias, *depthwise_slope;
    const float *outward;      /* [hidden][residual] */
    const float *outward_bias; /* [residual] */
} Block;

/* What a chunk needs beside the state; `width` of each is a frame's. */
typedef struct {
    float *power;   /* bins, padded */
    float *in;      /* 2 * bands: features; at the end the bands' mask */
    float *x;       /* residual */
    float *h;       /* hidden: before and after the depthwise convolution */
    float *history; /* hidden: gated activations that the depthwise convolution remembers */
    float *score;   /* hidden: of the gates */
    float *units;   /* gate_hidden */
    uint16_t *open; /* hidden + LIST_SLACK: the open channels of a tile or of a frame alone */
    int count[CHUNK]; /* how many, at the first frame of a tile or at a frame alone */
    uint16_t all[MAX_CHANNELS];
} Scratch;

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
INLINE vec splat(float x) { return x - (vec){0}; }
INLINE vec choose(bits which, vec yes, vec no) {
    return (vec)((which & (bits)yes) | (~which & (bits)no));
}
INLINE vec prelu(vec x, vec slope) { return choose(x > 0, x, slope * x); }

/* Sums over the lanes of sixteen vectors, as a transposition: 15 additions instead of 64. Four
 * vectors make one whose quarter q holds four part sums of vector q; four of those, the totals of
 * vector q of group j in lane 4 q + j. */
INLINE vec quarters(vec a, vec b, vec c, vec d) {
    vec ab = SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
             SHUFFLE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    vec cd = SHUFFLE(c, d, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
             SHUFFLE(c, d, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    return SHUFFLE(ab, cd, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
           SHUFFLE(ab, cd, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}
INLINE vec totals(const vec *g) {
    vec p = SHUFFLE(g[0], g[1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) +
            SHUFFLE(g[0], g[1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    vec q = SHUFFLE(g[2], g[3], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) +
            SHUFFLE(g[2], g[3], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    return SHUFFLE(p, q, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
           SHUFFLE(p, q, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
}

#define ROUND 12582912.0f /* adding it rounds to whole numbers, which its last bits then hold */

/* 2^(n + f) for whole n and |f| <= 0.6, n = shifted - ROUND. */
INLINE vec two_to(vec shifted, vec f) {
    vec p = 1.5252734e-5f + (vec){0};
    p = p * f + 1.5403530e-4f;
    p = p * f + 1.3333558e-3f;
    p = p * f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.0f;
    bits scale = ((bits)shifted - (bits)splat(ROUND) + 127) << 23;
    return p * (vec)scale;
}

/* x^c for x >= 0 and 0 < c <= 1 to about the last place; 0 below the smallest normal number.
 * c is high + low; high has so few digits that its product with an exponent is exact. */
INLINE vec power_of(vec x, float high, float low) {
    bits i = (bits)x;
    bits e = (i - (bits)splat(0.70710678f)) >> 23;
    vec m = (vec)(i - (e << 23)) - 1; /* x = 2^e (1 + m), 1 + m in [0.707, 1.414) */
    vec s = m / (m + 2), q = s * s;   /* log2(1 + m) = 2 / ln(2) artanh(s) */
    vec log = 0.32059890f + q * 0.26230819f;
    log = 0.41219858f + q * log;
    log = 0.57707802f + q * log;
    log = 0.96179669f + q * log;
    log = s * (2.8853901f + q * log);
    vec whole = __builtin_convertvector(e, vec);
    vec exact = high * whole, rest = low * whole + (high + low) * log;
    vec shifted = exact + rest + ROUND;
    vec y = two_to(shifted, (exact - (shifted - ROUND)) + rest);
    return choose(x >= 1.17549435e-38f, y, (vec){0});
}

INLINE vec sigmoid(vec x) {
    vec y = x * -1.4426950f;
    y = choose(y > 120, splat(120), y);
    y = choose(y < -120, splat(-120), y);
    vec shifted = y + ROUND;
    return 1 / (1 + two_to(shifted, y - (shifted - ROUND)));
}

/* Columns of `panels` panels, `vecs` vectors each, for T frames: y = bias + x rows. */
INLINE void dense_piece(const int T, const int panels, const int vecs, float *y, size_t y_step,
                        const float *x, size_t x_step, const float *bias, const float *rows,
                        size_t n) {
    vec sum[12];
    for (int p = 0; p < panels; p++)
        for (int t = 0; t < T; t++)
            for (int j = 0; j < vecs; j++)
                sum[(p * T + t) * vecs + j] = load(bias + p * PANEL + j * LANES);
    for (size_t i = 0; i < n; i++)
        for (int p = 0; p < panels; p++)
            for (int j = 0; j < vecs; j++) {
                vec v = load(rows + (p * n + i) * vecs * LANES + j * LANES);
                for (int t = 0; t < T; t++)
                    sum[(p * T + t) * vecs + j] += splat(x[t * x_step + i]) * v;
            }
    for (int p = 0; p < panels; p++)
        for (int t = 0; t < T; t++)
            for (int j = 0; j < vecs; j++)
                store(y + t * y_step + p * PANEL + j * LANES, sum[(p * T + t) * vecs + j]);
}

/* y[t][0..width) = bias + sum_i x[t][i] rows[i] for N frames. A panel stays in the first-level
 * cache for all of them; a frame alone takes four panels at once, or it would wait for sums. */
INLINE void dense(int N, float *y, size_t y_step, const float *x, size_t x_step,
                  const float *bias, const float *rows, size_t n, int width) {
    /* The last panel has one vector or, as one alone would wait for its sums, three. */
    const int odd = width % PANEL ? width > PANEL ? 3 : 1 : 0;
    const int panels = (width - odd * LANES) / PANEL, whole = N - N % TILE;
    for (int p = 0; p < panels; p++)
        for (int t = 0; t < whole; t += TILE)
            dense_piece(TILE, 1, 2, y + t * y_step + p * PANEL, y_step, x + t * x_step, x_step,
                        bias + p * PANEL, rows + p * n * PANEL, n);
    for (int t = whole; t < N; t++) {
        int p = 0;
        for (; p + 4 <= panels; p += 4)
            dense_piece(1, 4, 2, y + t * y_step + p * PANEL, y_step, x + t * x_step, x_step,
                        bias + p * PANEL, rows + p * n * PANEL, n);
        for (; p < panels; p++)
            dense_piece(1, 1, 2, y + t * y_step + p * PANEL, y_step, x + t * x_step, x_step,
                        bias + p * PANEL, rows + p * n * PANEL, n);
    }
    if (!odd) return;
    y += panels * PANEL, bias += panels * PANEL, rows += panels * n * PANEL;
    for (int t = 0, frames; t < N; t += frames) {
        frames = t < whole ? TILE : 1;
        float *to = y + t * y_step;
        const float *from = x + t * x_step;
        if (odd == 3 && frames == TILE)
            dense_piece(TILE, 1, 3, to, y_step, from, x_step, bias, rows, n);
        else if (odd == 3)
            dense_piece(1, 1, 3, to, y_step, from, x_step, bias, rows, n);
        else if (frames == TILE)
            dense_piece(TILE, 1, 1, to, y_step, from, x_step, bias, rows, n);
        else
            dense_piece(1, 1, 1, to, y_step, from, x_step, bias, rows, n);
    }
}

/* Dot products of x with the rows of n channels (list padded to fours): y[channel]. */
INLINE void dots(float *y, const float *x, const float *rows, size_t R, const uint16_t *open,
                 int n) {
    for (int k = 0; k < n; k += LANES) {
        vec group[4] = {{0}};
        for (int j = 0; j < 4 && k + 4 * j < n; j++) {
            const uint16_t *c = open + k + 4 * j;
            const float *r0 = rows + c[0] * R, *r1 = rows + c[1] * R;
            const float *r2 = rows + c[2] * R, *r3 = rows + c[3] * R;
            vec a = {0}, b = {0}, d = {0}, e = {0};
            for (size_t at = 0; at < R; at += LANES) {
                vec v = load(x + at);
                a += v * load(r0 + at);
                b += v * load(r1 + at);
                d += v * load(r2 + at);
                e += v * load(r3 + at);
            }
            group[j] = quarters(a, b, d, e);
        }
        float sum[LANES];
        store(sum, totals(group));
        IN_MEMORY(sum);
        for (int j = 0; j < 4 && k + 4 * j < n; j++)
            for (int q = 0; q < 4; q++) y[open[k + 4 * j + q]] = sum[4 * q + j];
    }
}

/* The same for four frames that share the list. */
INLINE void dots_tile(float *y, size_t y_step, const float *x, const float *rows, size_t R,
                      const uint16_t *open, int n) {
    for (int k = 0; k < n; k += 4) {
        const uint16_t *c = open + k;
        vec group[TILE], sums[TILE][4] = {{{0}}};
        for (size_t at = 0; at < R; at += LANES)
            for (int q = 0; q < 4; q++) {
                vec w = load(rows + c[q] * R + at);
                for (int t = 0; t < TILE; t++) sums[t][q] += load(x + t * R + at) * w;
            }
        for (int t = 0; t < TILE; t++)
            group[t] = quarters(sums[t][0], sums[t][1], sums[t][2], sums[t][3]);
        float sum[LANES];
        store(sum, totals(group));
        IN_MEMORY(sum);
        for (int t = 0; t < TILE; t++)
            for (int q = 0; q < 4; q++) y[t * y_step + c[q]] = sum[4 * q + t];
    }
}

/* x[0..vecs) += bias + sum over the open channels of h[channel] rows[channel], for T frames. */
INLINE void add_piece(const int T, const int vecs, float *x, const float *h, size_t h_step,
                      const float *bias, const float *rows, size_t R, const uint16_t *open,
                      int n) {
    vec sum[16];
    const float *frame[TILE];
    for (int t = 0; t < T; t++) {
        frame[t] = h + t * h_step;
        for (int j = 0; j < vecs; j++) sum[t * vecs + j] = load(bias + j * LANES);
    }
    for (int k = 0; k < n; k++) {
        const size_t c = open[k];
        const float *row = rows + c * R;
        for (int j = 0; j < vecs; j++) {
            vec w = load(row + j * LANES);
            for (int t = 0; t < T; t++) sum[t * vecs + j] += splat(frame[t][c]) * w;
        }
    }
    for (int t = 0; t < T; t++)
        for (int j = 0; j < vecs; j++) {
            float *p = x + t * R + j * LANES;
            store(p, load(p) + sum[t * vecs + j]);
        }
}
INLINE void add_rows(const int T, float *x, const float *h, size_t h_step, const float *bias,
                     const float *rows, size_t R, const uint16_t *open, int n) {
    size_t at = 0;
    if (T == 1)
        for (; at + 8 * LANES <= R; at += 8 * LANES)
            add_piece(T, 8, x + at, h, h_step, bias + at, rows + at, R, open, n);
    for (; at + 4 * LANES <= R; at += 4 * LANES)
        add_piece(T, 4, x + at, h, h_step, bias + at, rows + at, R, open, n);
    for (; at < R; at += LANES)
        add_piece(T, 1, x + at, h, h_step, bias + at, rows + at, R, open, n);
}

static uint16_t positions[256][8]; /* of the bits set in a byte; filled when the module loads */
static uint8_t how_many[256];

/* Channels that are open in any of the frames, padded to whole groups of four with the first;
 * returns how many. */
INLINE int list_open(uint16_t *open, const uint8_t *gates, size_t step, int frames, int C) {
    int n = 0;
    for (int c = 0; c < C; c += 8) {
        uint64_t word = 0;
        for (int t = 0; t < frames; t++) {
            uint64_t of_frame;
            memcpy(&of_frame, gates + t * step + c, 8);
            word |= of_frame;
        }
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = __builtin_bswap64(word);
#endif
        const int byte = (int)((word * 0x0102040810204080u) >> 56);
        eight at;
        memcpy(&at, positions[byte], 16);
        at += (uint16_t)c;
        memcpy(open + n, &at, 16);
        n += how_many[byte];
    }
    for (int k = n; k % 4; k++) open[k] = open[0];
    return n;
}

/* Gates of N frames: pooled hidden units -> scores -> bytes and lists. */
INLINE void run_gates(int N, const Shape *s, const Block *w, int window, int64_t clock,
                      float *ring, double *sums, Scratch *m, uint8_t *gates, float *scores, size_t step, int force_open) {
    const size_t R = s->residual, C = s->hidden, H = s->gate_hidden;
    for (int t = 0; t < N; t++) {
        if (N - t < TILE)
            dots(m->units + t * H, m->x + t * R, w->squeeze, R, m->all, (int)H);
        else {
            dots_tile(m->units + t * H, H, m->x + t * R, w->squeeze, R, m->all, (int)H);
            t += TILE - 1;
        }
    }
    const vec share = splat(1 / (float)window);
    int slot = (int)(clock % window);
    for (int t = 0; t < N; t++) {
        for (size_t at = 0; at < H; at += LANES) {
            float *old = ring + slot * H + at, *units = m->units + t * H + at;
            vec now = load(units);
            /* A running sum of float32 in double is exact save for absurd ranges. */
            wide sum = *(wide *)(sums + at) + __builtin_convertvector(now, wide) -
                       __builtin_convertvector(load(old), wide);
            *(wide *)(sums + at) = sum;
            store(old, now);
            store(units, prelu(__builtin_convertvector(sum, vec) * share +
                               load(w->hidden_bias + at), (vec){0}));
        }
        slot = slot + 1 == window ? 0 : slot + 1;
    }
    dense(N, m->score, C, m->units, H, w->score_bias, w->expand, H, (int)C);
    for (int t = 0; t < N; t++) {
        float *score = m->score + t * C;
        uint8_t *row = gates + t * step;
        if (scores) memcpy(scores + t * step, score, sizeof(float) * C);
        if (force_open)
            for (size_t c = 0; c < C; c++) score[c] = 1;
        for (size_t c = 0; c < C; c += LANES) {
            bits yes = (load(score + c) > 0) & 1;
            *(bytes *)(row + c) = __builtin_convertvector(yes, bytes);
        }
    }
}

/* Gated activations and the depthwise convolution of T frames, in place in their rows of `h`.
 * `past` are the rows that the taps of a frame read, the last of them its own. */
INLINE void depthwise(const int T, const int taps, float *h, float *const (*past)[MAX_TAPS],
                      const float *score, const Block *w, size_t C) {
    for (size_t at = 0; at < C; at += LANES) {
        const vec in_bias = load(w->inward_bias + at), in_slope = load(w->inward_slope + at);
        const vec out_bias = load(w->depthwise_bias + at), out_slope = load(w->depthwise_slope + at);
        for (int t = 0; t < T; t++) {
            const bits is_open = load(score + t * C + at) > 0;
            vec v = prelu(load(h + t * C + at) + in_bias, in_slope);
            store(past[t][taps - 1] + at, choose(is_open, v, (vec){0}));
            v = out_bias;
            for (int tap = 0; tap < taps; tap++)
                v += load(past[t][tap] + at) * load(w->depthwise + tap * C + at);
            store(h + t * C + at, choose(is_open, prelu(v, out_slope), (vec){0}));
        }
    }
}

/* One block for the N frames of a chunk; gates and scores are those of the first, `step` apart. */
INLINE void run_block(int N, const Shape *s, const Block *w, int dilation, int window,
                      int64_t clock, float *pooling, double *sums, float *history,
                      Scratch *m, uint8_t *gates, float *scores, size_t step,
                      int force_open) {
    const size_t R = s->residual, C = s->hidden;
    const int taps = s->taps, reach = (taps - 1) * dilation;
    if (s->gated)
        run_gates(N, s, w, window, clock, pooling, sums, m, gates, scores, step, force_open);

    const size_t stride = C + LIST_SLACK;
    for (int t = 0, frames; t < N; t += frames) {
        frames = N - t < TILE ? 1 : TILE;
        uint16_t *open = s->gated ? m->open + t * stride : m->all;
        if (s->gated) m->count[t] = list_open(open, gates + t * step, step, frames, (int)C);
        const int n = s->gated ? m->count[t] : (int)C;
        if (frames == TILE)
            dots_tile(m->h + t * C, C, m->x + t * R, w->inward, R, open, n);
        else
            dots(m->h + t * C, m->x + t * R, w->inward, R, open, n);
    }
    for (int t = 0, frames; t < N; t += frames) {
        frames = N - t < TILE ? 1 : TILE;
        float *past[TILE][MAX_TAPS];
        for (int i = 0; i < frames; i++)
            for (int tap = 0; tap < taps; tap++) {
                const int from = t + i - (taps - 1 - tap) * dilation;
                past[i][tap] = from >= 0 ? m->history + from * C
                                         : history + (size_t)((clock + reach + from) % reach) * C;
            }
        float *h = m->h + t * C;
        const float *score = m->score + t * C;
        if (taps == 3 && frames == TILE)
            depthwise(TILE, 3, h, past, score, w, C);
        else if (taps == 3)
            depthwise(1, 3, h, past, score, w, C);
        else
            for (int i = 0; i < frames; i++)
                depthwise(1, taps, h + i * C, past + i, score + i * C, w, C);
    }
    for (int t = N > reach ? N - reach : 0; t < N; t++)
        memcpy(history + (size_t)((clock + t) % reach) * C, m->history + t * C, sizeof(float) * C);
    for (int t = 0, frames; t < N; t += frames) {
        frames = N - t < TILE ? 1 : TILE;
        const uint16_t *open = s->gated ? m->open + t * stride : m->all;
        const int n = s->gated ? m->count[t] : (int)C;
        if (frames == TILE)
            add_rows(TILE, m->x + t * R, m->h + t * C, C, w->outward_bias, w->outward, R, open, n);
        else
            add_rows(1, m->x + t * R, m->h + t * C, C, w->outward_bias, w->outward, R, open, n);
    }
}

static const float *take(const float **at, size_t n) {
    const float *here = *at;
    *at += n;
    return here;
}

/* y[t] = x[t] matrix for T frames; y may be one LANES shorter than its rows, `width` says so. */
INLINE void banded_piece(const int T, const Banded *m, float *y, size_t y_step, size_t width,
                         const float *x, size_t x_step, const float *rows) {
    for (size_t g = 0; g < m->groups; g++) {
        vec sum[TILE];
        for (int t = 0; t < T; t++) sum[t] = (vec){0};
        for (int i = 0; i < m->count[g]; i++, rows += LANES) {
            vec w = load(rows);
            for (int t = 0; t < T; t++) sum[t] += splat(x[t * x_step + m->first[g] + i]) * w;
        }
        for (int t = 0; t < T; t++) {
            float *to = y + t * y_step + g * LANES;
            if ((g + 1) * LANES <= width)
                store(to, sum[t]);
            else
                memcpy(to, &sum[t], sizeof(float) * (width - g * LANES));
        }
    }
}
INLINE void banded(int N, const Banded *m, float *y, size_t y_step, size_t width, const float *x,
                   size_t x_step, const float *rows) {
    for (int t = 0, frames; t < N; t += frames) {
        frames = N - t < TILE ? 1 : TILE;
        if (frames == TILE)
            banded_piece(TILE, m, y + t * y_step, y_step, width, x + t * x_step, x_step, rows);
        else
            banded_piece(1, m, y + t * y_step, y_step, width, x + t * x_step, x_step, rows);
    }
}

/* |X|^2 of a frame, zeros behind it up to whole LANES. */
INLINE void power_spectrum(const float *spectrum, int bins, float *power) {
    int f = 0;
    for (; f + LANES <= bins; f += LANES) {
        vec a = load(spectrum + 2 * f), b = load(spectrum + 2 * f + LANES);
        a *= a, b *= b;
        store(power + f,
              SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
                  SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31));
    }
    if (f == bins) return;
    store(power + f, (vec){0});
    for (; f < bins; f++) {
        float re = spectrum[2 * f], im = spectrum[2 * f + 1];
        re *= re, im *= im;
        power[f] = re + im;
    }
}

/* Level-free features of a frame, in place: from [bands] power to [bands] compressed spectrum and
 * [bands] noise floor. */
INLINE void features(const Shape *s, const float *used, const float *constants, float *state,
                     float *out) {
    const int b = s->bands;
    float *floor_ = state + 2;
    vec sum = {0};
    for (int i = 0; i < b; i += LANES) {
        vec c = power_of(load(out + i), constants[0], constants[1]);
        store(out + i, c);
        sum += c * load(used + i);
    }
    float mean = 0;
    for (int i = 0; i < LANES; i++) mean += sum[i];
    if (mean > 0) { /* digital silence leaves the level and the floor alone */
        const float slow = constants[2], rise = constants[3], fall = constants[4];
        state[0] += 1;
        const float rate = 1 / state[0];
        state[1] += (rate > slow ? rate : slow) * (mean - state[1]);
        const vec up = splat(state[0] <= 1 ? 1 : rise), down = splat(state[0] <= 1 ? 1 : fall);
        for (int i = 0; i < b; i += LANES) {
            vec c = load(out + i), old = load(floor_ + i);
            store(floor_ + i, old + choose(c < old, down, up) * (c - old));
        }
    }
    const vec scale = splat(1 / (state[1] > 0 ? state[1] : 1.0f));
    for (int i = 0; i < b; i += LANES) {
        store(out + i, load(out + i) * scale);
        store(out + b + i, load(floor_ + i) * scale);
    }
}

/* N <= CHUNK frames. `state` is [heard, level, floor[bands], per block pooling and history]. */
INLINE void run_frames(int N, const Shape *s, const float *weights, float *state, double *sums,
                       int64_t clock, Scratch *m, const float *spectrum, float *mask,
                       uint8_t *gates, float *scores, int force_open) {
    const size_t b = s->bands, R = s->residual, C = s->hidden, H = s->gate_hidden;
    const float *at = weights;
    const float *pool = take(&at, s->pool.rows * LANES);
    const float *used = take(&at, b); /* weight of a band in the level: 1/n or 0 */
    const float *constants = take(&at, LANES);
    const size_t bins = s->bins, whole = (bins + LANES - 1) / LANES * LANES;
    for (int t = 0; t < N; t++)
        power_spectrum(spectrum + 2 * t * bins, s->bins, m->power + t * whole);
    banded(N, &s->pool, m->in, 2 * b, b, m->power, whole, pool);
    for (int t = 0; t < N; t++) features(s, used, constants, state, m->in + t * 2 * b);

    const float *front = take(&at, 2 * b * R), *front_bias = take(&at, R), *slope = take(&at, R);
    dense(N, m->x, R, m->in, 2 * b, front_bias, front, 2 * b, (int)R);
    for (int t = 0; t < N; t++)
        for (size_t i = 0; i < R; i += LANES) {
            float *p = m->x + t * R + i;
            store(p, prelu(load(p), load(slope + i)));
        }

    const size_t step = s->gated ? (size_t)s->blocks * C : 0;
    float *memory = state + 2 + b;
    if (!s->gated)
        for (size_t i = 0; i < N * C; i++) m->score[i] = 1;
    for (int i = 0; i < s->blocks; i++) {
        Block w;
        w.squeeze = take(&at, R * H);
        w.hidden_bias = take(&at, H);
        w.expand = take(&at, H * C);
        w.score_bias = take(&at, C);
        w.inward = take(&at, C * R);
        w.inward_bias = take(&at, C);
        w.inward_slope = take(&at, C);
        w.depthwise = take(&at, s->taps * C);
        w.depthwise_bias = take(&at, C);
        w.depthwise_slope = take(&at, C);
        w.outward = take(&at, C * R);
        w.outward_bias = take(&at, R);
        float *pooling = memory, *history = memory + s->windows[i] * H;
        memory = history + (size_t)(s->taps - 1) * s->dilations[i] * C;
        run_block(N, s, &w, s->dilations[i], s->windows[i], clock, pooling, sums + i * H, history,
                  m, gates + (s->gated ? i * C : 0), scores ? scores + i * C : NULL, step,
                  force_open);
    }

    const float *back_bias = take(&at, b);
    dense(N, m->in, b, m->x, R, back_bias, take(&at, R * b), R, (int)b);
    for (size_t i = 0; i < N * b; i += LANES) store(m->in + i, sigmoid(load(m->in + i)));
    banded(N, &s->spread, mask, bins, bins, m->in, b, at);
}

CLONES static void run(int N, const Shape *s, const float *weights, float *state, double *sums,
                       int64_t clock, Scratch *m, const float *spectrum, float *mask,
                       uint8_t *gates, float *scores, int force_open) {
    run_frames(N, s, weights, state, sums, clock, m, spectrum, mask, gates, scores, force_open);
}

static size_t weight_count(const Shape *s) {
    const size_t b = s->bands, R = s->residual, C = s->hidden, H = s->gate_hidden;
    const size_t block = R * H + H + H * C + C + 2 * C * R + (4 + s->taps) * C + R;
    return (s->pool.rows + s->spread.rows) * LANES + b + LANES + 2 * b * R + 2 * R +
           s->blocks * block + b + R * b;
}

static size_t state_count(const Shape *s) {
    size_t n = 2 + s->bands;
    for (int i = 0; i < s->blocks; i++)
        n += (size_t)(s->taps - 1) * s->dilations[i] * s->hidden +
             (size_t)s->windows[i] * s->gate_hidden;
    return n;
}

/* Lay the scratch out in `base`, if given; return how many floats it takes. */
static size_t lay_out(const Shape *s, Scratch *m, float *base) {
    const size_t C = s->hidden;
    const size_t floats[] = {s->spread.groups * LANES, 2 * (size_t)s->bands, (size_t)s->residual,
                             C, C, C, (size_t)s->gate_hidden, (C + LIST_SLACK) / 2};
    float **rows[] = {&m->power, &m->in, &m->x, &m->h,
                      &m->history, &m->score, &m->units, (float **)&m->open};
    size_t n = 0;
    for (int i = 0; i < 8; i++) {
        if (base) *rows[i] = base + n;
        n += floats[i] * CHUNK;
    }
    return n;
}

static int read_banded(Banded *m, const int32_t *ints, size_t groups, int32_t n) {
    m->first = ints, m->count = ints + groups, m->groups = groups, m->rows = 0;
    for (size_t g = 0; g < groups; g++) {
        if (m->first[g] < 0 || m->count[g] < 0 || m->first[g] > n - m->count[g]) return 0;
        m->rows += (size_t)m->count[g];
    }
    return 1;
}

static int read_shape(Shape *s, const int32_t *ints, size_t count) {
    if (count < 8) return 0;
    s->bins = ints[0], s->bands = ints[1], s->residual = ints[2], s->hidden = ints[3];
    s->gate_hidden = ints[4], s->taps = ints[5], s->blocks = ints[6], s->gated = ints[7];
    if (s->bins < 1 || s->blocks < 1 || s->blocks > 256 || s->bands < LANES ||
        s->bands > MAX_BANDS || s->residual < LANES || s->residual > MAX_CHANNELS ||
        s->hidden < LANES || s->hidden > MAX_CHANNELS || s->gate_hidden < LANES ||
        s->gate_hidden > MAX_CHANNELS || s->taps < 2 || s->taps > MAX_TAPS ||
        (s->bands | s->residual | s->hidden | s->gate_hidden) % LANES)
        return 0;
    const size_t pools = s->bands / LANES, spreads = ((size_t)s->bins + LANES - 1) / LANES;
    if (count != 8 + 2 * (s->blocks + pools + spreads)) return 0;
    s->dilations = ints + 8, s->windows = s->dilations + s->blocks;
    for (int i = 0; i < s->blocks; i++)
        if (s->dilations[i] < 1 || s->dilations[i] > 4096 || s->windows[i] < 1 ||
            s->windows[i] > 65536)
            return 0;
    ints = s->windows + s->blocks;
    return read_banded(&s->pool, ints, pools, s->bins) &&
           read_banded(&s->spread, ints + 2 * pools, spreads, s->bands);
}

PyDoc_STRVAR(step_doc,
             "step(shape, weights, memory, sums, clock, scratch, spectrum, mask, gates, scores, "
             "force_open)\n\n"
             "Run len(mask) frames; memory, sums, clock, scratch, mask, gates and scores (or None) "
             "are written.");

static PyObject *step(PyObject *self, PyObject *args) {
    enum { SHAPE, WEIGHTS, MEMORY, SUMS, CLOCK, SCRATCH, SPECTRUM, MASK, GATES, BUFFERS };
    Py_buffer in[BUFFERS], scores = {0};
    PyObject *scores_object;
    int force_open;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*w*w*w*w*y*w*w*Op", &in[SHAPE], &in[WEIGHTS], &in[MEMORY],
                          &in[SUMS], &in[CLOCK], &in[SCRATCH], &in[SPECTRUM], &in[MASK],
                          &in[GATES], &scores_object, &force_open))
        return NULL;
    int ok = scores_object == Py_None ||
             PyObject_GetBuffer(scores_object, &scores, PyBUF_CONTIG) == 0;
    if (ok) {
        Shape s;
        Scratch m;
        ok = read_shape(&s, in[SHAPE].buf, (size_t)in[SHAPE].len / 4);
        const size_t frames = ok ? (size_t)in[MASK].len / 4 / s.bins : 0;
        const size_t channels = ok && s.gated ? (size_t)s.blocks * s.hidden : 0;
        ok = ok && (size_t)in[WEIGHTS].len == 4 * weight_count(&s) &&
             (size_t)in[MEMORY].len == 4 * state_count(&s) &&
             (size_t)in[SUMS].len == 8 * (size_t)s.blocks * s.gate_hidden && in[CLOCK].len == 8 &&
             (size_t)in[SCRATCH].len == 4 * lay_out(&s, &m, in[SCRATCH].buf) &&
             (size_t)in[MASK].len == frames * s.bins * 4 &&
             (size_t)in[SPECTRUM].len == frames * s.bins * 8 &&
             (size_t)in[GATES].len == frames * channels &&
             (!scores.buf || (size_t)scores.len == frames * channels * 4);
        if (ok) {
            Py_BEGIN_ALLOW_THREADS
            int64_t *now = in[CLOCK].buf;
            for (int c = 0; c < MAX_CHANNELS; c++) m.all[c] = (uint16_t)c;
            for (size_t l = 0; l < frames; l += CHUNK) {
                const int n = frames - l < CHUNK ? (int)(frames - l) : CHUNK;
                run(n, &s, in[WEIGHTS].buf, in[MEMORY].buf, in[SUMS].buf, *now, &m,
                    (const float *)in[SPECTRUM].buf + l * s.bins * 2,
                    (float *)in[MASK].buf + l * s.bins, (uint8_t *)in[GATES].buf + l * channels,
                    scores.buf ? (float *)scores.buf + l * channels : NULL, force_open);
                *now += n;
            }
            Py_END_ALLOW_THREADS
        } else {
            PyErr_SetString(PyExc_ValueError, "buffers do not fit the network's shape");
        }
    }
    for (int i = 0; i < BUFFERS; i++) PyBuffer_Release(&in[i]);
    if (scores.obj) PyBuffer_Release(&scores);
    if (!ok) return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(scratch_doc, "scratch_size(shape)\n\nFloats that `step` wants for its scratch.");

static PyObject *scratch_size(PyObject *self, PyObject *args) {
    Py_buffer shape;
    Shape s;
    Scratch m;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*", &shape)) return NULL;
    const int ok = read_shape(&s, shape.buf, (size_t)shape.len / 4);
    const size_t size = ok ? lay_out(&s, &m, NULL) : 0;
    PyBuffer_Release(&shape);
    if (!ok) return PyErr_Format(PyExc_ValueError, "not a network's shape");
    return PyLong_FromSize_t(size);
}

static PyMethodDef methods[] = {{"step", step, METH_VARARGS, step_doc},
                                {"scratch_size", scratch_size, METH_VARARGS, scratch_doc},
                                {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_engine", "Compiled step of a gated Conv-FSENet.", -1, methods,
    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__engine(void) {
    memset(how_many, 0, sizeof how_many);
    for (int byte = 0; byte < 256; byte++)
        for (int bit = 0; bit < 8; bit++)
            if (byte >> bit & 1) positions[byte][how_many[byte]++] = (uint16_t)bit;
    PyObject *made = PyModule_Create(&module);
    if (made && PyModule_AddIntConstant(made, "LAYOUT", LAYOUT) < 0) Py_CLEAR(made);
    return made;
}
