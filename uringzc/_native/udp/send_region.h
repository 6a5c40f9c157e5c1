/* SPDX-License-Identifier: MIT */
#pragma once

#include "request/python.h"

PyObject *batcher_send_block(PyObject *self, PyObject *args);
PyObject *batcher_send_slices(PyObject *self, PyObject *args);
