/* SPDX-License-Identifier: MIT
 *
 * The type Queue. */
#ifndef UZC_QUEUE_TYPE_H
#define UZC_QUEUE_TYPE_H

#include "request/python.h"

extern PyTypeObject *queue_type;
int add_queue_type(PyObject *module);
/* Whether it is a Queue whose __init__() has succeeded. */
int is_queue(PyObject *object);

#endif
