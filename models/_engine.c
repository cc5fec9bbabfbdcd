/* Inference of a gated Conv-FSENet that never touches what the gates switch off.
 *
 * One thread, no allocation. Weight rows of a closed channel are not read: the first 1x1
 * convolution is a list of dot products, the second a list of scaled additions, over the open
 * channels only. What costs time is reading weights, so where a call brings four frames or more
 * they share the reading: a tile of four runs over the union of their open channels, which is
 * little more than one frame's, as gates change slowly. Every output is accumulated in the same
 * order in a tile and alone, so any way of cutting a recording gives the same bits.
 *
 * Vectors are GCC/Clang vector extensions, 16 floats wide, lowered to whatever the machine has;
 * on x86-64 with GCC the step is cloned for AVX-512 and AVX2. engine.py packs the buffers and
 * documents their layout; sizes are checked here all the same.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#define TILE 4 /* frames; also the number of vectors that totals() sums at once */
#define MAX_CHANNELS 1024
#define MAX_BANDS 512

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef float quad __attribute__((vector_size(16)));
typedef int32_t bits __attribute__((vector_size(4 * LANES), aligned(4)));

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#define INLINE static inline __attribute__((always_inline))

typedef struct {
    int32_t bins, bands, residual, hidden, gate_hidden, blocks, gated;
    const int32_t *dilations; /* [blocks] */
    const int32_t *left;      /* [bins] band to the left of each bin */
} Shape;

/* The order of the packed weights; padded widths are multiples of LANES. */
typedef struct {
    const float *squeeze;      /* [residual][gate_hidden] */
    const float *hidden_bias;  /* [gate_hidden] */
    const float *expand;       /* [gate_hidden][hidden] */
    const float *score_bias;   /* [hidden] */
    const float *inward;       /* [hidden][residual] */
    const float *inward_bias;  /* [hidden] */
    const float *inward_slope; /* [hidden] */
    const float *depthwise;    /* [3][hidden] */
    const float *depthwise_bias, *depthwise_slope;
    const float *outward;      /* [hidden][residual] */
    const float *outward_bias; /* [residual] */
} Block;

static inline vec load(const float *p) { return *(const vec *)p; }
static inline void store(float *p, vec v) { *(vec *)p = v; }
static inline vec splat(float x) { return x - (vec){0}; }
static inline vec prelu(vec x, vec slope) {
    bits positive = x > (vec){0};
    return (vec)((positive & (bits)x) | (~positive & (bits)(slope * x)));
}
static inline quad quarter(const vec *v) {
    quad q[4];
    memcpy(q, v, sizeof q);
    return (q[0] + q[1]) + (q[2] + q[3]);
}
/* Sums over the lanes of four vectors: a 4 x 4 transposition instead of four reductions. */
static inline quad totals(vec a, vec b, vec c, vec d) {
    quad p = quarter(&a), q = quarter(&b), r = quarter(&c), s = quarter(&d);
    quad pq0 = {p[0], q[0], p[1], q[1]}, pq1 = {p[2], q[2], p[3], q[3]};
    quad rs0 = {r[0], s[0], r[1], s[1]}, rs1 = {r[2], s[2], r[3], s[3]};
    quad x = pq0 + pq1, y = rs0 + rs1; /* p0+p2 q0+q2 p1+p3 q1+q3 */
    return (quad){x[0], x[1], y[0], y[1]} + (quad){x[2], x[3], y[2], y[3]};
}

