/* SPDX-License-Identifier: MIT
 *
 * The type Owner: frees a C allocation when its last reference is dropped, and not before. A finalizer of the
 * Python object that uses the allocation can run too early: that object may be resurrected from a cycle. */
#include "request/owner.h"

#include <stdint.h>

typedef struct {
    PyObject_HEAD void *pointer;
    void (*free)(void *);
} Owner;

static int owner_init(PyObject *self, PyObject *args, PyObject *keywords) {
    static char *accepted[] = {"pointer", "free", NULL};
    unsigned long long pointer, free_it;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "KK", accepted, &pointer, &free_it))
        return -1;
    ((Owner *)self)->pointer = (void *)(uintptr_t)pointer;
    ((Owner *)self)->free = (void (*)(void *))(uintptr_t)free_it;
    return 0;
}

static void owner_dealloc(PyObject *self) {
    Owner *o = (Owner *)self;
    if (o->free)
        o->free(o->pointer);
    free_object(self);
}

static PyType_Slot owner_slots[] = {
    {Py_tp_init, owner_init}, {Py_tp_dealloc, owner_dealloc}, {Py_tp_new, PyType_GenericNew}, {0, NULL}};
static PyType_Spec owner_spec = {"uringzc._send.Owner", sizeof(Owner), 0, Py_TPFLAGS_DEFAULT, owner_slots};

int add_owner_type(PyObject *module) {
    return add_type(module, &owner_spec) ? 0 : -1;
}
