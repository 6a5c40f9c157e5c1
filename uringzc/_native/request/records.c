/* SPDX-License-Identifier: MIT */
/* The C parts of what calls return: the bases of Batch and Notifier, with which one is made by an allocation
 * and two stores; and Records, an iterator over a batch, which makes a named tuple of each record. */
#include "request/records.h"

typedef struct {
    PyObject_HEAD PyObject *data; /* bytearray */
    PyObject *type;               /* a subclass of tuple */
    PyObject *codes;              /* str: what its fields are in a record, see Record in records.py */
    PyObject *arguments; /* of tuple.__new__(): a tuple of the fields, which is filled anew each time */
    Py_ssize_t at, size; /* bytes; size: of a record */
} Records;

PyTypeObject *records_type;

/* The field at *from, which is moved behind it. */
static PyObject *read_field(char code, const char **from) {
    union {
        uint64_t u8;
        int64_t i8;
        uint32_t u4;
        int32_t i4;
    } field;
    size_t size = code == 'I' || code == 'i' ? 4 : 8;
    memcpy(&field, *from, size);
    *from += size;
    switch (code) {
    case 'Q':
        return PyLong_FromUnsignedLongLong(field.u8);
    case 'I':
        return PyLong_FromUnsignedLong(field.u4);
    case 'i':
        return PyLong_FromLong(field.i4);
    default: /* q; n: None if it is negative */
        return code == 'n' && field.i8 < 0 ? Py_NewRef(Py_None) : PyLong_FromLongLong(field.i8);
    }
}

static PyObject *new_arguments(PyObject *codes) {
    PyObject *fields = PyTuple_New(PyUnicode_GetLength(codes));
    PyObject *arguments = fields ? PyTuple_Pack(1, fields) : NULL;
    Py_XDECREF(fields);
    return arguments;
}

static PyObject *next_record(Records *r) {
    newfunc new_tuple = (newfunc)PyType_GetSlot(&PyTuple_Type, Py_tp_new);
    if (!may_set_items(PyTuple_GetItem(r->arguments, 0))) { /* another thread has made it */
        PyObject *made = new_arguments(r->codes), *old = r->arguments;
        if (!made)
            return NULL;
        r->arguments = made;
        Py_DECREF(old);
    }
    PyObject *fields = PyTuple_GetItem(r->arguments, 0);
    if (r->at < 0 || r->at + r->size > PyByteArray_Size(r->data))
        return NULL;
    const char *from = PyByteArray_AsString(r->data) + r->at;
    const char *codes = PyUnicode_AsUTF8AndSize(r->codes, NULL);
    for (Py_ssize_t i = 0; codes[i]; i++) {
        PyObject *field = read_field(codes[i], &from);
        if (!field || PyTuple_SetItem(fields, i, field) < 0)
            return NULL;
    }
    r->at += r->size;
    return new_tuple((PyTypeObject *)r->type, r->arguments, NULL);
}

static PyObject *records_next(PyObject *self) {
    PyObject *record;
    Py_BEGIN_CRITICAL_SECTION(self);
    record = next_record((Records *)self);
    Py_END_CRITICAL_SECTION();
    return record;
}

static PyObject *records_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords)) {
    PyObject *data, *kind, *codes;
    Py_ssize_t at, size;
    if (!PyArg_ParseTuple(args, "O!nnUO!", &PyByteArray_Type, &data, &at, &size, &codes, &PyType_Type, &kind))
        return NULL;
    Records *r = (Records *)PyType_GenericAlloc(type, 0);
    if (!r)
        return NULL;
    r->data = Py_NewRef(data);
    r->codes = Py_NewRef(codes);
    r->type = Py_NewRef(kind);
    r->at = at;
    r->size = size;
    r->arguments = new_arguments(codes);
    if (!r->arguments)
        Py_CLEAR(r);
    return (PyObject *)r;
}

