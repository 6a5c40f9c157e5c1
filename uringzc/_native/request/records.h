/* SPDX-License-Identifier: MIT */
#pragma once

#include "request/queue.h"

extern PyTypeObject *records_type;
extern PyType_Spec records_spec;

/* The C parts of Batch (data, record) and Notifier (engine, numbers): objects that consist of two others. */
extern PyTypeObject *batch_base_type, *notifier_base_type;
extern PyType_Spec batch_base_spec, notifier_base_spec;
/* An object of a class that is derived from one of these, without its __init__(). Takes both references; NULL
 * for either is an exception. */
PyObject *make_pair(PyObject *type, PyObject *first, PyObject *second);
