/* SPDX-License-Identifier: MIT */
#pragma once

#include "udp/sender.h"

extern PyTypeObject *group_type;
extern PyType_Spec group_spec;

PyObject *group_send(PyObject *self, PyObject *data);
PyObject *group_send_many(PyObject *self, PyObject *datagrams);
