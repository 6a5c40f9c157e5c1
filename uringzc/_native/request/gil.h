/* SPDX-License-Identifier: MIT */
/* Releasing the GIL around what sends: PyEval_SaveThread() and PyEval_RestoreThread(), so that two threads
 * which both send pass it on without sleeping. */
#pragma once

#include "native.h"
#include "request/queue.h"

#ifdef Py_GIL_DISABLED
#define release_gil PyEval_SaveThread
#define take_gil PyEval_RestoreThread
#else
PyThreadState *release_gil(void);
void take_gil(PyThreadState *state);
#endif
