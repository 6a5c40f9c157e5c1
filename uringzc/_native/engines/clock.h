/* SPDX-License-Identifier: MIT */
#pragma once

#include "native.h"

/* Sets the time of the requests that are queued from now on; engines call it once for each batch. */
static inline void uzc_tick(uzc_slots *slots) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    uzc_slots_clock(slots, (uint32_t)(now.tv_sec * 1000 + now.tv_nsec / 1000000));
}
