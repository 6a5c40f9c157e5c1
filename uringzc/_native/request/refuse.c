/* SPDX-License-Identifier: MIT */
/* Raising the exception for a refusal (UZC_E_* or -errno), and taking an exception that was raised. */
#include "request/refuse.h"

static PyObject *was_raised(PyObject *raised, long long code) {
    if (raised) {
        Py_DECREF(raised);
        PyErr_Format(PyExc_SystemError, "refusal %lld was not raised", code);
    }
    return NULL;
}

PyObject *refuse(Queue *q, long long code) {
    return was_raised(PyObject_CallFunction(q->refuse, "L", code), code);
}

PyObject *refuse_as(PyObject *slow_path, long long code) {
    return was_raised(PyObject_CallMethod(slow_path, "refuse", "L", code), code);
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
