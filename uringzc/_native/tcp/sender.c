/* SPDX-License-Identifier: MIT */
/* The type TcpStream: made, unmade, and its methods that send nothing. */
#include "tcp/sender.h"

#include <sys/socket.h>

#include "request/queue_type.h"
#include "tcp/call.h"
#include "tcp/send.h"
#include "tcp/transfer.h"

/* flush() -> the numbers of its notifiers that are not done */
static PyObject *method_flush(PyObject *self, PyObject *Py_UNUSED(unused)) {
    TcpStream *s = (TcpStream *)self;
    if (stream_begin(s) < 0)
        return NULL;
    int error = s->in_flight ? stream_poll(s) : 0;
    if (!error)
        error = stream_flush(s);
    notifiers_compact(s->queue, &s->notifiers);
    return stream_end(s, error ? NULL : notifiers_numbers(&s->notifiers));
}

/* poll() -> whether nothing is in flight, of what has come back by now */
static PyObject *method_poll(PyObject *self, PyObject *Py_UNUSED(unused)) {
    TcpStream *s = (TcpStream *)self;
    if (stream_begin(s) < 0)
        return NULL;
    int error = stream_poll(s);
    return stream_end(s, error ? NULL : PyBool_FromLong(!s->in_flight));
}

/* shutdown() -> 0 or -errno */
static PyObject *method_shutdown(PyObject *self, PyObject *Py_UNUSED(unused)) {
    TcpStream *s = (TcpStream *)self;
    if (stream_begin(s) < 0)
        return NULL;
    int32_t code = stream_update_fd(s);
    if (!code && shutdown(s->fd, SHUT_WR) < 0)
        code = -errno;
    return stream_end(s, code == EXCEPTION ? NULL : PyLong_FromLong(code));
}

/* close(), abandon() in the child of a fork: later calls raise ClosedError. In any thread. */
static PyObject *method_close(PyObject *self, PyObject *Py_UNUSED(unused)) {
    ((TcpStream *)self)->closed = 1;
    Py_RETURN_NONE;
}

/* close_slot() -> False while requests of the internal slot are in flight */
static PyObject *method_close_slot(PyObject *self, PyObject *Py_UNUSED(unused)) {
    TcpStream *s = (TcpStream *)self;
    return PyBool_FromLong(close_internal_slot(s->queue, &s->slot));
}

static int stream_init(TcpStream *s, PyObject *args, PyObject *keywords) {
    static char *accepted[] = {"queue",  "sock",      "slow_path",     "blocking", "always",
                               "notify", "copy_only", "min_zero_copy", NULL};
    PyObject *queue, *sock, *slow_path;
    int copy_only;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!OOppppI", accepted, queue_type, &queue, &sock,
                                     &slow_path, &s->blocking, &s->always, &s->notify, &copy_only,
                                     &s->min_zero_copy))
        return -1;
    if (adopt_decision(s, PyObject_CallMethod(slow_path, "start", NULL)) < 0)
        return -1;
    s->vector = PyMem_Malloc(MAX_PIECES * sizeof *s->vector);
    if (!s->vector)
        return PyErr_NoMemory(), -1;
    s->queue = (Queue *)Py_NewRef(queue);
    s->slot = UZC_NO_SLOT;
    s->sock = Py_NewRef(sock);
    s->slow_path = Py_NewRef(slow_path);
    s->copy_only = (char)copy_only;
    return stream_open_slot(s);
}

static PyObject *stream_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    PyObject *self = PyType_GenericAlloc(type, 0);
    if (self && stream_init((TcpStream *)self, args, keywords) < 0)
        Py_CLEAR(self);
    return self;
}

/* The slow path has the program's callbacks, which may refer to the sender. */
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
    if (s->queue) /* open where a constructor was interrupted */
        close_internal_slot(s->queue, &s->slot);
    PyMem_Free(s->vector);
    PyMem_Free(s->notifiers.numbers);
    Py_XDECREF((PyObject *)s->queue);
    Py_XDECREF(s->sock);
    Py_XDECREF(s->slow_path);
    free_object(self);
}

/* Where there is no text, the function has a comment. */
static PyMethodDef stream_methods[] = {
    {"send", stream_send, METH_O, "See TcpSender.send."},
    {"send_buffers", stream_send_buffers, METH_O, "See TcpSender.send_buffers."},
    {"flush", method_flush, METH_NOARGS, NULL},
    {"poll", method_poll, METH_NOARGS, NULL},
    {"shutdown", method_shutdown, METH_NOARGS, NULL},
    {"close", method_close, METH_NOARGS, NULL},
    {"abandon", method_close, METH_NOARGS, NULL},
    {"close_slot", method_close_slot, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL}};

#define COUNTER(name)                                                                                        \
    { #name, T_ULONGLONG, offsetof(TcpStream, name), READONLY, NULL }
static PyMemberDef stream_members[] = {COUNTER(sends),
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

static PyType_Slot stream_slots[] = {{Py_tp_traverse, stream_traverse}, {Py_tp_dealloc, stream_dealloc},
                                     {Py_tp_new, stream_new},           {Py_tp_methods, stream_methods},
                                     {Py_tp_members, stream_members},   {0, NULL}};
PyType_Spec stream_spec = {"uringzc._send.TcpStream", sizeof(TcpStream), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, stream_slots};

PyTypeObject *stream_type;
