/* SPDX-License-Identifier: MIT */
#pragma once

#include "engines/frames/frames.h"

/* Sends what is queued, in order. What has to wait for room, and may, stays. */
void send_entries(uzc_frames *e);
/* The request has failed: its result is `error` (-errno), and its memory is free. */
void fail_entry(uzc_frames *e, struct entry *n, int32_t error);
