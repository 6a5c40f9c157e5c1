/* SPDX-License-Identifier: MIT */
#pragma once

#include "native.h"
#include "request/python.h"

/* The arguments of all methods, by name. */
enum {
    SOCK,
    DATA,
    REGION,
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
    MSG_FLAGS,
    WAIT,
    TIMEOUT,
    ARGUMENTS
};

/* Those of one method: the first ones may be given by position, and the first of these must be given. */
typedef struct {
    const char *method;
    unsigned char required, positional, count;
    unsigned char names[ARGUMENTS];
} Signature;

int arguments_init(void);
/* Sorts what was given into out[ARGUMENTS], borrowed; NULL stays where an argument is absent. 0, or -1 with
 * TypeError. */
int parse_arguments(const Signature *signature, PyObject *const *args, Py_ssize_t count, PyObject *keywords,
                    PyObject **out);
/* An absent argument (NULL) leaves *out as it is. 0, or -1 with TypeError or ValueError; but an impossible
 * SLOT becomes one that does not exist, which the engine refuses. */
int parse_number(PyObject *value, int at, uint64_t max, uint64_t *out);
int parse_bool(PyObject *value, uint32_t *out);
/* As an int that may be negative, and is cut to 64 bits. 0, or -1 with TypeError. */
int parse_signed(PyObject *value, long long *out);
