/* SPDX-License-Identifier: MIT */
/* The per-request path: single sends and runs, for every engine, through its uzc_calls.
 *
 * A method in C holds the GIL from its first check until the request is in the request table, so no signal
 * handler, thread or exception can come between a buffer and the record that keeps it alive; and it costs a
 * tenth of a Python method that makes a cffi call. What needs policy, or is not on the fast path, is done by
 * Python callables: describe_socket, pin, pack, refuse (queue.h). */
#include "request/send.h"

#include <sys/socket.h>

#include "request/arguments.h"
#include "request/enter.h"
#include "request/memory.h"
#include "request/refuse.h"
#include "request/sockets.h"

/* Whether entering the engine may make room. */
static bool is_full(long long code) {
    return code == UZC_E_QUEUE || code == UZC_E_REQUESTS || code == UZC_E_COMPLETIONS ||
           code == UZC_E_NOTIFICATIONS || code == UZC_E_FRAMES;
}

/* Queues send->count requests, or as many as there is room for. A full submission queue is submitted; where
 * the request table is full, the engine is entered once for what has completed. Returns how many were queued,
 * or -1 with an exception when none was. */
static long long queue_all(Queue *q, PyObject *sock, uzc_send *send) {
    const uint32_t wanted = send->count;
    long long total = 0;
    bool entered = false; /* since the last request was queued, for room in the table */
    while (total < wanted && bind_request_socket(q, sock, send) == 0) {
        send->count = wanted - (uint32_t)total;
        long long done = queue_requests(q, send);
        if (done > 0) {
            total += done;
            send->data += (uint64_t)done * send->stride;
            send->user_data += (uint64_t)done;
            entered = false;
            continue;
        }
        if (is_full(done) && !(entered && done != UZC_E_QUEUE)) {
            entered = done != UZC_E_QUEUE;
            done = try_enter(q, 1, 0, 0);
        }
        if (done < 0 && done != -EINTR) {
            if (done != INT64_MIN)
                refuse(q, done);
            break;
        }
    }
    if (!PyErr_Occurred())
        return total;
    if (!total || !PyErr_ExceptionMatches(PyExc_BlockingIOError))
        return -1;
    PyErr_Clear(); /* no more room: the count says so. Anything else, an interrupt too, is passed on */
    return total;
}

/* Fills in the destination. The last one packed is remembered: neighbours are often the same. */
static int pack_destination(Queue *q, PyObject *to, PyObject *sock, uzc_send *send) {
    if (!to || to == Py_None)
        return 0;
    int family = socket_family(q, sock);
    if (family < 0)
        return -1;
    if (to != q->last_to || family != q->last_family) {
        PyObject *packed = PyObject_CallFunction(q->pack, "iO", family, to);
        if (!packed)
            return -1;
        PyObject *old_to = q->last_to, *old_packed = q->last_packed;
        /* a host name is resolved each time: pack() returns a subclass of bytes then */
        bool lasting = PyTuple_CheckExact(to) && PyBytes_CheckExact(packed);
        q->last_to = lasting ? Py_NewRef(to) : NULL;
        q->last_packed = packed;
        q->last_family = family;
        Py_XDECREF(old_to);
        Py_XDECREF(old_packed);
    }
    send->to = PyBytes_AsString(q->last_packed);
    send->to_length = (uint32_t)PyBytes_Size(q->last_packed);
    return 0;
}

/* The arguments that sends and runs share. */
static int parse_options(PyObject **a, uzc_send *send) {
    uint64_t slot = 0, segment = 0, flags = 0;
    if (parse_number(a[SLOT], SLOT, UZC_MAX_SLOTS - 1, &slot) < 0 ||
        parse_number(a[SEGMENT], SEGMENT, UINT16_MAX, &segment) < 0 ||
        parse_number(a[MSG_FLAGS], MSG_FLAGS, INT32_MAX, &flags) < 0 ||
        parse_number(a[USER_DATA], USER_DATA, UINT64_MAX, &send->user_data) < 0 ||
        parse_bool(a[ZERO_COPY], &send->zero_copy) < 0 || parse_bool(a[FLUSH], &send->flush) < 0)
        return -1;
    send->slot = (uint32_t)slot;
    send->segment = (uint32_t)segment;
    send->msg_flags = (uint32_t)flags | MSG_NOSIGNAL;
    return 0;
}

/* Queues what was parsed. Python code that this calls (a socket's fileno(), a finalizer) may not use the
 * engine. Returns how many requests were queued, or -1 with an exception. */
static long long dispatch(Queue *q, PyObject **a, PyObject *holder, uzc_send *send) {
    int refusal = READ_SHARED(q->engine) ? begin_call(q) : UZC_E_CLOSED;
    if (!refusal && !READ_SHARED(q->engine)) { /* its owner has ended it since, in another thread */
        set_busy(q, 0);
        refusal = UZC_E_CLOSED;
    }
    if (refusal)
        return refuse(q, refusal), -1;
    send->socket = a[SOCK];
    send->memory = holder;
    long long done = pack_destination(q, a[TO], a[SOCK], send) == 0 ? queue_all(q, a[SOCK], send) : -1;
    if (done < 0 && !q->queued) /* refused: no reference to its socket is kept */
        forget_pending_sockets(q);
    set_busy(q, 0);
    return done;
}

