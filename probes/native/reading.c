/* Reading probes from gates: a gather-and-sum over the open channels, and means over spans; and
 * what the gain keeps and removes.
 *
 * ../reading.py packs the buffers, documents them, and does the same in NumPy where there was no
 * compiler; sizes are checked here all the same. Sums are kept as running sums modulo 2^32: the
 * difference of two is exact as long as the sum between them fits 32 bits, which a probes file
 * guarantees.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

#define LANES 16 /* columns are padded to a multiple of it */
#define MAX_COLUMNS 1024
#define MAX_GATES 16384
#define PIECE 64 /* frames that one column is averaged over before the next one */

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES
#endif

typedef uint32_t Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* The gates of a frame as bits, and how many are open. Gates are bytes of 0 or 1. */
static uint32_t pack_base(const uint8_t *gates, size_t n, uint64_t *words) {
    uint32_t open = 0;
    for (; n; words++) {
        const size_t m = n < 64 ? n : 64;
        *words = 0;
        for (size_t i = 0; i < m; i++) *words |= (uint64_t)gates[i] << i, open += gates[i];
        n -= m, gates += m;
    }
    return open;
}
static uint32_t (*pack)(const uint8_t *, size_t, uint64_t *) = pack_base;

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2,popcnt"))) static uint32_t pack_avx2(const uint8_t *gates, size_t n,
                                                                 uint64_t *words) {
    uint32_t open = 0;
    for (; n >= 64; n -= 64, gates += 64, words++) {
        const __m256i *x = (const __m256i *)gates;
        const __m256i low = _mm256_loadu_si256(x), high = _mm256_loadu_si256(x + 1);
        *words = (uint32_t)_mm256_movemask_epi8(_mm256_slli_epi16(low, 7)) |
                 (uint64_t)(uint32_t)_mm256_movemask_epi8(_mm256_slli_epi16(high, 7)) << 32;
        open += (uint32_t)__builtin_popcountll(*words);
    }
    return open + pack_base(gates, n, words);
}
#endif

/* Few gates turn from one frame to the next, so sums are those of the frame before and a few rows
 * of weights. `now` and `before` are all gates as bits, `read` those that have a row. Which words
 * have gates that turned cannot be foreseen, nor how many, so one loop goes through all of them.
 * N vectors make a row; where N is known, the sums stay in registers. */
#define TURN(N)                                                                                    \
    for (; left; left--) {                                                                         \
        const int k = __builtin_ctzll(turned);                                                     \
        const Vector *w = (const Vector *)(weights + rows[64 * where[i] + k] * (N)*LANES);         \
        const Vector sign = (uint32_t)(now[where[i]] >> k & 1) - 1u - (Vector){0};                 \
        for (size_t c = 0; c < (N); c++) sums[c] += (w[c] ^ sign) - sign; /* w or -w */            \
        turned &= turned - 1;                                                                      \
        i += !turned;                                                                              \
        turned = turned ? turned : words[i];                                                       \
    }                                                                                              \
    for (size_t c = 0; c < (N); c++) out[c] = sums[c] + ((const Vector *)running)[c];

#define TURN_IN_REGISTERS(N)                                                                       \
    case N: {                                                                                      \
        Vector sums[N];                                                                            \
        memcpy(sums, state, sizeof sums);                                                          \
        TURN(N)                                                                                    \
        memcpy(state, sums, sizeof sums);                                                          \
        break;                                                                                     \
    }

CLONES static void turn(const uint64_t *now, const uint64_t *before, const uint64_t *read,
                        const uint16_t *rows, size_t count, const uint32_t *weights, size_t width,
                        uint32_t *state, const uint32_t *running, uint32_t *after) {
    uint64_t words[MAX_GATES / 64 + 1];
    uint16_t where[MAX_GATES / 64 + 1];
    size_t n = 0, left = 0, i = 0;
    for (size_t at = 0; at < count; at++) {
        const uint64_t turned = (now[at] ^ before[at]) & read[at];
        words[n] = turned, where[n] = (uint16_t)at;
        n += turned != 0;
        left += (size_t)__builtin_popcountll(turned);
    }
    words[n] = where[n] = 0;
    uint64_t turned = words[0];
    Vector *out = (Vector *)after;
    switch (width / LANES) {
        TURN_IN_REGISTERS(1)
        TURN_IN_REGISTERS(2)
        TURN_IN_REGISTERS(3)
        TURN_IN_REGISTERS(4)
    default:;
        Vector *sums = (Vector *)state;
        TURN(width / LANES)
    }
}

