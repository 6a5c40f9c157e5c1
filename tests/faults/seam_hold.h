/* SPDX-License-Identifier: MIT */
/* What is held back: which CQEs and messages of error queues, and for how long. */
#pragma once

static struct {
    bool results, notifications; /* CQEs; `notifications` are those of error queues too */
    int most;   /* calls that each is held for, at random; -1: until it is released, or until a call would
                   wait for it without a limit */
    bool split; /* ranges of an error queue */
    uint64_t random;
} hold;

struct ticket {
    int64_t number; /* in the order of arrival */
    int left;       /* calls, with the one in which it came; 0: it is due; -1: until it is released */
};

static int64_t tickets, held_ever;

static uint32_t random_below(uint32_t limit) {
    hold.random = hold.random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(hold.random >> 33) % limit;
}

static struct ticket new_ticket(void) {
    held_ever++;
    return (struct ticket){++tickets, hold.most < 0 ? -1 : 1 + (int)random_below((uint32_t)hold.most + 1)};
}

/* A call has been made: whether it is due now. */
static bool is_due(struct ticket *t) {
    return t->left == 0 || (t->left > 0 && --t->left == 0);
}

/* A call that would wait, while something is held: it is given, if nothing else can end the wait. */
#define LONGEST_WAIT_MS 100 /* MAX_WAIT_NS of request/enter.c: longer waits are several of these */

static bool ends_wait(bool without_limit) {
    return without_limit || hold.most >= 0;
}
