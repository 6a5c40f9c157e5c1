/* SPDX-License-Identifier: MIT */
#pragma once

#include "request/python.h"

extern PyTypeObject *lease_type;
extern PyType_Spec lease_spec;
PyObject *batcher_lease(PyObject *self, PyObject *size);