CLONES static void average(const uint32_t *from, const uint32_t *to, Py_ssize_t width,
                           int64_t frames, double factor, double *out) {
    for (int64_t l = 0; l < frames; l++)
        out[l] += (double)(int32_t)(to[l * width] - from[l * width]) * factor;
}

static int64_t clip(int64_t frame, int64_t heard) {
    return frame < 0 ? 0 : frame > heard ? heard : frame;
}

/* Adds what the gain keeps and what it removes of n <= LANES bins to LANES sums. */
#define KEEP(n)                                                                                    \
    for (size_t i = 0; i < (n); i++) {                                                             \
        const float re = spectrum[2 * i], im = spectrum[2 * i + 1], power = re * re + im * im;     \
        kept[i] += gain[i] * gain[i] * power;                                                      \
        removed[i] += (1 - gain[i]) * (1 - gain[i]) * power;                                       \
    }

CLONES static void keep(const float *gain, const float *spectrum, size_t bins, float *out) {
    float kept[LANES] = {0}, removed[LANES] = {0};
    for (; bins >= LANES; bins -= LANES, gain += LANES, spectrum += 2 * LANES) KEEP(LANES)
    KEEP(bins)
    for (size_t half = LANES / 2; half; half /= 2)
        for (size_t i = 0; i < half; i++) kept[i] += kept[i + half], removed[i] += removed[i + half];
    out[0] = kept[0], out[1] = removed[0];
}

/* What the gain keeps and removes of the frames from `begin` on, in each up to `all`, behind it in
 * one of eight, as in `one_in_eight` of ../reading.py; returns how many. */
static size_t keep_some(const float *gain, const float *spectrum, size_t bins, int64_t begin,
                        int64_t frames, int64_t all, float *out) {
    size_t written = 0;
    for (int64_t l = begin; l < begin + frames; l++, gain += bins, spectrum += 2 * bins)
        if (l < all || l % 8 == l / 8 * 5 % 8) keep(gain, spectrum, bins, out + 2 * written++);
    return written;
}

PyDoc_STRVAR(listen_doc,
             "listen(gain, gates, spectrum, bins, features, weights, running, opened, at, powers, "
             "from, begin, all)\n\n"
             "Take some frames. Add the weights of the open gates of each to the running sums, of "
             "which row `at` is given and the following are written; write how many gates are open "
             "to opened[at:]; write to powers[from:] what `powers` does and return the same.");

