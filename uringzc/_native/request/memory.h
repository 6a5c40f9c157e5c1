/* SPDX-License-Identifier: MIT
 *
 * The type Memory, and data given to send() as an address and something to hold. */
#ifndef UZC_MEMORY_H
#define UZC_MEMORY_H

#include "request/queue.h"

/* Memory that can be sent: what requests hold while the kernel may read it. When the last of them and the
 * Region are gone, the registered buffers under it are left to the engine, on `retired`. */
typedef struct {
    PyObject_HEAD PyObject *owner; /* whatever keeps the bytes where they are */
    PyObject *retired; /* the engine's deque, and its identity: (buffer, buffers) is appended to it */
    unsigned long long address, length;
    int buffer; /* -1: not registered */
    unsigned buffers;
} Memory;

int memory_init(PyObject *module);
int is_memory(PyObject *object);
/* What to hold, and where its bytes are. Fills data, base, buffer, buffers; a new reference in *holder. */
int resolve_memory(Queue *q, PyObject *data, PyObject *offset, PyObject *length, uzc_send *send,
                   uint64_t *nbytes, PyObject **holder);

#endif
