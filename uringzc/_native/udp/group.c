/* SPDX-License-Identifier: MIT */
/* The compiled part of a Group: destinations that get the same datagrams. These gather in one train, in one
 * place; when that is closed, each member gets a train over the same memory (trains.c). */
#include "udp/group.h"

#include "udp/batch.h"
#include "udp/call.h"
#include "udp/destinations.h"
#include "udp/send.h"

PyTypeObject *group_type;

typedef struct {
    PyObject_HEAD UdpBatcher *batcher;
    struct group *group;
    uint32_t destination;
} Group;

/* Frees what the program has dropped; the datagrams of an open train are sent first. */
static void free_if_dropped(UdpBatcher *g, uint32_t index) {
    struct group *group = g->groups[index];
    if (!group || !group->dropped || group->gather.open)
        return;
    PyMem_Free(group->members);
    PyMem_Free(group);
    g->groups[index] = NULL;
}

/* A free place in the table. 0 or -1. */
static int find_place(UdpBatcher *g, uint32_t *index) {
    for (*index = 0; *index < g->group_count; ++*index) {
        free_if_dropped(g, *index);
        if (!g->groups[*index])
            return 0;
    }
    const uint32_t count = g->group_count ? 2 * g->group_count : 4;
    struct group **grown = PyMem_Realloc(g->groups, count * sizeof *grown);
    if (!grown)
        return PyErr_NoMemory(), -1;
    memset(&grown[g->group_count], 0, (count - g->group_count) * sizeof *grown);
    g->groups = grown;
    g->group_count = count;
    return 0;
}

static int add_group(UdpBatcher *g, Group *self) {
    uint32_t index;
    if (find_place(g, &index) < 0)
        return -1;
    struct group *group = PyMem_Calloc(1, sizeof *group);
    if (!group)
        return PyErr_NoMemory(), -1;
    g->groups[index] = self->group = group;
    self->destination = GROUP | index;
    self->batcher = (UdpBatcher *)Py_NewRef((PyObject *)g);
    return 0;
}

static PyObject *group_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords)) {
    UdpBatcher *g;
    if (!PyArg_ParseTuple(args, "O!", batcher_type, &g))
        return NULL;
    PyObject *self = PyType_GenericAlloc(type, 0);
    if (!self || batcher_begin(g) < 0) {
        Py_XDECREF(self);
        return NULL;
    }
    if (add_group(g, (Group *)self) < 0)
        Py_CLEAR(self);
    return batcher_return(g, self);
}

static void group_dealloc(PyObject *self) {
    Group *p = (Group *)self;
    PyObject_GC_UnTrack(self);
    if (p->group)
        p->group->dropped = true;
    Py_XDECREF((PyObject *)p->batcher);
    free_object(self);
}

static int group_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)((Group *)self)->batcher);
    return 0;
}

PyObject *group_send(PyObject *self, PyObject *data) {
    return send_to_group(((Group *)self)->batcher, data, ((Group *)self)->destination);
}

PyObject *group_send_many(PyObject *self, PyObject *datagrams) {
    return send_many_to_group(((Group *)self)->batcher, datagrams, ((Group *)self)->destination);
}

static int append_member(struct group *group, uint32_t member) {
    if (group->count == group->capacity) {
        const uint32_t capacity = group->capacity ? 2 * group->capacity : 8;
        uint32_t *grown = PyMem_Realloc(group->members, capacity * sizeof *grown);
        if (!grown)
            return PyErr_NoMemory(), -1;
        group->members = grown;
        group->capacity = capacity;
    }
    group->members[group->count++] = member;
    return 0;
}

/* add_member(sockaddr): gets what is sent from now on */
static PyObject *group_add(PyObject *self, PyObject *packed) {
    Group *p = (Group *)self;
    UdpBatcher *g = p->batcher;
    uint32_t member;
    if (batcher_begin(g) < 0)
        return NULL;
    int error = close_open(g, p->destination);
    if (!error && destination_of(g, packed, &member) < 0)
        error = -1;
    if (!error)
        error = append_member(p->group, member);
    return batcher_return(g, error ? NULL : Py_NewRef(Py_None));
}

/* remove_member(index) */
static PyObject *group_remove(PyObject *self, PyObject *index) {
    Group *p = (Group *)self;
    UdpBatcher *g = p->batcher;
    const unsigned long at = PyLong_AsUnsignedLong(index);
    if (PyErr_Occurred() || batcher_begin(g) < 0)
        return NULL;
    int error = close_open(g, p->destination);
    if (!error && at >= p->group->count) {
        PyErr_SetString(PyExc_IndexError, "no such member");
        error = -1;
    }
    if (!error) {
        struct group *group = p->group;
        memmove(&group->members[at], &group->members[at + 1],
                (group->count - at - 1) * sizeof *group->members);
        group->count--;
    }
    return batcher_return(g, error ? NULL : Py_NewRef(Py_None));
}

static PyMethodDef group_methods[] = {{"send", group_send, METH_O, "See Group.send."},
                                      {"send_many", group_send_many, METH_O, "See Group.send_many."},
                                      {"add_member", group_add, METH_O, NULL},
                                      {"remove_member", group_remove, METH_O, NULL},
                                      {NULL, NULL, 0, NULL}};

static PyType_Slot group_slots[] = {{Py_tp_new, group_new},
                                    {Py_tp_dealloc, group_dealloc},
                                    {Py_tp_traverse, group_traverse},
                                    {Py_tp_methods, group_methods},
                                    {0, NULL}};
PyType_Spec group_spec = {"uringzc._send.UdpGroup", sizeof(Group), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
                          group_slots};
