/* SPDX-License-Identifier: MIT */
#pragma once

#include "engines/io_uring/state.h"

/* Members of uzc_calls. */
int64_t ring_queue(void *engine, const uzc_send *send, uint32_t *references);
void ring_revoke(void *engine, int fd);
