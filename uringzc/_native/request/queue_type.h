/* SPDX-License-Identifier: MIT */
#pragma once

#include "request/python.h"

extern PyTypeObject *queue_type;
extern PyType_Spec queue_spec;
