/* SPDX-License-Identifier: MIT */
/* Lease: a part of an arena block that the program fills through a memoryview, and sends without a copy.
 *
 * A lease holds a reference to its block until it is sent (then the train has one) or released. Any thread
 * may drop it. */
#include "udp/lease.h"

#include "udp/batch.h"
#include "udp/call.h"
#include "udp/destinations.h"
#include "udp/send.h"

typedef struct {
    PyObject_HEAD UdpBatcher *batcher;
    Arena *arena;
    char *data;
    size_t length;
    PyObject *view; /* weak reference to the memoryview, or NULL; in a critical section */
    uint16_t block;
    _Atomic uint32_t state; /* HELD while neither sent nor released, and how many buffers of it are in use:
                               its view, and what was made of that */
} Lease;

#define HELD (1u << 31)

PyTypeObject *lease_type;

#ifdef Py_LIMITED_API /* has the buffer protocol from 3.11 on (python.h has 3.10), the same since 3.0 */
typedef struct {
    void *buf;
    PyObject *obj;
    Py_ssize_t len, itemsize;
    int readonly, ndim;
    char *format;
    Py_ssize_t *shape, *strides, *suboffsets;
    void *internal;
} Py_buffer;
#define Py_bf_getbuffer 1
#define Py_bf_releasebuffer 2
#define PyBUF_FORMAT 4
#define PyBUF_ND 8
#define PyBUF_STRIDES (16 | PyBUF_ND)
#endif

static bool is_held(const Lease *l) {
    return l->state & HELD;
}

static PyObject *refuse_lease(void) {
    return PyErr_Format(PyExc_ValueError, "the lease was sent or released");
}

static int lease_getbuffer(PyObject *self, Py_buffer *view, int flags) {
    Lease *l = (Lease *)self;
    static Py_ssize_t one = 1;
    uint32_t state;
    view->obj = NULL;
    do {
        if (!is_held(l))
            return refuse_lease(), -1;
        state = l->state;
    } while (!replace_shared(&l->state, state, state + 1));
    Py_INCREF(self);
    *view = (Py_buffer){.buf = l->data,
                        .obj = self,
                        .len = (Py_ssize_t)l->length,
                        .itemsize = 1,
                        .ndim = 1,
                        .format = flags & PyBUF_FORMAT ? "B" : NULL,
                        .shape = flags & PyBUF_ND ? (Py_ssize_t *)&l->length : NULL,
                        .strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? &one : NULL};
    return 0;
}

static void lease_releasebuffer(PyObject *self, Py_buffer *Py_UNUSED(view)) {
    Lease *l = (Lease *)self;
    for (uint32_t state = l->state; !replace_shared(&l->state, state, state - 1);)
        state = l->state;
}

/* A weak reference: the view holds the lease, which must be freed at once when the program drops it. */
static PyObject *current_view(Lease *l) {
    PyObject *view = l->view ? PyObject_CallNoArgs(l->view) : NULL;
    if (view == Py_None)
        Py_CLEAR(view);
    return view;
}

static PyObject *lease_view(PyObject *self, void *Py_UNUSED(unused)) {
    Lease *l = (Lease *)self;
    PyObject *view;
    Py_BEGIN_CRITICAL_SECTION(self);
    view = current_view(l);
    if (!view && !PyErr_Occurred() && (view = PyMemoryView_FromObject(self))) {
        Py_XDECREF(l->view);
        if (!(l->view = PyWeakref_NewRef(view, NULL)))
            Py_CLEAR(view);
    }
    Py_END_CRITICAL_SECTION();
    return view;
}

/* 0, or -1 with an exception. */
static int release_view(Lease *l) {
    PyObject *view = current_view(l);
    if (view) {
        PyObject *done = PyObject_CallMethod(view, "release", NULL);
        Py_XDECREF(done);
        Py_DECREF(view);
        if (!done && !PyErr_ExceptionMatches(PyExc_BufferError))
            return -1;
        if (done)
            Py_CLEAR(l->view);
        PyErr_Clear();
    }
    return PyErr_Occurred() ? -1 : 0;
}

/* The caller has the lease alone from now on. Slices of the view, and arrays over it, cannot be released:
 * while one lives, BufferError. 0; 1: it was sent or released; -1. */
static int take_lease(Lease *l) {
    int error;
    Py_BEGIN_CRITICAL_SECTION((PyObject *)l);
    error = release_view(l);
    Py_END_CRITICAL_SECTION();
    if (error || replace_shared(&l->state, HELD, 0))
        return error;
    if (!is_held(l))
        return 1;
    PyErr_SetString(PyExc_BufferError,
                    "a slice of the lease's view, or an array over it, still lives: it could be written to "
                    "while the kernel sends it; delete or release() it first");
    return -1;
}

static void return_lease(Lease *l) {
    atomic_fetch_sub_explicit(&l->arena->leases, 1, memory_order_relaxed);
    arena_release(l->arena, l->block);
}

