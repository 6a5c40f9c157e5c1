/* SPDX-License-Identifier: MIT
 *
 * Whose a zero-copy number is. The kernel numbers the MSG_ZEROCOPY sends of a socket from 0, and never begins
 * again; so where a socket's counter stands is known for the whole process, by the socket's cookie, and one
 * engine at a time sends zero-copy through a socket.
 *
 * A table by the number's low bits, which grows when two outstanding ones would share an entry: it stays as
 * small as what is in flight, and the wrap of the u32 is nothing special.
 */
#include <pthread.h>

#include "internal.h"

#define KNOWN_SOCKETS 1024
#define MOST (1u << 24) /* entries of a table */

struct owner {
    uint64_t key; /* 0: none */
    uint32_t id;
};

struct uzc_ids {
    struct owner *owners;
    uint32_t size; /* a power of 2 */
    uint32_t next;
    uint32_t oldest; /* none before it is outstanding */
    uint32_t outstanding;
    uint64_t cookie; /* 0: no socket's */
    uint32_t forks;
    bool known, lost;
};

/* -- where the counters stand */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct counter {
    uint64_t cookie;
    uint32_t next;
    bool taken; /* by an engine, or for ever: nobody knows where it stands */
} counters[KNOWN_SOCKETS];
static uint32_t oldest_counter, forks;

/* The parent goes on to send: here they stand nowhere any more. */
static void in_child(void) {
    pthread_mutex_init(&lock, NULL);
    forks++;
    for (uint32_t i = 0; i < KNOWN_SOCKETS; i++)
        counters[i].taken = counters[i].cookie != 0;
}

static struct counter *find_counter(uint64_t cookie) {
    for (uint32_t i = 0; i < KNOWN_SOCKETS; i++)
        if (counters[i].cookie == cookie)
            return &counters[i];
    return NULL;
}

/* An entry for one more, forgetting another that nobody has taken: NULL if all are taken. */
static struct counter *new_counter(uint64_t cookie) {
    static bool prepared;
    if (!prepared)
        prepared = pthread_atfork(NULL, NULL, in_child) == 0;
    for (uint32_t i = 0; i < KNOWN_SOCKETS && prepared; i++) {
        struct counter *c = &counters[oldest_counter++ % KNOWN_SOCKETS];
        if (!c->taken) {
            *c = (struct counter){.cookie = cookie};
            return c;
        }
    }
    return NULL;
}

uzc_ids *uzc_ids_open(uint64_t cookie, int fresh) {
    uzc_ids *ids = uzc_ids_new();
    pthread_mutex_lock(&lock);
    struct counter *c = ids ? find_counter(cookie) : NULL;
    bool remembered = c != NULL;
    if (ids && !c)
        c = new_counter(cookie);
    bool mine = c && !c->taken;
    if (mine) {
        c->taken = true;
        ids->cookie = cookie;
        ids->forks = forks;
        if (remembered || fresh)
            uzc_ids_set(ids, c->next);
    }
    pthread_mutex_unlock(&lock);
    if (!mine)
        uzc_ids_free(ids);
    return mine ? ids : NULL;
}

int uzc_ids_taken(uint64_t cookie) {
    pthread_mutex_lock(&lock);
    struct counter *c = find_counter(cookie);
    int taken = c && c->taken;
    pthread_mutex_unlock(&lock);
    return taken;
}

/* Where the counter stands is remembered, if that is known. */
void uzc_ids_free(uzc_ids *ids) {
    if (!ids)
        return;
    if (ids->cookie && ids->forks == forks) {
        pthread_mutex_lock(&lock);
        struct counter *c = find_counter(ids->cookie);
        if (c && !ids->lost && !ids->outstanding)
            *c = ids->known ? (struct counter){ids->cookie, ids->next, false} : (struct counter){0};
        pthread_mutex_unlock(&lock);
    }
    free(ids->owners);
    free(ids);
}

/* -- one socket's */

uzc_ids *uzc_ids_new(void) {
    uzc_ids *ids = calloc(1, sizeof *ids);
    if (ids && !(ids->owners = calloc(64, sizeof *ids->owners))) {
        free(ids);
        return NULL;
    }
    if (ids)
        ids->size = 64;
    return ids;
}

int uzc_ids_next(const uzc_ids *ids, uint32_t *next) {
    *next = ids->next;
    return ids->known && !ids->lost;
}

void uzc_ids_set(uzc_ids *ids, uint32_t next) {
    if (!ids->outstanding)
        ids->oldest = next;
    else if ((int32_t)(next - ids->next) < 0)
        return;
    ids->next = next;
    ids->known = true;
}

void uzc_ids_doubt(uzc_ids *ids) {
    ids->known = false;
}

static bool grow(uzc_ids *ids) {
    uint32_t size = 2 * ids->size;
    if (size > MOST)
        return false;
    struct owner *owners = calloc(size, sizeof *owners);
    if (!owners)
        return false;
    for (uint32_t i = 0; i < ids->size; i++)
        if (ids->owners[i].key)
            owners[ids->owners[i].id & (size - 1)] = ids->owners[i];
    free(ids->owners);
    ids->owners = owners;
    ids->size = size;
    return true;
}

int uzc_ids_reserve(uzc_ids *ids, uint32_t count) {
    for (uint32_t i = 0; i < count;)
        if (!ids->owners[(ids->next + i) & (ids->size - 1)].key && i < ids->size)
            i++;
        else if (!grow(ids))
            return -ENOMEM;
        else
            i = 0;
    return 0;
}

void uzc_ids_own(uzc_ids *ids, uint64_t key) {
    ids->owners[ids->next & (ids->size - 1)] = (struct owner){key, ids->next};
    ids->next++;
    ids->outstanding++;
}

int uzc_ids_clip(uzc_ids *ids, uint32_t *first, uint32_t *last) {
    if ((int32_t)(*last - ids->next) >= 0) {
        ids->lost |= ids->known;
        *last = ids->next - 1;
    }
    if (ids->lost)
        return 0;
    if ((int32_t)(*first - ids->oldest) < 0)
        *first = ids->oldest;
    return (int32_t)(*last - *first) >= 0;
}

uint64_t uzc_ids_take(uzc_ids *ids, uint32_t id) {
    struct owner *owner = &ids->owners[id & (ids->size - 1)];
    if (!owner->key || owner->id != id)
        return 0;
    uint64_t key = owner->key;
    owner->key = 0;
    ids->outstanding--;
    while (ids->oldest != ids->next) {
        owner = &ids->owners[ids->oldest & (ids->size - 1)];
        if (owner->key && owner->id == ids->oldest)
            break;
        ids->oldest++;
    }
    return key;
}

uint32_t uzc_ids_outstanding(const uzc_ids *ids) {
    return ids->outstanding;
}
