/* SPDX-License-Identifier: MIT */
#pragma once

#include "engines/frames/frames.h"

/* Sends what is queued, in order. What has to wait for room, and may, stays. */
void send_entries(uzc_frames *e);
