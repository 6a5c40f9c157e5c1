/* SPDX-License-Identifier: MIT */
/* TcpStream.send() and TcpStream.send_buffers(). All buffers are examined first. Then they are sent in steps:
 * as many neighbours of one kind, zero-copy or not, as one request or one system call takes. What the kernel
 * does not accept of a step begins the next one. */
#include "tcp/send.h"

#include <sys/uio.h>

#include "tcp/call.h"
#include "tcp/transfer.h"

struct cursor {
    const struct piece *pieces;
    size_t count, at; /* pieces; the one that is sent next */
    size_t offset;    /* bytes of that one that were accepted */
    size_t left;      /* bytes that were not, in all */
};

struct step {
    uint32_t pieces; /* in s->vector */
    size_t first;    /* the first of them, in cursor.pieces */
    size_t bytes;
    bool zero_copy;
    bool counts; /* a piece of it is what the policy decides for */
};

static void advance_cursor(struct cursor *c, size_t bytes) {
    c->left -= bytes;
    for (; c->at < c->count; c->at++, c->offset = 0) {
        size_t rest = c->pieces[c->at].length - c->offset;
        if (bytes < rest) {
            c->offset += bytes;
            return;
        }
        bytes -= rest;
    }
}

static bool policy_decides(const TcpStream *s, const struct piece *p, size_t length) {
    return p->immutable && length >= s->min_zero_copy;
}

static bool goes_zero_copy(const TcpStream *s, const struct piece *p, size_t length) {
    return !s->copy_only &&
           (s->always ? p->immutable && length : s->zero_copy && policy_decides(s, p, length));
}

static struct step next_step(TcpStream *s, const struct cursor *c) {
    struct step step = {.first = c->at};
    size_t offset = c->offset;
    for (size_t i = c->at; i < c->count && step.pieces < MAX_PIECES && step.bytes < MAX_BYTES;
         i++, offset = 0) {
        const struct piece *p = &c->pieces[i];
        size_t length = p->length - offset;
        if (!length)
            continue;
        bool zero_copy = goes_zero_copy(s, p, length);
        if (!step.pieces) {
            step.zero_copy = zero_copy;
            step.first = i;
        } else if (zero_copy != step.zero_copy) {
            break;
        }
        step.counts |= policy_decides(s, p, length);
        if (length > MAX_BYTES - step.bytes)
            length = MAX_BYTES - step.bytes;
        s->vector[step.pieces++] = (struct iovec){(void *)(p->data + offset), length};
        step.bytes += length;
    }
    return step;
}

/* What the request holds: the piece's holder, or a tuple of all. A new reference; NULL with an exception. */
static PyObject *holder_of(const struct cursor *c, const struct step *step) {
    if (step->pieces == 1)
        return Py_NewRef(c->pieces[step->first].holder);
    PyObject *all = PyTuple_New((Py_ssize_t)step->pieces);
    size_t i = step->first;
    for (Py_ssize_t n = 0; all && n < (Py_ssize_t)step->pieces; i++) {
        if (!c->pieces[i].length)
            continue;
        PyTuple_SetItem(all, n++, Py_NewRef(c->pieces[i].holder));
    }
    return all;
}

/* Bytes, -errno, or EXCEPTION. */
static int32_t send_step(TcpStream *s, const struct cursor *c, const struct step *step) {
    bool more = c->left > step->bytes;
    if (!step->zero_copy)
        return transfer_by_syscall(s, step->pieces, more);
    PyObject *holder = holder_of(c, step);
    int32_t sent = holder ? transfer_by_request(s, step->pieces, more, holder) : EXCEPTION;
    Py_XDECREF(holder);
    if (sent == -EOPNOTSUPP)
        s->copy_only = 1;
    if (sent == -EOPNOTSUPP || sent == -ENOMEM || sent == -ENOBUFS) /* nothing was sent: copy this one */
        return transfer_by_syscall(s, step->pieces, more);
    return sent;
}

int adopt_decision(TcpStream *s, PyObject *decision) {
    int zero_copy, parsed = decision && PyArg_ParseTuple(decision, "pI", &zero_copy, &s->decide_after);
    Py_XDECREF(decision);
    if (!parsed)
        return -1;
    s->zero_copy = zero_copy;
    s->decided_over = s->settled_since = s->copied_since = 0;
    return 0;
}

static int count_for_policy(TcpStream *s, const struct step *step) {
    s->decided_over += step->counts;
    if (s->decided_over < s->decide_after)
        return 0;
    return adopt_decision(
        s, PyObject_CallMethod(s->slow_path, "observe", "II", s->settled_since, s->copied_since));
}

/* A call that may not wait ends here, and the sender's fileno() becomes readable when the socket is writable.
 * 1, or -1 with an exception. */