/* Debug mode: each request of a run has a holder of its own, with a checksum. */
static long long dispatch_each(Queue *q, PyObject **a, uint64_t offset, const uzc_send *run) {
    for (uint32_t i = 0; i < run->count; i++) {
        uzc_send send = *run;
        uint64_t nbytes, start = offset + i * run->stride;
        PyObject *holder;
        if (resolve_memory(q, a[REGION], start, run->length, &send, &nbytes, &holder) < 0)
            return -1;
        send.data += start;
        send.user_data += i;
        send.count = 1;
        long long done = dispatch(q, a, holder, &send);
        Py_DECREF(holder);
        if (done < 0 && i && PyErr_ExceptionMatches(PyExc_BlockingIOError))
            return PyErr_Clear(), i;
        if (done < 0)
            return -1;
    }
    return run->count;
}

/* `zero_copy`: where that is no argument, or absent. */
static PyObject *send_one(Queue *q, PyObject **a, uint32_t zero_copy) {
    PyObject *holder = NULL;
    uzc_send send = {.count = 1, .zero_copy = zero_copy};
    uint64_t offset = 0, length = UINT64_MAX, nbytes;
    if (parse_options(a, &send) < 0)
        return NULL;
    if (a[LENGTH] == Py_None)
        a[LENGTH] = NULL;
    if (parse_number(a[OFFSET], OFFSET, INT64_MAX, &offset) < 0 ||
        parse_number(a[LENGTH], LENGTH, INT64_MAX, &length) < 0)
        return NULL;
    if (resolve_memory(q, a[DATA], offset, length, &send, &nbytes, &holder) < 0)
        return NULL;
    if (!a[LENGTH])
        length = offset <= nbytes ? nbytes - offset : 0;
    long long done = check_range(a[DATA], offset, length, nbytes);
    if (!done && length > UINT32_MAX)
        done = (PyErr_Format(PyExc_ValueError, "one send takes less than 4 GiB, not %llu bytes", length), -1);
    if (!done) {
        send.data += offset;
        send.length = (uint32_t)length;
        done = dispatch(q, a, holder, &send);
    }
    Py_DECREF(holder);
    if (done < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *queue_send(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords) {
    static const Signature signature = {
        "send",
        2,
        2,
        11,
        {SOCK, DATA, OFFSET, LENGTH, TO, SEGMENT, MSG_FLAGS, ZERO_COPY, SLOT, USER_DATA, FLUSH}};
    PyObject *a[ARGUMENTS] = {NULL};
    return parse_arguments(&signature, args, count, keywords, a) < 0 ? NULL : send_one((Queue *)self, a, 1);
}

#define RAW_SEND(method)                                                                                     \
    {                                                                                                        \
        method, 2, 2, 8, {                                                                                   \
            SOCK, DATA, OFFSET, LENGTH, TO, SEGMENT, MSG_FLAGS, USER_DATA                                    \
        }                                                                                                    \
    }

PyObject *queue_send_raw(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords) {
    static const Signature signature = RAW_SEND("send");
    PyObject *a[ARGUMENTS] = {NULL};
    return parse_arguments(&signature, args, count, keywords, a) < 0 ? NULL : send_one((Queue *)self, a, 0);
}

PyObject *queue_send_zc_raw(PyObject *self, PyObject *ring, PyObject *const *args, Py_ssize_t count,
                            PyObject *keywords) {
    static const Signature signature = RAW_SEND("send_zc");
    PyObject *a[ARGUMENTS] = {NULL};
    if (parse_arguments(&signature, args, count, keywords, a) < 0)
        return NULL;
    int segments = a[SEGMENT] ? PyObject_IsTrue(a[SEGMENT]) : 0;
    if (segments &&
        (segments < 0 || check_result(PyObject_CallMethod(ring, "_require_sendmsg_zc", NULL)) < 0))
        return NULL;
    return send_one((Queue *)self, a, 1);
}

PyObject *queue_send_run(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords) {
    static const Signature signature = {
        "send_run",
        4,
        5,
        11,
        {SOCK, REGION, SIZE, COUNT, STRIDE, OFFSET, TO, ZERO_COPY, SLOT, USER_DATA, FLUSH}};
    Queue *q = (Queue *)self;
    PyObject *a[ARGUMENTS] = {NULL}, *holder = NULL;
    uzc_send send = {.zero_copy = 1};
    uint64_t offset = 0, size = 0, datagrams = 0, nbytes;
    if (parse_arguments(&signature, args, count, keywords, a) < 0 || parse_options(a, &send) < 0)
        return NULL;
    if (a[STRIDE] == Py_None)
        a[STRIDE] = NULL;
    if (parse_number(a[SIZE], SIZE, UINT32_MAX, &size) < 0 ||
        parse_number(a[COUNT], COUNT, UINT32_MAX, &datagrams) < 0 ||
        parse_number(a[OFFSET], OFFSET, INT64_MAX, &offset) < 0)
        return NULL;
    send.stride = size;
    if (parse_number(a[STRIDE], STRIDE, UINT32_MAX, &send.stride) < 0 || /* dispatch_each() takes checksums */
        resolve_memory(q, a[REGION], 0, 0, &send, &nbytes, &holder) < 0)
        return NULL;
    long long done = 0;
    uint64_t span = datagrams ? (datagrams - 1) * send.stride + size : 0;
    if (datagrams && datagrams - 1 > UINT64_MAX - send.user_data)
        done = (PyErr_SetString(PyExc_ValueError, "user_data of the last request does not fit a u64"), -1);
    else if ((done = check_range(a[REGION], offset, span, nbytes)) == 0 && datagrams) {
        if (!q->verify)
            send.data += offset;
        send.length = (uint32_t)size;
        send.count = (uint32_t)datagrams;
        done = q->verify ? dispatch_each(q, a, offset, &send) : dispatch(q, a, holder, &send);
    }
    Py_DECREF(holder);
    return done < 0 ? NULL : PyLong_FromLongLong(done);
}
