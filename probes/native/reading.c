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

/* Few gates turn from one frame to the next, so sums are those of the frame before and a few rows
 * of weights. `before` has the bits of the gates that are read. */
CLONES static void turn(const uint8_t *gates, const int32_t *features, size_t count,
                        const uint32_t *weights, size_t width, uint64_t *before, uint32_t *sums) {
    for (size_t at = 0; at < count; at += 64, before++) {
        const size_t n = count - at < 64 ? count - at : 64;
        uint64_t now = 0;
        for (size_t k = 0; k < n; k++) now |= (uint64_t)gates[features[at + k]] << k;
        uint64_t turned = now ^ *before;
        *before = now;
        for (; turned; turned &= turned - 1) {
            const int k = __builtin_ctzll(turned);
            const Vector *w = (const Vector *)(weights + (at + (size_t)k) * width);
            const Vector sign = (uint32_t)(now >> k & 1) - 1u - (Vector){0};
            for (size_t c = 0; c < width / LANES; c++)
                ((Vector *)sums)[c] += (w[c] ^ sign) - sign; /* w or -w: which, cannot be foreseen */
        }
    }
}

typedef uint8_t Bytes __attribute__((vector_size(64), aligned(1), may_alias));

CLONES static uint32_t open_gates(const uint8_t *gates, size_t n) {
    uint32_t open = 0;
    while (n >= 64) { /* as bytes, as long as those hold the sums */
        Bytes sums = {0};
        for (int k = 0; k < 255 && n >= 64; k++, n -= 64, gates += 64)
            sums += *(const Bytes *)gates;
        for (int i = 0; i < 64; i++) open += sums[i];
    }
    for (size_t i = 0; i < n; i++) open += gates[i];
    return open;
}

CLONES static void add(const uint32_t *before, const uint32_t *sums, size_t width,
                       uint32_t *after) {
    for (size_t c = 0; c < width; c++) after[c] = before[c] + sums[c];
}

static void average(const uint32_t *from, const uint32_t *to, Py_ssize_t width, int64_t frames,
                    double factor, double *out) {
    for (int64_t l = 0; l < frames; l++)
        out[l] += (double)(int32_t)(to[l * width] - from[l * width]) * factor;
}

static int64_t clip(int64_t frame, int64_t heard) {
    return frame < 0 ? 0 : frame > heard ? heard : frame;
}

PyDoc_STRVAR(gather_doc,
             "gather(gates, features, weights, running, opened)\n\n"
             "Add the weights of the open gates of each frame to the running sums, of which the "
             "first row is given; running and opened are written.");

static PyObject *gather(PyObject *self, PyObject *args) {
    enum { GATES, FEATURES, WEIGHTS, RUNNING, OPENED, BUFFERS };
    Py_buffer in[BUFFERS];
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*y*w*w*", &in[GATES], &in[FEATURES], &in[WEIGHTS],
                          &in[RUNNING], &in[OPENED]))
        return NULL;
    const size_t frames = (size_t)in[OPENED].len / 2, count = (size_t)in[FEATURES].len / 4;
    const size_t gates = frames ? (size_t)in[GATES].len / frames : 0;
    const size_t width = (size_t)in[RUNNING].len / 4 / (frames + 1);
    const int32_t *features = in[FEATURES].buf;
    int ok = width % LANES == 0 && width <= MAX_COLUMNS && gates <= MAX_GATES &&
             (size_t)in[RUNNING].len == (frames + 1) * width * 4 &&
             (size_t)in[GATES].len == frames * gates &&
             (size_t)in[WEIGHTS].len == count * width * 4;
    uint64_t before[MAX_GATES / 64] = {0};
    ok = ok && (count <= gates || !frames); /* so that they have room */
    for (size_t k = 0; ok && frames && k < count; k++)
        ok = features[k] >= 0 && (size_t)features[k] < gates;
    if (ok) {
        Py_BEGIN_ALLOW_THREADS
        uint32_t sums[MAX_COLUMNS];
        memset(sums, 0, 4 * width);
        for (size_t l = 0; l < frames; l++) {
            const uint8_t *frame = (const uint8_t *)in[GATES].buf + l * gates;
            uint32_t *running = (uint32_t *)in[RUNNING].buf + l * width;
            ((uint16_t *)in[OPENED].buf)[l] = (uint16_t)open_gates(frame, gates);
            turn(frame, features, count, in[WEIGHTS].buf, width, before, sums);
            add(running, sums, width, running + width);
        }
        Py_END_ALLOW_THREADS
    } else {
        PyErr_SetString(PyExc_ValueError, "buffers do not fit each other");
    }
    for (int i = 0; i < BUFFERS; i++) PyBuffer_Release(&in[i]);
    if (!ok) return NULL;
    Py_RETURN_NONE;
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

PyDoc_STRVAR(powers_doc,
             "powers(gain, spectrum, bins, begin, all, out)\n\n"
             "Write the sums over the bins of each frame of |M X|^2 and of |(1 - M) X|^2, and return "
             "of how many frames: of those from begin on, up to all of the recording in each, "
             "behind it in one of eight; see ../reading.py.");

static PyObject *powers(PyObject *self, PyObject *args) {
    enum { GAIN, SPECTRUM, OUT, BUFFERS };
    Py_buffer in[BUFFERS];
    Py_ssize_t bins, written = 0;
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
        for (Py_ssize_t l = 0; l < frames; l++)
            if (begin + l < all || (begin + l) % 8 == (begin + l) / 8 * 5 % 8)
                keep((const float *)in[GAIN].buf + l * bins,
                     (const float *)in[SPECTRUM].buf + 2 * l * bins, (size_t)bins,
                     (float *)in[OUT].buf + 2 * written++);
        Py_END_ALLOW_THREADS
    } else {
        PyErr_SetString(PyExc_ValueError, "buffers do not fit each other");
    }
    for (int i = 0; i < BUFFERS; i++) PyBuffer_Release(&in[i]);
    return ok ? PyLong_FromSsize_t(written) : NULL;
}

static PyMethodDef methods[] = {{"gather", gather, METH_VARARGS, gather_doc},
                                {"average", average_all, METH_VARARGS, average_doc},
                                {"powers", powers, METH_VARARGS, powers_doc},
                                {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_reading", "Compiled reading of probes.", -1, methods,
    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__reading(void) {
    PyObject *made = PyModule_Create(&module);
    if (made && (PyModule_AddIntConstant(made, "MAX_GATES", MAX_GATES) < 0 ||
                 PyModule_AddIntConstant(made, "MAX_COLUMNS", MAX_COLUMNS) < 0))
        Py_CLEAR(made);
    return made;
}
