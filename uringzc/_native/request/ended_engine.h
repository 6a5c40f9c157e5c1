/* SPDX-License-Identifier: MIT
 *
 * What takes an engine's place when it has ended. */
#ifndef UZC_ENDED_ENGINE_H
#define UZC_ENDED_ENGINE_H

#include "native.h"

extern const uzc_calls ended_engine_calls;

#endif