static PyObject *listen(PyObject *self, PyObject *args) {
    enum { GAIN, GATES, SPECTRUM, FEATURES, WEIGHTS, RUNNING, OPENED, POWERS, BUFFERS };
    Py_buffer in[BUFFERS];
    Py_ssize_t bins, at, from;
    long long begin, all;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*y*ny*y*w*w*nw*nLL", &in[GAIN], &in[GATES], &in[SPECTRUM], &bins,
                          &in[FEATURES], &in[WEIGHTS], &in[RUNNING], &in[OPENED], &at,
                          &in[POWERS], &from, &begin, &all))
        return NULL;
    const size_t frames = bins > 0 ? (size_t)(in[GAIN].len / 4 / bins) : 0;
    const size_t room = (size_t)in[OPENED].len / 2, count = (size_t)in[FEATURES].len / 4;
    const size_t gates = frames ? (size_t)in[GATES].len / frames : 0;
    const size_t width = (size_t)in[RUNNING].len / 4 / (room + 1);
    const int32_t *features = in[FEATURES].buf;
    size_t written = 0;
    int ok = bins > 0 && at >= 0 && from >= 0 && begin >= 0 && width % LANES == 0 && width <= MAX_COLUMNS &&
             gates <= MAX_GATES && (size_t)in[RUNNING].len == (room + 1) * width * 4 &&
             (size_t)in[GAIN].len == frames * (size_t)bins * 4 &&
             (size_t)in[SPECTRUM].len == frames * (size_t)bins * 8 &&
             (size_t)in[GATES].len == frames * gates &&
             (size_t)in[WEIGHTS].len == count * width * 4 && (size_t)at + frames <= room &&
             (size_t)in[POWERS].len / 8 >= (size_t)from + frames;
    uint64_t read[MAX_GATES / 64] = {0}, both[2][MAX_GATES / 64];
    uint16_t rows[MAX_GATES]; /* of the gates that are read */
    for (size_t k = 0; ok && frames && k < count; k++) {
        ok = features[k] >= 0 && (size_t)features[k] < gates;
        if (!ok) break;
        uint64_t *word = read + features[k] / 64, bit = (uint64_t)1 << features[k] % 64;
        ok = !(*word & bit);
        *word |= bit;
        rows[features[k]] = (uint16_t)k;
    }
    if (ok) {
        Py_BEGIN_ALLOW_THREADS
        uint32_t sums[MAX_COLUMNS];
        memset(sums, 0, 4 * width);
        memset(both[1], 0, sizeof both[1]);
        uint32_t *running = (uint32_t *)in[RUNNING].buf + (size_t)at * width;
        for (size_t l = 0; l < frames; l++, running += width) {
            uint64_t *now = both[l % 2], *before = both[1 - l % 2];
            const uint32_t open = pack((const uint8_t *)in[GATES].buf + l * gates, gates, now);
            ((uint16_t *)in[OPENED].buf)[(size_t)at + l] = (uint16_t)open;
            turn(now, before, read, rows, (gates + 63) / 64, in[WEIGHTS].buf, width, sums, running,
                 running + width);
        }
        written = keep_some(in[GAIN].buf, in[SPECTRUM].buf, (size_t)bins, begin, (int64_t)frames,
                            all, (float *)in[POWERS].buf + 2 * from);
        Py_END_ALLOW_THREADS
    } else {
        PyErr_SetString(PyExc_ValueError, "buffers do not fit each other");
    }
    for (int i = 0; i < BUFFERS; i++) PyBuffer_Release(&in[i]);
    return ok ? PyLong_FromSize_t(written) : NULL;
}

PyDoc_STRVAR(average_doc,
             "average(running, base, columns, scale, bias, begin, out)\n\n"
             "Write the probes' outputs of the frames from begin on: bias[o] plus the sum over the "
             "columns of output o of scale times the mean over the column's span around the frame. "
             "The rows of running are sums of the frames before base, base + 1, ...");

