/* SPDX-License-Identifier: MIT */
#pragma once

#include "request/python.h"

PyObject *queue_send(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords);
PyObject *queue_run(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords);
