/* SPDX-License-Identifier: MIT
 *
 * The type TcpStream: a TCP socket's sender, from its making to its end.
 */
#include <limits.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "request/enter.h"
#include "request/queue_type.h"
#include "request/refuse.h"
#include "tcp/tcp.h"

#define CALLS 16 /* without a request, between two looks at what has come back */

static int begin(TcpStream *s) {
    if (s->closed || !s->queue->engine)
        return refuse_as(s->slow_path, UZC_E_CLOSED), -1;
    if (!s->queue->calls->is_owner(s->queue->calls->slots(s->queue->engine)))
        return refuse_as(s->slow_path, UZC_E_THREAD), -1;
    if (s->inside || s->queue->busy)
        return refuse_as(s->slow_path, UZC_E_BUSY), -1;
    if (!s->claimed) { /* the first call */
        PyObject *claimed = PyObject_CallMethod(s->slow_path, "claim", NULL);
        Py_XDECREF(claimed);
        if (!claimed)
            return -1;
        s->claimed = 1;
    }
    s->inside = 1;
    s->queue->inside++;
    if (flow_conclude(s) == 0)
        return 0;
    s->queue->inside--;
    s->inside = 0;
    return -1;
}

/* The end of a call, which has raised if `result` is NULL: memory that was sent from is let go as soon as it
 * can be, and the program told, which may raise too. */
static PyObject *leave(TcpStream *s, PyObject *result) {
    PyObject *type, *value, *trace, *told = NULL;
    PyErr_Fetch(&type, &value, &trace);
    int error = s->attached ? flow_flush(s) : 0;
    if (!error && s->in_flight && ++s->unlooked > CALLS)
        error = flow_look(s);
    if (!error && s->to_report && result) {
        told = PyObject_CallMethod(s->slow_path, "report", NULL);
        error = told ? 0 : -1;
        s->to_report = error != 0; /* what the program was not told, the next call tells it */
        Py_XDECREF(told);
    }
    if (!error && result)
        error = raise_modified(s->queue);
    s->queue->inside--;
    s->inside = 0;
    if (error && result)
        Py_CLEAR(result);
    else if (type)
        PyErr_Restore(type, value, trace); /* the first of the two */
    return result;
}

/* -- what is sent */

/* Examines a buffer, which is then held; 0, or -1 with an exception. */
static int take_piece(TcpStream *s, PyObject *data, struct piece *p) {
    if (PyBytes_CheckExact(data)) {
        Py_INCREF(data);
        *p = (struct piece){PyBytes_AsString(data), (size_t)PyBytes_Size(data), data, true};
        return 0;
    }
    if (PyByteArray_CheckExact(data)) { /* the view keeps it from being resized */
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
    int refusal = s->queue->calls->check(s->queue->calls->slots(s->queue->engine));
    if (refusal)
        return refuse_as(s->slow_path, refusal);
    if (begin(s) < 0)
        return NULL;
    const unsigned long long before = s->nbytes;
    s->sends++;
    int code = flow_send(s, pieces, count);
    if (code > 0 && s->nbytes == before) {
        PyObject *why = Py_BuildValue("(is)", EAGAIN, "the socket takes no more at the moment");
        if (why)
            PyErr_SetObject(PyExc_BlockingIOError, why);
        Py_XDECREF(why);
        code = -1;
    }
    return leave(s, code < 0 ? NULL : PyLong_FromUnsignedLongLong(s->nbytes - before));
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

/* -- the end of things */

/* flush() -> the numbers of its notifiers that are not done */
static PyObject *stream_flush(PyObject *self, PyObject *unused) {
    (void)unused;
    TcpStream *s = (TcpStream *)self;
    if (begin(s) < 0)
        return NULL;
    int error = s->in_flight ? flow_look(s) : 0;
    if (!error)
        error = flow_flush(s);
    notifiers_compact(s->queue, &s->notifiers);
    return leave(s, error ? NULL : notifiers_numbers(&s->notifiers));
}

/* look() -> whether nothing is in flight, as far as it has come back */
static PyObject *stream_poll(PyObject *self, PyObject *unused) {
    (void)unused;
    TcpStream *s = (TcpStream *)self;
    if (begin(s) < 0)
        return NULL;
    int error = flow_look(s);
    return leave(s, error ? NULL : PyBool_FromLong(!s->in_flight));
}

/* shutdown(): no more will be sent; 0 or -errno */
static PyObject *stream_shutdown(PyObject *self, PyObject *unused) {
    (void)unused;
    TcpStream *s = (TcpStream *)self;
    if (begin(s) < 0)
        return NULL;
    int32_t code = flow_socket(s);
    if (!code && shutdown(s->fd, SHUT_WR) < 0)
        code = -errno;
    return leave(s, code == EXCEPTION ? NULL : PyLong_FromLong(code));
}

/* Takes no more. Any thread; also in the child of a fork, where it is the parent's. */
static PyObject *stream_close(PyObject *self, PyObject *unused) {
    (void)unused;
    ((TcpStream *)self)->closed = 1;
    Py_RETURN_NONE;
}

/* Ends its slot. False while requests of it are in flight. */
static PyObject *stream_close_slot(PyObject *self, PyObject *unused) {
    (void)unused;
    TcpStream *s = (TcpStream *)self;
    return PyBool_FromLong(close_internal_slot(s->queue, &s->slot));
}

/* -- the type */

static int set_up(TcpStream *s, PyObject *args, PyObject *keywords) {
    static char *accepted[] = {"queue",  "sock",      "slow_path", "blocking", "always",
                               "notify", "copy_only", "least",     NULL};
    PyObject *queue, *sock, *slow_path;
    int blocking, always, notify, copy_only, zero_copy;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OOOppppI", accepted, &queue, &sock, &slow_path,
                                     &blocking, &always, &notify, &copy_only, &s->least))
        return -1;
    if (!is_queue(queue)) {
        PyErr_SetString(PyExc_TypeError, "a TcpStream is made of a Queue");
        return -1;
    }
    PyObject *decision = PyObject_CallMethod(slow_path, "start", NULL);
    int parsed = decision && PyArg_ParseTuple(decision, "pI", &zero_copy, &s->look);
    Py_XDECREF(decision);
    if (!parsed)
        return -1;
    s->vector = PyMem_Malloc(VECTOR * sizeof *s->vector);
    if (!s->vector)
        return PyErr_NoMemory(), -1;
    Py_INCREF(queue);
    Py_INCREF(sock);
    Py_INCREF(slow_path);
    s->queue = (Queue *)queue;
    s->slot = UZC_NO_SLOT;
    s->sock = sock;
    s->slow_path = slow_path;
    s->blocking = (char)blocking;
    s->always = (char)always;
    s->notify = (char)notify;
    s->copy_only = (char)copy_only;
    s->zero_copy = zero_copy;
    uzc_listener listener;
    stream_listener(s, &listener);
    long long slot = s->queue->calls->open_slot(s->queue->calls->slots(s->queue->engine), &listener);
    if (slot < 0)
        return refuse(s->queue, slot), -1;
    s->slot = (uint32_t)slot;
    return 0;
}

