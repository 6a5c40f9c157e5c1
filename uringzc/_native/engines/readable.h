/* SPDX-License-Identifier: MIT */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

/* Makes an eventfd readable, or not. *readable: whether it is. */
static inline void uzc_set_readable(int event_fd, bool *readable, bool wanted) {
    uint64_t count = 1;
    if (wanted == *readable)
        return;
    *readable = wanted;
    if (wanted)
        (void)!write(event_fd, &count, sizeof count);
    else
        (void)!read(event_fd, &count, sizeof count);
}
