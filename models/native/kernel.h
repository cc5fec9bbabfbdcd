/* The step of a gated Conv-FSENet, for the instruction set that its includer chose.
 *
 * A call's frames are taken in chunks, and each block runs over all frames of a chunk before the
 * next begins, so that its weights are read from a near cache. The first 1x1 convolution is a list
 * of dot products, the second a list of scaled additions, over open channels only; a closed
 * channel's row and column are not read. Four frames share a list, the union of theirs, which is
 * little longer than one's, as gates change slowly; what is left over of a chunk, and a frame
 * alone, goes by its own. ../engine.py has the measurements behind that.
 *
 * Every output is summed in one order whatever the chunk, so any way of cutting a recording gives
 * the same bits.
 *
 * Vectors are GCC/Clang vector extensions, as wide as the includer says (WIDTH floats): wider ones
 * would be split badly, and target_clones would split all of them for the file's own set.
 */
#include "engine.h"

#include <string.h>

#define PANEL 32 /* columns of a dense layer's weights that lie together */

typedef float vec __attribute__((vector_size(4 * WIDTH), aligned(4)));
typedef int32_t bits __attribute__((vector_size(4 * WIDTH), aligned(4)));
typedef uint8_t bytes __attribute__((vector_size(WIDTH), aligned(1)));
typedef uint16_t eight __attribute__((vector_size(16), aligned(2)));

/* Sums that are held in registers at a time: AVX-512 has 32 registers, AVX2 and SSE2 16. */
#define ROOM (WIDTH == 16 ? 16 : 8)
#define MANY (ROOM / 2) /* frames that share the reading of a dense layer's weights */

#define INLINE static inline __attribute__((always_inline))
/* Or the compiler takes the elements out of the register, one by one, at more cost. */
#define IN_MEMORY(array) __asm__("" : "+m"(array))
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (bits){__VA_ARGS__})
#endif

/* The order of the packed weights; padded widths are multiples of LANES. "Panels" of a matrix
 * [n][width] are [n][PANEL] pieces one after the other; the last may be LANES wide. */
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

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
INLINE vec splat(float x) { return x - (vec){0}; }
INLINE vec choose(bits which, vec yes, vec no) {
    return (vec)((which & (bits)yes) | (~which & (bits)no));
}
INLINE vec prelu(vec x, vec slope) { return choose(x > 0, x, slope * x); }

/* Totals over the lanes of sixteen vectors, in four groups, as transpositions: few additions.
 * That of vector q of group g goes to y[PLACE(g, q)]. */
