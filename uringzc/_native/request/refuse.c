/* SPDX-License-Identifier: MIT
 *
 * Raising what a call is refused with, and taking an exception that was raised. */
#include "request/refuse.h"

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

int raise_would_block(int code, const char *why) {
    PyObject *arguments = code > 0 ? Py_BuildValue("(is)", EAGAIN, why) : NULL;
    if (arguments)
        PyErr_SetObject(PyExc_BlockingIOError, arguments);
    Py_XDECREF(arguments);
    return -1;
}

PyObject *take_exception(void) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    Py_XDECREF(type);
    Py_XDECREF(trace);
    return value;
}
