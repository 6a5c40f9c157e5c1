/* SPDX-License-Identifier: MIT */
/* Sending in bulk from memory that the program keeps: blocks of datagrams, and slices at any offsets. */
#define _GNU_SOURCE /* process_vm_readv() */
#include "udp/send_region.h"

#include "engines/read_memory.h"
#include "request/memory.h"
#include "udp/batch.h"
#include "udp/call.h"
#include "udp/destinations.h"
#include "udp/submit.h"

/* Fills in a train of `length` bytes at `offset` of the program's memory; t->holder is a new reference. */
static int train_of_memory(UdpBatcher *g, PyObject *data, uint64_t offset, uint64_t length, struct train *t) {
    uzc_send send = {0};
    uint64_t nbytes;
    PyObject *holder;
    if (resolve_memory(g->queue, data, offset, length, &send, &nbytes, &holder) < 0)
        return -1;
    if (check_range(data, offset, length, nbytes) < 0) {
        Py_DECREF(holder);
        return -1;
    }
    *t = (struct train){.data = send.data + offset,
                        .holder = holder,
                        .base = send.base,
                        .buffer = send.buffer,
                        .buffers = send.buffers,
                        .block = NO_BLOCK};
    return 0;
}

/* What send_block() and send_slices() return: how much was taken, or an exception if that was nothing. */
static PyObject *finish_block(UdpBatcher *g, unsigned long long done) {
    if (PyErr_Occurred() && done && PyErr_ExceptionMatches(PyExc_BlockingIOError))
        PyErr_Clear(); /* the count says so */
    if (!PyErr_Occurred() && g->count == BATCH_SIZE)
        submit_batch(g, UNTIL_ROOM);
    return batcher_return(g, PyErr_Occurred() ? NULL : PyLong_FromUnsignedLongLong(done));
}

/* send_block(data, offset, length, segment, to) -> bytes taken: no more than one batch holds */
PyObject *batcher_send_block(PyObject *self, PyObject *args) {
    UdpBatcher *g = (UdpBatcher *)self;
    PyObject *data, *to;
    unsigned long long offset, length, done = 0;
    unsigned segment;
    uint32_t destination;
    if (!PyArg_ParseTuple(args, "OKKIO", &data, &offset, &length, &segment, &to))
        return NULL;
    if (!segment || segment > g->max_payload)
        return PyErr_Format(PyExc_ValueError, "a segment is a datagram, 1 to %u bytes, not %u",
                            g->max_payload, segment);
    if (batcher_begin(g) < 0)
        return NULL;
    struct train whole = {.holder = NULL};
    const bool checked = g->queue->verify != NULL; /* debug mode: a checksum for each train */
    int error = find_destination(g, to, &destination);
    if (!error && !checked)
        error = train_of_memory(g, data, offset, length, &whole);
    for (uint32_t trains = 0; !error && done < length && trains < BATCH_SIZE; trains++) {
        uint64_t n = max_train(g, destination, segment);
        if (n > length - done)
            n = length - done;
        struct train t = whole;
        if (checked)
            error = train_of_memory(g, data, offset + done, n, &t);
        else
            t.data += done;
        t.nbytes = (uint32_t)n;
        t.size = n < segment ? (uint32_t)n : segment;
        t.count = (uint32_t)((n + segment - 1) / segment);
        t.destination = destination;
        if (!error)
            error = add_train(g, &t);
        if (checked)
            Py_XDECREF(t.holder);
        if (!error)
            done += n;
    }
    Py_XDECREF(whole.holder);
    return finish_block(g, done);
}

/* An element of an array of integers. `kind`: their size, 4 or 8 bytes, or -4 for signed ones. */
static uint64_t integer(const char *array, int kind, size_t i) {
    uint64_t wide;
    int32_t narrow; /* the array need not be aligned */
    if (kind == 8) {
        memcpy(&wide, array + 8 * i, sizeof wide);
        return wide; /* a negative one is larger than any memory */
    }
    memcpy(&narrow, array + 4 * i, sizeof narrow);
    return kind < 0 ? (uint64_t)(int64_t)narrow : (uint32_t)narrow;
}

#define WINDOW_SIZE (64u << 10)

/* The slices of send_slices(): arrays of integers, of which `last` is behind the last. */
struct slices {
    const char *offsets, *lengths;
    int offset_kind, length_kind;
    uint64_t last;
};

/* A part of memory that may have no pages, read by one call for all slices in it that follow each other. */
struct window {
    char *bytes;
    uint64_t start, end; /* of the part */
};

