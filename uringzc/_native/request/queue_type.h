/* SPDX-License-Identifier: MIT
 *
 * The type Queue. */
#pragma once

#include "request/python.h"

extern PyTypeObject *queue_type;
int add_queue_type(PyObject *module);
