/* SPDX-License-Identifier: MIT */
#pragma once

#include "udp/batcher.h"

extern PyTypeObject *batcher_type;
extern PyType_Spec batcher_spec;

/* flush() -> the numbers of the sender's notifiers that are not done */
PyObject *batcher_flush(PyObject *self, PyObject *unused);
