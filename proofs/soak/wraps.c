/* SPDX-License-Identifier: MIT */
/* More notifiers than a u32 counts, one after the other, in the slot accounting of the library: each has the
 * next sequence, modulo 2^32, and is notified once. On the way the generations of requests and of notifiers
 * (31 bits) wrap too: there is one entry for each, which is used again and again. */
#include <stdio.h>
#include <stdlib.h>

#include "slots/accounting.h"

static void expect(uint64_t number, const char *what, int64_t value, int64_t expected) {
    if (value == expected)
        return;
    printf("notifier %llu: %s is %lld, not %lld\n", (unsigned long long)number, what, (long long)value,
           (long long)expected);
    exit(1);
}

int main(int count, char **arguments) {
    const uint64_t last = count > 1 ? strtoull(arguments[1], NULL, 0) : 0;
    const uint64_t tag = 0xABCDEF;
    uzc_slots *slots = uzc_slots_new(1, UZC_NONE);
    if (!slots || uzc_slots_register(slots, &tag, 1))
        return 1;
    const uzc_send send = {.socket = slots, .memory = slots, .length = 1, .count = 1, .datagram = 1};
    int64_t before = 0;
    for (uint64_t number = 0; number < last; number++) {
        uint32_t requests = 1, references = 0;
        void *socket, *memory;
        uzc_notification notification;
        uzc_slots_begin(slots);
        int64_t key = uzc_slots_attach(slots, &send, number, &requests, &references);
        int stray = before && uzc_slots_result(slots, (uint64_t)before, 1, 0) != -ENOENT;
        expect(number, "a stale key", stray, 0);
        expect(number, "a result", uzc_slots_result(slots, (uint64_t)key, 1, 0), 0);
        expect(number, "a notification", uzc_slots_settle(slots, (uint64_t)key, 0, 0), 0);
        uzc_slots_end(slots);
        uzc_slots_flush(slots, 0);
        expect(number, "notifications", uzc_slots_notifications(slots, &notification, 1), 1);
        expect(number, "its sequence", notification.sequence, (uint32_t)number);
        expect(number, "its requests", (int64_t)notification.requests, 1);
        expect(number, "released", uzc_slots_release(slots, &socket, &memory), 1);
        before = key;
    }
    uzc_slots_free(slots);
    return 0;
}
