/* SPDX-License-Identifier: MIT
 *
 * Sockets with requests that are not submitted, and what is remembered of sockets. */
#ifndef UZC_SOCKETS_H
#define UZC_SOCKETS_H

#include "request/queue.h"

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

#endif
