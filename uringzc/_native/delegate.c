/* SPDX-License-Identifier: MIT */
/* The type Delegate: the base of public classes (Scheduler, Ring, UdpSender, TcpSender) some of whose methods
 * are compiled and work on another object, the target. They are descriptors of the class: a bound method
 * refers to the public object, a subclass can override it, and a call makes no Python frame. */
#include "delegate.h"

#include "request/batch_calls.h"
#include "request/queue_type.h"
#include "request/send.h"
#include "tcp/send.h"
#include "tcp/sender.h"
#include "udp/group.h"
#include "udp/lease.h"
#include "udp/send.h"
#include "udp/sender.h"

typedef struct {
    PyObject_HEAD PyObject *target;
} Delegate;

PyTypeObject *delegate_type;

static PyObject *target_of(PyObject *self, PyTypeObject *type) {
    PyObject *target = ((Delegate *)self)->target;
    if (target && Py_TYPE(target) == type)
        return target;
    return PyErr_Format(PyExc_RuntimeError, "%R was not made: its __init__() was not called, or failed",
                        Py_TYPE(self));
}

/* A method of a public class, which calls the target's. */
#define FASTCALL(name, type, method)                                                                         \
    static PyObject *name(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords) {     \
        PyObject *target = target_of(self, type);                                                            \
        return target ? method(target, args, count, keywords) : NULL;                                        \
    }
#define POSITIONAL(name, type, method)                                                                       \
    static PyObject *name(PyObject *self, PyObject *const *args, Py_ssize_t count) {                         \
        PyObject *target = target_of(self, type);                                                            \
        return target ? method(target, args, count) : NULL;                                                  \
    }
#define ONE(name, type, method)                                                                              \
    static PyObject *name(PyObject *self, PyObject *value) {                                                 \
        PyObject *target = target_of(self, type);                                                            \
        return target ? method(target, value) : NULL;                                                        \
    }
#define NONE(name, type, method)                                                                             \
    static PyObject *name(PyObject *self, PyObject *Py_UNUSED(unused)) {                                     \
        PyObject *target = target_of(self, type);                                                            \
        return target ? method(target) : NULL;                                                               \
    }
/* The same, of a method that calls the public object where something is special. */
#define FASTCALL_OWNER(name, type, method)                                                                   \
    static PyObject *name(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords) {     \
        PyObject *target = target_of(self, type);                                                            \
        return target ? method(target, self, args, count, keywords) : NULL;                                  \
    }

FASTCALL(scheduler_send, queue_type, queue_send)
FASTCALL(scheduler_send_run, queue_type, queue_send_run)
FASTCALL_OWNER(scheduler_flush, queue_type, queue_flush)
NONE(scheduler_submit, queue_type, queue_submit)
FASTCALL_OWNER(scheduler_reap_completions, queue_type, queue_reap_completions)
FASTCALL_OWNER(scheduler_reap_notifications, queue_type, queue_reap_notifications)
FASTCALL(ring_send, queue_type, queue_send_raw)
FASTCALL_OWNER(ring_send_zc, queue_type, queue_send_zc_raw)
FASTCALL_OWNER(ring_submit, queue_type, queue_submit_raw)
NONE(ring_reap, queue_type, queue_reap_raw)
FASTCALL(udp_send, batcher_type, batcher_send)
POSITIONAL(udp_sendto, batcher_type, batcher_sendto)
ONE(udp_lease, batcher_type, batcher_lease)
ONE(udp_group_send, group_type, group_send)
ONE(udp_group_send_many, group_type, group_send_many)
ONE(tcp_send, stream_type, stream_send)
ONE(tcp_send_buffers, stream_type, stream_send_buffers)

#define KEYWORDS(name, function)                                                                             \
    { name, (PyCFunction)(void (*)(void))function, METH_FASTCALL | METH_KEYWORDS, NULL }

static const PyMethodDef compiled_methods[] = {
    KEYWORDS("Scheduler.send", scheduler_send),
    KEYWORDS("Scheduler.send_run", scheduler_send_run),
    KEYWORDS("Scheduler.flush", scheduler_flush),
    {"Scheduler.submit", scheduler_submit, METH_NOARGS, NULL},
    KEYWORDS("Scheduler.reap_completions", scheduler_reap_completions),
    KEYWORDS("Scheduler.reap_notifications", scheduler_reap_notifications),
    KEYWORDS("Ring.send", ring_send),
    KEYWORDS("Ring.send_zc", ring_send_zc),
    KEYWORDS("Ring.submit", ring_submit),
    {"Ring.reap", ring_reap, METH_NOARGS, NULL},
    KEYWORDS("UdpSender.send", udp_send),
    {"UdpSender.sendto", (PyCFunction)(void (*)(void))udp_sendto, METH_FASTCALL, NULL},
    {"UdpSender.lease", udp_lease, METH_O, NULL},
    {"Group.send", udp_group_send, METH_O, NULL},
    {"Group.send_many", udp_group_send_many, METH_O, NULL},
    {"TcpSender.send", tcp_send, METH_O, NULL},
    {"TcpSender.send_buffers", tcp_send_buffers, METH_O, NULL},
};

/* compiled_method("Class.method", doc) -> the descriptor, for the class's body. Its memory and `doc` are
 * never freed. */
PyObject *compiled_method(PyObject *Py_UNUSED(module), PyObject *args) {
    const char *name, *text;
    PyObject *doc;
    if (!PyArg_ParseTuple(args, "sU", &name, &doc) || !(text = PyUnicode_AsUTF8AndSize(doc, NULL)))
        return NULL;
    for (size_t i = 0; i < sizeof compiled_methods / sizeof *compiled_methods; i++) {
        if (strcmp(compiled_methods[i].ml_name, name))
            continue;
        PyMethodDef *method = PyMem_Malloc(sizeof *method);
        if (!method)
            return PyErr_NoMemory();
        *method = compiled_methods[i];
        method->ml_name = strchr(compiled_methods[i].ml_name, '.') + 1;
        method->ml_doc = text;
        Py_INCREF(doc);
        return PyDescr_NewMethod(delegate_type, method);
    }
    return PyErr_Format(PyExc_LookupError, "no compiled method %s", name);
}

static PyObject *delegate_set_target(PyObject *self, PyObject *target) {
    PyObject *old = ((Delegate *)self)->target;
    ((Delegate *)self)->target = Py_NewRef(target);
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

static int delegate_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Delegate *)self)->target);
    return 0;
}

static int delegate_clear(PyObject *self) {
    Py_CLEAR(((Delegate *)self)->target);
    return 0;
}

static void delegate_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    delegate_clear(self);
    free_object(self);
}

static PyMethodDef delegate_methods[] = {
    {"_delegate", delegate_set_target, METH_O, "Makes its argument the target."}, {NULL, NULL, 0, NULL}};
static PyType_Slot delegate_slots[] = {{Py_tp_traverse, delegate_traverse}, {Py_tp_clear, delegate_clear},
                                       {Py_tp_dealloc, delegate_dealloc},   {Py_tp_methods, delegate_methods},
                                       {Py_tp_new, PyType_GenericNew},      {0, NULL}};
PyType_Spec delegate_spec = {"uringzc._send.Delegate", sizeof(Delegate), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, delegate_slots};
