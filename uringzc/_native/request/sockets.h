/* SPDX-License-Identifier: MIT */
#pragma once

#include "request/queue.h"

int sockets_init(void);
/* The socket's fileno(). 0, or -1 with an exception. */
int fileno_of(PyObject *sock, int *fd);
/* Fills in the socket of a request: fd, fixed_file, zero_copy. 0, or -1 with an exception if the socket is
 * closed or cannot send that. */
int bind_request_socket(Queue *q, PyObject *sock, uzc_send *send);
/* AF_*, or -1 with an exception. */
int socket_family(Queue *q, PyObject *sock);
/* Revokes the queued requests of sockets that were closed since: the descriptor may be another's now. 0, or
 * -1 with an exception. */
int check_pending_sockets(Queue *q);
void forget_pending_sockets(Queue *q);
/* Sockets are described again: one was registered or unregistered. */
void clear_socket_cache(Queue *q);
