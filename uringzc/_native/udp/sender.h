/* SPDX-License-Identifier: MIT */
#pragma once

#include "udp/batcher.h"

extern PyTypeObject *batcher_type;
extern PyType_Spec batcher_spec;
