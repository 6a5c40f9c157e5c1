/* SPDX-License-Identifier: MIT */
#pragma once

#include "request/queue.h"

extern PyTypeObject *records_type;
extern PyType_Spec records_spec;

/* The C parts of Batch and Notifier. */
extern PyTypeObject *batch_base_type, *notifier_base_type;
extern PyType_Spec batch_base_spec, notifier_base_spec;
/* An object of the class, without its __init__(). Takes the references; NULL for one of them is an exception.
 * size: bytes of a record. */
PyObject *make_batch(PyObject *type, PyObject *data, PyObject *record, size_t size);
PyObject *make_notifier(PyObject *type, PyObject *engine, int64_t number);
