/* SPDX-License-Identifier: MIT
 *
 * Whose a zero-copy number is. The kernel numbers the MSG_ZEROCOPY sends of a socket from 0, and never begins
 * again; so one engine of the process at a time sends zero-copy through a socket, and where its counter stood
 * is handed on to the next one, as a guess.
 *
 * A table by the number's low bits, which grows when two outstanding ones would share an entry: it stays as
 * small as what is in flight, and the wrap of the u32 is nothing special.
 */
#include <pthread.h>

#include "engines/msg_zerocopy/sock_table.h"

#define REMEMBERED 4096 /* sockets that no engine has any more */
#define MOST (1u << 24) /* entries of a table */

struct owner {
    uint64_t key; /* 0: none */
    uint32_t id;
};

struct counter {
    struct sock_link link;
    uint32_t next;
    bool taken; /* by an engine, or for ever: nobody knows where it stands */
};

struct uzc_ids {
    struct owner *owners;
    uint32_t size; /* a power of 2 */
    uint32_t next;
    uint32_t oldest; /* none before it is outstanding */
    uint32_t outstanding;
    uint32_t first;   /* of those outstanding, where they began with a guess */
    uint32_t highest; /* of those that were reported, where the guess was wrong */
    uint32_t forks;
    struct counter *counter; /* NULL: no socket's */
    bool known;
    bool guessed, confirmed, wrong; /* `next`: confirmed when `first` was reported before any other */
    bool lost;                      /* a number was reported that can not have been given */
};

/* -- where the counters stand */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sock_table counters;
static uint32_t remembered; /* of those, not taken */
static uint32_t forks;
static bool prepared;

static void before_fork(void) {
    pthread_mutex_lock(&lock);
}

static void in_parent(void) {
    pthread_mutex_unlock(&lock);
}

/* The parent goes on to send: here they stand nowhere any more. */
static void in_child(void) {
    for (uint32_t i = 0; i < counters.size; i++)
        for (struct sock_link *link = counters.chains[i]; link; link = link->next)
            ((struct counter *)link)->taken = true;
    remembered = 0;
    forks++;
    pthread_mutex_init(&lock, NULL);
}

static void prepare(void) {
    prepared = pthread_atfork(before_fork, in_parent, in_child) == 0;
}

static struct counter *new_counter(uint64_t cookie, uint64_t inode) {
    struct counter *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->link.cookie = cookie;
    c->link.inode = inode;
    if (!sock_table_insert(&counters, &c->link)) {
        free(c);
        return NULL;
    }
    remembered++;
    return c;
}

static void forget(struct counter *c) {
    sock_table_remove(&counters, &c->link);
    remembered--;
    free(c);
}

/* Some socket that nobody has taken; there is one. */
static void forget_any(void) {
    static uint32_t chain;
    for (;; chain++)
        for (struct sock_link *link = counters.chains[chain & (counters.size - 1)]; link; link = link->next)
            if (!((struct counter *)link)->taken) {
                forget((struct counter *)link);
                return;
            }
}

uzc_ids *uzc_ids_open(uint64_t cookie, uint64_t inode) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, prepare);
    uzc_ids *ids = prepared ? uzc_ids_new() : NULL;
    if (!ids)
        return NULL;
    pthread_mutex_lock(&lock);
    struct counter *c = (struct counter *)sock_table_find(&counters, cookie, inode);
    if (!c)
        c = new_counter(cookie, inode);
    if (c && !c->taken) {
        c->taken = true;
        remembered--;
        ids->counter = c;
        ids->forks = forks;
        ids->next = ids->oldest = c->next;
    }
    pthread_mutex_unlock(&lock);
    if (ids->counter)
        return ids;
    uzc_ids_free(ids);
    return NULL;
}

int uzc_ids_taken(uint64_t cookie, uint64_t inode) {
    pthread_mutex_lock(&lock);
    struct counter *c = (struct counter *)sock_table_find(&counters, cookie, inode);
    int taken = c && c->taken;
    pthread_mutex_unlock(&lock);
    return taken;
}

/* Where the counter stood is remembered, if that was known: others may send before the next engine does. */
static void give_back(const uzc_ids *ids) {
    struct counter *c = ids->counter;
    c->next = ids->next;
    c->taken = false;
    remembered++;
    if (!ids->known)
        forget(c);
    else if (remembered > REMEMBERED)
        forget_any();
}

void uzc_ids_free(uzc_ids *ids) {
    if (!ids)
        return;
    if (ids->counter && ids->forks == forks && !ids->lost && !ids->outstanding) {
        pthread_mutex_lock(&lock);
        give_back(ids);
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
    return ids->known && !ids->wrong && !ids->lost;
}

void uzc_ids_set(uzc_ids *ids, uint32_t next) {
    if (!ids->outstanding)
        ids->oldest = next;
    else if ((int32_t)(next - ids->next) < 0)
        return;
    ids->next = next;
    ids->known = true;
}

void uzc_ids_guess(uzc_ids *ids) {
    if (ids->outstanding)
        return;
    ids->first = ids->oldest = ids->next;
    ids->known = ids->guessed = true;
    ids->confirmed = ids->wrong = false;
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

/* Whether a guess is right, as far as is known: nothing of the socket's was outstanding when it was made, so
 * what is reported first begins with it, or is of another number. */
static bool is_confirmed(uzc_ids *ids, uint32_t first, uint32_t last) {
    if (!ids->outstanding) { /* others have sent */
        ids->next = ids->oldest = last + 1;
        return false;
    }
    if (!ids->confirmed && !ids->wrong) {
        ids->highest = last;
        ids->wrong = first != ids->first;
        ids->confirmed = !ids->wrong;
    }
    if ((int32_t)(last - ids->highest) > 0)
        ids->highest = last;
    return ids->confirmed;
}

int uzc_ids_clip(uzc_ids *ids, uint32_t *first, uint32_t *last) {
    if (ids->guessed && !is_confirmed(ids, *first, *last))
        return 0;
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

int uzc_ids_disbelieved(const uzc_ids *ids) {
    return ids->outstanding && (ids->wrong || ids->lost);
}

uint64_t uzc_ids_take_any(uzc_ids *ids) {
    uint64_t key = ids->outstanding ? uzc_ids_take(ids, ids->oldest) : 0;
    if (!ids->outstanding && ids->wrong) {
        ids->next = ids->oldest = ids->highest + 1;
        ids->wrong = false;
    }
    return key;
}
