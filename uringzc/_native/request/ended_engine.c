/* SPDX-License-Identifier: MIT
 *
 * What takes an engine's place when it has ended: every call is refused. An engine ends in code of the
 * program's too, that any call may run (a signal handler that forks, a finalizer that closes): this way
 * nothing on the way back from there has to ask whether there still is one. */
#include "request/ended_engine.h"

static int64_t queue(void *engine, const uzc_send *send) {
    (void)engine, (void)send;
    return UZC_E_CLOSED;
}

static int64_t enter(void *engine, int submit, uint32_t wait, int64_t timeout_ns) {
    (void)engine, (void)submit, (void)wait, (void)timeout_ns;
    return UZC_E_CLOSED;
}

static void revoke_fd(void *engine, int fd) {
    (void)engine, (void)fd;
}

static uzc_slots *slots(void *engine) {
    (void)engine;
    return NULL;
}

static int mine(const uzc_slots *none) {
    (void)none;
    return 1;
}

static int check(const uzc_slots *none) {
    (void)none;
    return UZC_E_CLOSED;
}

static int release_none(uzc_slots *none, void **socket, void **memory) {
    (void)none, (void)socket, (void)memory;
    return 0;
}

static int64_t open_slot(uzc_slots *none, const uzc_listener *listener) {
    (void)none, (void)listener;
    return UZC_E_CLOSED;
}

static int close_slot(uzc_slots *none, uint32_t slot) {
    (void)none, (void)slot;
    return 0;
}

static int64_t flush(uzc_slots *none, uint32_t slot) {
    (void)none, (void)slot;
    return UZC_E_CLOSED;
}

static uint32_t unsettled(const uzc_slots *none, uint64_t notifier) {
    (void)none, (void)notifier;
    return 0;
}

static int64_t posted(uzc_slots *none, uint32_t slot, uzc_notification *out, uint32_t most) {
    (void)none, (void)slot, (void)out, (void)most;
    return UZC_E_CLOSED;
}

static int socket_error(void *engine, int fd) {
    (void)engine, (void)fd;
    return 0;
}

const uzc_calls ended_engine_calls = {.queue = queue,
                                      .enter = enter,
                                      .revoke = revoke_fd,
                                      .slots = slots,
                                      .is_owner = mine,
                                      .check = check,
                                      .release = release_none,
                                      .open_slot = open_slot,
                                      .close_slot = close_slot,
                                      .flush_slot = flush,
                                      .unsettled = unsettled,
                                      .read_slot = posted,
                                      .take_socket_error = socket_error};