#if WIDTH == 16
#define PLACE(g, q) (4 * (q) + (g))
typedef vec Group; /* quarter q holds four part sums of vector q */
INLINE Group gather(vec a, vec b, vec c, vec d) {
    vec ab = SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
             SHUFFLE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    vec cd = SHUFFLE(c, d, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
             SHUFFLE(c, d, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    return SHUFFLE(ab, cd, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
           SHUFFLE(ab, cd, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}
INLINE void totals(float *y, const Group *g) {
    vec p = SHUFFLE(g[0], g[1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) +
            SHUFFLE(g[0], g[1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    vec q = SHUFFLE(g[2], g[3], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) +
            SHUFFLE(g[2], g[3], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    store(y, SHUFFLE(p, q, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
                 SHUFFLE(p, q, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31));
}
#else
#define PLACE(g, q) (4 * (g) + (q))
typedef float Group __attribute__((vector_size(16))); /* lane q is the total of vector q */
INLINE Group gather(vec a, vec b, vec c, vec d) {
#if WIDTH == 8
    vec ab = SHUFFLE(a, b, 0, 8, 1, 9, 4, 12, 5, 13) + SHUFFLE(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
    vec cd = SHUFFLE(c, d, 0, 8, 1, 9, 4, 12, 5, 13) + SHUFFLE(c, d, 2, 10, 3, 11, 6, 14, 7, 15);
    vec all =
        SHUFFLE(ab, cd, 0, 1, 8, 9, 4, 5, 12, 13) + SHUFFLE(ab, cd, 2, 3, 10, 11, 6, 7, 14, 15);
    Group half[2];
    memcpy(half, &all, sizeof half);
    return half[0] + half[1];
#else
    vec ab = SHUFFLE(a, b, 0, 4, 1, 5) + SHUFFLE(a, b, 2, 6, 3, 7);
    vec cd = SHUFFLE(c, d, 0, 4, 1, 5) + SHUFFLE(c, d, 2, 6, 3, 7);
    return SHUFFLE(ab, cd, 0, 1, 4, 5) + SHUFFLE(ab, cd, 2, 3, 6, 7);
#endif
}
INLINE void totals(float *y, const Group *g) { memcpy(y, g, 4 * sizeof(Group)); }
#endif

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

/* `vecs` vectors of columns out of each of `panels` panels for T frames: y = bias + x rows. */
INLINE void dense_piece(const int T, const int panels, const int vecs, float *y, size_t y_step,
                        const float *x, size_t x_step, const float *bias, const float *rows,
                        size_t n, size_t panel) {
    vec sum[ROOM];
    for (int p = 0; p < panels; p++)
        for (int t = 0; t < T; t++)
            for (int j = 0; j < vecs; j++)
                sum[(p * T + t) * vecs + j] = load(bias + p * panel + j * WIDTH);
    for (size_t i = 0; i < n; i++)
        for (int p = 0; p < panels; p++)
            for (int j = 0; j < vecs; j++) {
                vec v = load(rows + (p * n + i) * panel + j * WIDTH);
                for (int t = 0; t < T; t++)
                    sum[(p * T + t) * vecs + j] += splat(x[t * x_step + i]) * v;
            }
    for (int p = 0; p < panels; p++)
        for (int t = 0; t < T; t++)
            for (int j = 0; j < vecs; j++)
                store(y + t * y_step + p * panel + j * WIDTH, sum[(p * T + t) * vecs + j]);
}

/* y[t][0..width) = bias + sum_i x[t][i] rows[i] for N frames. A panel stays in the first-level
 * cache for all of them; a frame alone takes four panels at once, or it would wait for sums. */
INLINE void dense(int N, float *y, size_t y_step, const float *x, size_t x_step,
                  const float *bias, const float *rows, size_t n, int width) {
    const int panels = width / PANEL;
    int whole = 0;
    for (int at = 0; at < panels * PANEL; at += 2 * WIDTH) {
        const float *columns = rows + at / PANEL * n * PANEL + at % PANEL;
        int t = 0;
        for (; t + MANY <= N; t += MANY)
            dense_piece(MANY, 1, 2, y + t * y_step + at, y_step, x + t * x_step, x_step, bias + at,
                        columns, n, PANEL);
        for (; t + TILE <= N; t += TILE)
            dense_piece(TILE, 1, 2, y + t * y_step + at, y_step, x + t * x_step, x_step, bias + at,
                        columns, n, PANEL);
        whole = t;
    }
    for (int t = whole; t < N && panels; t++)
        for (int in = 0; in < PANEL; in += 2 * WIDTH) {
            int p = 0;
            for (; p + 4 <= panels; p += 4)
                dense_piece(1, 4, 2, y + t * y_step + p * PANEL + in, y_step, x + t * x_step,
                            x_step, bias + p * PANEL + in, rows + p * n * PANEL + in, n, PANEL);
            for (; p < panels; p++)
                dense_piece(1, 1, 2, y + t * y_step + p * PANEL + in, y_step, x + t * x_step,
                            x_step, bias + p * PANEL + in, rows + p * n * PANEL + in, n, PANEL);
        }
    for (int at = panels * PANEL; at < width; at += WIDTH) { /* half a panel, LANES wide */
        const float *columns = rows + panels * n * PANEL + at % PANEL;
        int t = 0;
        for (; t + MANY <= N; t += MANY)
            dense_piece(MANY, 1, 1, y + t * y_step + at, y_step, x + t * x_step, x_step, bias + at,
                        columns, n, LANES);
        for (; t < N; t++)
            dense_piece(1, 1, 1, y + t * y_step + at, y_step, x + t * x_step, x_step, bias + at,
                        columns, n, LANES);
    }
}

/* Dot products of T frames with the rows of n channels (list padded to fours): y[t][channel]. */
INLINE void dots(const int T, float *y, size_t y_step, const float *x, const float *rows, size_t R,
                 const uint16_t *open, int n) {
    const int fours = 4 / T; /* of channels, in a round of four groups */
    const int together = T < ROOM / 4 ? T : ROOM / 4;
    for (int k = 0; k < n; k += 4 * fours) {
        Group group[4] = {{0}};
        for (int four = 0; four < fours && k + 4 * four < n; four++) {
            const uint16_t *c = open + k + 4 * four;
            const float *row[4] = {rows + c[0] * R, rows + c[1] * R, rows + c[2] * R,
                                   rows + c[3] * R};
            for (int first = 0; first < T; first += together) {
                vec sum[ROOM];
                for (int i = 0; i < 4 * together; i++) sum[i] = (vec){0};
                for (size_t at = 0; at < R; at += WIDTH)
                    for (int q = 0; q < 4; q++) {
                        vec w = load(row[q] + at);
                        for (int t = 0; t < together; t++)
                            sum[4 * t + q] += load(x + (first + t) * R + at) * w;
                    }
                for (int t = 0; t < together; t++)
                    group[four * T + first + t] = gather(sum[4 * t], sum[4 * t + 1],
                                                         sum[4 * t + 2], sum[4 * t + 3]);
            }
        }
        float sum[LANES];
        totals(sum, group);
        IN_MEMORY(sum);
        for (int four = 0; four < fours && k + 4 * four < n; four++)
            for (int t = 0; t < T; t++)
                for (int q = 0; q < 4; q++)
                    y[t * y_step + open[k + 4 * four + q]] = sum[PLACE(four * T + t, q)];
    }
}

/* x[0..vecs) += bias + sum over the open channels of h[channel] rows[channel], for T frames. */
INLINE void add_piece(const int T, const int vecs, float *x, const float *h, size_t h_step,
                      const float *bias, const float *rows, size_t R, const uint16_t *open,
                      int n) {
    vec sum[ROOM];
    const float *frame[TILE];
    for (int t = 0; t < T; t++) {
        frame[t] = h + t * h_step;
        for (int j = 0; j < vecs; j++) sum[t * vecs + j] = load(bias + j * WIDTH);
    }
    for (int k = 0; k < n; k++) {
        const size_t c = open[k];
        const float *row = rows + c * R;
        for (int j = 0; j < vecs; j++) {
            vec w = load(row + j * WIDTH);
            for (int t = 0; t < T; t++) sum[t * vecs + j] += splat(frame[t][c]) * w;
        }
    }
    for (int t = 0; t < T; t++)
        for (int j = 0; j < vecs; j++) {
            float *p = x + t * R + j * WIDTH;
            store(p, load(p) + sum[t * vecs + j]);
        }
}
INLINE void add_rows(const int T, float *x, const float *h, size_t h_step, const float *bias,
                     const float *rows, size_t R, const uint16_t *open, int n) {
    const int vecs = T == 1 ? 8 : ROOM / TILE;
    size_t at = 0;
    for (; at + vecs * WIDTH <= R; at += vecs * WIDTH)
        add_piece(T, vecs, x + at, h, h_step, bias + at, rows + at, R, open, n);
    for (; at < R; at += WIDTH)
        add_piece(T, 1, x + at, h, h_step, bias + at, rows + at, R, open, n);
}

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
        memcpy(&at, dynse_positions[byte], 16);
        at += (uint16_t)c;
        memcpy(open + n, &at, 16);
        n += dynse_how_many[byte];
    }
    for (int k = n; k % 4; k++) open[k] = open[0];
    return n;
}

/* Gates of N frames: pooled hidden units -> scores -> bytes and lists. */
INLINE void run_gates(int N, const Shape *s, const Block *w, int window, int64_t clock,
                      float *ring, double *sums, Scratch *m, uint8_t *gates, float *scores,
                      size_t step, int force_open) {
    const size_t R = s->residual, C = s->hidden, H = s->gate_hidden;
    for (int t = 0; t < N; t++) {
        if (N - t < TILE)
            dots(1, m->units + t * H, H, m->x + t * R, w->squeeze, R, m->all, (int)H);
        else {
            dots(TILE, m->units + t * H, H, m->x + t * R, w->squeeze, R, m->all, (int)H);
            t += TILE - 1;
        }
    }
    const float share = 1 / (float)window;
    int slot = (int)(clock % window);
    for (int t = 0; t < N; t++) {
        float *old = ring + slot * H, *units = m->units + t * H;
        for (size_t i = 0; i < H; i++) {
            /* A running sum of float32 in double is exact save for absurd ranges. */
            sums[i] += (double)units[i] - (double)old[i];
            old[i] = units[i];
            const float pooled = (float)sums[i] * share;
            const float unit = (i < (size_t)s->pooled ? pooled : units[i]) + w->hidden_bias[i];
            units[i] = unit > 0 ? unit : 0;
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
        for (size_t c = 0; c < C; c += WIDTH) {
            bits yes = (load(score + c) > 0) & 1;
            *(bytes *)(row + c) = __builtin_convertvector(yes, bytes);
        }
    }
}

/* Gated activations and the depthwise convolution of T frames, in place in their rows of `h`.
 * `past` are the rows that the taps of a frame read, the last of them its own. */
INLINE void depthwise(const int T, const int taps, float *h, float *const (*past)[MAX_TAPS],
                      const float *score, const Block *w, size_t C) {
    for (size_t at = 0; at < C; at += WIDTH) {
        const vec in_bias = load(w->inward_bias + at), in_slope = load(w->inward_slope + at);
        const vec out_bias = load(w->depthwise_bias + at);
        const vec out_slope = load(w->depthwise_slope + at);
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

    for (int t = 0, frames; t < N; t += frames) {
        frames = N - t < TILE ? 1 : TILE;
        float *x = m->x + t * R, *past[TILE][MAX_TAPS];
        const float *score = m->score + t * C;
        const uint16_t *open = m->all;
        int n = (int)C;
        if (s->gated) n = list_open(m->open, gates + t * step, step, frames, n), open = m->open;
        for (int i = 0; i < frames; i++)
            for (int tap = 0; tap < taps; tap++) {
                const int from = t + i - (taps - 1 - tap) * dilation;
                past[i][tap] = from >= 0 ? m->history + from * C
                                         : history + (size_t)((clock + reach + from) % reach) * C;
            }
        if (frames == TILE) {
            dots(TILE, m->h, C, x, w->inward, R, open, n);
            if (taps == 3)
                depthwise(TILE, 3, m->h, past, score, w, C);
            else
                depthwise(TILE, taps, m->h, past, score, w, C);
            add_rows(TILE, x, m->h, C, w->outward_bias, w->outward, R, open, n);
        } else {
            dots(1, m->h, C, x, w->inward, R, open, n);
            if (taps == 3)
                depthwise(1, 3, m->h, past, score, w, C);
            else
                depthwise(1, taps, m->h, past, score, w, C);
            add_rows(1, x, m->h, C, w->outward_bias, w->outward, R, open, n);
        }
    }
    for (int t = N > reach ? N - reach : 0; t < N; t++)
        memcpy(history + (size_t)((clock + t) % reach) * C, m->history + t * C, sizeof(float) * C);
}

static const float *take(const float **at, size_t n) {
    const float *here = *at;
    *at += n;
    return here;
}

/* y[t] = x[t] matrix for T frames; the last group of columns may go beyond `width`. */
INLINE void banded_piece(const int T, const Banded *m, float *y, size_t y_step, size_t width,
                         const float *x, size_t x_step, const float *rows) {
    for (size_t g = 0; g < m->groups; rows += m->count[g++] * LANES) {
        float part[MANY][LANES];
        for (int at = 0; at < LANES; at += WIDTH) {
            vec sum[MANY];
            for (int t = 0; t < T; t++) sum[t] = (vec){0};
            for (int i = 0; i < m->count[g]; i++) {
                vec w = load(rows + i * LANES + at);
                for (int t = 0; t < T; t++) sum[t] += splat(x[t * x_step + m->first[g] + i]) * w;
            }
            for (int t = 0; t < T; t++) store(part[t] + at, sum[t]);
        }
        const size_t left = width - g * LANES, n = left < LANES ? left : LANES;
        for (int t = 0; t < T; t++)
            memcpy(y + t * y_step + g * LANES, part[t], sizeof(float) * n);
    }
}
INLINE void banded(int N, const Banded *m, float *y, size_t y_step, size_t width, const float *x,
                   size_t x_step, const float *rows) {
    for (int t = 0, frames; t < N; t += frames) {
        frames = N - t < MANY ? 1 : MANY;
        if (frames == MANY)
            banded_piece(MANY, m, y + t * y_step, y_step, width, x + t * x_step, x_step, rows);
        else
            banded_piece(1, m, y + t * y_step, y_step, width, x + t * x_step, x_step, rows);
    }
}

/* |X|^2 of a frame. */
INLINE void power_spectrum(const float *spectrum, int bins, float *power) {
    for (int f = 0; f < bins; f++)
        power[f] = spectrum[2 * f] * spectrum[2 * f] + spectrum[2 * f + 1] * spectrum[2 * f + 1];
}

/* Level-free features of a frame, in place: from [bands] power to [bands] compressed spectrum and
 * [bands] noise floor. */
INLINE void features(const Shape *s, const float *used, const float *constants, float *state,
                     float *out) {
    const int b = s->bands;
    float *floor_ = state + LANES;
    vec sum = {0};
    for (int i = 0; i < b; i += WIDTH) {
        vec c = power_of(load(out + i), constants[0], constants[1]);
        store(out + i, c);
        sum += c * load(used + i);
    }
    float mean = 0;
    for (int i = 0; i < WIDTH; i++) mean += sum[i];
    if (mean > 0) { /* digital silence leaves the level and the floor alone */
        const float slow = constants[2], rise = constants[3], fall = constants[4];
        state[0] += 1;
        const float rate = 1 / state[0];
        state[1] += (rate > slow ? rate : slow) * (mean - state[1]);
        const vec up = splat(state[0] <= 1 ? 1 : rise), down = splat(state[0] <= 1 ? 1 : fall);
        for (int i = 0; i < b; i += WIDTH) {
            vec c = load(out + i), old = load(floor_ + i);
            store(floor_ + i, old + choose(c < old, down, up) * (c - old));
        }
    }
    const vec scale = splat(1 / (state[1] > 0 ? state[1] : 1.0f));
    for (int i = 0; i < b; i += WIDTH) {
        store(out + i, load(out + i) * scale);
        store(out + b + i, load(floor_ + i) * scale);
    }
}

void RUN(RUN_ARGUMENTS) {
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
        for (size_t i = 0; i < R; i += WIDTH) {
            float *p = m->x + t * R + i;
            store(p, prelu(load(p), load(slope + i)));
        }

    const size_t step = s->gated ? (size_t)s->blocks * C : 0;
    float *memory = state + LANES + b;
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
    for (size_t i = 0; i < N * b; i += WIDTH) store(m->in + i, sigmoid(load(m->in + i)));
    banded(N, &s->spread, mask, bins, bins, m->in, b, at);
}
