/* SPDX-License-Identifier: MIT */
/* Arena: registered memory in blocks of 64 KiB, shared by the senders of one engine. A block is free when
 * nothing refers to it. */
#include "udp/arena.h"

#include "request/memory.h"

PyTypeObject *arena_type;

uint16_t arena_take(Arena *arena) {
    for (uint32_t i = 0; i < arena->blocks; i++) { /* the lowest, which is likely to be in the cache */
        uint32_t none = 0;
        if (atomic_compare_exchange_strong_explicit(&arena->refs[i], &none, 1, memory_order_acquire,
                                                    memory_order_relaxed))
            return (uint16_t)i;
    }
    return NO_BLOCK;
}

static PyObject *arena_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords)) {
    Memory *m;
    if (!PyArg_ParseTuple(args, "O!", memory_type, &m))
        return NULL;
    const uint64_t blocks = m->length / BLOCK_SIZE;
    if (!blocks)
        return PyErr_Format(PyExc_ValueError, "an arena is made of a Memory with at least a block");
    Arena *a = (Arena *)PyType_GenericAlloc(type, 0);
    if (!a)
        return NULL;
    a->memory = Py_NewRef((PyObject *)m);
    a->base = (char *)(uintptr_t)m->address;
    a->blocks = blocks < NO_BLOCK ? (uint32_t)blocks : NO_BLOCK;
    a->refs = PyMem_Calloc(a->blocks, sizeof *a->refs);
    if (!a->refs) {
        Py_DECREF(a);
        return PyErr_NoMemory();
    }
    return (PyObject *)a;
}

static void arena_dealloc(PyObject *self) {
    Arena *a = (Arena *)self;
    PyMem_Free((void *)a->refs);
    Py_DECREF(a->memory);
    free_object(self);
}

static PyObject *arena_free(PyObject *self, void *Py_UNUSED(unused)) {
    Arena *a = (Arena *)self;
    unsigned long free_blocks = 0;
    for (uint32_t i = 0; i < a->blocks; i++)
        free_blocks += atomic_load_explicit(&a->refs[i], memory_order_relaxed) == 0;
    return PyLong_FromUnsignedLong(free_blocks * BLOCK_SIZE);
}

static PyObject *arena_leases(PyObject *self, void *Py_UNUSED(unused)) {
    return PyLong_FromUnsignedLong(atomic_load_explicit(&((Arena *)self)->leases, memory_order_relaxed));
}

static PyMemberDef arena_members[] = {{"memory", T_OBJECT, offsetof(Arena, memory), READONLY, NULL},
                                      {NULL, 0, 0, 0, NULL}};
static PyGetSetDef arena_getset[] = {{"free", arena_free, NULL, "bytes in free blocks", NULL},
                                     {"leases", arena_leases, NULL, "neither sent nor released", NULL},
                                     {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot arena_slots[] = {{Py_tp_new, arena_new},
                                    {Py_tp_dealloc, arena_dealloc},
                                    {Py_tp_members, arena_members},
                                    {Py_tp_getset, arena_getset},
                                    {0, NULL}};
PyType_Spec arena_spec = {"uringzc._send.Arena", sizeof(Arena), 0, Py_TPFLAGS_DEFAULT, arena_slots};
