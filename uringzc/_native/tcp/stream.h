/* SPDX-License-Identifier: MIT */
/* The struct of the type TcpStream: the sender of one stream socket.
 *
 * The order of the bytes holds by construction: a request is queued when the one before it has its result,
 * and a system call is made while no request is without one. No data is buffered in the sender.
 *
 * Fields are read and written with the GIL held, by the thread that owns the engine; the listener's also
 * without the GIL, in that thread, inside enter(). */
#pragma once

#include "request/enter.h"
#include "request/refuse.h"
#include "request/sender_notifiers.h"

/* one request or system call: iovecs (IOV_MAX is 1024), and bytes, for all of which locked memory is charged,
 * whatever the kernel accepts */
#define MAX_PIECES 256u
#define MAX_BYTES (1u << 20)
/* what functions that return bytes or -errno return when Python code has raised */
#define EXCEPTION INT32_MIN

/* A buffer that a call was given. */
struct piece {
    const char *data;
    size_t length;
    PyObject *holder; /* a reference: keeps the buffer where it is */
    bool immutable;   /* may be sent zero-copy after the call has returned */
};

typedef struct {
    PyObject_HEAD Queue *queue;
    PyObject *sock;
    PyObject *slow_path; /* TcpSlowPath: decisions, errors, callbacks */
    char claimed;        /* the first call was made: its thread owns the engine */
    char inside;         /* a call is inside: others are refused */
    char closed;
    char copy_only; /* the socket cannot send zero-copy */
    char to_report; /* the slow path has something for the program's callbacks */
    int blocking;   /* calls wait until the socket is writable */
    int always;     /* zero_copy="always" */
    int notify;     /* the program has a callback for notifications */
    int fd;         /* the socket's, as of the last stream_update_fd() */
    uint32_t slot;  /* the internal slot */

    bool awaited;         /* a request has no result yet; `vector` must not change */
    int32_t result;       /* of the last request: bytes, or -errno */
    struct iovec *vector; /* MAX_PIECES of them: the next request or system call */

    /* for immutable pieces of min_zero_copy bytes and more, the policy (senders/policy.py) decides */
    bool zero_copy;         /* its decision */
    uint32_t min_zero_copy; /* bytes */
    uint32_t decide_after;  /* the decision is for so many steps with such pieces */
    uint32_t decided_over;  /* of those so far */
    uint32_t settled_since; /* zero-copy requests since the decision whose memory is free */
    uint32_t copied_since;  /* of those, copied by the kernel */

    uint32_t in_flight;        /* requests whose memory the kernel may read */
    uint32_t unflushed;        /* requests of the notifier that is not flushed */
    uint32_t calls_since_poll; /* calls since the engine was entered last */
    Notifiers notifiers;

    /* since the start; see TcpStats */
    unsigned long long sends, nbytes, requests, syscalls, settled, copied, waits;
} TcpStream;
