/* SPDX-License-Identifier: MIT
 *
 * The type Owner: frees a C allocation. */
#ifndef UZC_OWNER_H
#define UZC_OWNER_H

#include "request/python.h"

int add_owner_type(PyObject *module);

#endif
