/* SPDX-License-Identifier: MIT */
#pragma once

#include "request/python.h"

extern PyTypeObject *delegate_type;
extern PyType_Spec delegate_spec;
PyObject *compiled_method(PyObject *module, PyObject *args);
