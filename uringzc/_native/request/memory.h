/* SPDX-License-Identifier: MIT */
#pragma once

#include "request/queue.h"

/* Memory to send from. Requests and the Region that it belongs to hold references; when the last one is
 * dropped, the registered buffers are appended to `retired`, for the engine to unregister. */
typedef struct {
    PyObject_HEAD PyObject *owner; /* keeps the bytes where they are */
    PyObject *retired;             /* deque of (buffer, buffers); each engine has its own */
    unsigned long long address, length;
    int buffer; /* index of the first registered buffer; -1: not registered */
    unsigned buffers;
    char may_fault; /* it is the program's, and perhaps a mapped file: see may_fault() */
} Memory;

extern PyTypeObject *memory_type, *region_base_type;
extern PyType_Spec memory_spec, region_base_spec;
/* Fills in data (its first byte), base, buffer, buffers, may_fault, and message if `data` is a Vector.
 * *nbytes: how much memory there is. *holder: a new reference to what the request holds. 0, or -1 with an
 * exception. `offset` and `length` only say which part debug mode checks. */
int resolve_memory(Queue *q, PyObject *data, uint64_t offset, uint64_t length, uzc_send *send,
                   uint64_t *nbytes, PyObject **holder);
/* Whether what a request holds may have no pages: perhaps it is a mapped file, which may be truncated. */
bool may_fault(PyObject *holder);
/* ValueError if the part is not in the `nbytes` of `data`. 0 or -1. */
int check_range(PyObject *data, uint64_t offset, uint64_t length, uint64_t nbytes);
