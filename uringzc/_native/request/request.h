/* SPDX-License-Identifier: MIT
 *
 * The objects of the module _send, shared by its files. */
#ifndef UZC_SEND_H
#define UZC_SEND_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>
#include <structmember.h>

#include "native.h"

/* Memory that can be sent: what requests hold while the kernel may read it. When the last of them and the
 * Region are gone, the registered buffers under it are left to the engine, on `retired`. */
typedef struct {
    PyObject_HEAD PyObject *owner; /* whatever keeps the bytes where they are */
    PyObject *retired; /* the engine's deque, and its identity: (buffer, buffers) is appended to it */
    unsigned long long address, length;
    int buffer; /* -1: not registered */
    unsigned buffers;
} Memory;

/* A socket with requests that are not submitted: it must still be what it was when they are. */
typedef struct {
    PyObject *sock;
    int fd;
    int index; /* of a registered file, or -1 */
    int family;
    uint32_t most; /* bytes in one request; 0: no limit but the type's */
    bool zero_copy;
} Pending;

enum { KNOWN = 16 };
typedef struct {
    PyObject *reference; /* weak */
    Pending facts;
} CachedSocket;

typedef struct {
    PyObject_HEAD const uzc_calls *calls; /* ended_engine_calls when the engine has ended */
    void *engine;                         /* then NULL */
    PyObject *admit, *pin, *pack, *refuse, *claimed;
    PyObject *region_type, *retired;
    PyObject *verify;   /* debug mode: called with what a request held, before its notifier counts as done */
    PyObject *modified; /* debug mode: a list of the exceptions that it raised, for the end of a call */
    PyObject *last_to, *last_packed;
    int last_family;
    Pending *pending;
    Py_ssize_t pending_count, pending_room;
    CachedSocket known[KNOWN]; /* by address */
    long long queued;          /* requests queued and not submitted */
    unsigned long long submitted;
    char busy, owned;
    int inside; /* senders of this engine that are inside a call */
} Queue;

/* arguments.c: what send() and run() take, by position or name */
enum {
    SOCK,
    DATA,
    SIZE,
    COUNT,
    STRIDE,
    OFFSET,
    LENGTH,
    TO,
    SEGMENT,
    ZERO_COPY,
    SLOT,
    USER_DATA,
    FLUSH,
    FLAGS,
    ARGUMENTS
};

int arguments_init(void);
int parse(const char *method, int positional, PyObject *const *args, Py_ssize_t count, PyObject *keywords,
          PyObject **out);
/* An absent argument leaves *out as it is. A slot that cannot be becomes one that does not exist. */
int as_number(PyObject *value, int at, uint64_t most, uint64_t *out);
int as_bool(PyObject *value, uint32_t *out);

/* sockets.c */
int sockets_init(void);
/* Names the socket in `send`, if it is open and can send that. */
int bind_request_socket(Queue *q, PyObject *sock, uzc_send *send);
int socket_family(Queue *q, PyObject *sock);
/* Its fileno(), 0 or -1 with an exception. */
int fileno_of(PyObject *sock, int *fd);
/* Requests of sockets that were closed since must not go to whoever has the descriptor now. */
int check_pending_sockets(Queue *q);
void forget_pending_sockets(Queue *q);
/* Registering a socket changes what is known of it. */
void clear_socket_cache(Queue *q);

/* ended_engine.c */
extern const uzc_calls ended_engine_calls;

/* queue.c: PyErr_CheckSignals(); -1 with ClosedError, too, if a signal handler has ended the engine (fork())
 */
int check_signals(Queue *q);
/* queue.c: for a sender, that is inside. enter(): 0, or -1 with an exception. */
int enter_engine(Queue *q, int submit, unsigned wait, long long timeout_ns);
/* Drops what notifiers held that were posted. */
void release_references(Queue *q);
/* The exception that is set, which is not set any more; a new reference. */
PyObject *take_exception(void);
/* Debug mode: raises what verify() had raised. 0 or -1. */
int raise_modified(Queue *q);

/* sender_notifiers.c: those of a sender's own slot that were flushed, and are not known to be done */
typedef struct {
    int64_t *numbers;
    uint32_t count, room;
} Notifiers;
/* Forgets those that are done; whether any was. */
bool notifiers_compact(const Queue *q, Notifiers *n);
/* Flushes the slot. 1 if that notifier is done already, 0, or -1 with an exception. */
int notifiers_flush(const Queue *q, uint32_t slot, Notifiers *n);
/* Reads the slot's notifications, for `told`.posted() where that is not NULL, and sets *news. 0 or -1. */
int notifiers_read(const Queue *q, uint32_t slot, PyObject *told, char *to_report);
/* Ends the slot; false while requests of it are in flight, and in another thread. May be repeated. */
bool close_internal_slot(const Queue *q, uint32_t *slot);
/* As a tuple. */
PyObject *notifiers_numbers(const Notifiers *n);

/* queue.c: the methods of Queue */
PyObject *queue_send(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords);
PyObject *queue_run(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords);
PyObject *queue_enter(PyObject *self, PyObject *args);
PyObject *queue_release(PyObject *self, PyObject *unused);
PyObject *queue_raise_modified(PyObject *self, PyObject *unused);
PyObject *queue_clear_socket_cache(PyObject *self, PyObject *unused);
PyObject *queue_detach(PyObject *self, PyObject *unused);
PyObject *queue_exclusive(PyObject *self, PyObject *args);

/* module.c: one that was made */
extern PyTypeObject *queue_type;
int is_queue(PyObject *object);

/* delegate.c */
int delegate_init(PyObject *module);
PyObject *compiled_method(PyObject *module, PyObject *args);

/* module.c: raises what a refusal stands for; always NULL */
PyObject *refuse(Queue *q, long long code);
/* The same in the words of a sender, by its Python part: the engine may be shared. */
PyObject *refuse_as(PyObject *sender, long long code);

/* memory.c */
PyObject *memory_init(void);
int is_memory(PyObject *object);
/* What to hold, and where its bytes are. Fills data, base, buffer, buffers; a new reference in *holder. */
int resolve_memory(Queue *q, PyObject *data, PyObject *offset, PyObject *length, uzc_send *send,
                   uint64_t *nbytes, PyObject **holder);
void free_object(PyObject *self);

#endif
