/* SPDX-License-Identifier: MIT */
/* The calls that a program makes once per batch. `self` is the Queue, `owner` the public object that was
 * called, a Scheduler or a Ring: what is not the ordinary case is a Python method of it. */
#pragma once

#include "request/queue.h"

int batch_calls_init(void);
PyObject *queue_flush(PyObject *self, PyObject *owner, PyObject *const *args, Py_ssize_t count,
                      PyObject *keywords);
PyObject *queue_submit(PyObject *self);
PyObject *queue_reap_completions(PyObject *self, PyObject *owner, PyObject *const *args, Py_ssize_t count,
                                 PyObject *keywords);
PyObject *queue_reap_notifications(PyObject *self, PyObject *owner, PyObject *const *args, Py_ssize_t count,
                                   PyObject *keywords);
/* Ring.submit(), and reap(). */
PyObject *queue_submit_raw(PyObject *self, PyObject *owner, PyObject *const *args, Py_ssize_t count,
                           PyObject *keywords);
PyObject *queue_reap_raw(PyObject *self);
