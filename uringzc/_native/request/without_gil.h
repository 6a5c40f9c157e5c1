/* SPDX-License-Identifier: MIT */
/* What threads share, where they run without the GIL (free-threaded CPython). */
#pragma once

#include "native.h"
#include "request/python.h"

#ifdef Py_GIL_DISABLED

/* A field that one thread writes at a time, and others read for statistics. */
#define READ_SHARED(field) __atomic_load_n(&(field), __ATOMIC_ACQUIRE)
#define WRITE_SHARED(field, value) __atomic_store_n(&(field), value, __ATOMIC_RELEASE)

static inline bool replace_shared(_Atomic uint32_t *field, uint32_t before, uint32_t after) {
    return atomic_compare_exchange_strong(field, &before, after);
}

/* A reference to an object that another thread may be about to free: false if it is. The object's constructor
 * calls enable_try_incref(). */
static inline bool try_incref(PyObject *object) {
    return PyUnstable_TryIncRef(object);
}

static inline void enable_try_incref(PyObject *object) {
    PyUnstable_EnableTryIncRef(object);
}

/* Of a tuple that nobody else has a reference to: whether this thread may set its items. */
static inline bool may_set_items(PyObject *tuple) {
    return PyUnstable_Object_IsUniquelyReferenced(tuple);
}

#else

/* Atomic here too: what is counted inside the engine is counted without the GIL. */
#define READ_SHARED(field) __atomic_load_n(&(field), __ATOMIC_RELAXED)
#define WRITE_SHARED(field, value) __atomic_store_n(&(field), value, __ATOMIC_RELAXED)
#define Py_BEGIN_CRITICAL_SECTION(object) {
#define Py_END_CRITICAL_SECTION() }

static inline bool replace_shared(_Atomic uint32_t *field, uint32_t before, uint32_t after) {
    if (atomic_load_explicit(field, memory_order_relaxed) != before)
        return false;
    atomic_store_explicit(field, after, memory_order_relaxed);
    return true;
}

static inline bool try_incref(PyObject *object) {
    Py_INCREF(object);
    return true;
}

static inline bool may_set_items(const PyObject *Py_UNUSED(tuple)) {
    return true;
}

static inline void enable_try_incref(PyObject *Py_UNUSED(object)) {
}

#endif

#define COUNT(counter, more) WRITE_SHARED(counter, (counter) + (more))
