/* SPDX-License-Identifier: MIT */
/* The type Memory, the base of Region, and `data` of a send as an address and an object to hold: a bytes
 * object and a Region here, other buffers by pin() of memory.py. */
#include "request/memory.h"

/* The C part of a Region. */
typedef struct {
    PyObject_HEAD PyObject *memory; /* Memory; None once the region was closed, or NULL */
} RegionBase;

PyTypeObject *memory_type, *region_base_type;

bool may_fault(PyObject *holder) {
    return Py_TYPE(holder) == memory_type ? ((const Memory *)holder)->may_fault : !PyBytes_CheckExact(holder);
}

int resolve_memory(Queue *q, PyObject *data, uint64_t offset, uint64_t length, uzc_send *send,
                   uint64_t *nbytes, PyObject **holder) {
    PyObject *memory = NULL;
    send->buffer = -1;
    if (!q->verify && PyBytes_CheckExact(data)) {
        *holder = Py_NewRef(data);
        send->data = PyBytes_AsString(data);
        *nbytes = (uint64_t)PyBytes_Size(data);
        return 0;
    }
    if (!q->verify && (PyObject *)Py_TYPE(data) == q->region_type) {
        Py_BEGIN_CRITICAL_SECTION(data); /* another thread may close the region */
        PyObject *own = ((RegionBase *)data)->memory;
        memory = Py_NewRef(own ? own : Py_None);
        Py_END_CRITICAL_SECTION();
        *holder = memory;
    } else {
        PyObject *pinned = q->verify ? PyObject_CallFunction(q->pin, "OKK", data, offset, length)
                                     : PyObject_CallFunctionObjArgs(q->pin, data, NULL);
        if (!pinned)
            return -1;
        unsigned long long address, bytes, count = 0;
        if (!PyArg_ParseTuple(pinned, "OKKO|K", holder, &address, &bytes, &memory, &count)) {
            Py_DECREF(pinned);
            return -1;
        }
        Py_INCREF(*holder);
        Py_DECREF(pinned);
        send->data = (const char *)(uintptr_t)address;
        *nbytes = bytes;
        if (count)
            send->message = (void *)(uintptr_t)address;
        send->may_fault = !PyByteArray_CheckExact(data) && may_fault(*holder);
        if (memory == Py_None)
            return 0;
    }
    Memory *m = (Memory *)memory;
    if (Py_TYPE(memory) != memory_type || m->retired != q->retired) {
        PyErr_SetString(PyExc_ValueError,
                        "the region is closed, or was registered with another Scheduler or sender");
        Py_CLEAR(*holder);
        return -1;
    }
    if (*holder == memory) {
        send->data = (const char *)(uintptr_t)m->address;
        *nbytes = m->length;
    }
    send->may_fault = m->may_fault;
    send->base = (const char *)(uintptr_t)m->address;
    send->buffer = m->buffer;
    send->buffers = m->buffers;
    return 0;
}

int check_range(PyObject *data, uint64_t offset, uint64_t length, uint64_t nbytes) {
    if (offset <= nbytes && length <= nbytes - offset)
        return 0;
    PyErr_Format(PyExc_ValueError, "bytes %llu to %llu are not all in the %llu bytes of %s", offset,
                 offset + length, nbytes, PyBytes_CheckExact(data) ? "the data" : "the memory");
    return -1;
}

static PyObject *memory_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords)) {
    PyObject *owner, *retired;
    unsigned long long address, length;
    if (!PyArg_ParseTuple(args, "OKKO", &owner, &address, &length, &retired))
        return NULL;
    Memory *m = (Memory *)PyType_GenericAlloc(type, 0);
    if (!m)
        return NULL;
    m->owner = Py_NewRef(owner);
    m->retired = Py_NewRef(retired);
    m->address = address;
    m->length = length;
    m->buffer = -1;
    return (PyObject *)m;
}

static int memory_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Memory *)self)->owner);
    return 0;
}

static void memory_dealloc(PyObject *self) {
    Memory *m = (Memory *)self;
    PyObject_GC_UnTrack(self);
    if (m->buffer >= 0) {
        PyObject *type, *value, *trace;
        PyErr_Fetch(&type, &value, &trace);
        if (check_result(PyObject_CallMethod(m->retired, "append", "((iI))", m->buffer, m->buffers)) < 0)
            PyErr_WriteUnraisable(m->retired);
        PyErr_Restore(type, value, trace);
    }
    Py_DECREF(m->owner);
    Py_DECREF(m->retired);
    free_object(self);
}

static PyMemberDef memory_members[] = {{"owner", T_OBJECT, offsetof(Memory, owner), READONLY, NULL},
                                       {"address", T_ULONGLONG, offsetof(Memory, address), READONLY, NULL},
                                       {"length", T_ULONGLONG, offsetof(Memory, length), READONLY, NULL},
                                       {"buffer", T_INT, offsetof(Memory, buffer), 0, NULL},
                                       {"buffers", T_UINT, offsetof(Memory, buffers), 0, NULL},
                                       {"may_fault", T_BOOL, offsetof(Memory, may_fault), 0, NULL},
                                       {NULL, 0, 0, 0, NULL}};

static PyType_Slot memory_slots[] = {{Py_tp_new, memory_new},
                                     {Py_tp_traverse, memory_traverse},
                                     {Py_tp_dealloc, memory_dealloc},
                                     {Py_tp_members, memory_members},
                                     {0, NULL}};
PyType_Spec memory_spec = {"uringzc._send.Memory", sizeof(Memory), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
                           memory_slots};

static int region_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((RegionBase *)self)->memory);
    return 0;
}

static int region_clear(PyObject *self) {
    Py_CLEAR(((RegionBase *)self)->memory);
    return 0;
}

static void region_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    region_clear(self);
    free_object(self);
}

static PyMemberDef region_members[] = {{"_memory", T_OBJECT_EX, offsetof(RegionBase, memory), 0, NULL},
                                       {NULL, 0, 0, 0, NULL}};

static PyType_Slot region_slots[] = {{Py_tp_new, PyType_GenericNew},  {Py_tp_traverse, region_traverse},
                                     {Py_tp_clear, region_clear},     {Py_tp_dealloc, region_dealloc},
                                     {Py_tp_members, region_members}, {0, NULL}};
PyType_Spec region_base_spec = {"uringzc._send.RegionBase", sizeof(RegionBase), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, region_slots};