static int records_traverse(PyObject *self, visitproc visit, void *arg) {
    Records *r = (Records *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(r->type);
    Py_VISIT(r->arguments);
    return 0;
}

static void records_dealloc(PyObject *self) {
    Records *r = (Records *)self;
    PyObject_GC_UnTrack(self);
    Py_XDECREF(r->data);
    Py_XDECREF(r->type);
    Py_XDECREF(r->codes);
    Py_XDECREF(r->arguments);
    free_object(self);
}

static PyType_Slot records_slots[] = {{Py_tp_new, records_new},         {Py_tp_traverse, records_traverse},
                                      {Py_tp_dealloc, records_dealloc}, {Py_tp_iter, PyObject_SelfIter},
                                      {Py_tp_iternext, records_next},   {0, NULL}};
PyType_Spec records_spec = {"uringzc._send.Records", sizeof(Records), 0,
                            Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, records_slots};

/* -- the base of Batch */

typedef struct {
    PyObject_HEAD PyObject *data; /* bytearray */
    PyObject *record;             /* Record */
    Py_ssize_t size;              /* bytes of a record */
} BatchBase;

PyTypeObject *batch_base_type, *notifier_base_type;

PyObject *make_batch(PyObject *type, PyObject *data, PyObject *record, size_t size) {
    BatchBase *batch = data && record ? (BatchBase *)PyType_GenericAlloc((PyTypeObject *)type, 0) : NULL;
    if (!batch) {
        Py_XDECREF(data);
        Py_XDECREF(record);
        return NULL;
    }
    batch->data = data;
    batch->record = record;
    batch->size = (Py_ssize_t)size;
    return (PyObject *)batch;
}

static Py_ssize_t batch_length(PyObject *self) {
    const BatchBase *batch = (const BatchBase *)self;
    return batch->data && batch->size > 0 ? PyObject_Size(batch->data) / batch->size : 0;
}

static void batch_dealloc(PyObject *self) {
    Py_XDECREF(((BatchBase *)self)->data);
    Py_XDECREF(((BatchBase *)self)->record);
    free_object(self);
}

static PyMemberDef batch_members[] = {{"_data", T_OBJECT_EX, offsetof(BatchBase, data), 0, NULL},
                                      {"_record", T_OBJECT_EX, offsetof(BatchBase, record), 0, NULL},
                                      {"_size", T_PYSSIZET, offsetof(BatchBase, size), 0, NULL},
                                      {NULL, 0, 0, 0, NULL}};

/* without the garbage collector: a bytearray and a Record are in no cycle */
static PyType_Slot batch_slots[] = {{Py_tp_dealloc, batch_dealloc},
                                    {Py_tp_members, batch_members},
                                    {Py_sq_length, batch_length},
                                    {Py_tp_new, PyType_GenericNew},
                                    {0, NULL}};
PyType_Spec batch_base_spec = {"uringzc._send.BatchBase", sizeof(BatchBase), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, batch_slots};

/* -- the base of Notifier */

typedef struct {
    PyObject_HEAD PyObject *engine;
    PyObject *numbers; /* of notifiers: one, or a tuple */
} NotifierBase;

PyObject *make_notifier(PyObject *type, PyObject *engine, int64_t number) {
    PyObject *boxed = PyLong_FromLongLong(number);
    NotifierBase *notifier =
        engine && boxed ? (NotifierBase *)PyType_GenericAlloc((PyTypeObject *)type, 0) : NULL;
    if (!notifier) {
        Py_XDECREF(engine);
        Py_XDECREF(boxed);
        return NULL;
    }
    notifier->engine = engine;
    notifier->numbers = boxed;
    return (PyObject *)notifier;
}

static int notifier_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((NotifierBase *)self)->engine);
    return 0;
}

static int notifier_clear(PyObject *self) {
    Py_CLEAR(((NotifierBase *)self)->engine);
    Py_CLEAR(((NotifierBase *)self)->numbers);
    return 0;
}

static void notifier_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    notifier_clear(self);
    free_object(self);
}

static PyMemberDef notifier_members[] = {{"_engine", T_OBJECT_EX, offsetof(NotifierBase, engine), 0, NULL},
                                         {"_numbers", T_OBJECT_EX, offsetof(NotifierBase, numbers), 0, NULL},
                                         {NULL, 0, 0, 0, NULL}};

static PyType_Slot notifier_slots[] = {{Py_tp_traverse, notifier_traverse}, {Py_tp_clear, notifier_clear},
                                       {Py_tp_dealloc, notifier_dealloc},   {Py_tp_members, notifier_members},
                                       {Py_tp_new, PyType_GenericNew},      {0, NULL}};
PyType_Spec notifier_base_spec = {"uringzc._send.NotifierBase", sizeof(NotifierBase), 0,
                                  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                                  notifier_slots};
