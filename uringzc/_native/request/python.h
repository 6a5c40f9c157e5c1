/* SPDX-License-Identifier: MIT */
/* Python's C API (the stable ABI of CPython 3.10), for the C files that define or use Python types. There is
 * none of builds without the GIL before 3.15: for them the modules are compiled for one version. */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <pyconfig.h>
#ifndef Py_GIL_DISABLED
#define Py_LIMITED_API 0x030A0000
#endif
#include <Python.h>
#include <structmember.h>

/* The end of a tp_dealloc: an object of a type made from a spec holds a reference to it. */
static inline void free_object(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    freefunc free_it = (freefunc)PyType_GetSlot(type, Py_tp_free);
    free_it(self);
    Py_DECREF(type);
}

/* Drops the result of a call, of which only matters whether it raised: 0 or -1. */
static inline int check_result(PyObject *result) {
    Py_XDECREF(result);
    return result ? 0 : -1;
}
