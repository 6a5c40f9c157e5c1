/* SPDX-License-Identifier: MIT */
#pragma once

#include "udp/sender.h"

extern PyTypeObject *writer_type;
extern PyType_Spec writer_spec;
