/* SPDX-License-Identifier: MIT */
#pragma once

#include "native.h"
#include "request/python.h"

/* in the order of their positions */
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
/* Sorts what was given into out[ARGUMENTS], borrowed; NULL stays where an argument is absent. `positional`:
 * how many may be given by position. 0, or -1 with TypeError. */
int parse_arguments(const char *method, int positional, PyObject *const *args, Py_ssize_t count,
                    PyObject *keywords, PyObject **out);
/* An absent argument (NULL) leaves *out as it is. 0, or -1 with TypeError or ValueError; but an impossible
 * SLOT becomes one that does not exist, which the engine refuses. */
int parse_number(PyObject *value, int at, uint64_t max, uint64_t *out);
int parse_bool(PyObject *value, uint32_t *out);
