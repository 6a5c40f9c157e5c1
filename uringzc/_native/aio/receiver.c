/* SPDX-License-Identifier: MIT */
/* The type DatagramReceiver: reads what waits on a UDP socket in one system call, and takes trains apart that
 * the kernel has put together (UDP_GRO). */
#include "aio/receiver.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "request/without_gil.h"

#ifndef UDP_GRO
#define UDP_GRO 104 /* of <linux/udp.h> */
#endif
#define MAX_MESSAGES 32
#define MESSAGE_SIZE (1 << 16) /* no datagram and no train is larger */
#define CONTROL_SIZE 256 /* for the size of a train behind all else that options of the socket ask for */
#define MAX_PEERS 1024   /* a power of two */

/* A sockaddr: zeroes behind what the kernel wrote. */
union name {
    struct sockaddr any;
    struct sockaddr_in ipv4;
    struct sockaddr_in6 ipv6;
    uint64_t words[4];
};

struct peer {
    union name name;
    PyObject *address; /* or NULL */
};

typedef struct {
    PyObject_HEAD int fd;
    uint32_t peer_count;   /* of `peers`: 1, or MAX_PEERS from the second peer on */
    struct peer *peers;    /* each at the place of its hash */
    struct peer only_peer; /* `peers` of a receiver with one peer */
} Receiver;

/* What a call reads into. Any thread takes it and gives it back within the call. */
struct buffer {
    struct mmsghdr messages[MAX_MESSAGES];
    struct iovec parts[MAX_MESSAGES];
    union name names[MAX_MESSAGES];
    _Alignas(struct cmsghdr) char control[MAX_MESSAGES][CONTROL_SIZE];
    char data[MAX_MESSAGES][MESSAGE_SIZE];
};

/* One is kept for the next call, of any receiver. More exist while calls run at the same moment. */
static _Atomic(struct buffer *) spare_buffer;

static void reset_messages(struct buffer *b, int count) {
    for (int i = 0; i < count; i++) {
        b->names[i] = (union name){.words = {0}};
        b->messages[i].msg_hdr.msg_namelen = sizeof b->names[i];
        b->messages[i].msg_hdr.msg_controllen = CONTROL_SIZE;
    }
}

static struct buffer *new_buffer(void) {
    struct buffer *b = calloc(1, sizeof *b);
    if (!b)
        return (struct buffer *)PyErr_NoMemory();
    for (int i = 0; i < MAX_MESSAGES; i++) {
        b->parts[i] = (struct iovec){b->data[i], MESSAGE_SIZE};
        b->messages[i].msg_hdr = (struct msghdr){
            .msg_name = &b->names[i], .msg_iov = &b->parts[i], .msg_iovlen = 1, .msg_control = b->control[i]};
    }
    reset_messages(b, MAX_MESSAGES);
    return b;
}

static struct buffer *take_buffer(void) {
    struct buffer *b = atomic_exchange(&spare_buffer, NULL);
    return b ? b : new_buffer();
}

static void give_back(struct buffer *b) {
    free(atomic_exchange(&spare_buffer, b));
}

/* -- addresses */

static PyObject *new_address(const union name *name) {
    char host[INET6_ADDRSTRLEN];
    switch (name->any.sa_family) {
    case AF_INET:
        inet_ntop(AF_INET, &name->ipv4.sin_addr, host, sizeof host);
        return Py_BuildValue("(si)", host, ntohs(name->ipv4.sin_port));
    case AF_INET6:
        inet_ntop(AF_INET6, &name->ipv6.sin6_addr, host, sizeof host);
        return Py_BuildValue("(siII)", host, ntohs(name->ipv6.sin6_port), ntohl(name->ipv6.sin6_flowinfo),
                             name->ipv6.sin6_scope_id);
    default:
        return Py_NewRef(Py_None);
    }
}

static struct peer *peer_place(const Receiver *r, const union name *name) {
    uint64_t hash = 0;
    for (int i = 0; i < 4; i++)
        hash = (hash ^ name->words[i]) * 0x9E3779B97F4A7C15u;
    return &r->peers[hash >> 32 & (r->peer_count - 1)];
}

static int enlarge_peers(Receiver *r) {
    struct peer *peers = PyMem_Calloc(MAX_PEERS, sizeof *peers);
    if (!peers)
        return PyErr_NoMemory(), -1;
    r->peers = peers;
    r->peer_count = MAX_PEERS;
    *peer_place(r, &r->only_peer.name) = r->only_peer;
    r->only_peer.address = NULL;
    return 0;
}

/* In the place of the peer that was there. */
static int remember_address(Receiver *r, const union name *name, PyObject *address) {
    if (r->only_peer.address && enlarge_peers(r) < 0)
        return -1;
    struct peer *peer = peer_place(r, name);
    PyObject *old = peer->address;
    *peer = (struct peer){*name, Py_NewRef(address)};
    Py_XDECREF(old);
    return 0;
}

/* The same tuple for the same peer, while that is remembered. */
static PyObject *address_of(Receiver *r, const union name *name) {
    struct peer *peer = peer_place(r, name);
    if (peer->address && memcmp(&peer->name, name, sizeof *name) == 0)
        return Py_NewRef(peer->address);
    PyObject *address = new_address(name);
    if (address && remember_address(r, name, address) < 0)
        Py_CLEAR(address);
    return address;
}

