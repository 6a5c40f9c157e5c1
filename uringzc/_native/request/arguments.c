/* SPDX-License-Identifier: MIT */
/* The arguments of compiled methods, by position or name. Parsed by hand: PyArg_ParseTupleAndKeywords() takes
 * longer than the rest of a send. */
#include "request/arguments.h"

static const char *const names[ARGUMENTS] = {
    "sock",    "data",      "region", "size",      "count", "stride",    "offset", "length", "to",
    "segment", "zero_copy", "slot",   "user_data", "flush", "msg_flags", "wait",   "timeout"};
static PyObject *interned[ARGUMENTS]; /* keywords in a program's code are interned, too */

int arguments_init(void) {
    for (int i = 0; i < ARGUMENTS; i++)
        if (!(interned[i] = PyUnicode_InternFromString(names[i])))
            return -1;
    return 0;
}

/* Which argument has the name; -1: none of this method. */
static int find_name(const Signature *s, PyObject *name) {
    for (int i = s->count - 1; i >= 0; i--)
        if (interned[s->names[i]] == name)
            return s->names[i];
    for (int i = 0; i < s->count; i++)
        if (PyUnicode_CompareWithASCIIString(name, names[s->names[i]]) == 0)
            return s->names[i];
    return -1;
}

int parse_arguments(const Signature *s, PyObject *const *args, Py_ssize_t count, PyObject *keywords,
                    PyObject **out) {
    if (count > s->positional) {
        PyErr_Format(PyExc_TypeError, "%s() takes %d positional arguments, %zd were given", s->method,
                     s->positional, count);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++)
        out[s->names[i]] = args[i];
    Py_ssize_t named = keywords ? PyTuple_Size(keywords) : 0;
    for (Py_ssize_t i = 0; i < named; i++) {
        PyObject *name = PyTuple_GetItem(keywords, i);
        int at = find_name(s, name);
        if (at < 0) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", s->method, name);
            return -1;
        }
        if (out[at]) {
            PyErr_Format(PyExc_TypeError, "%s() got '%s' twice", s->method, names[at]);
            return -1;
        }
        out[at] = args[count + i];
    }
    for (int i = 0; i < s->required; i++)
        if (!out[s->names[i]]) {
            PyErr_Format(PyExc_TypeError, "%s() needs '%s'", s->method, names[s->names[i]]);
            return -1;
        }
    return 0;
}

int parse_number(PyObject *value, int at, uint64_t max, uint64_t *out) {
    if (!value)
        return 0;
    PyObject *index = PyLong_CheckExact(value) ? Py_NewRef(value) : PyNumber_Index(value);
    if (!index)
        return -1;
    unsigned long long number = PyLong_AsUnsignedLongLong(index);
    bool wrong = number == (unsigned long long)-1 && PyErr_Occurred();
    if (wrong)
        PyErr_Clear();
    if (wrong || number > max) {
        if (at == SLOT) /* the engine refuses it with EINVAL, as any index out of range */
            *out = UZC_NO_SLOT - 1;
        else
            PyErr_Format(PyExc_ValueError, "%s must be from 0 to %llu, not %R", names[at], max, value);
        wrong = at != SLOT;
    } else {
        *out = number;
    }
    Py_DECREF(index);
    return wrong ? -1 : 0;
}

int parse_bool(PyObject *value, uint32_t *out) {
    int truth = value ? PyObject_IsTrue(value) : (int)*out;
    *out = truth > 0;
    return truth < 0 ? -1 : 0;
}

int parse_signed(PyObject *value, long long *out) {
    PyObject *index = value ? PyNumber_Index(value) : NULL;
    int overflow = 0;
    if (value && !index)
        return -1;
    if (index)
        *out = PyLong_AsLongLongAndOverflow(index, &overflow);
    Py_XDECREF(index);
    if (overflow)
        *out = overflow > 0 ? INT64_MAX : INT64_MIN;
    return 0;
}
