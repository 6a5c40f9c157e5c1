/* SPDX-License-Identifier: MIT
 *
 * The type Owner. */
#ifndef UZC_OWNER_H
#define UZC_OWNER_H

#include "request/python.h"

int owner_init(PyObject *module);

#endif
