/* SPDX-License-Identifier: MIT
 *
 * The module _send: its types, made and unmade. */
#include "tcp/tcp.h"
#include "udp/udp.h"

/* Frees what it was given when its last reference goes, and not before: a finalizer in a cycle would run
 * while the object that it belongs to is being resurrected. */
typedef struct {
    PyObject_HEAD void *pointer;
    void (*free)(void *);
} Owner;

static int owner_init(PyObject *self, PyObject *args, PyObject *keywords) {
    static char *accepted[] = {"pointer", "free", NULL};
    unsigned long long pointer, free_it;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "KK", accepted, &pointer, &free_it))
        return -1;
    ((Owner *)self)->pointer = (void *)(uintptr_t)pointer;
    ((Owner *)self)->free = (void (*)(void *))(uintptr_t)free_it;
    return 0;
}

static void owner_dealloc(PyObject *self) {
    Owner *o = (Owner *)self;
    if (o->free)
        o->free(o->pointer);
    free_object(self);
}

static PyType_Slot owner_slots[] = {
    {Py_tp_init, owner_init}, {Py_tp_dealloc, owner_dealloc}, {Py_tp_new, PyType_GenericNew}, {0, NULL}};
static PyType_Spec owner_spec = {"uringzc._send.Owner", sizeof(Owner), 0, Py_TPFLAGS_DEFAULT, owner_slots};

static PyObject *was_raised(PyObject *raised, long long code) {
    if (raised) {
        Py_DECREF(raised);
        PyErr_Format(PyExc_SystemError, "refusal %lld was not raised", code);
    }
    return NULL;
}

PyObject *refuse(Queue *q, long long code) {
    if (!q->refuse)
        return PyErr_Format(PyExc_SystemError, "a Queue that was not made");
    return was_raised(PyObject_CallFunction(q->refuse, "L", code), code);
}

PyObject *refuse_as(PyObject *sender, long long code) {
    return was_raised(PyObject_CallMethod(sender, "refuse", "L", code), code);
}

static PyObject *queue_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    (void)args, (void)keywords;
    PyObject *self = PyType_GenericAlloc(type, 0);
    if (self)
        ((Queue *)self)->calls = &ended_engine_calls;
    return self;
}

static int queue_init(PyObject *self, PyObject *args, PyObject *keywords) {
    Queue *q = (Queue *)self;
    static char *accepted[] = {"engine",      "calls",   "admit",   "pin",    "pack", "refuse",
                               "region_type", "retired", "claimed", "verify", NULL};
    unsigned long long engine, calls;
    PyObject *verify;
    if (q->engine || q->admit) {
        PyErr_SetString(PyExc_TypeError, "a Queue is made once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "KKOOOOOOOO", accepted, &engine, &calls, &q->admit,
                                     &q->pin, &q->pack, &q->refuse, &q->region_type, &q->retired, &q->claimed,
                                     &verify)) {
        q->admit = q->pin = q->pack = q->refuse = q->region_type = q->retired = q->claimed = NULL;
        return -1;
    }
    Py_INCREF(q->admit);
    Py_INCREF(q->pin);
    Py_INCREF(q->pack);
    Py_INCREF(q->refuse);
    Py_INCREF(q->region_type);
    Py_INCREF(q->retired);
    Py_INCREF(q->claimed);
    q->engine = (void *)(uintptr_t)engine;
    q->calls = (const uzc_calls *)(uintptr_t)calls;
    if (verify == Py_None)
        return 0;
    Py_INCREF(verify);
    q->verify = verify;
    q->modified = PyList_New(0);
    return q->modified ? 0 : -1;
}

