/* Inference of a gated Conv-FSENet that never touches what the gates switch off.
 *
 * One frame at a time, one thread, no allocation. Every output is accumulated in an order that
 * does not depend on how many frames a call brings, so any way of cutting a recording gives the
 * same bits. Weight rows of a closed channel are not read: the first 1x1 convolution is a list of
 * dot products, the second a list of scaled additions, over the open channels only.
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
#define MAX_CHANNELS 1024
#define MAX_BANDS 512

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t bits __attribute__((vector_size(4 * LANES), aligned(4)));

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

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
static inline float total(vec v) {
    float s[LANES];
    store(s, v);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) s[i] += s[i + width];
    return s[0];
}

/* y[0..width) += sum_i x[i] * rows[i][0..width), in the order of i. */
static inline void dense(float *y, const float *x, const float *rows, int n, int width) {
    int at = 0;
    for (; at + 4 * LANES <= width; at += 4 * LANES) {
        vec a = load(y + at), b = load(y + at + LANES);
        vec c = load(y + at + 2 * LANES), d = load(y + at + 3 * LANES);
        for (int i = 0; i < n; i++) {
            const float *row = rows + (size_t)i * width + at;
            vec s = splat(x[i]);
            a += s * load(row);
            b += s * load(row + LANES);
            c += s * load(row + 2 * LANES);
            d += s * load(row + 3 * LANES);
        }
        store(y + at, a);
        store(y + at + LANES, b);
        store(y + at + 2 * LANES, c);
        store(y + at + 3 * LANES, d);
    }
    for (; at < width; at += LANES) {
        vec a = load(y + at);
        for (int i = 0; i < n; i++) a += splat(x[i]) * load(rows + (size_t)i * width + at);
        store(y + at, a);
    }
}

CLONES static void run_block(const Shape *s, const Block *w, int dilation, int64_t clock,
                             float *pooling, float *history, float *x, uint8_t *gates,
                             float *scores, int force_open) {
    const int R = s->residual, C = s->hidden, H = s->gate_hidden;
    const int slots = 2 * dilation + 1, now = (int)(clock % slots);
    float h[MAX_CHANNELS];
    int open[MAX_CHANNELS], n = 0;

    if (s->gated) {
        float units[MAX_CHANNELS], *slot = pooling + (size_t)now * H;
        memset(slot, 0, sizeof(float) * H);
        dense(slot, x, w->squeeze, R, H);
        for (int at = 0; at < H; at += LANES) {
            vec sum = {0};
            for (int k = 1; k <= slots; k++) /* oldest first */
                sum += load(pooling + (size_t)((now + k) % slots) * H + at);
            vec u = sum / splat((float)slots) + load(w->hidden_bias + at);
            store(units + at, prelu(u, (vec){0}));
        }
        float score[MAX_CHANNELS];
        memcpy(score, w->score_bias, sizeof(float) * C);
        dense(score, units, w->expand, H, C);
        if (force_open) {
            for (int c = 0; c < C; c++) gates[c] = 1;
        } else {
            for (int c = 0; c < C; c++) gates[c] = score[c] > 0;
        }
        for (int c = 0; c < C; c++) {
            open[n] = c;
            n += gates[c];
        }
        if (scores) memcpy(scores, score, sizeof(float) * C);
    } else {
        for (n = 0; n < C; n++) open[n] = n;
    }

    /* First 1x1 convolution, open channels only; four share the loads of x. */
    float *slot = history + (size_t)now * C;
    memset(slot, 0, sizeof(float) * C);
    int k = 0;
    for (; k + 4 <= n; k += 4) {
        const float *w0 = w->inward + (size_t)open[k] * R, *w1 = w->inward + (size_t)open[k + 1] * R;
        const float *w2 = w->inward + (size_t)open[k + 2] * R, *w3 = w->inward + (size_t)open[k + 3] * R;
        vec a = {0}, b = {0}, c = {0}, d = {0};
        for (int at = 0; at < R; at += LANES) {
            vec v = load(x + at);
            a += v * load(w0 + at);
            b += v * load(w1 + at);
            c += v * load(w2 + at);
            d += v * load(w3 + at);
        }
        slot[open[k]] = total(a);
        slot[open[k + 1]] = total(b);
        slot[open[k + 2]] = total(c);
        slot[open[k + 3]] = total(d);
    }
    for (; k < n; k++) {
        const float *row = w->inward + (size_t)open[k] * R;
        vec a = {0};
        for (int at = 0; at < R; at += LANES) a += load(x + at) * load(row + at);
        slot[open[k]] = total(a);
    }
    for (k = 0; k < n; k++) {
        int c = open[k];
        float v = slot[c] + w->inward_bias[c];
        slot[c] = v > 0 ? v : w->inward_slope[c] * v;
    }

    /* Depthwise convolution: three taps, cheaper for all channels than for a list of them. */
    const float *past = history + (size_t)((now + slots - dilation) % slots) * C;
    const float *far = history + (size_t)((now + slots - 2 * dilation) % slots) * C;
    for (int at = 0; at < C; at += LANES) {
        vec v = load(far + at) * load(w->depthwise + at);
        v += load(past + at) * load(w->depthwise + C + at);
        v += load(slot + at) * load(w->depthwise + 2 * C + at);
        store(h + at, prelu(v + load(w->depthwise_bias + at), load(w->depthwise_slope + at)));
    }

    /* Second 1x1 convolution: add the open channels' columns to the residual. */
    for (int at = 0; at < R; at += 4 * LANES) {
        int wide = R - at < 4 * LANES ? (R - at) / LANES : 4;
        vec sum[4];
        for (int i = 0; i < wide; i++) sum[i] = load(w->outward_bias + at + i * LANES);
        if (wide == 4) {
            vec a = sum[0], b = sum[1], c = sum[2], d = sum[3];
            for (int j = 0; j < n; j++) {
                const float *row = w->outward + (size_t)open[j] * R + at;
                vec v = splat(h[open[j]]);
                a += v * load(row);
                b += v * load(row + LANES);
                c += v * load(row + 2 * LANES);
                d += v * load(row + 3 * LANES);
            }
            sum[0] = a, sum[1] = b, sum[2] = c, sum[3] = d;
        } else {
            for (int i = 0; i < wide; i++)
                for (int j = 0; j < n; j++)
                    sum[i] += splat(h[open[j]]) * load(w->outward + (size_t)open[j] * R + at + i * LANES);
        }
        for (int i = 0; i < wide; i++) {
            float *p = x + at + i * LANES;
            store(p, load(p) + sum[i]);
        }
    }
}

