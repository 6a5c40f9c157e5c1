/* SPDX-License-Identifier: MIT */
#pragma once

#include "request/queue.h"

/* Scheduler.send(), and send_run(); `self` is the Queue. */
PyObject *queue_send(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords);
PyObject *queue_send_run(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords);
/* Ring.send(), and send_zc(). */
PyObject *queue_send_raw(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords);
PyObject *queue_send_zc_raw(PyObject *self, PyObject *ring, PyObject *const *args, Py_ssize_t count,
                            PyObject *keywords);