/* y[t][0..width) += sum_i x[t][i] * rows[i][0..width) for T frames, always in the same order. */
INLINE void dense(const int T, float *y, int y_step, const float *x, int x_step,
                  const float *rows, int n, int width) {
    int at = 0;
    for (; at + 4 * LANES <= width; at += 4 * LANES) {
        vec sum[TILE][4];
        for (int t = 0; t < T; t++)
            for (int j = 0; j < 4; j++) sum[t][j] = load(y + t * y_step + at + j * LANES);
        const float *row = rows + at;
        for (int i = 0; i < n; i++, row += width) {
            vec a = load(row), b = load(row + LANES);
            vec c = load(row + 2 * LANES), d = load(row + 3 * LANES);
            for (int t = 0; t < T; t++) {
                vec s = splat(x[t * x_step + i]);
                sum[t][0] += s * a;
                sum[t][1] += s * b;
                sum[t][2] += s * c;
                sum[t][3] += s * d;
            }
        }
        for (int t = 0; t < T; t++)
            for (int j = 0; j < 4; j++) store(y + t * y_step + at + j * LANES, sum[t][j]);
    }
    for (; at < width; at += LANES) { /* four chains, as one would wait for itself */
        vec sum[TILE][4];
        for (int t = 0; t < T; t++) {
            sum[t][0] = load(y + t * y_step + at);
            sum[t][1] = sum[t][2] = sum[t][3] = (vec){0};
        }
        const float *row = rows + at;
        int i = 0;
        for (; i + 4 <= n; i += 4, row += 4 * (size_t)width) {
            for (int j = 0; j < 4; j++) {
                vec v = load(row + j * (size_t)width);
                for (int t = 0; t < T; t++) sum[t][j] += splat(x[t * x_step + i + j]) * v;
            }
        }
        for (; i < n; i++, row += width)
            for (int t = 0; t < T; t++) sum[t][0] += splat(x[t * x_step + i]) * load(row);
        for (int t = 0; t < T; t++)
            store(y + t * y_step + at, (sum[t][0] + sum[t][1]) + (sum[t][2] + sum[t][3]));
    }
}

/* One block for T frames. `x` is [T][MAX_CHANNELS]; gates and scores are those of the first of
 * them, `step` apart. Rings hold 2 * dilation + TILE frames: the past, and the tile. */
INLINE void run_block(const int T, const Shape *s, const Block *w, int dilation, int64_t clock,
                      float *pooling, float *history, float *x, uint8_t *gates, float *scores,
                      size_t step, int force_open) {
    const int R = s->residual, C = s->hidden, H = s->gate_hidden;
    const int ring = 2 * dilation + TILE, window = 2 * dilation + 1;
    const int now = (int)(clock % ring);
    float h[TILE * MAX_CHANNELS];
    int open[MAX_CHANNELS], n = 0;
    float *slot[TILE];
    const float *past[TILE], *far[TILE];
    for (int t = 0; t < T; t++) {
        slot[t] = history + (size_t)((now + t) % ring) * C;
        past[t] = history + (size_t)((now + t + ring - dilation) % ring) * C;
        far[t] = history + (size_t)((now + t + ring - 2 * dilation) % ring) * C;
    }

    if (s->gated) {
        float units[TILE * MAX_CHANNELS];
        memset(units, 0, sizeof(float) * T * H);
        dense(T, units, H, x, MAX_CHANNELS, w->squeeze, R, H);
        for (int t = 0; t < T; t++)
            memcpy(pooling + (size_t)((now + t) % ring) * H, units + t * H, sizeof(float) * H);
        const vec share = splat(1 / (float)window);
        for (int t = 0; t < T; t++) {
            for (int at = 0; at < H; at += LANES) {
                vec sum = {0};
                int k = (now + t + ring - window + 1) % ring; /* oldest first */
                for (int i = 0; i < window; i++) {
                    sum += load(pooling + (size_t)k * H + at);
                    k = k + 1 == ring ? 0 : k + 1;
                }
                store(units + t * H + at,
                      prelu(sum * share + load(w->hidden_bias + at), (vec){0}));
            }
        }
        float score[TILE * MAX_CHANNELS];
        for (int t = 0; t < T; t++) memcpy(score + t * C, w->score_bias, sizeof(float) * C);
        dense(T, score, C, units, H, w->expand, H, C);
        for (int t = 0; t < T; t++) {
            for (int c = 0; c < C; c++) gates[t * step + c] = (score[t * C + c] > 0) | force_open;
            if (scores) memcpy(scores + t * step, score + t * C, sizeof(float) * C);
        }
        for (int c = 0; c < C; c++) { /* open in any frame of the tile */
            int any = 0;
            for (int t = 0; t < T; t++) any |= gates[t * step + c];
            open[n] = c;
            n += any;
        }
    } else {
        for (n = 0; n < C; n++) open[n] = n;
    }

    /* First 1x1 convolution: a row of weights is read once for the tile. */
    for (int t = 0; t < T; t++) memset(slot[t], 0, sizeof(float) * C);
    for (int k = 0; k < n; k++) {
        const int c = open[k];
        const float *row = w->inward + (size_t)c * R;
        vec sum[TILE] = {{0}};
        for (int at = 0; at < R; at += LANES) {
            vec v = load(row + at);
            for (int t = 0; t < T; t++) sum[t] += v * load(x + t * MAX_CHANNELS + at);
        }
        quad all = totals(sum[0], sum[1], sum[2], sum[3]);
        for (int t = 0; t < T; t++) {
            float v = all[t] + w->inward_bias[c];
            v = v > 0 ? v : w->inward_slope[c] * v;
            slot[t][c] = !s->gated || gates[t * step + c] ? v : 0;
        }
    }

    /* Depthwise convolution: three taps, cheaper for all channels than for a list of them. */
    for (int t = 0; t < T; t++) {
        for (int at = 0; at < C; at += LANES) {
            vec v = load(far[t] + at) * load(w->depthwise + at);
            v += load(past[t] + at) * load(w->depthwise + C + at);
            v += load(slot[t] + at) * load(w->depthwise + 2 * C + at);
            v = prelu(v + load(w->depthwise_bias + at), load(w->depthwise_slope + at));
            store(h + t * C + at, v);
        }
    }

    /* Second 1x1 convolution: columns of the open channels, times zero where a frame of the tile
     * has one closed, which changes no sum. */
    if (s->gated)
        for (int t = 0; t < T; t++)
            for (int k = 0; k < n; k++)
                if (!gates[t * step + open[k]]) h[t * C + open[k]] = 0;
    for (int at = 0; at < R; at += 4 * LANES) {
        const int wide = R - at < 4 * LANES ? (R - at) / LANES : 4;
        vec sum[TILE][4];
        for (int t = 0; t < T; t++)
            for (int j = 0; j < 4; j++)
                sum[t][j] = j < wide ? load(w->outward_bias + at + j * LANES) : (vec){0};
        if (wide == 4) {
            for (int k = 0; k < n; k++) {
                const float *row = w->outward + (size_t)open[k] * R + at;
                vec a = load(row), b = load(row + LANES);
                vec c = load(row + 2 * LANES), d = load(row + 3 * LANES);
                for (int t = 0; t < T; t++) {
                    vec v = splat(h[t * C + open[k]]);
                    sum[t][0] += v * a;
                    sum[t][1] += v * b;
                    sum[t][2] += v * c;
                    sum[t][3] += v * d;
                }
            }
        } else {
            for (int k = 0; k < n; k++)
                for (int j = 0; j < wide; j++)
                    for (int t = 0; t < T; t++)
                        sum[t][j] += splat(h[t * C + open[k]]) *
                                     load(w->outward + (size_t)open[k] * R + at + j * LANES);
        }
        for (int t = 0; t < T; t++)
            for (int j = 0; j < wide; j++) {
                float *p = x + t * MAX_CHANNELS + at + j * LANES;
                store(p, load(p) + sum[t][j]);
            }
    }
}

