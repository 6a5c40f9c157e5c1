/* SPDX-License-Identifier: MIT */
/* The type Queue: made, unmade, and its methods that are not called once per request. */
#include "request/queue_type.h"

#include "request/enter.h"
#include "request/poll.h"
#include "request/refuse.h"
#include "request/send.h"
#include "request/sockets.h"

static PyObject *queue_enter(PyObject *self, PyObject *args) {
    int submit;
    unsigned wait;
    long long timeout_ns;
    if (!PyArg_ParseTuple(args, "iIL", &submit, &wait, &timeout_ns))
        return NULL;
    long long done = enter_and_count((Queue *)self, submit, wait, timeout_ns);
    return done < 0 ? NULL : PyLong_FromLongLong(done);
}

static PyObject *queue_poll(PyObject *self, PyObject *submit) {
    Queue *q = (Queue *)self;
    if (poll_queue(q, submit == Py_True) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *queue_tidy(PyObject *self, PyObject *Py_UNUSED(unused)) {
    if (tidy((Queue *)self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *queue_signal(PyObject *self, PyObject *Py_UNUSED(unused)) {
    signal_engine((Queue *)self);
    Py_RETURN_NONE;
}

static PyObject *queue_release(PyObject *self, PyObject *Py_UNUSED(unused)) {
    release_references((Queue *)self);
    Py_RETURN_NONE;
}

static PyObject *queue_raise_modified(PyObject *self, PyObject *Py_UNUSED(unused)) {
    if (raise_modified((Queue *)self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *queue_clear_socket_cache(PyObject *self, PyObject *Py_UNUSED(unused)) {
    clear_socket_cache((Queue *)self);
    Py_RETURN_NONE;
}

static PyObject *queue_detach(PyObject *self, PyObject *Py_UNUSED(unused)) {
    Queue *q = (Queue *)self;
    WRITE_SHARED(q->engine, NULL); /* first, see dispatch() */
    WRITE_SHARED(q->slots, q->calls->ended);
    q->queued = 0;
    forget_pending_sockets(q);
    Py_RETURN_NONE;
}

static PyObject *queue_abandon(PyObject *self, PyObject *unused) {
    ((Queue *)self)->abandoned = 1;
    return queue_detach(self, unused);
}

/* Not a context manager: an interrupt could come between __enter__() and the block that it protects. */
static PyObject *queue_exclusive(PyObject *self, PyObject *args) {
    Queue *q = (Queue *)self;
    if (!PyTuple_Size(args))
        return PyErr_Format(PyExc_TypeError, "exclusive() takes a function, and its arguments");
    PyObject *rest = PyTuple_GetSlice(args, 1, PyTuple_Size(args)), *result = NULL;
    if (rest && begin_exclusive(q) == 0) {
        result = PyObject_CallObject(PyTuple_GetItem(args, 0), rest);
        set_busy(q, 0);
    }
    Py_XDECREF(rest);
    return result;
}

static int queue_setup(Queue *q, PyObject *args) {
    unsigned long long engine, calls;
    PyObject *slots;
    if (!PyArg_ParseTuple(args, "KKOOOOOOOOOOOOOOO!O!", &engine, &calls, &slots, &q->describe_socket, &q->pin,
                          &q->pack, &q->refuse, &q->find_path, &q->claimed, &q->tidy, &q->verify,
                          &q->region_type, &q->notifier_type, &q->batch_type, &q->slots_object, &q->retired,
                          &PyList_Type, &q->parked, &PyList_Type, &q->to_detach))
        return -1;
    q->engine = (void *)(uintptr_t)engine;
    q->slots = q->records = PyCapsule_GetPointer(slots, NULL);
    if (!q->slots)
        return -1;
    q->calls = (const uzc_calls *)(uintptr_t)calls;
    if (q->verify == Py_None)
        q->verify = NULL;
    q->modified = PyList_New(0);
    return q->modified ? 0 : -1;
}

static PyObject *queue_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords)) {
    PyObject *self = PyType_GenericAlloc(type, 0);
    if (!self)
        return NULL;
    ((Queue *)self)->arguments = Py_NewRef(args);
    if (queue_setup((Queue *)self, args) < 0)
        Py_CLEAR(self);
    return self;
}

static int queue_traverse(PyObject *self, visitproc visit, void *arg) {
    Queue *q = (Queue *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(q->arguments);
    Py_VISIT(q->modified);
    Py_VISIT(q->last_to);
    for (Py_ssize_t i = 0; i < q->pending_count; i++)
        Py_VISIT(q->pending[i].sock);
    return 0;
}

static void queue_dealloc(PyObject *self) {
    Queue *q = (Queue *)self;
    PyObject_GC_UnTrack(self);
    forget_pending_sockets(q);
    clear_socket_cache(q);
    PyMem_Free(q->pending);
    Py_XDECREF(q->arguments);
    Py_XDECREF(q->modified);
    Py_XDECREF(q->last_to);
    Py_XDECREF(q->last_packed);
    Py_XDECREF(q->empty[0]);
    Py_XDECREF(q->empty[1]);
    free_object(self);
}

static PyMethodDef queue_methods[] = {
    {"send", (PyCFunction)(void (*)(void))queue_send, METH_FASTCALL | METH_KEYWORDS, "See Scheduler.send."},
    {"enter", queue_enter, METH_VARARGS,
     "enter(submit, wait, timeout_ns) -> requests submitted; releases the GIL"},
    {"poll", queue_poll, METH_O,
     "poll(submit): submits what is queued, if `submit`, and takes every result there is, without waiting"},
    {"tidy", queue_tidy, METH_NOARGS,
     "To be called after whatever may post notifiers: drops what they held, does what waits for the owner."},
    {"signal", queue_signal, METH_NOARGS, "Brings fileno() up to date."},
    {"release", queue_release, METH_NOARGS, "Drops the references of requests whose notifier was posted."},
    {"raise_modified", queue_raise_modified, METH_NOARGS,
     "Debug mode: raises BufferModifiedError, if memory was changed that a notifier held."},
    {"clear_socket_cache", queue_clear_socket_cache, METH_NOARGS, "Sockets are described again."},
    {"detach", queue_detach, METH_NOARGS,
     "Detaches the engine, which has ended: later calls raise ClosedError."},
    {"abandon", queue_abandon, METH_NOARGS,
     "The same, in the child of a fork: what was settled cannot be read either."},
    {"exclusive", queue_exclusive, METH_VARARGS,
     "exclusive(function, *args) -> its result; other calls on the engine raise BusyError meanwhile"},
    {NULL, NULL, 0, NULL}};

static PyMemberDef queue_members[] = {{"busy", T_BOOL, offsetof(Queue, busy), READONLY, NULL},
                                      {"inside", T_INT, offsetof(Queue, inside), READONLY, NULL},
                                      {NULL, 0, 0, 0, NULL}};

static PyType_Slot queue_slots[] = {{Py_tp_traverse, queue_traverse}, {Py_tp_dealloc, queue_dealloc},
                                    {Py_tp_new, queue_new},           {Py_tp_methods, queue_methods},
                                    {Py_tp_members, queue_members},   {0, NULL}};
PyType_Spec queue_spec = {"uringzc._send.Queue", sizeof(Queue), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
                          queue_slots};

PyTypeObject *queue_type;