static const float *take(const float **at, size_t n) {
    const float *here = *at;
    *at += n;
    return here;
}

/* One frame. `state` is [heard, level, floor[bands], per block pooling and history]. */
CLONES static void run_frame(const Shape *s, const float *weights, float *state, int64_t clock,
                             const float *spectrum, float *mask, uint8_t *gates, float *scores,
                             int force_open) {
    const int b = s->bands, R = s->residual, C = s->hidden, H = s->gate_hidden;
    const float *at = weights;
    const float *share = take(&at, s->bins); /* of a bin that goes to the band on its right */
    const float *inverse_sum = take(&at, b); /* 0 for padding bands */
    const float *used = take(&at, b);        /* weight of a band in the level: 1/n or 0 */
    const float *constants = take(&at, LANES);
    const float exponent = constants[0], slow = constants[1], rise = constants[2], fall = constants[3];
    float in[2 * MAX_BANDS], x[MAX_CHANNELS], *floor_ = state + 2;

    float power[MAX_BANDS + 1];
    memset(power, 0, sizeof(float) * (b + 1));
    for (int f = 0; f < s->bins; f++) {
        float re = spectrum[2 * f], im = spectrum[2 * f + 1], p = re * re + im * im;
        power[s->left[f]] += (1 - share[f]) * p;
        power[s->left[f] + 1] += share[f] * p;
    }
    float mean = 0;
    for (int i = 0; i < b; i++) {
        float p = power[i] * inverse_sum[i];
        in[i] = p > 0 ? powf(p, exponent) : 0.0f;
        mean += in[i] * used[i];
    }
    if (mean > 0) { /* digital silence leaves the level and the floor alone */
        state[0] += 1;
        float rate = 1 / state[0];
        state[1] += (rate > slow ? rate : slow) * (mean - state[1]);
        for (int i = 0; i < b; i++) {
            float c = in[i], r = state[0] <= 1 ? 1.0f : c < floor_[i] ? fall : rise;
            floor_[i] += r * (c - floor_[i]);
        }
    }
    const float level = state[1] > 0 ? state[1] : 1.0f;
    for (int i = 0; i < b; i++) {
        in[b + i] = floor_[i] / level;
        in[i] /= level;
    }

    const float *front = take(&at, (size_t)2 * b * R);
    memcpy(x, take(&at, R), sizeof(float) * R);
    const float *slope = take(&at, R);
    dense(x, in, front, 2 * b, R);
    for (int i = 0; i < R; i += LANES) store(x + i, prelu(load(x + i), load(slope + i)));

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
        const int slots = 2 * s->dilations[i] + 1;
        float *pooling = memory, *history = memory + (size_t)slots * H;
        memory = history + (size_t)slots * C;
        run_block(s, &w, s->dilations[i], clock, pooling, history, x,
                  gates + (s->gated ? (size_t)i * C : 0), scores ? scores + (size_t)i * C : NULL,
                  force_open);
    }

    float band_mask[MAX_BANDS + 1];
    memcpy(band_mask, take(&at, b), sizeof(float) * b);
    dense(band_mask, x, take(&at, (size_t)R * b), R, b);
    for (int i = 0; i < b; i++) band_mask[i] = 1 / (1 + expf(-band_mask[i]));
    band_mask[b] = 0;
    for (int f = 0; f < s->bins; f++)
        mask[f] = (1 - share[f]) * band_mask[s->left[f]] + share[f] * band_mask[s->left[f] + 1];
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
        n += (size_t)(2 * s->dilations[i] + 1) * (s->hidden + s->gate_hidden);
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
            for (size_t l = 0; l < frames; l++)
                run_frame(&s, weights.buf, state.buf, (*(int64_t *)clock.buf)++,
                          (const float *)spectrum.buf + l * s.bins * 2,
                          (float *)mask.buf + l * s.bins, (uint8_t *)gates.buf + l * channels,
                          scores.buf ? (float *)scores.buf + l * channels : NULL, force_open);
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
