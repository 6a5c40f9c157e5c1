/* SPDX-License-Identifier: MIT */
/* The module _send: its types and functions. */
#include "aio/receiver.h"
#include "aio/writer.h"
#include "delegate.h"
#include "request/arguments.h"
#include "request/batch_calls.h"
#include "request/memory.h"
#include "request/queue_type.h"
#include "request/records.h"
#include "request/sockets.h"
#include "tcp/sender.h"
#include "udp/arena.h"
#include "udp/fast_path.h"
#include "udp/group.h"
#include "udp/lease.h"
#include "udp/sender.h"
#include "udp/timer.h"

static void free_owned(PyObject *capsule) {
    void (*free_it)(void *) = (void (*)(void *))PyCapsule_GetContext(capsule);
    free_it(PyCapsule_GetPointer(capsule, NULL));
}

/* Not a finalizer of the Python object that uses the allocation: that may run too early, in a cycle which
 * another finalizer then resurrects. */
static PyObject *make_owner(PyObject *Py_UNUSED(module), PyObject *args) {
    unsigned long long pointer, free_it;
    if (!PyArg_ParseTuple(args, "KK", &pointer, &free_it))
        return NULL;
    PyObject *capsule = PyCapsule_New((void *)(uintptr_t)pointer, NULL, NULL);
    if (!capsule) /* nobody else has the allocation */
        ((void (*)(void *))(uintptr_t)free_it)((void *)(uintptr_t)pointer);
    else if (PyCapsule_SetContext(capsule, (void *)(uintptr_t)free_it) == 0)
        PyCapsule_SetDestructor(capsule, free_owned);
    return capsule;
}

static PyMethodDef functions[] = {
    {"owner", make_owner, METH_VARARGS,
     "owner(pointer, free) -> an object; free(pointer) is called when its last reference is dropped, or if "
     "there is no memory for it"},
    {"compiled_method", compiled_method, METH_VARARGS,
     "compiled_method(name, doc) -> a method for a class that is derived from Delegate"},
    {"late", timer_late, METH_NOARGS,
     "late() -> a UdpBatcher in which datagrams have waited for max_delay; waits until there is one"},
    {NULL, NULL, 0, NULL}};

static const struct {
    PyTypeObject **type;
    PyType_Spec *spec;
} types[] = {{&memory_type, &memory_spec},         {&region_base_type, &region_base_spec},
             {&queue_type, &queue_spec},           {&arena_type, &arena_spec},
             {&lease_type, &lease_spec},           {&batcher_type, &batcher_spec},
             {&group_type, &group_spec},           {&stream_type, &stream_spec},
             {&delegate_type, &delegate_spec},     {&records_type, &records_spec},
             {&batch_base_type, &batch_base_spec}, {&notifier_base_type, &notifier_base_spec},
             {&writer_type, &writer_spec},         {&receiver_type, &receiver_spec}};

/* Types and names are static, so that the per-datagram path finds them without a call, and the timer serves
 * the whole process: the module is made once in it. */
static int module_exec(PyObject *module) {
    static atomic_flag made = ATOMIC_FLAG_INIT;
    if (atomic_flag_test_and_set(&made)) {
        PyErr_SetString(PyExc_ImportError, "uringzc can be imported once in a process, by one interpreter");
        return -1;
    }
    fast_path_init();
    if (sockets_init() < 0 || arguments_init() < 0 || batch_calls_init() < 0 || timer_init() < 0)
        return -1;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        *types[i].type = (PyTypeObject *)PyType_FromSpec(types[i].spec);
        if (!*types[i].type || PyModule_AddType(module, *types[i].type) < 0)
            return -1;
    }
    return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)module_exec},
#ifdef Py_mod_multiple_interpreters
                                   {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
#ifdef Py_mod_gil
                                   {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
                                   {0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_send", NULL, 0, functions, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__send(void) {
    return PyModuleDef_Init(&definition);
}
