/* SPDX-License-Identifier: MIT */
#pragma once

#include "engines/frames/frames.h"

/* The kernel took these, in order, or they were sent through their sockets. */
void report_taken(uzc_frames *e, const struct entry *entries, uint32_t count);
/* The request ends with a result, bytes or -errno; its memory is free. */
void report_end(uzc_frames *e, const struct entry *n, int32_t result, int copied);
/* The kernel no longer reads the frame: its request is settled by the next report_settled(). */
void frame_settled(uzc_frames *e, uint32_t frame);
void report_settled(uzc_frames *e);
