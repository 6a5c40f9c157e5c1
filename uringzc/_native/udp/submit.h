/* SPDX-License-Identifier: MIT */
#pragma once

typedef struct udp_batcher UdpBatcher;

enum until {
    UNTIL_EMPTY, /* all of the batch is sent, */
    UNTIL_ROOM,  /* or some, */
    WHILE_READY  /* or what can be sent without waiting */
};

/* Submits the batch. 0; 1: not so far, and the sender does not block, or should not; -1. */
int submit_batch(UdpBatcher *g, enum until until);
/* Closes all open trains, and submits them too. */
int submit_all(UdpBatcher *g, enum until until);
/* At the end of a call: what waits leaves at once, if it is to. An exception that is set stays. 0 or -1. */
int leave_at_once(UdpBatcher *g);
