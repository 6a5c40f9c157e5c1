/* SPDX-License-Identifier: MIT
 *
 * Arena: registered memory in blocks; and Lease, a piece of it in the program's hands. */
#include "request/memory.h"
#include "udp/batcher.h"

PyTypeObject *arena_type, *lease_type;

uint16_t arena_take(Arena *arena) {
    for (uint32_t i = 0; i < arena->blocks; i++) { /* the lowest: what was used last is in the cache */
        uint32_t none = 0;
        if (atomic_compare_exchange_strong_explicit(&arena->uses[i], &none, 1, memory_order_acquire,
                                                    memory_order_relaxed))
            return (uint16_t)i;
    }
    return NO_BLOCK;
}

static int arena_setup(PyObject *self, PyObject *args, PyObject *keywords) {
    Arena *a = (Arena *)self;
    static char *accepted[] = {"memory", NULL};
    PyObject *memory;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O", accepted, &memory))
        return -1;
    Memory *m = (Memory *)memory;
    if (a->memory || !is_memory(memory) || m->length < BLOCK) {
        PyErr_SetString(PyExc_ValueError, "an arena is made once, of a Memory with at least a block");
        return -1;
    }
    uint64_t blocks = m->length / BLOCK;
    a->blocks = blocks < NO_BLOCK ? (uint32_t)blocks : NO_BLOCK;
    a->uses = PyMem_Calloc(a->blocks, sizeof *a->uses);
    if (!a->uses)
        return PyErr_NoMemory(), -1;
    Py_INCREF(memory);
    a->memory = memory;
    a->base = (char *)(uintptr_t)m->address;
    return 0;
}

static void arena_dealloc(PyObject *self) {
    Arena *a = (Arena *)self;
    PyMem_Free((void *)a->uses);
    Py_XDECREF(a->memory);
    free_object(self);
}

static PyObject *arena_free(PyObject *self, void *unused) {
    (void)unused;
    Arena *a = (Arena *)self;
    unsigned long free_blocks = 0;
    for (uint32_t i = 0; i < a->blocks; i++)
        free_blocks += atomic_load_explicit(&a->uses[i], memory_order_relaxed) == 0;
    return PyLong_FromUnsignedLong(free_blocks * BLOCK);
}

static PyObject *arena_leases(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLong(atomic_load_explicit(&((Arena *)self)->leases, memory_order_relaxed));
}

static PyMemberDef arena_members[] = {{"memory", T_OBJECT, offsetof(Arena, memory), READONLY, NULL},
                                      {NULL, 0, 0, 0, NULL}};
static PyGetSetDef arena_getset[] = {{"free", arena_free, NULL, "bytes in free blocks", NULL},
                                     {"leases", arena_leases, NULL, "not sent and not given back", NULL},
                                     {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot arena_slots[] = {{Py_tp_init, arena_setup},      {Py_tp_dealloc, arena_dealloc},
                                    {Py_tp_new, PyType_GenericNew}, {Py_tp_members, arena_members},
                                    {Py_tp_getset, arena_getset},   {0, NULL}};
static PyType_Spec arena_spec = {"uringzc._send.Arena", sizeof(Arena), 0, Py_TPFLAGS_DEFAULT, arena_slots};

/* -- Lease. The buffer protocol is in the limited API from 3.11 on, and as it is here since 3.0. */

#if Py_LIMITED_API < 0x030B0000
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

static int lease_getbuffer(PyObject *self, Py_buffer *view, int flags) {
    Lease *l = (Lease *)self;
    static Py_ssize_t one = 1;
    view->obj = NULL;
    if (!l->held) {
        PyErr_SetString(PyExc_ValueError, "the lease was sent or given back");
        return -1;
    }
    Py_INCREF(self);
    *view = (Py_buffer){.buf = l->data,
                        .obj = self,
                        .len = (Py_ssize_t)l->length,
                        .itemsize = 1,
                        .ndim = 1,
                        .format = flags & PyBUF_FORMAT ? "B" : NULL,
                        .shape = flags & PyBUF_ND ? (Py_ssize_t *)&l->length : NULL,
                        .strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? &one : NULL};
    l->exports++;
    return 0;
}

static void lease_releasebuffer(PyObject *self, Py_buffer *view) {
    (void)view;
    ((Lease *)self)->exports--;
}

/* Only a weak reference: the view holds the lease, and a lease that is dropped shall go back at once. */
static PyObject *living_view(Lease *l) {
    PyObject *view = l->view ? PyObject_CallNoArgs(l->view) : NULL;
    if (view == Py_None)
        Py_CLEAR(view);
    return view;
}

static PyObject *lease_view(PyObject *self, void *unused) {
    (void)unused;
    Lease *l = (Lease *)self;
    PyObject *view = living_view(l);
    if (view || PyErr_Occurred() || !(view = PyMemoryView_FromObject(self)))
        return view;
    Py_XDECREF(l->view);
    if (!(l->view = PyWeakref_NewRef(view, NULL)))
        Py_CLEAR(view);
    return view;
}

/* Ends the view. Slices of it and arrays over it can not be ended: while one lives, BufferError. */
static int end_view(Lease *l) {
    PyObject *view = living_view(l);
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
    if (PyErr_Occurred())
        return -1;
    if (!l->exports)
        return 0;
    PyErr_SetString(PyExc_BufferError,
                    "a slice of the lease's view, or an array over it, still lives: it could be written to "
                    "while the kernel sends it; delete or release() it first");
    return -1;
}

static void give_back(Lease *l) {
    l->held = false;
    atomic_fetch_sub_explicit(&l->arena->leases, 1, memory_order_relaxed);
    arena_drop(l->arena, l->block);
}

/* An int, or what has __index__; what does not fit is larger than anything. */
int size_of(PyObject *value, size_t *n) {
    PyObject *index = PyNumber_Index(value);
    if (!index)
        return -1;
    *n = PyLong_AsSize_t(index);
    Py_DECREF(index);
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError) && !PyErr_ExceptionMatches(PyExc_ValueError))
            return -1;
        PyErr_Clear();
        *n = SIZE_MAX;
    }
    return 0;
}

