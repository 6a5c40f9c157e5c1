/* SPDX-License-Identifier: MIT */
#pragma once

#include "udp/batcher.h"

extern PyTypeObject *batcher_type;
int add_batcher_type(PyObject *module);
