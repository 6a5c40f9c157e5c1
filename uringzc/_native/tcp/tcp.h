/* SPDX-License-Identifier: MIT
 *
 * What a sender of a TCP socket is made of. Bytes leave in order by construction: a request is queued when
 * the one before it has its result, and a plain system call is made while no request is without one. Nothing
 * waits in the sender.
 *
 * Everything here belongs to the thread that owns the engine, with the GIL. */
#ifndef UZC_STREAM_H
#define UZC_STREAM_H

#include "request/queue.h"
#include "request/sender_notifiers.h"

#define VECTOR 256u         /* pieces of one request or system call; IOV_MAX is 1024 */
#define CHUNK (1u << 20)    /* bytes of one: locked memory is charged for all of them, taken or not */
#define EXCEPTION INT32_MIN /* what returns bytes, or -errno, returns this where Python code has raised */

/* A buffer of the program's, which `holder` keeps where it is. */
struct piece {
    const char *data;
    size_t length;
    PyObject *holder;
    bool immutable;
};

typedef struct {
    PyObject_HEAD Queue *queue;
    PyObject *sock;
    PyObject *slow_path; /* the Python part: decisions, errors, what the program is told */
    char claimed, inside, closed;
    char blocking, always, notify;
    char copy_only; /* the socket can not send zero-copy */
    char to_report; /* the slow_path has something to tell the program */
    int fd;
    uint32_t slot;

    /* the request without a result, if there is one; its pieces must stay here until then */
    bool awaited;
    int32_t result;
    struct iovec *vector; /* VECTOR of them */

    /* the policy's decision, for pieces of `least` bytes and more, and what it is told at the next */
    bool zero_copy;
    uint32_t least, look, seen, settled_now, copied_now;

    uint32_t in_flight, attached; /* requests; those of the notifier that is not flushed */
    uint32_t unlooked;            /* calls since the engine was last entered */
    Notifiers notifiers;
    unsigned long long sends, nbytes, requests, syscalls, settled, copied, waits; /* so far */
} TcpStream;

/* sender.c */
extern PyTypeObject *stream_type;
int add_stream_type(PyObject *module);
PyObject *stream_send(PyObject *self, PyObject *data);
PyObject *stream_send_buffers(PyObject *self, PyObject *buffers);

/* send.c: inside a call. Sends all of it: 0 or -1; 1: the rest would have to wait. What was accepted is
 * counted in `nbytes` in any case. */
int flow_send(TcpStream *s, const struct piece *pieces, size_t count);

/* transfer.c: inside a call. 0 or -1. */
void stream_listener(TcpStream *s, uzc_listener *listener);
/* The result of a request that an exception has left behind. */
int flow_conclude(TcpStream *s);
/* Flushes the notifier of what was queued. */
int flow_flush(TcpStream *s);
/* Takes what has come back, without waiting. */
int flow_look(TcpStream *s);

/* transfer.c: bytes, or 0; -errno; or EXCEPTION. */
/* Takes the socket's descriptor. */
int32_t flow_socket(TcpStream *s);
/* Sends the first `count` pieces of s->vector by a system call; `more` follows. */
int32_t flow_plainly(TcpStream *s, uint32_t count, bool more);
/* The same, by a request that holds `holder`. */
int32_t flow_zero_copy(TcpStream *s, uint32_t count, bool more, PyObject *holder);
/* Returns when another try makes sense. `again`: the last wait was in vain. */
int32_t flow_wait(TcpStream *s, bool again);

#endif