static PyObject *lease_send(PyObject *self, PyObject *args, PyObject *keywords) {
    Lease *l = (Lease *)self;
    UdpBatcher *g = l->batcher;
    static char *accepted[] = {"length", "to", NULL};
    PyObject *length = Py_None, *to = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|OO", accepted, &length, &to))
        return NULL;
    size_t n = l->length;
    if (length != Py_None && size_of(length, &n) < 0)
        return NULL;
    if (!l->held)
        return PyErr_Format(PyExc_ValueError, "the lease was sent or given back");
    if (n > l->length)
        return PyErr_Format(PyExc_ValueError, "length must be from 0 to the lease's %zu, not %R", l->length,
                            length);
    if (batcher_begin(g) < 0)
        return NULL;
    uint32_t destination;
    PyObject *sent = NULL;
    bool ready = find_destination(g, to, &destination) == 0 && end_view(l) == 0;
    if (ready && !l->held) { /* given back meanwhile, while a name was resolved */
        PyErr_SetString(PyExc_ValueError, "the lease was sent or given back");
    } else if (ready) {
        l->held = false; /* first: in what follows a signal handler could take a view of it, or release it */
        if (add_datagram(g, l->data, n, destination, l->block) == 0) {
            if (g->at == l->data + l->length &&
                g->block == l->block) /* nothing behind it: the rest is free */
                g->at = l->data + n;
            give_back(l);
            sent = sent_bytes(g, n);
        } else {
            l->held = true; /* nothing was taken */
        }
    }
    batcher_end(g);
    return sent;
}

static PyObject *lease_release(PyObject *self, PyObject *unused) {
    (void)unused;
    Lease *l = (Lease *)self;
    if (l->held && end_view(l) < 0)
        return NULL;
    if (l->held)
        give_back(l);
    Py_RETURN_NONE;
}

static PyObject *lease_enter(PyObject *self, PyObject *unused) {
    (void)unused;
    Py_INCREF(self);
    return self;
}

/* An exception on its way is not replaced by one about a view. */
static PyObject *lease_exit(PyObject *self, PyObject *args) {
    PyObject *kind = PyTuple_Size(args) ? PyTuple_GetItem(args, 0) : Py_None;
    PyObject *done = lease_release(self, NULL);
    if (!done && kind != Py_None) {
        PyErr_Clear(); /* it comes back when the last view of it goes */
        Py_RETURN_NONE;
    }
    return done;
}

static Py_ssize_t lease_length(PyObject *self) {
    return (Py_ssize_t)((Lease *)self)->length;
}

static PyObject *lease_repr(PyObject *self) {
    Lease *l = (Lease *)self;
    return PyUnicode_FromFormat("<Lease of %zu bytes%s>", l->length, l->held ? "" : ", sent or given back");
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
    if (l->held)
        give_back(l);
    Py_XDECREF(l->batcher);
    Py_XDECREF(l->arena);
    free_object(self);
}

static PyMethodDef lease_methods[] = {
    {"send", (PyCFunction)(void (*)(void))lease_send, METH_VARARGS | METH_KEYWORDS,
     "send(length=None, to=None)\n--\n\n"
     "Sends the first `length` bytes (default: all) and returns how many.\n\n"
     "The view ends: a late write raises ValueError. BufferError, and nothing is queued, while a slice of "
     "it\n"
     "or an array over it lives: the lease can be sent later, and ``view`` gives another one. The memory\n"
     "returns to the sender when the kernel is done with it."},
    {"release", lease_release, METH_NOARGS,
     "release()\n--\n\nGives it back unsent. May be repeated. BufferError while a slice of its view lives."},
    {"__enter__", lease_enter, METH_NOARGS, NULL},
    {"__exit__", lease_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL}};

static PyGetSetDef lease_getset[] = {
    {"view", lease_view, NULL,
     "The memory, writable, as a memoryview; what it holds at first is not defined.", NULL},
    {NULL, NULL, NULL, NULL, NULL}};

static PyType_Slot lease_slots[] = {
    {Py_tp_doc, "Registered memory to fill and send without a copy: made by ``UdpSender.lease``.\n\n"
                "``with`` gives it back if it was not sent; so does dropping it, in any thread."},
    {Py_tp_traverse, lease_traverse},
    {Py_tp_dealloc, lease_dealloc},
    {Py_tp_repr, lease_repr},
    {Py_tp_methods, lease_methods},
    {Py_tp_getset, lease_getset},
    {Py_sq_length, lease_length},
    {Py_bf_getbuffer, lease_getbuffer},
    {Py_bf_releasebuffer, lease_releasebuffer},
    {0, NULL}};
static PyType_Spec lease_spec = {"uringzc.Lease", sizeof(Lease), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
                                 lease_slots};

int arena_init(PyObject *module) {
    arena_type = (PyTypeObject *)PyType_FromSpec(&arena_spec);
    lease_type = (PyTypeObject *)PyType_FromSpec(&lease_spec);
    if (!arena_type || !lease_type)
        return -1;
    Py_INCREF(arena_type);
    Py_INCREF(lease_type);
    return PyModule_AddObject(module, "Arena", (PyObject *)arena_type) < 0 ||
                   PyModule_AddObject(module, "Lease", (PyObject *)lease_type) < 0
               ? -1
               : 0;
}
