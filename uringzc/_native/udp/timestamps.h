/* SPDX-License-Identifier: MIT */
/* All of this only with on_timestamp. Each function returns 0 or -1. */
#pragma once

typedef struct udp_batcher UdpBatcher;

/* The batch's queued trains have their results. */
int report_sent(UdpBatcher *g);
/* A send has failed, and is no train's result. */
int report_send_failed(UdpBatcher *g);
/* Takes the timestamps that have come, in the owner's thread. */
int read_timestamps(UdpBatcher *g);
