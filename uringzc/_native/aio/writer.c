/* SPDX-License-Identifier: MIT */
/* DatagramWriter: sendto() of an asyncio transport, which runs for each datagram. It gives the datagram to
 * the transport's UdpSender. Whatever is not the usual case goes to a function of the transport: what
 * sendto() has to check first, what the sender has refused, and all datagrams while `enabled` is not set. */
#include "aio/writer.h"

#include "udp/send.h"

PyTypeObject *writer_type;

typedef struct {
    PyObject_HEAD UdpBatcher *batcher; /* of the sender; NULL: there is none yet */
    PyObject *slow;                    /* (data, addr, the exception of the sender or None) */
    _Atomic char enabled;
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
    PyObject *type, *error, *trace;
    if (give(w, data, to == Py_None ? NULL : to))
        Py_RETURN_NONE;
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    PyObject *result = PyObject_CallFunctionObjArgs(w->slow, data, to, error ? error : Py_None, NULL);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(trace);
    return result;
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
    PyObject *slow;
    if (!PyArg_ParseTuple(args, "O", &slow))
        return NULL;
    PyObject *self = PyType_GenericAlloc(type, 0);
    if (self)
        ((Writer *)self)->slow = Py_NewRef(slow);
    return self;
}

static int writer_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)((Writer *)self)->batcher);
    Py_VISIT(((Writer *)self)->slow);
    return 0;
}

static void writer_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    Py_XDECREF((PyObject *)((Writer *)self)->batcher);
    Py_XDECREF(((Writer *)self)->slow);
    free_object(self);
}

static PyMethodDef writer_methods[] = {{"sendto", (PyCFunction)(void (*)(void))writer_sendto,
                                        METH_FASTCALL | METH_KEYWORDS, "See DatagramTransport.sendto."},
                                       {"open", writer_open, METH_VARARGS, NULL},
                                       {NULL, NULL, 0, NULL}};
static PyGetSetDef writer_getset[] = {
    {"enabled", writer_enabled, writer_set_enabled, "datagrams go to the sender", NULL},
    {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot writer_slots[] = {{Py_tp_traverse, writer_traverse}, {Py_tp_dealloc, writer_dealloc},
                                     {Py_tp_new, writer_new},           {Py_tp_methods, writer_methods},
                                     {Py_tp_getset, writer_getset},     {0, NULL}};
PyType_Spec writer_spec = {"uringzc._send.DatagramWriter", sizeof(Writer), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, writer_slots};
