/* SPDX-License-Identifier: MIT */
#pragma once

#include "request/python.h"

PyObject *batcher_send_late(PyObject *self, PyObject *unused);
PyObject *batcher_send_at_exit(PyObject *self, PyObject *unused);
PyObject *batcher_drop(PyObject *self, PyObject *unused);
PyObject *batcher_discard(PyObject *self, PyObject *unused);