static PyObject *stream_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    PyObject *self = PyType_GenericAlloc(type, 0);
    if (self && set_up((TcpStream *)self, args, keywords) < 0)
        Py_CLEAR(self);
    return self;
}

/* The program's callbacks are behind the slow_path, and may hold the sender. */
static int stream_traverse(PyObject *self, visitproc visit, void *arg) {
    TcpStream *s = (TcpStream *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)s->queue);
    Py_VISIT(s->slow_path);
    Py_VISIT(s->sock);
    return 0;
}

static void stream_dealloc(PyObject *self) {
    TcpStream *s = (TcpStream *)self;
    PyObject_GC_UnTrack(self);
    if (s->queue) /* its constructor, or the sender's, was interrupted */
        close_internal_slot(s->queue, &s->slot);
    PyMem_Free(s->vector);
    PyMem_Free(s->notifiers.numbers);
    Py_XDECREF((PyObject *)s->queue);
    Py_XDECREF(s->sock);
    Py_XDECREF(s->slow_path);
    free_object(self);
}

static PyMethodDef methods[] = {
    {"send", stream_send, METH_O, "See TcpSender.send."},
    {"send_buffers", stream_send_buffers, METH_O, "See TcpSender.send_buffers."},
    {"flush", stream_flush, METH_NOARGS, "The numbers of its notifiers that are not done."},
    {"poll", stream_poll, METH_NOARGS, "Takes what has come back; whether nothing is in flight."},
    {"shutdown", stream_shutdown, METH_NOARGS, "shutdown(SHUT_WR); 0 or -errno."},
    {"close", stream_close, METH_NOARGS, "Takes no more."},
    {"abandon", stream_close, METH_NOARGS, "In the child of a fork: takes no more."},
    {"close_slot", stream_close_slot, METH_NOARGS, "Ends its slot; False while requests are in flight."},
    {NULL, NULL, 0, NULL}};

#define COUNTER(name)                                                                                        \
    { #name, T_ULONGLONG, offsetof(TcpStream, name), READONLY, NULL }
static PyMemberDef members[] = {COUNTER(sends),
                                COUNTER(nbytes),
                                COUNTER(requests),
                                COUNTER(syscalls),
                                COUNTER(settled),
                                COUNTER(copied),
                                COUNTER(waits),
                                {"in_flight", T_UINT, offsetof(TcpStream, in_flight), READONLY, NULL},
                                {"copy_only", T_BOOL, offsetof(TcpStream, copy_only), READONLY, NULL},
                                {"closed", T_BOOL, offsetof(TcpStream, closed), READONLY, NULL},
                                {"busy", T_BOOL, offsetof(TcpStream, inside), READONLY, NULL},
                                {NULL, 0, 0, 0, NULL}};

static PyType_Slot type_slots[] = {{Py_tp_traverse, stream_traverse}, {Py_tp_dealloc, stream_dealloc},
                                   {Py_tp_new, stream_new},           {Py_tp_methods, methods},
                                   {Py_tp_members, members},          {0, NULL}};
static PyType_Spec spec = {"uringzc._send.TcpStream", sizeof(TcpStream), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, type_slots};

PyTypeObject *stream_type;

int add_stream_type(PyObject *module) {
    stream_type = add_type(module, &spec);
    return stream_type ? 0 : -1;
}
