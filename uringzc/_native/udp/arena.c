/* SPDX-License-Identifier: MIT */
/* Arena: memory in blocks, shared by the senders of one engine. A block is free when nothing refers to it.
 *
 * There are two kinds: registered memory, in blocks of 64 KiB that trains share; and the frames of an engine,
 * one train in each, which the engine fills too. */
#include "udp/arena.h"

#include "request/memory.h"

PyTypeObject *arena_type;

static bool take(_Atomic uint32_t *refs) {
    uint32_t none = 0;
    return atomic_compare_exchange_strong_explicit(refs, &none, 1, memory_order_acquire,
                                                   memory_order_relaxed);
}

static uint16_t take_frame(Arena *a) {
    const uint32_t used = atomic_fetch_add(&a->used, 1);
    if (used < a->limit) {
        const uint32_t after = used ? a->after : a->frames[a->blocks] % a->blocks;
        for (uint32_t n = 0; n < a->blocks; n++) {
            const uint32_t i = (after + n) % a->blocks;
            if (a->frames[i] || !take(&a->frames[i]))
                continue;
            a->refs[i] = 1;
            a->after = (i + 1) % a->blocks;
            return (uint16_t)i;
        }
    }
    atomic_fetch_sub(&a->used, 1);
    return NO_BLOCK;
}

/* Whoever takes it next comes after all who had a reference. */
void arena_return_frame(Arena *a, uint16_t block) {
    atomic_thread_fence(memory_order_acquire);
    atomic_fetch_sub_explicit(&a->frames[block], 1, memory_order_release);
    atomic_fetch_sub(&a->used, 1);
}

uint16_t arena_take(Arena *arena) {
    if (arena->frames)
        return take_frame(arena);
    for (uint32_t i = 0; i < arena->blocks; i++) /* the lowest, which is likely to be in the cache */
        if (take(&arena->refs[i]))
            return (uint16_t)i;
    return NO_BLOCK;
}

static int arena_setup(Arena *a, const Memory *m, unsigned long long refs, PyObject *keep) {
    const uint64_t blocks = a->stride ? m->length / a->stride : 0;
    const bool frames = a->stride != BLOCK_SIZE || a->headroom;
    if (!blocks || !a->capacity || (uint64_t)a->headroom + a->capacity > a->stride)
        return PyErr_Format(PyExc_ValueError, "an arena is made of a Memory with at least a block"), -1;
    if (!frames && (refs || a->limit))
        return PyErr_Format(PyExc_ValueError, "only frames have references that others count"), -1;
    a->base = (char *)(uintptr_t)m->address;
    a->blocks = blocks < NO_BLOCK ? (uint32_t)blocks : NO_BLOCK;
    if (!a->limit || a->limit > a->blocks)
        a->limit = a->blocks;
    a->refs = PyMem_Calloc(a->blocks, sizeof *a->refs);
    if (frames && refs) {
        a->frames = (_Atomic uint32_t *)(uintptr_t)refs;
        a->keep = Py_NewRef(keep);
    } else if (frames) {
        a->frames = PyMem_Calloc(a->blocks + 1, sizeof *a->frames);
    }
    return a->refs && (a->frames || !frames) ? 0 : (PyErr_NoMemory(), -1);
}

/* Arena(memory, stride, headroom, capacity, limit, refs, keep): see _send.pyi */
static PyObject *arena_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    static char *accepted[] = {"memory", "stride", "headroom", "capacity", "limit", "refs", "keep", NULL};
    Memory *m;
    PyObject *keep = Py_None;
    unsigned stride = BLOCK_SIZE, headroom = 0, capacity = BLOCK_SIZE, limit = 0;
    unsigned long long refs = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!|IIIIKO", accepted, memory_type, &m, &stride,
                                     &headroom, &capacity, &limit, &refs, &keep))
        return NULL;
    Arena *a = (Arena *)PyType_GenericAlloc(type, 0);
    if (!a)
        return NULL;
    a->memory = Py_NewRef((PyObject *)m);
    a->stride = stride;
    a->headroom = headroom;
    a->capacity = capacity;
    a->limit = limit;
    if (arena_setup(a, m, refs, keep) < 0)
        Py_CLEAR(a);
    return (PyObject *)a;
}

static void arena_dealloc(PyObject *self) {
    Arena *a = (Arena *)self;
    if (!a->keep)
        PyMem_Free((void *)a->frames);
    PyMem_Free((void *)a->refs);
    Py_XDECREF(a->keep);
    Py_DECREF(a->memory);
    free_object(self);
}

static PyObject *arena_free(PyObject *self, void *Py_UNUSED(unused)) {
    Arena *a = (Arena *)self;
    const _Atomic uint32_t *refs = a->frames ? a->frames : a->refs;
    const uint32_t used = a->used, left = a->limit > used ? a->limit - used : 0;
    unsigned long free_blocks = 0;
    for (uint32_t i = 0; i < a->blocks; i++)
        free_blocks += atomic_load_explicit(&refs[i], memory_order_relaxed) == 0;
    return PyLong_FromUnsignedLong((free_blocks < left ? free_blocks : left) * a->capacity);
}

static PyObject *arena_leases(PyObject *self, void *Py_UNUSED(unused)) {
    return PyLong_FromUnsignedLong(atomic_load_explicit(&((Arena *)self)->leases, memory_order_relaxed));
}

static PyMemberDef arena_members[] = {{"memory", T_OBJECT, offsetof(Arena, memory), READONLY, NULL},
                                      {NULL, 0, 0, 0, NULL}};
static PyGetSetDef arena_getset[] = {{"free", arena_free, NULL, "bytes in blocks that can be taken", NULL},
                                     {"leases", arena_leases, NULL, "neither sent nor released", NULL},
                                     {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot arena_slots[] = {{Py_tp_new, arena_new},
                                    {Py_tp_dealloc, arena_dealloc},
                                    {Py_tp_members, arena_members},
                                    {Py_tp_getset, arena_getset},
                                    {0, NULL}};
PyType_Spec arena_spec = {"uringzc._send.Arena", sizeof(Arena), 0, Py_TPFLAGS_DEFAULT, arena_slots};
