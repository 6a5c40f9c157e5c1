/* SPDX-License-Identifier: MIT */
#pragma once

#include "request/python.h"

/* The type DatagramReceiver: what waits on a UDP socket is read in one system call. */
extern PyTypeObject *receiver_type;
extern PyType_Spec receiver_spec;
