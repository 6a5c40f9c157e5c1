/* SPDX-License-Identifier: MIT
 *
 * The type Delegate: public classes with compiled methods. */
#ifndef UZC_DELEGATE_H
#define UZC_DELEGATE_H

#include "request/python.h"

int add_delegate_type(PyObject *module);
PyObject *compiled_method(PyObject *module, PyObject *args);

#endif