static int stop_sending(TcpStream *s) {
    int error = check_result(PyObject_CallMethod(s->slow_path, "blocked", NULL));
    return !error && (!s->in_flight || stream_poll(s) == 0) ? 1 : -1;
}

/* Raises SendError, unless `code` is EXCEPTION. Always -1. */
static int fail_sending(TcpStream *s, int32_t code, size_t size, unsigned long long accepted) {
    if (code != EXCEPTION)
        check_result(PyObject_CallMethod(s->slow_path, "failed", "inKK", (int)-code, (Py_ssize_t)size,
                                         accepted, s->nbytes));
    return -1;
}

/* Sends all pieces: 0, or -1 with an exception; 1: the rest would have to wait. What the kernel has accepted
 * is counted in s->nbytes in any case. */
static int send_pieces(TcpStream *s, const struct piece *pieces, size_t count) {
    struct cursor c = {.pieces = pieces, .count = count};
    for (size_t i = 0; i < count; i++)
        c.left += pieces[i].length;
    const size_t size = c.left;
    bool waited = false;
    do {
        int32_t code = stream_update_fd(s);
        struct step step = next_step(s, &c);
        unsigned long long before = s->nbytes;
        if (!code)
            code = send_step(s, &c, &step);
        advance_cursor(&c, (size_t)(s->nbytes - before));
        if (code >= 0) {
            if (count_for_policy(s, &step) < 0 || check_signals(s->queue) < 0)
                return -1;
            waited = false;
            if ((size_t)code == step.bytes)
                continue;
        } else if (code != -EAGAIN) {
            return fail_sending(s, code, size, size - c.left);
        }
        if (!s->blocking) /* less than it was given: the socket's buffer is full */
            return stop_sending(s);
        code = stream_wait_writable(s, waited);
        waited = true;
        if (code)
            return fail_sending(s, code, size, size - c.left);
    } while (c.left);
    return 0;
}

/* Examines a buffer. 0, and the piece has a reference; or -1 with an exception. */
static int take_piece(TcpStream *s, PyObject *data, struct piece *p) {
    if (PyBytes_CheckExact(data)) {
        *p = (struct piece){PyBytes_AsString(data), (size_t)PyBytes_Size(data), Py_NewRef(data), true};
        return 0;
    }
    if (PyByteArray_CheckExact(data)) { /* while the view exists, it cannot be resized */
        PyObject *view = PyMemoryView_FromObject(data);
        *p = (struct piece){PyByteArray_AsString(data), (size_t)PyByteArray_Size(data), view, false};
        return view ? 0 : -1;
    }
    PyObject *examined = PyObject_CallMethod(s->slow_path, "examine", "O", data);
    unsigned long long address, length;
    int immutable;
    if (!examined || !PyArg_ParseTuple(examined, "OKKp", &p->holder, &address, &length, &immutable)) {
        Py_XDECREF(examined);
        return -1;
    }
    Py_INCREF(p->holder);
    Py_DECREF(examined);
    p->data = (const char *)(uintptr_t)address;
    p->length = (size_t)length;
    p->immutable = immutable;
    return 0;
}

static PyObject *send_all(TcpStream *s, const struct piece *pieces, size_t count) {
    int refusal = s->queue->calls->check(s->queue->slots);
    if (refusal)
        return refuse_as(s->slow_path, refusal);
    if (stream_begin(s) < 0)
        return NULL;
    const unsigned long long before = s->nbytes;
    s->sends++;
    int code = send_pieces(s, pieces, count);
    if (code > 0 && s->nbytes == before)
        code = raise_would_block(code, "the socket takes no more at the moment");
    return stream_end(s, code < 0 ? NULL : PyLong_FromUnsignedLongLong(s->nbytes - before));
}

PyObject *stream_send(PyObject *self, PyObject *data) {
    struct piece piece;
    if (take_piece((TcpStream *)self, data, &piece) < 0)
        return NULL;
    PyObject *sent = send_all((TcpStream *)self, &piece, 1);
    Py_DECREF(piece.holder);
    return sent;
}

PyObject *stream_send_buffers(PyObject *self, PyObject *buffers) {
    PyObject *list = PySequence_List(buffers), *sent = NULL;
    if (!list)
        return NULL;
    const Py_ssize_t count = PyList_Size(list);
    Py_ssize_t taken = 0;
    struct piece *pieces = PyMem_Malloc((size_t)(count ? count : 1) * sizeof *pieces);
    if (!pieces)
        PyErr_NoMemory();
    while (pieces && taken < count &&
           take_piece((TcpStream *)self, PyList_GetItem(list, taken), &pieces[taken]) == 0)
        taken++;
    if (pieces && taken == count)
        sent = send_all((TcpStream *)self, pieces, (size_t)count);
    while (taken)
        Py_DECREF(pieces[--taken].holder);
    PyMem_Free(pieces);
    Py_DECREF(list);
    return sent;
}
