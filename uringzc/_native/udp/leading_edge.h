/* SPDX-License-Identifier: MIT */
/* What leaves at once, and what waits for others. */
#pragma once

typedef struct udp_batcher UdpBatcher;

/* Before something waits. If nothing else does, it leaves at the end of the call, or max_delay counts from
 * now. */
void start_delay(UdpBatcher *g);
/* When all that waited has left, at left_at. */
void end_delay(UdpBatcher *g);
/* The program flushes: with on_waiting, the end of a turn of its event loop. */
void end_turn(UdpBatcher *g);
