/* SPDX-License-Identifier: MIT */
#pragma once

#include "request/queue.h"

extern PyTypeObject *records_type;
extern PyType_Spec records_spec;
