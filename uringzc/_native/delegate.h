/* SPDX-License-Identifier: MIT
 *
 * The type Delegate: public classes with compiled methods. */
#pragma once

#include "request/python.h"

int add_delegate_type(PyObject *module);
PyObject *compiled_method(PyObject *module, PyObject *args);
