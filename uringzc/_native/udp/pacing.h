/* SPDX-License-Identifier: MIT */
#pragma once

#include "udp/trains.h"

#define PACED "pacing lets no more go at the moment" /* why a call would block */

/* Bytes that a train of datagrams of `size` bytes may have; UINT64_MAX without pacing. */
uint64_t pace_max_train(const UdpBatcher *g, uint32_t size);
/* Whether no more should be gathered before some of what waits has left. */
bool pace_is_enough(const UdpBatcher *g);
/* The first train of those that wait is about to. */
void pace_begin(UdpBatcher *g, uint32_t nbytes, uint32_t datagrams);
/* Before trains are admitted: reads the clock, and returns the credit in ns; INT64_MAX without pacing. */
int64_t pace_credit(UdpBatcher *g);
/* What a train costs; 0 without pacing. */
int64_t pace_cost(const UdpBatcher *g, const struct train *t);
/* Whether the train may go now. If not, none behind it may. */
bool pace_allows(const UdpBatcher *g, const struct train *t, int64_t *credit);
/* After these trains have left. */
void pace_charge(UdpBatcher *g, struct train *const *trains, uint32_t count);
/* The batch's first train may not go yet. */
bool pace_blocks(const UdpBatcher *g);
/* CLOCK_MONOTONIC ns: when the batch may leave, or about as much of it as the credit allows. */
int64_t pace_ready_at(const UdpBatcher *g);
/* Sleeps until then. 0 or -1. */
int pace_sleep(UdpBatcher *g);
/* Another rate: (ns, counts_bytes, burst, lateness, most, gather), see batcher.h, or None: nothing is held
 * back. The credit stays. 0 or -1. */
int pace_set(UdpBatcher *g, PyObject *pacing);
