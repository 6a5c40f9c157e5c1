/* SPDX-License-Identifier: MIT
 *
 * The type Owner. */
#include "request/owner.h"

#include <stdint.h>

/* Frees what it was given when its last reference goes, and not before: a finalizer in a cycle would run
 * while the object that it belongs to is being resurrected. */
typedef struct {
    PyObject_HEAD void *pointer;
    void (*free)(void *);
} Owner;

static int owner_construct(PyObject *self, PyObject *args, PyObject *keywords) {
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
    {Py_tp_init, owner_construct}, {Py_tp_dealloc, owner_dealloc}, {Py_tp_new, PyType_GenericNew}, {0, NULL}};
static PyType_Spec owner_spec = {"uringzc._send.Owner", sizeof(Owner), 0, Py_TPFLAGS_DEFAULT, owner_slots};

int owner_init(PyObject *module) {
    PyObject *type = PyType_FromSpec(&owner_spec);
    return type ? PyModule_AddType(module, (PyTypeObject *)type) : -1;
}
