/* SPDX-License-Identifier: MIT
 *
 * A call of the program's is sent in steps: as many neighbours of one kind as one request, or one system
 * call, takes. What the kernel does not take of a step begins the next one.
 */
#include <sys/uio.h>

#include "request/enter.h"
#include "tcp/tcp.h"

struct cursor {
    const struct piece *pieces;
    size_t count, at, offset, left; /* where it is, in the piece, and bytes from there on */
};

static void advance(struct cursor *c, size_t bytes) {
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

static bool may_stay(const TcpStream *s, const struct piece *p, size_t length) {
    return p->immutable && length >= s->least;
}

static bool goes_zero_copy(const TcpStream *s, const struct piece *p, size_t length) {
    return !s->copy_only && (s->always ? p->immutable && length : s->zero_copy && may_stay(s, p, length));
}

/* What leaves next: neighbours of one kind, in s->vector. */
struct step {
    uint32_t pieces;
    size_t first, bytes;
    bool zero_copy, counts; /* counts: for the policy */
};

static struct step next_step(TcpStream *s, const struct cursor *c) {
    struct step step = {.first = c->at};
    size_t offset = c->offset;
    for (size_t i = c->at; i < c->count && step.pieces < VECTOR && step.bytes < CHUNK; i++, offset = 0) {
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
        step.counts |= may_stay(s, p, length);
        if (length > CHUNK - step.bytes)
            length = CHUNK - step.bytes;
        s->vector[step.pieces++] = (struct iovec){(void *)(p->data + offset), length};
        step.bytes += length;
    }
    return step;
}

/* What the accounts hold: the piece, or a tuple of all up to the last one. */
static PyObject *holder_of(const struct cursor *c, const struct step *step) {
    if (step->pieces == 1) {
        Py_INCREF(c->pieces[step->first].holder);
        return c->pieces[step->first].holder;
    }
    PyObject *all = PyTuple_New((Py_ssize_t)step->pieces);
    size_t i = step->first;
    for (Py_ssize_t n = 0; all && n < (Py_ssize_t)step->pieces; i++) {
        if (!c->pieces[i].length)
            continue;
        Py_INCREF(c->pieces[i].holder);
        PyTuple_SetItem(all, n++, c->pieces[i].holder);
    }
    return all;
}

static int32_t send_step(TcpStream *s, const struct cursor *c, const struct step *step) {
    bool more = c->left > step->bytes;
    if (!step->zero_copy)
        return flow_plainly(s, step->pieces, more);
    PyObject *holder = holder_of(c, step);
    int32_t sent = holder ? flow_zero_copy(s, step->pieces, more, holder) : EXCEPTION;
    Py_XDECREF(holder);
    if (sent == -EOPNOTSUPP)
        s->copy_only = 1;
    if (sent == -EOPNOTSUPP || sent == -ENOMEM || sent == -ENOBUFS) /* nothing was sent: this one is copied */
        return flow_plainly(s, step->pieces, more);
    return sent;
}

static int ask_policy(TcpStream *s) {
    int zero_copy;
    PyObject *decision = PyObject_CallMethod(s->slow_path, "observe", "II", s->settled_now, s->copied_now);
    int parsed = decision && PyArg_ParseTuple(decision, "pI", &zero_copy, &s->look);
    Py_XDECREF(decision);
    if (!parsed)
        return -1;
    s->zero_copy = zero_copy;
    s->seen = s->settled_now = s->copied_now = 0;
    return 0;
}

/* A call that does not wait: fileno() will say when. */
static int stop(TcpStream *s) {
    PyObject *told = PyObject_CallMethod(s->slow_path, "blocked", NULL);
    Py_XDECREF(told);
    return told && (!s->in_flight || flow_look(s) == 0) ? 1 : -1;
}

static int failed(TcpStream *s, int32_t code, size_t size, unsigned long long accepted) {
    if (code != EXCEPTION) {
        PyObject *raised = PyObject_CallMethod(s->slow_path, "failed", "inKK", (int)-code, (Py_ssize_t)size,
                                               accepted, s->nbytes);
        Py_XDECREF(raised);
    }
    return -1;
}

int flow_send(TcpStream *s, const struct piece *pieces, size_t count) {
    struct cursor c = {.pieces = pieces, .count = count};
    for (size_t i = 0; i < count; i++)
        c.left += pieces[i].length;
    const size_t size = c.left;
    bool waited = false;
    do {
        int32_t code = flow_socket(s);
        struct step step = next_step(s, &c);
        unsigned long long before = s->nbytes;
        if (!code)
            code = send_step(s, &c, &step);
        advance(&c, (size_t)(s->nbytes - before));
        if (code >= 0) {
            s->seen += step.counts;
            if ((s->seen >= s->look && ask_policy(s) < 0) || check_signals(s->queue) < 0)
                return -1;
            waited = false;
            if ((size_t)code == step.bytes)
                continue;
        } else if (code != -EAGAIN) {
            return failed(s, code, size, size - c.left);
        }
        if (!s->blocking) /* it took less than it was given: it is full */
            return stop(s);
        code = flow_wait(s, waited);
        waited = true;
        if (code)
            return failed(s, code, size, size - c.left);
    } while (c.left);
    return 0;
}
