/* SPDX-License-Identifier: MIT */
/* The bases of Batch and Notifier: with them, C makes one by an allocation and two stores. */
#include "request/pairs.h"

typedef struct {
    PyObject_HEAD PyObject *first, *second;
} Pair;

PyTypeObject *batch_base_type, *notifier_base_type;

PyObject *make_pair(PyObject *type, PyObject *first, PyObject *second) {
    Pair *pair = first && second ? (Pair *)PyType_GenericAlloc((PyTypeObject *)type, 0) : NULL;
    if (!pair) {
        Py_XDECREF(first);
        Py_XDECREF(second);
        return NULL;
    }
    pair->first = first;
    pair->second = second;
    return (PyObject *)pair;
}

static void batch_dealloc(PyObject *self) {
    Py_XDECREF(((Pair *)self)->first);
    Py_XDECREF(((Pair *)self)->second);
    free_object(self);
}

static int notifier_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Pair *)self)->first);
    Py_VISIT(((Pair *)self)->second);
    return 0;
}

static int notifier_clear(PyObject *self) {
    Py_CLEAR(((Pair *)self)->first);
    Py_CLEAR(((Pair *)self)->second);
    return 0;
}

static void notifier_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    notifier_clear(self);
    free_object(self);
}

static PyMemberDef batch_members[] = {{"_data", T_OBJECT_EX, offsetof(Pair, first), 0, NULL},
                                      {"_record", T_OBJECT_EX, offsetof(Pair, second), 0, NULL},
                                      {NULL, 0, 0, 0, NULL}};
static PyMemberDef notifier_members[] = {{"_engine", T_OBJECT_EX, offsetof(Pair, first), 0, NULL},
                                         {"_numbers", T_OBJECT_EX, offsetof(Pair, second), 0, NULL},
                                         {NULL, 0, 0, 0, NULL}};

/* without the garbage collector: a bytearray and a Record are in no cycle */
static PyType_Slot batch_slots[] = {{Py_tp_dealloc, batch_dealloc},
                                    {Py_tp_members, batch_members},
                                    {Py_tp_new, PyType_GenericNew},
                                    {0, NULL}};
PyType_Spec batch_base_spec = {"uringzc._send.BatchBase", sizeof(Pair), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, batch_slots};

static PyType_Slot notifier_slots[] = {{Py_tp_traverse, notifier_traverse}, {Py_tp_clear, notifier_clear},
                                       {Py_tp_dealloc, notifier_dealloc},   {Py_tp_members, notifier_members},
                                       {Py_tp_new, PyType_GenericNew},      {0, NULL}};
PyType_Spec notifier_base_spec = {"uringzc._send.NotifierBase", sizeof(Pair), 0,
                                  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                                  notifier_slots};