/* -- reading */

/* The size of the datagrams that a message consists of. */
static size_t datagram_size(struct msghdr *message, size_t length) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c))
        if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) {
            int size;
            memcpy(&size, CMSG_DATA(c), sizeof size);
            return size > 0 ? (size_t)size : length;
        }
    return length;
}

static int append_new(PyObject *list, PyObject *item) {
    int error = item ? PyList_Append(list, item) : -1;
    Py_XDECREF(item);
    return error;
}

/* The next of the datagrams that a message holds. */
static PyObject *next_datagram(struct iovec *left, size_t size) {
    size_t length = left->iov_len < size ? left->iov_len : size;
    PyObject *datagram = PyBytes_FromStringAndSize(left->iov_base, (Py_ssize_t)length);
    left->iov_base = (char *)left->iov_base + length;
    left->iov_len -= length;
    return datagram;
}

/* An entry (first, address) of the batch. Takes over the reference to `first`, and returns it borrowed. */
static PyObject *append_entry(PyObject *batch, PyObject *first, PyObject *address) {
    PyObject *entry = first ? PyTuple_Pack(2, first, address) : NULL;
    Py_XDECREF(first); /* the entry has it */
    return append_new(batch, entry) < 0 ? NULL : first;
}

/* Appends what a message holds to the batch, or to `group`, the list of its last entry. */
static int append_message(PyObject *batch, PyObject *group, PyObject *address, struct mmsghdr *m) {
    struct iovec left = {m->msg_hdr.msg_iov->iov_base, m->msg_len};
    size_t size = datagram_size(&m->msg_hdr, left.iov_len);
    do { /* once for an empty datagram */
        PyObject *datagram = next_datagram(&left, size);
        if (group ? append_new(group, datagram) < 0 : !append_entry(batch, datagram, address))
            return -1;
    } while (left.iov_len);
    return 0;
}

static PyObject *make_batch(Receiver *r, struct buffer *b, int count, bool grouped) {
    PyObject *batch = PyList_New(0), *group = NULL, *last = NULL;
    for (int i = 0; batch && i < count; i++) {
        PyObject *address = address_of(r, &b->names[i]);
        if (address && grouped && address != last)
            group = append_entry(batch, PyList_New(0), address);
        if (!address || (grouped && !group) || append_message(batch, group, address, &b->messages[i]) < 0)
            Py_CLEAR(batch);
        last = address; /* the batch has it */
        Py_XDECREF(address);
    }
    return batch;
}

/* Keeps the GIL: with MSG_DONTWAIT the call never waits, and who gives the GIL up beside a busy thread gets
 * it back after 5 ms. */
static PyObject *receive_batch(Receiver *r, bool grouped) {
    struct buffer *b = take_buffer();
    if (!b)
        return NULL;
    int count = recvmmsg(r->fd, b->messages, MAX_MESSAGES, MSG_DONTWAIT, NULL);
    PyObject *batch;
    if (count < 0 && errno != EAGAIN && errno != EINTR)
        batch = PyErr_SetFromErrno(PyExc_OSError);
    else
        batch = make_batch(r, b, count, grouped);
    reset_messages(b, count);
    give_back(b);
    return batch;
}

static PyObject *receiver_receive(PyObject *self, PyObject *grouped) {
    PyObject *batch;
    Py_BEGIN_CRITICAL_SECTION(self);
    batch = receive_batch((Receiver *)self, grouped == Py_True);
    Py_END_CRITICAL_SECTION();
    return batch;
}

static PyObject *receiver_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords)) {
    int fd;
    if (!PyArg_ParseTuple(args, "i", &fd))
        return NULL;
    Receiver *r = (Receiver *)PyType_GenericAlloc(type, 0);
    if (!r)
        return NULL;
    r->fd = fd;
    r->peers = &r->only_peer;
    r->peer_count = 1;
    return (PyObject *)r;
}

static void receiver_dealloc(PyObject *self) {
    Receiver *r = (Receiver *)self;
    for (uint32_t i = 0; i < r->peer_count; i++)
        Py_XDECREF(r->peers[i].address);
    if (r->peers != &r->only_peer)
        PyMem_Free(r->peers);
    free_object(self);
}

static PyMethodDef receiver_methods[] = {
    {"receive", receiver_receive, METH_O,
     "receive(grouped) -> [(datagram, address), ...], or [([datagram, ...], address), ...] with those of one "
     "peer in a row together: what waits, of at most 32 messages; [] if nothing does"},
    {NULL, NULL, 0, NULL}};

static PyType_Slot receiver_slots[] = {{Py_tp_dealloc, receiver_dealloc},
                                       {Py_tp_new, receiver_new},
                                       {Py_tp_methods, receiver_methods},
                                       {0, NULL}};
PyType_Spec receiver_spec = {"uringzc._send.DatagramReceiver", sizeof(Receiver), 0, Py_TPFLAGS_DEFAULT,
                             receiver_slots};

PyTypeObject *receiver_type;
