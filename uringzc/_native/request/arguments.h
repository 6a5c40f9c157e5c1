/* SPDX-License-Identifier: MIT
 *
 * What send() and run() take, by position or name. */
#ifndef UZC_ARGUMENTS_H
#define UZC_ARGUMENTS_H

#include "native.h"
#include "request/python.h"

enum {
    SOCK,
    DATA,
    SIZE,
    COUNT,
    STRIDE,
    OFFSET,
    LENGTH,
    TO,
    SEGMENT,
    ZERO_COPY,
    SLOT,
    USER_DATA,
    FLUSH,
    FLAGS,
    ARGUMENTS
};

int arguments_init(void);
int parse(const char *method, int positional, PyObject *const *args, Py_ssize_t count, PyObject *keywords,
          PyObject **out);
/* An absent argument leaves *out as it is. A slot that cannot be becomes one that does not exist. */
int as_number(PyObject *value, int at, uint64_t most, uint64_t *out);
int as_bool(PyObject *value, uint32_t *out);

#endif
