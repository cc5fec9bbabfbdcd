/* The compiled step as a Python module: checks the buffers and runs the kernel of this machine.
 *
 * One thread, no allocation. ../engine.py packs the buffers and documents their layout; sizes are
 * checked here all the same.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "engine.h"

#define LAYOUT 4 /* of the buffers; engine.py wants the same */

uint16_t dynse_positions[256][8];
uint8_t dynse_how_many[256];

static struct {
    const char *name;
    Run *run;
    int runs_here;
} kernels[] = {
    {"base", dynse_run_base, 1},
#if defined(__x86_64__)
    {"avx2", dynse_run_avx2, 0},
    {"avx512", dynse_run_avx512, 0},
#endif
};
#define KERNELS ((int)(sizeof kernels / sizeof *kernels))
static Run *run; /* the last, which is the fastest, that this machine has */

static void choose_run(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    kernels[1].runs_here = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    kernels[2].runs_here =
        kernels[1].runs_here && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl");
#endif
    for (int i = 0; i < KERNELS; i++)
        if (kernels[i].runs_here) run = kernels[i].run;
}

static size_t weight_count(const Shape *s) {
    const size_t b = s->bands, R = s->residual, C = s->hidden, H = s->gate_hidden;
    const size_t block = R * H + H + H * C + C + 2 * C * R + (4 + s->taps) * C + R;
    return (s->pool.rows + s->spread.rows) * LANES + b + LANES + 2 * b * R + 2 * R +
           s->blocks * block + b + R * b;
}

static size_t state_count(const Shape *s) {
    size_t n = LANES + s->bands;
    for (int i = 0; i < s->blocks; i++)
        n += (size_t)(s->taps - 1) * s->dilations[i] * s->hidden +
             (size_t)s->windows[i] * s->gate_hidden;
    return n;
}

/* Lay the scratch out in `base`, if given; return how many floats it takes. */
static size_t lay_out(const Shape *s, Scratch *m, float *base) {
    const size_t C = s->hidden;
    const size_t of_frame[] = {s->spread.groups * LANES, 2 * (size_t)s->bands,
                               (size_t)s->residual, C, C, (size_t)s->gate_hidden};
    float **rows[] = {&m->power, &m->in, &m->x, &m->history, &m->score, &m->units};
    size_t n = 0;
    for (int i = 0; i < 6; i++) {
        if (base) *rows[i] = base + n;
        n += of_frame[i] * CHUNK;
    }
    if (base) m->h = base + n;
    return n + C * TILE;
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
    if (count < 9) return 0;
    s->bins = ints[0], s->bands = ints[1], s->residual = ints[2], s->hidden = ints[3];
    s->gate_hidden = ints[4], s->taps = ints[5], s->blocks = ints[6], s->gated = ints[7];
    s->pooled = ints[8];
    if (s->bins < 1 || s->blocks < 1 || s->blocks > 256 || s->bands < LANES ||
        s->bands > MAX_BANDS || s->residual < LANES || s->residual > MAX_CHANNELS ||
        s->hidden < LANES || s->hidden > MAX_CHANNELS || s->gate_hidden < LANES ||
        s->gate_hidden > MAX_CHANNELS || s->pooled < 0 || s->pooled > s->gate_hidden ||
        s->taps < 2 || s->taps > MAX_TAPS ||
        (s->bands | s->residual | s->hidden | s->gate_hidden) % LANES)
        return 0;
    const size_t pools = s->bands / LANES, spreads = ((size_t)s->bins + LANES - 1) / LANES;
    if (count != 9 + 2 * (s->blocks + pools + spreads)) return 0;
    s->dilations = ints + 9, s->windows = s->dilations + s->blocks;
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

PyDoc_STRVAR(kernels_doc, "kernels()\n\nNames of the kernels that run here, the fastest last.");

static PyObject *list_kernels(PyObject *self, PyObject *args) {
    (void)self, (void)args;
    PyObject *names = PyList_New(0);
    for (int i = 0; names && i < KERNELS; i++) {
        PyObject *name = kernels[i].runs_here ? PyUnicode_FromString(kernels[i].name) : NULL;
        if (name && PyList_Append(names, name) < 0) Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

PyDoc_STRVAR(select_doc, "select(name)\n\nRun this one of `kernels()` from now on, for tests.");

static PyObject *select_kernel(PyObject *self, PyObject *args) {
    const char *name;
    (void)self;
    if (!PyArg_ParseTuple(args, "s", &name)) return NULL;
    for (int i = 0; i < KERNELS; i++)
        if (kernels[i].runs_here && strcmp(kernels[i].name, name) == 0) {
            run = kernels[i].run;
            Py_RETURN_NONE;
        }
    return PyErr_Format(PyExc_ValueError, "no kernel named %s here", name);
}

static PyMethodDef methods[] = {{"step", step, METH_VARARGS, step_doc},
                                {"scratch_size", scratch_size, METH_VARARGS, scratch_doc},
                                {"kernels", list_kernels, METH_NOARGS, kernels_doc},
                                {"select", select_kernel, METH_VARARGS, select_doc},
                                {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_engine", "Compiled step of a gated Conv-FSENet.", -1, methods,
    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__engine(void) {
    choose_run();
    memset(dynse_how_many, 0, sizeof dynse_how_many);
    for (int byte = 0; byte < 256; byte++)
        for (int bit = 0; bit < 8; bit++)
            if (byte >> bit & 1)
                dynse_positions[byte][dynse_how_many[byte]++] = (uint16_t)bit;
    PyObject *made = PyModule_Create(&module);
    if (made && PyModule_AddIntConstant(made, "LAYOUT", LAYOUT) < 0) Py_CLEAR(made);
    return made;
}
