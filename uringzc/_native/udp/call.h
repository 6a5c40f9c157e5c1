/* SPDX-License-Identifier: MIT */
#pragma once

#include "udp/batcher.h"

/* Begins a call of the owner that changes the sender: 0 with the lock, or -1 with an exception. */
int batcher_begin(UdpBatcher *g);
void batcher_end(UdpBatcher *g);
/* Ends a call. If it succeeded, calls the program's callbacks, which may raise. */
PyObject *batcher_return(UdpBatcher *g, PyObject *result);
