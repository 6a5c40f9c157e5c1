/* SPDX-License-Identifier: MIT
 *
 * The table of calls that replaces an engine's when the engine has ended: requests are refused (CLOSED).
 *
 * An engine may end inside any call that runs code of the program: a signal handler that forks, a finalizer
 * that closes. With this table, the code that comes after such a call need not check for it. */
#pragma once

#include "native.h"

extern const uzc_calls ended_engine_calls;