static const float *take(const float **at, size_t n) {
    const float *here = *at;
    *at += n;
    return here;
}

/* T frames. `state` is [heard, level, floor[bands], per block pooling and history]. */
INLINE void run_frames(const int T, const Shape *s, const float *weights, float *state,
                       int64_t clock, const float *spectrum, float *mask, uint8_t *gates,
                       float *scores, int force_open) {
    const int b = s->bands, R = s->residual, C = s->hidden, H = s->gate_hidden;
    const float *at = weights;
    const float *share = take(&at, s->bins); /* of a bin that goes to the band on its right */
    const float *inverse_sum = take(&at, b); /* 0 for padding bands */
    const float *used = take(&at, b);        /* weight of a band in the level: 1/n or 0 */
    const float *constants = take(&at, LANES);
    const float exponent = constants[0], slow = constants[1];
    const float rise = constants[2], fall = constants[3];
    float in[TILE * 2 * MAX_BANDS], x[TILE * MAX_CHANNELS], *floor_ = state + 2;

    for (int t = 0; t < T; t++) {
        float *compressed = in + t * 2 * b, power[MAX_BANDS + 1];
        memset(power, 0, sizeof(float) * (b + 1));
        for (int f = 0; f < s->bins; f++) {
            const float *bin = spectrum + 2 * ((size_t)t * s->bins + f);
            float p = bin[0] * bin[0] + bin[1] * bin[1];
            power[s->left[f]] += (1 - share[f]) * p;
            power[s->left[f] + 1] += share[f] * p;
        }
        float mean = 0;
        for (int i = 0; i < b; i++) {
            float p = power[i] * inverse_sum[i];
            compressed[i] = p > 0 ? powf(p, exponent) : 0.0f;
            mean += compressed[i] * used[i];
        }
        if (mean > 0) { /* digital silence leaves the level and the floor alone */
            state[0] += 1;
            float rate = 1 / state[0];
            state[1] += (rate > slow ? rate : slow) * (mean - state[1]);
            for (int i = 0; i < b; i++) {
                float c = compressed[i];
                float r = state[0] <= 1 ? 1.0f : c < floor_[i] ? fall : rise;
                floor_[i] += r * (c - floor_[i]);
            }
        }
        const float level = state[1] > 0 ? state[1] : 1.0f;
        for (int i = 0; i < b; i++) {
            compressed[b + i] = floor_[i] / level;
            compressed[i] /= level;
        }
    }

    const float *front = take(&at, (size_t)2 * b * R), *front_bias = take(&at, R);
    const float *slope = take(&at, R);
    for (int t = 0; t < T; t++) memcpy(x + t * MAX_CHANNELS, front_bias, sizeof(float) * R);
    dense(T, x, MAX_CHANNELS, in, 2 * b, front, 2 * b, R);
    for (int t = 0; t < T; t++)
        for (int i = 0; i < R; i += LANES) {
            float *p = x + t * MAX_CHANNELS + i;
            store(p, prelu(load(p), load(slope + i)));
        }

    const size_t step = s->gated ? (size_t)s->blocks * C : 0;
    float *memory = state + 2 + b;
    for (int i = 0; i < s->blocks; i++) {
        Block w;
        w.squeeze = take(&at, (size_t)R * H);
        w.hidden_bias = take(&at, H);
        w.expand = take(&at, (size_t)H * C);
        w.score_bias = take(&at, C);
        w.inward = take(&at, (size_t)C * R);
        w.inward_bias = take(&at, C);
        w.inward_slope = take(&at, C);
        w.depthwise = take(&at, 3 * (size_t)C);
        w.depthwise_bias = take(&at, C);
        w.depthwise_slope = take(&at, C);
        w.outward = take(&at, (size_t)C * R);
        w.outward_bias = take(&at, R);
        const size_t ring = 2 * (size_t)s->dilations[i] + TILE;
        float *pooling = memory, *history = memory + ring * H;
        memory = history + ring * C;
        run_block(T, s, &w, s->dilations[i], clock, pooling, history, x,
                  gates + (s->gated ? (size_t)i * C : 0), scores ? scores + (size_t)i * C : NULL,
                  step, force_open);
    }

    float band_mask[TILE * MAX_BANDS];
    const float *back_bias = take(&at, b);
    for (int t = 0; t < T; t++) memcpy(band_mask + t * b, back_bias, sizeof(float) * b);
    dense(T, band_mask, b, x, MAX_CHANNELS, take(&at, (size_t)R * b), R, b);
    for (int t = 0; t < T; t++) {
        float m[MAX_BANDS + 1];
        for (int i = 0; i < b; i++) m[i] = 1 / (1 + expf(-band_mask[t * b + i]));
        m[b] = 0;
        float *out = mask + (size_t)t * s->bins;
        for (int f = 0; f < s->bins; f++)
            out[f] = (1 - share[f]) * m[s->left[f]] + share[f] * m[s->left[f] + 1];
    }
}

