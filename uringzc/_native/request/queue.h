/* SPDX-License-Identifier: MIT
 *
 * The struct of the type Queue: what the per-request path has of one engine. The functions are in files by
 * subject (send, enter, sockets, arguments, memory, refuse), its type in queue_type.c. */
#ifndef UZC_QUEUE_H
#define UZC_QUEUE_H

#include "native.h"
#include "request/python.h"

/* A socket with requests that are not submitted: it must still be what it was when they are. */
typedef struct {
    PyObject *sock;
    int fd;
    int index; /* of a registered file, or -1 */
    int family;
    uint32_t most; /* bytes in one request; 0: no limit but the type's */
    bool zero_copy;
} Pending;

enum { KNOWN = 16 };
typedef struct {
    PyObject *reference; /* weak */
    Pending facts;
} CachedSocket;

typedef struct {
    PyObject_HEAD const uzc_calls *calls; /* ended_engine_calls when the engine has ended */
    void *engine;                         /* then NULL */
    PyObject *admit, *pin, *pack, *refuse, *claimed;
    PyObject *region_type, *retired;
    PyObject *verify;   /* debug mode: called with what a request held, before its notifier counts as done */
    PyObject *modified; /* debug mode: a list of the exceptions that it raised, for the end of a call */
    PyObject *last_to, *last_packed;
    int last_family;
    Pending *pending;
    Py_ssize_t pending_count, pending_room;
    CachedSocket known[KNOWN]; /* by address */
    long long queued;          /* requests queued and not submitted */
    unsigned long long submitted;
    char busy, owned;
    int inside; /* senders of this engine that are inside a call */
} Queue;

#endif
