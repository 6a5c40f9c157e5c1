/* SPDX-License-Identifier: MIT */
#pragma once

#include "udp/batcher.h"

/* Opens the internal slot, with callbacks for results and notifications of the sender's requests. 0 or -1. */
int batcher_open_slot(UdpBatcher *g);
/* The user_data of a request, for these callbacks. */
uint64_t request_user_data(const struct train *t, uint32_t index);

/* Counts trains (GSO batches), or single datagrams, that the kernel has taken, each of so many datagrams. */
static inline void count_left(UdpBatcher *g, uint32_t trains, uint32_t datagrams) {
    const uint32_t power = datagrams ? 31 - (uint32_t)__builtin_clz(datagrams) : 0;
    COUNT(g->left.trains[power < TRAIN_LENGTHS ? power : TRAIN_LENGTHS - 1], trains);
    COUNT(g->left.datagrams, (unsigned long long)trains * datagrams);
}

/* Takes what has come back, without waiting. 0 or -1. */
int poll_engine(UdpBatcher *g);
/* Flushes the notifier of what was queued. 0 or -1. */
int flush_notifier(UdpBatcher *g);
/* Waits until memory of this sender is free. 0; 1: the sender does not block, or nothing is to come; -1. */
int wait_for_memory(UdpBatcher *g);
/* Submits what was queued, takes its results, retries what failed, and removes from the batch what was sent.
 * 0; 1: something must be retried later; -1. */
int complete_batch(UdpBatcher *g);
/* Logs the exception that is set, of a closed socket for example: the program's next call raises the same. */
void log_failure(UdpBatcher *g);
