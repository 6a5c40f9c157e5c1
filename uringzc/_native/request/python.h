/* SPDX-License-Identifier: MIT
 *
 * Python's C API, for the C files that define or use its objects: the stable ABI of CPython 3.10. */
#ifndef UZC_PYTHON_H
#define UZC_PYTHON_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>
#include <structmember.h>

/* The end of a tp_dealloc: types made from a spec are referenced by their objects. */
static inline void free_object(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    freefunc free_it = (freefunc)PyType_GetSlot(type, Py_tp_free);
    free_it(self);
    Py_DECREF(type);
}

#endif