#define ARGUMENTS                                                                                  \
    const Shape *s, const float *weights, float *state, int64_t clock, const float *spectrum,      \
        float *mask, uint8_t *gates, float *scores, int force_open
CLONES static void run_one(ARGUMENTS) {
    run_frames(1, s, weights, state, clock, spectrum, mask, gates, scores, force_open);
}
CLONES static void run_tile(ARGUMENTS) {
    run_frames(TILE, s, weights, state, clock, spectrum, mask, gates, scores, force_open);
}

static size_t weight_count(const Shape *s) {
    const size_t b = s->bands, R = s->residual, C = s->hidden, H = s->gate_hidden;
    const size_t block = R * H + H + H * C + C + 2 * C * R + 7 * C + R;
    return s->bins + 2 * b + LANES + 2 * b * R + 2 * R + s->blocks * block + b + R * b;
}

static int read_shape(Shape *s, const int32_t *ints, size_t count) {
    if (count < 7) return 0;
    s->bins = ints[0], s->bands = ints[1], s->residual = ints[2], s->hidden = ints[3];
    s->gate_hidden = ints[4], s->blocks = ints[5], s->gated = ints[6];
    if (s->bins < 1 || s->blocks < 1 || s->blocks > 256 || s->bands < LANES ||
        s->bands > MAX_BANDS || s->residual < LANES || s->residual > MAX_CHANNELS ||
        s->hidden < LANES || s->hidden > MAX_CHANNELS || s->gate_hidden < LANES ||
        s->gate_hidden > MAX_CHANNELS ||
        (s->bands | s->residual | s->hidden | s->gate_hidden) % LANES ||
        count != 7 + (size_t)s->blocks + s->bins)
        return 0;
    s->dilations = ints + 7, s->left = ints + 7 + s->blocks;
    for (int i = 0; i < s->blocks; i++)
        if (s->dilations[i] < 1 || s->dilations[i] > 4096) return 0;
    for (int i = 0; i < s->bins; i++)
        if (s->left[i] < 0 || s->left[i] >= s->bands) return 0;
    return 1;
}

