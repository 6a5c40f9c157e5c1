/* SPDX-License-Identifier: MIT */
/* The lock of a sender. The owner waits for the timer's thread, which sends and unlocks; the timer waits for
 * no thread, and runs no code of the program's, but for a warning if the program drops the sender meanwhile.
 */
#pragma once

#include "native.h"

typedef struct udp_batcher UdpBatcher;

#define LOCK_WAIT 50000 /* us: how long the lock is waited for between two checks for signals */

bool try_lock(UdpBatcher *g);
bool lock_within(UdpBatcher *g, long long microseconds);
/* After either: `thread`, the calling one, has it. */
void set_lock_thread(UdpBatcher *g, unsigned long thread);
void unlock(UdpBatcher *g);

/* With the lock: sends what waits by system calls. 0, -EAGAIN, or -EIO if that raised: something stays. */
int send_all_waiting(UdpBatcher *g);
/* With the lock: the same, for the last time, so neither rate nor arrivals are waited for. */
void send_last(UdpBatcher *g);
/* With the lock: when the timer tries again to send what it could not, at ever longer intervals. */
void retry_later(UdpBatcher *g, int64_t now);
/* With the lock: forgets what waits, and releases the block. Returns how many datagrams. What is in the ring
 * stays: the slot accounting still has its requests. */
unsigned long long discard_waiting(UdpBatcher *g);