static int queue_traverse(PyObject *self, visitproc visit, void *arg) {
    Queue *q = (Queue *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(q->admit);
    Py_VISIT(q->pin);
    Py_VISIT(q->pack);
    Py_VISIT(q->refuse);
    Py_VISIT(q->claimed);
    Py_VISIT(q->verify);
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
    Py_XDECREF(q->admit);
    Py_XDECREF(q->pin);
    Py_XDECREF(q->pack);
    Py_XDECREF(q->refuse);
    Py_XDECREF(q->region_type);
    Py_XDECREF(q->retired);
    Py_XDECREF(q->claimed);
    Py_XDECREF(q->verify);
    Py_XDECREF(q->modified);
    Py_XDECREF(q->last_to);
    Py_XDECREF(q->last_packed);
    free_object(self);
}

static PyMethodDef queue_methods[] = {
    {"send", (PyCFunction)(void (*)(void))queue_send, METH_FASTCALL | METH_KEYWORDS, "See Scheduler.send."},
    {"run", (PyCFunction)(void (*)(void))queue_run, METH_FASTCALL | METH_KEYWORDS, "See Scheduler.send_run."},
    {"enter", queue_enter, METH_VARARGS,
     "enter(submit, wait, timeout_ns) -> requests submitted; releases the GIL"},
    {"release", queue_release, METH_NOARGS, "Drops the references of requests whose notifier was posted."},
    {"raise_modified", queue_raise_modified, METH_NOARGS,
     "Debug mode: raises what was found about memory whose notifier was posted."},
    {"clear_socket_cache", queue_clear_socket_cache, METH_NOARGS, "Asks admit() again of every socket."},
    {"detach", queue_detach, METH_NOARGS, "Forgets the engine: every later call raises ClosedError."},
    {"exclusive", queue_exclusive, METH_VARARGS,
     "exclusive(function, *args) -> what it returns; other calls on the engine meanwhile: BusyError"},
    {NULL, NULL, 0, NULL}};

static PyMemberDef queue_members[] = {{"busy", T_BOOL, offsetof(Queue, busy), READONLY, NULL},
                                      {"submitted", T_ULONGLONG, offsetof(Queue, submitted), READONLY, NULL},
                                      {"inside", T_INT, offsetof(Queue, inside), READONLY, NULL},
                                      {NULL, 0, 0, 0, NULL}};

static PyType_Slot queue_slots[] = {{Py_tp_traverse, queue_traverse},
                                    {Py_tp_init, queue_init},
                                    {Py_tp_dealloc, queue_dealloc},
                                    {Py_tp_new, queue_new},
                                    {Py_tp_methods, queue_methods},
                                    {Py_tp_members, queue_members},
                                    {0, NULL}};
static PyType_Spec queue_spec = {"uringzc._send.Queue", sizeof(Queue), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, queue_slots};

static PyMethodDef functions[] = {
    {"compiled_method", compiled_method, METH_VARARGS,
     "compiled_method(name, doc): a method of a class derived of Delegate."},
    {"late", timer_late, METH_NOARGS,
     "late() -> a UdpBatcher in which something waits for too long, when there is one"},
    {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_send", NULL, -1, functions, NULL, NULL, NULL, NULL};

PyTypeObject *queue_type;

int is_queue(PyObject *object) {
    return Py_TYPE(object) == queue_type && ((Queue *)object)->admit;
}

PyMODINIT_FUNC PyInit__send(void) {
    PyObject *module = PyModule_Create(&definition), *memory_type = memory_init();
    PyObject *owner_type = PyType_FromSpec(&owner_spec);
    queue_type = (PyTypeObject *)PyType_FromSpec(&queue_spec);
    if (!module || !queue_type || !memory_type || !owner_type || sockets_init() < 0 || arguments_init() < 0 ||
        arena_init(module) < 0 || batcher_init(module) < 0 || timer_init() < 0 || stream_init(module) < 0 ||
        delegate_init(module) < 0 ||
        PyModule_AddObject(module, "Queue", Py_NewRef((PyObject *)queue_type)) < 0 ||
        PyModule_AddObject(module, "Owner", owner_type) < 0 ||
        PyModule_AddObject(module, "Memory", memory_type) < 0)
        return NULL;
    return module;
}
