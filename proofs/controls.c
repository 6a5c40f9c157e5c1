/* SPDX-License-Identifier: MIT */
/* What each checker has to report, before it is believed that there is nothing else to report. */
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>

static int counter;

int read_past_end(const char *data, int length) {
    return data[length];
}

int overflow(int more) {
    return INT_MAX + more;
}

void leak(void) {
    *(volatile char *)malloc(100) = 1;
}

__attribute__((noinline)) static int branch_on(char *data) {
    return *data ? 1 : 2;
}

int branch_on_unwritten(void) {
    char *data = malloc(1);
    int chosen = branch_on(data);
    free(data);
    return chosen;
}

static void *count(void *unused) {
    for (int i = 0; i < 1000; i++)
        counter++;
    return unused;
}

/* Two threads, without a lock. */
int race(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, count, NULL))
        return -1;
    count(NULL);
    pthread_join(thread, NULL);
    return counter;
}
