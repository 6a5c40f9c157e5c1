/* SPDX-License-Identifier: MIT
 *
 * The type Queue. */
#ifndef UZC_QUEUE_TYPE_H
#define UZC_QUEUE_TYPE_H

#include "request/python.h"

extern PyTypeObject *queue_type;
int queue_init(PyObject *module);
/* Whether it is one that was made. */
int is_queue(PyObject *object);

#endif