static PyObject *average_all(PyObject *self, PyObject *args) {
    enum { RUNNING, COLUMNS, SCALE, BIAS, OUT, BUFFERS };
    Py_buffer in[BUFFERS];
    long long base, begin;
    Py_ssize_t width;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*nLy*y*y*Lw*", &in[RUNNING], &width, &base, &in[COLUMNS],
                          &in[SCALE], &in[BIAS], &begin, &in[OUT]))
        return NULL;
    const size_t columns = (size_t)in[COLUMNS].len / 12, outputs = (size_t)in[BIAS].len / 8;
    const int64_t frames = outputs ? (int64_t)((size_t)in[OUT].len / 8 / outputs) : 0;
    const int64_t rows = width > 0 ? (int64_t)((size_t)in[RUNNING].len / 4 / (size_t)width) : 0;
    const int32_t(*column)[3] = in[COLUMNS].buf; /* output, first and last frame of its span */
    const int64_t heard = base + rows - 1;
    int ok = rows > 0 && columns <= (size_t)width && base >= 0 && base <= begin &&
             begin <= heard - frames && (size_t)in[SCALE].len == columns * 8 &&
             (size_t)in[OUT].len == outputs * (size_t)frames * 8 &&
             (size_t)in[RUNNING].len == (size_t)(rows * width) * 4;
    for (size_t c = 0; ok && c < columns; c++)
        ok = column[c][0] >= 0 && (size_t)column[c][0] < outputs && column[c][1] <= column[c][2] &&
             column[c][1] > -65536 && column[c][2] < 65536 &&
             (base == 0 || begin + column[c][1] >= base);
    if (ok) {
        Py_BEGIN_ALLOW_THREADS
        const uint32_t *running = (const uint32_t *)in[RUNNING].buf - base * width;
        const double *scale = in[SCALE].buf, *bias = in[BIAS].buf;
        double *out = in[OUT].buf;
        for (size_t o = 0; o < outputs; o++)
            for (int64_t l = 0; l < frames; l++) out[(int64_t)o * frames + l] = bias[o];
        for (int64_t from = begin; from < begin + frames; from += PIECE)
            for (size_t c = 0; c < columns; c++) {
                const int64_t first = column[c][1], last = column[c][2] + 1;
                const int64_t to = from + PIECE < begin + frames ? from + PIECE : begin + frames;
                double *track = out + column[c][0] * frames - begin;
                if (from + first >= 0 && to - 1 + last <= heard) {
                    average(running + (from + first) * width + c,
                            running + (from + last) * width + c, width, to - from,
                            scale[c] / (double)(last - first), track + from);
                    continue;
                }
                for (int64_t l = from; l < to; l++) { /* at the ends: of the frames there are */
                    const int64_t low = clip(l + first, heard), high = clip(l + last, heard);
                    average(running + low * width + c, running + high * width + c, width, 1,
                            scale[c] / (double)(high > low ? high - low : 1), track + l);
                }
            }
        Py_END_ALLOW_THREADS
    } else {
        PyErr_SetString(PyExc_ValueError, "buffers do not fit each other");
    }
    for (int i = 0; i < BUFFERS; i++) PyBuffer_Release(&in[i]);
    if (!ok) return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(powers_doc,
             "powers(gain, spectrum, bins, begin, all, out)\n\n"
             "Write the sums over the bins of each frame of |M X|^2 and of |(1 - M) X|^2, and return "
             "of how many frames: of those from begin on, up to all of the recording in each, "
             "behind it in one of eight; see ../reading.py.");

static PyObject *powers(PyObject *self, PyObject *args) {
    enum { GAIN, SPECTRUM, OUT, BUFFERS };
    Py_buffer in[BUFFERS];
    Py_ssize_t bins;
    size_t written = 0;
    long long begin, all;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*nLLw*", &in[GAIN], &in[SPECTRUM], &bins, &begin, &all,
                          &in[OUT]))
        return NULL;
    const Py_ssize_t frames = bins > 0 ? in[GAIN].len / 4 / bins : -1;
    const int ok = frames >= 0 && begin >= 0 && in[GAIN].len == frames * bins * 4 &&
                   in[SPECTRUM].len == frames * bins * 8 && in[OUT].len == frames * 8;
    if (ok) {
        Py_BEGIN_ALLOW_THREADS
        written = keep_some(in[GAIN].buf, in[SPECTRUM].buf, (size_t)bins, begin, frames, all,
                            in[OUT].buf);
        Py_END_ALLOW_THREADS
    } else {
        PyErr_SetString(PyExc_ValueError, "buffers do not fit each other");
    }
    for (int i = 0; i < BUFFERS; i++) PyBuffer_Release(&in[i]);
    return ok ? PyLong_FromSize_t(written) : NULL;
}

static PyMethodDef methods[] = {{"listen", listen, METH_VARARGS, listen_doc},
                                {"average", average_all, METH_VARARGS, average_doc},
                                {"powers", powers, METH_VARARGS, powers_doc},
                                {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_reading", "Compiled reading of probes.", -1, methods,
    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__reading(void) {
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt")) pack = pack_avx2;
#endif
    PyObject *made = PyModule_Create(&module);
    if (made && (PyModule_AddIntConstant(made, "MAX_GATES", MAX_GATES) < 0 ||
                 PyModule_AddIntConstant(made, "MAX_COLUMNS", MAX_COLUMNS) < 0))
        Py_CLEAR(made);
    return made;
}
