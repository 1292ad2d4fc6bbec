/* A client's connection, and what the loop does with all of them. */
#ifndef MLOPT_CONNECTION_H
#define MLOPT_CONNECTION_H

#include "server.h"

typedef struct Connection Connection;

typedef struct {
    Site site;
    Line *line; /* NULL until the model is ready */
    Connection *first, *dead;
    size_t held; /* bytes of bodies */
    int epoll, wake, count;
} Loop;

void connection_open(Loop *loop, int socket);
void connection_event(Connection *connection, uint32_t events);
void connection_answered(Job *job);
/* The server stops: what has begun is answered, nothing else is read. */
void connections_finish(Loop *loop);
void connections_expire(Loop *loop, double time);
/* Free what was closed; not before, since events of the same turn may be about it. */
void connections_bury(Loop *loop);

#endif