static size_t state_count(const Shape *s) {
    size_t n = 2 + s->bands;
    for (int i = 0; i < s->blocks; i++)
        n += (2 * (size_t)s->dilations[i] + TILE) * (s->hidden + s->gate_hidden);
    return n;
}

PyDoc_STRVAR(step_doc,
             "step(shape, weights, state, clock, spectrum, mask, gates, scores, force_open)\n\n"
             "Run len(mask) frames; state, clock, mask, gates and scores (or None) are written.");

static PyObject *step(PyObject *self, PyObject *args) {
    Py_buffer shape, weights, state, clock, spectrum, mask, gates, scores;
    PyObject *scores_object;
    int force_open;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*w*w*y*w*w*Op", &shape, &weights, &state, &clock, &spectrum,
                          &mask, &gates, &scores_object, &force_open))
        return NULL;
    scores.buf = NULL, scores.obj = NULL, scores.len = 0;
    int ok = scores_object == Py_None ||
             PyObject_GetBuffer(scores_object, &scores, PyBUF_CONTIG) == 0;
    if (ok) {
        Shape s;
        ok = read_shape(&s, shape.buf, (size_t)shape.len / 4);
        size_t frames = ok ? (size_t)mask.len / 4 / s.bins : 0;
        size_t channels = ok && s.gated ? (size_t)s.blocks * s.hidden : 0;
        ok = ok && (size_t)weights.len == 4 * weight_count(&s) &&
             (size_t)state.len == 4 * state_count(&s) && clock.len == 8 &&
             (size_t)mask.len == frames * s.bins * 4 &&
             (size_t)spectrum.len == frames * s.bins * 8 && (size_t)gates.len == frames * channels &&
             (!scores.buf || (size_t)scores.len == frames * channels * 4);
        if (ok) {
            Py_BEGIN_ALLOW_THREADS
            int64_t *now = clock.buf;
            for (size_t l = 0; l < frames;) {
                const int tile = l + TILE <= frames;
                (tile ? run_tile : run_one)(
                    &s, weights.buf, state.buf, *now, (const float *)spectrum.buf + l * s.bins * 2,
                    (float *)mask.buf + l * s.bins, (uint8_t *)gates.buf + l * channels,
                    scores.buf ? (float *)scores.buf + l * channels : NULL, force_open);
                l += tile ? TILE : 1;
                *now += tile ? TILE : 1;
            }
            Py_END_ALLOW_THREADS
        } else {
            PyErr_SetString(PyExc_ValueError, "buffers do not fit the network's shape");
        }
    }
    PyBuffer_Release(&shape);
    PyBuffer_Release(&weights);
    PyBuffer_Release(&state);
    PyBuffer_Release(&clock);
    PyBuffer_Release(&spectrum);
    PyBuffer_Release(&mask);
    PyBuffer_Release(&gates);
    if (scores.obj) PyBuffer_Release(&scores);
    if (!ok) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"step", step, METH_VARARGS, step_doc}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_engine", "Compiled step of a gated Conv-FSENet.", -1, methods,
    NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit__engine(void) { return PyModule_Create(&module); }
