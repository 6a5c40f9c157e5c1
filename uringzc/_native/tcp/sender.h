/* SPDX-License-Identifier: MIT */
#pragma once

#include "request/python.h"

extern PyTypeObject *stream_type;
extern PyType_Spec stream_spec;