/* Where a window that begins with slice `at` ends: behind the last slice that it has room for. */
static uint64_t end_of_window(const struct slices *s, uint64_t at, uint64_t nbytes) {
    const uint64_t start = integer(s->offsets, s->offset_kind, at);
    uint64_t end = start;
    for (; at < s->last; at++) {
        const uint64_t offset = integer(s->offsets, s->offset_kind, at);
        const uint64_t n = integer(s->lengths, s->length_kind, at);
        if (offset < start || n > WINDOW_SIZE || offset - start > WINDOW_SIZE - n || offset + n > nbytes)
            break;
        end = offset + n > end ? offset + n : end;
    }
    return end;
}

/* The bytes of slice `at`, which are in the memory. NULL with an exception. */
static const char *read_slice(struct window *w, const struct slices *s, uint64_t at, const char *data,
                              uint64_t nbytes) {
    const uint64_t offset = integer(s->offsets, s->offset_kind, at);
    const uint64_t n = integer(s->lengths, s->length_kind, at);
    if (!w->bytes && !(w->bytes = PyMem_Malloc(WINDOW_SIZE)))
        return PyErr_NoMemory(), NULL;
    if (offset >= w->start && offset + n <= w->end)
        return w->bytes + (offset - w->start);
    w->start = offset;
    w->end = end_of_window(s, at, nbytes);
    if (read_memory(w->bytes, data + offset, w->end - offset) && /* what follows may lack pages */
        (w->end = offset + n, read_memory(w->bytes, data + offset, n))) {
        w->end = w->start;
        PyObject *error = Py_BuildValue("(is)", EFAULT, "there is no memory: the mapped file was truncated");
        if (error)
            PyErr_SetObject(PyExc_OSError, error);
        Py_XDECREF(error);
        return NULL;
    }
    return w->bytes;
}

/* send_slices(data, offsets, kind, lengths, kind, first, last, to) -> slices [first, last) that were taken.
 * Without `to` they are only checked: how many, from the first, lie in the memory. */
PyObject *batcher_send_slices(PyObject *self, PyObject *args) {
    UdpBatcher *g = (UdpBatcher *)self;
    PyObject *data, *to = NULL;
    unsigned long long offsets, lengths, first, last;
    int offset_kind, length_kind;
    uint32_t destination = 0;
    if (!PyArg_ParseTuple(args, "OKiKiKK|O", &data, &offsets, &offset_kind, &lengths, &length_kind, &first,
                          &last, &to) ||
        batcher_begin(g) < 0)
        return NULL;
    struct train whole = {.holder = NULL};
    struct window window = {NULL, 0, 0};
    const struct slices slices = {(const char *)(uintptr_t)offsets, (const char *)(uintptr_t)lengths,
                                  offset_kind, length_kind, last};
    uzc_send send = {0};
    uint64_t nbytes = 0, at = first;
    int error = resolve_memory(g->queue, data, 0, 0, &send, &nbytes, &whole.holder);
    if (!error && to)
        error = find_destination(g, to, &destination);
    while (!error && at < last) {
        uint64_t offset = integer(slices.offsets, offset_kind, at);
        uint64_t n = integer(slices.lengths, length_kind, at);
        if (n > g->max_payload || offset > nbytes || n > nbytes - offset) {
            if (to)
                PyErr_SetString(PyExc_ValueError, "the offsets or lengths were changed during the call");
            break;
        }
        if (!to) {
            at++;
            continue;
        }
        const char *piece = send.data + offset;
        if (send.may_fault && n < g->hold_threshold &&
            !(piece = read_slice(&window, &slices, at, send.data, nbytes)))
            break;
        if (continues_train(g->open, destination, n)) {
            append_datagram(g->open, piece, n);
        } else if (n < g->hold_threshold) {
            error = stage_datagram(g, piece, n, destination, NULL);
        } else {
            struct train t;
            error = train_of_memory(g, data, offset, n, &t);
            t.nbytes = t.size = (uint32_t)n;
            t.count = 1;
            t.destination = destination;
            if (!error) {
                error = add_train(g, &t);
                Py_DECREF(t.holder);
            }
        }
        at += !error; /* it was taken, whatever fails now */
        if (!error && g->count == BATCH_SIZE)
            error = submit_batch(g, UNTIL_ROOM);
    }
    PyMem_Free(window.bytes);
    Py_XDECREF(whole.holder);
    return finish_block(g, at - first);
}
