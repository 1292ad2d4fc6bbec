/* A client's connection, and what the loop does with all of them. */
#ifndef MLOPT_CONNECTION_H
#define MLOPT_CONNECTION_H

#include "server.h"
#include "vendor/picohttpparser.h"

typedef struct Connection Connection;

typedef struct {
    Site site;
    Line *line; /* NULL until the model is ready */
    Connection *first, *dead;
    size_t held; /* bytes of bodies */
    int epoll, wake, count;
} Loop;

typedef enum { HEAD, BODY, WAITING, WRITING, LINGERING, CLOSED } State;

struct Connection {
    Loop *loop;
    Connection *next, *before;
    State state;
    int socket;
    uint32_t watched;
    Text in, out; /* `in` holds what comes after the body, too: requests may be pipelined */
    size_t checked, written;
    Request request;
    struct phr_chunked_decoder decoder;
    Job *job;
    Route route;
    double began, deadline;
    bool keep_alive, unread;
    size_t held;
};

/* connection.c */
void connection_open(Loop *loop, int socket);
void connection_event(Connection *connection, uint32_t events);
void connection_answered(Job *job);
/* The server stops: what has begun is answered, nothing else is read. */
void connections_finish(Loop *loop);
void connections_expire(Loop *loop, double time);
/* Free what was closed; not before, since events of the same turn may be about it. */
void connections_bury(Loop *loop);
void connection_shut(Connection *connection);
void connection_watch(Connection *connection, uint32_t events);
void connection_write(Connection *connection);

/* exchange.c: from what a connection has read to its answer. */
/* The next head, if it is whole, and what follows from it. False: more is needed. */
bool exchange_next(Connection *connection);
void exchange_body(Connection *connection);
void exchange_answered(Connection *connection);
void exchange_refuse(Connection *connection, int status, const char *words);
void exchange_hold(Connection *connection, size_t bytes); /* of its body, among those of all */
void exchange_forget(Connection *connection);

#endif
