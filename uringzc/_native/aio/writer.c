/* SPDX-License-Identifier: MIT */
/* DatagramWriter: what an asyncio transport does for each datagram, sendto(), and at the end of each turn of
 * the loop, flush(). It gives the datagram to the transport's UdpSender. Whatever is not the usual case goes
 * to functions of the transport: what sendto() has to check first, what the sender has refused, and all
 * datagrams while `enabled` is not set. */
#include "aio/writer.h"

#include "udp/send.h"

PyTypeObject *writer_type;

typedef struct {
    PyObject_HEAD UdpBatcher *batcher; /* of the sender; NULL: there is none yet */
    PyObject *send;                    /* (data, addr, the exception of the sender or None) */
    PyObject *flush_failed;            /* (the exception of the sender) */
    _Atomic char enabled;
    char scheduled; /* the transport has scheduled callbacks of the loop, which flush() is to return */
    char connected; /* the socket: then no address is given */
} Writer;

/* Gives it to the sender. False with an exception, or without one if it is not the usual case. */
static bool give(const Writer *w, PyObject *data, PyObject *to) {
    const bool usual = PyBytes_Check(data) || PyByteArray_Check(data) || PyMemoryView_Check(data);
    if (!w->enabled || !usual || w->connected != (to == NULL))
        return false;
    if (send_fast(w->batcher, data, to))
        return true;
    PyObject *sent = send_checked(w->batcher, data, to);
    Py_XDECREF(sent);
    return sent;
}

static PyObject *give_or_call(Writer *w, PyObject *data, PyObject *to) {
    if (give(w, data, to == Py_None ? NULL : to))
        Py_RETURN_NONE;
    PyObject *error = take_exception();
    PyObject *result = PyObject_CallFunctionObjArgs(w->send, data, to, error ? error : Py_None, NULL);
    Py_XDECREF(error);
    return result;
}

/* flush() -> whether callbacks of the loop may have been scheduled */
static PyObject *writer_flush(PyObject *self, PyObject *Py_UNUSED(unused)) {
    Writer *w = (Writer *)self;
    PyObject *flushed = w->enabled ? batcher_flush((PyObject *)w->batcher, NULL) : Py_NewRef(Py_None);
    if (!flushed) {
        PyObject *error = take_exception();
        flushed = PyObject_CallFunctionObjArgs(w->flush_failed, error, NULL);
        Py_XDECREF(error);
        w->scheduled = 1;
        if (!flushed)
            return NULL;
    }
    Py_DECREF(flushed);
    const bool scheduled = w->scheduled;
    w->scheduled = 0;
    return PyBool_FromLong(scheduled);
}

/* sendto(data, addr=None) */
static PyObject *writer_sendto(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords) {
    PyObject *values[2] = {count > 0 ? args[0] : NULL, count > 1 ? args[1] : NULL};
    const Py_ssize_t named = keywords ? PyTuple_Size(keywords) : 0;
    if (count > 2)
        return PyErr_Format(PyExc_TypeError, "sendto() takes data and an address");
    for (Py_ssize_t i = 0; i < named; i++) {
        PyObject *name = PyTuple_GetItem(keywords, i);
        const int which = PyUnicode_CompareWithASCIIString(name, "data") == 0   ? 0
                          : PyUnicode_CompareWithASCIIString(name, "addr") == 0 ? 1
                                                                                : -1;
        if (which < 0)
            return PyErr_Format(PyExc_TypeError, "sendto() got an unexpected keyword argument '%U'", name);
        if (values[which])
            return PyErr_Format(PyExc_TypeError, "sendto() got '%U' twice", name);
        values[which] = args[count + i];
    }
    if (!values[0])
        return PyErr_Format(PyExc_TypeError, "sendto() needs data");
    return give_or_call((Writer *)self, values[0], values[1] ? values[1] : Py_None);
}

/* open(batcher, connected): from now on sendto() gives datagrams to this sender. */
static PyObject *writer_open(PyObject *self, PyObject *args) {
    Writer *w = (Writer *)self;
    PyObject *batcher;
    int connected;
    if (!PyArg_ParseTuple(args, "O!p", batcher_type, &batcher, &connected))
        return NULL;
    if (w->batcher)
        return PyErr_Format(PyExc_RuntimeError, "it has a sender");
    w->batcher = (UdpBatcher *)Py_NewRef(batcher);
    w->connected = (char)connected;
    w->enabled = 1;
    Py_RETURN_NONE;
}

static PyObject *writer_enabled(PyObject *self, void *Py_UNUSED(unused)) {
    return PyBool_FromLong(((Writer *)self)->enabled);
}

static int writer_set_enabled(PyObject *self, PyObject *value, void *Py_UNUSED(unused)) {
    const int enabled = value ? PyObject_IsTrue(value) : 0;
    if (enabled < 0)
        return -1;
    ((Writer *)self)->enabled = enabled && ((Writer *)self)->batcher;
    return 0;
}

static PyObject *writer_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords)) {
    PyObject *send, *flush_failed;
    if (!PyArg_ParseTuple(args, "OO", &send, &flush_failed))
        return NULL;
    PyObject *self = PyType_GenericAlloc(type, 0);
    if (self) {
        ((Writer *)self)->send = Py_NewRef(send);
        ((Writer *)self)->flush_failed = Py_NewRef(flush_failed);
    }
    return self;
}

static int writer_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)((Writer *)self)->batcher);
    Py_VISIT(((Writer *)self)->send);
    Py_VISIT(((Writer *)self)->flush_failed);
    return 0;
}

static void writer_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    Py_XDECREF((PyObject *)((Writer *)self)->batcher);
    Py_XDECREF(((Writer *)self)->send);
    Py_XDECREF(((Writer *)self)->flush_failed);
    free_object(self);
}

static PyMethodDef writer_methods[] = {{"sendto", (PyCFunction)(void (*)(void))writer_sendto,
                                        METH_FASTCALL | METH_KEYWORDS, "See DatagramTransport.sendto."},
                                       {"flush", writer_flush, METH_NOARGS, NULL},
                                       {"open", writer_open, METH_VARARGS, NULL},
                                       {NULL, NULL, 0, NULL}};
static PyMemberDef writer_members[] = {{"scheduled", T_BOOL, offsetof(Writer, scheduled), 0, NULL},
                                       {NULL, 0, 0, 0, NULL}};
static PyGetSetDef writer_getset[] = {
    {"enabled", writer_enabled, writer_set_enabled, "datagrams go to the sender", NULL},
    {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot writer_slots[] = {{Py_tp_traverse, writer_traverse},
                                     {Py_tp_dealloc, writer_dealloc},
                                     {Py_tp_new, writer_new},
                                     {Py_tp_methods, writer_methods},
                                     {Py_tp_getset, writer_getset},
                                     {Py_tp_members, writer_members},
                                     {0, NULL}};
PyType_Spec writer_spec = {"uringzc._send.DatagramWriter", sizeof(Writer), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, writer_slots};