/* An int, or what has __index__. What does not fit is larger than any lease. */
static int as_size(PyObject *value, size_t *n) {
    *n = (size_t)PyNumber_AsSsize_t(value, NULL);
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *lease_send(PyObject *self, PyObject *args, PyObject *keywords) {
    Lease *l = (Lease *)self;
    UdpBatcher *g = l->batcher;
    static char *accepted[] = {"length", "to", NULL};
    PyObject *length = Py_None, *to = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|OO", accepted, &length, &to))
        return NULL;
    size_t n = l->length;
    if (length != Py_None && as_size(length, &n) < 0)
        return NULL;
    if (!is_held(l))
        return refuse_lease();
    if (n > l->length)
        return PyErr_Format(PyExc_ValueError, "length must be from 0 to the lease's %zu, not %R", l->length,
                            length);
    if (batcher_begin(g) < 0)
        return NULL;
    uint32_t destination;
    PyObject *sent = NULL;
    int code = find_destination(g, to, &destination) < 0 ? -1 : take_lease(l);
    if (code > 0) { /* released while a name was resolved */
        refuse_lease();
    } else if (!code) { /* taken first: a signal handler could take a view of it, or release it */
        if (add_datagram(g, l->data, n, l->length - n, destination, l->block) == 0) {
            return_lease(l);
            sent = sent_bytes(g, n);
        } else {
            atomic_store_explicit(&l->state, HELD, memory_order_release); /* nothing was taken */
        }
    }
    return batcher_return(g, sent);
}

static PyObject *lease_release(PyObject *self, PyObject *Py_UNUSED(unused)) {
    Lease *l = (Lease *)self;
    int code = is_held(l) ? take_lease(l) : 1;
    if (code < 0)
        return NULL;
    if (!code)
        return_lease(l);
    Py_RETURN_NONE;
}

static PyObject *lease_enter(PyObject *self, PyObject *Py_UNUSED(unused)) {
    return Py_NewRef(self);
}

/* An exception on its way is not replaced by one about a view. */
static PyObject *lease_exit(PyObject *self, PyObject *args) {
    PyObject *kind = PyTuple_Size(args) ? PyTuple_GetItem(args, 0) : Py_None;
    PyObject *done = lease_release(self, NULL);
    if (!done && kind != Py_None) {
        PyErr_Clear(); /* it is released with the last view of it */
        Py_RETURN_NONE;
    }
    return done;
}

static Py_ssize_t lease_length(PyObject *self) {
    return (Py_ssize_t)((Lease *)self)->length;
}

static PyObject *lease_repr(PyObject *self) {
    Lease *l = (Lease *)self;
    return PyUnicode_FromFormat("<Lease of %zu bytes%s>", l->length, is_held(l) ? "" : ", sent or released");
}

static int lease_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)((Lease *)self)->batcher);
    return 0;
}

static void lease_dealloc(PyObject *self) {
    Lease *l = (Lease *)self;
    PyObject_GC_UnTrack(self);
    Py_CLEAR(l->view);
    if (is_held(l))
        return_lease(l);
    Py_XDECREF(l->batcher);
    Py_XDECREF(l->arena);
    free_object(self);
}

static PyMethodDef lease_methods[] = {
    {"send", (PyCFunction)(void (*)(void))lease_send, METH_VARARGS | METH_KEYWORDS,
     "send(length=None, to=None)\n--\n\n"
     "Sends the first `length` bytes (default: all) and returns how many.\n\n"
     "Releases the view: a later write raises ValueError. BufferError, and nothing is queued, while a slice\n"
     "of it or an array over it lives: the lease can be sent later, and ``view`` gives another one. The\n"
     "memory returns to the sender when the kernel does not need it any more."},
    {"release", lease_release, METH_NOARGS,
     "release()\n--\n\nReturns the memory unsent. May be repeated. BufferError while a slice of its view "
     "lives."},
    {"__enter__", lease_enter, METH_NOARGS, NULL},
    {"__exit__", lease_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL}};

static PyGetSetDef lease_getset[] = {
    {"view", lease_view, NULL,
     "The memory, writable, as a memoryview; what it holds at first is not defined.", NULL},
    {NULL, NULL, NULL, NULL, NULL}};

static PyType_Slot lease_slots[] = {
    {Py_tp_doc, "Registered memory to fill and send without a copy: made by ``UdpSender.lease``.\n\n"
                "``with`` releases it if it was not sent; so does dropping it, in any thread."},
    {Py_tp_traverse, lease_traverse},
    {Py_tp_dealloc, lease_dealloc},
    {Py_tp_repr, lease_repr},
    {Py_tp_methods, lease_methods},
    {Py_tp_getset, lease_getset},
    {Py_sq_length, lease_length},
    {Py_bf_getbuffer, lease_getbuffer},
    {Py_bf_releasebuffer, lease_releasebuffer},
    {0, NULL}};
PyType_Spec lease_spec = {"uringzc.Lease", sizeof(Lease), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
                          lease_slots};

PyObject *batcher_lease(PyObject *self, PyObject *size) {
    UdpBatcher *g = (UdpBatcher *)self;
    size_t n;
    if (as_size(size, &n) < 0)
        return NULL;
    if (n > g->max_payload)
        return PyErr_Format(PyExc_ValueError, "a lease is 0 to %u bytes, what a datagram can carry, not %S",
                            g->max_payload, size);
    if (batcher_begin(g) < 0)
        return NULL;
    Lease *l = NULL;
    uint16_t block = NO_BLOCK;
    char *data = reserve_bytes(g, n, &block);
    if (data && !(l = (Lease *)PyType_GenericAlloc(lease_type, 0)))
        arena_release(g->arena, block);
    if (l) {
        l->batcher = (UdpBatcher *)Py_NewRef((PyObject *)g);
        l->arena = (Arena *)Py_NewRef((PyObject *)g->arena);
        l->data = data;
        l->length = n;
        l->block = block;
        atomic_init(&l->state, HELD);
        atomic_fetch_add_explicit(&g->arena->leases, 1, memory_order_relaxed);
    }
    batcher_end(g);
    return (PyObject *)l;
}
