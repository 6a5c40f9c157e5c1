/* SPDX-License-Identifier: MIT */
#pragma once

#include "request/python.h"

PyObject *batcher_tick(PyObject *self, PyObject *unused);
PyObject *batcher_send_by_syscall(PyObject *self, PyObject *unused);
PyObject *batcher_drop(PyObject *self, PyObject *unused);
PyObject *batcher_discard(PyObject *self, PyObject *unused);
