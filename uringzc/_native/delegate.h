/* SPDX-License-Identifier: MIT
 *
 * The type Delegate. */
#ifndef UZC_DELEGATE_H
#define UZC_DELEGATE_H

#include "request/python.h"

int delegate_init(PyObject *module);
PyObject *compiled_method(PyObject *module, PyObject *args);

#endif
