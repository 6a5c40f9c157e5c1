/* SPDX-License-Identifier: MIT */
#pragma once

#include "udp/batcher.h"

int add_lease_type(PyObject *module);
PyObject *batcher_lease(PyObject *self, PyObject *size);
