/* SPDX-License-Identifier: MIT */
#pragma once

#include "request/python.h"

extern PyTypeObject *writer_type;
extern PyType_Spec writer_spec;
