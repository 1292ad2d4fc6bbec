/* A client's connection: reads a head and a body, waits for the answer, writes it; all of it within limits. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "connection.h"
#include "vendor/picohttpparser.h"

#define LINGER 1.0            /* seconds in which a client that still sends may read its refusal */
#define PIECE ((size_t)256 << 10) /* what is read at once of a body whose length is known */

static const Settings *settings_of(const Connection *connection) { return connection->loop->site.settings; }

void connection_watch(Connection *connection, uint32_t events) {
    if (connection->watched == events) return;
    struct epoll_event event = {.events = events, .data.ptr = connection};
    epoll_ctl(connection->loop->epoll, EPOLL_CTL_MOD, connection->socket, &event);
    connection->watched = events;
}

static void bury(Connection *connection) {
    Loop *loop = connection->loop;
    connection->next = loop->dead;
    loop->dead = connection;
}

void connection_shut(Connection *connection) {
    Loop *loop = connection->loop;
    if (connection->state == CLOSED) return;
    bool computing = connection->state == WAITING;
    close(connection->socket);
    if (connection->before) connection->before->next = connection->next;
    else loop->first = connection->next;
    if (connection->next) connection->next->before = connection->before;
    loop->count--;
    connection->state = CLOSED;
    if (!computing) { /* else the line has its job; it is buried when that comes back */
        exchange_hold(connection, 0);
        bury(connection);
    }
}

void connection_write(Connection *connection) {
    while (connection->written < connection->out.length) {
        ssize_t count = send(connection->socket, connection->out.data + connection->written,
                             connection->out.length - connection->written, MSG_NOSIGNAL);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            connection_watch(connection, EPOLLOUT);
            return;
        }
        if (count < 0) {
            connection_shut(connection);
            return;
        }
        connection->written += (size_t)count;
        connection->deadline = now() + settings_of(connection)->arrival; /* a deaf reader does not move it */
    }
    bool linger = connection->unread;
    exchange_forget(connection);
    if (connection->keep_alive && !connection->loop->site.stopping) {
        connection->state = HEAD; /* what is pipelined comes next, in `advance` */
        connection->deadline = now() + settings_of(connection)->arrival;
        connection_watch(connection, EPOLLIN);
    } else if (linger) {
        /* To close with unread bytes would reset the connection, and the client would never see its answer. */
        shutdown(connection->socket, SHUT_WR);
        connection->state = LINGERING;
        connection->deadline = now() + LINGER;
        connection_watch(connection, EPOLLIN);
    } else {
        connection_shut(connection);
    }
}

static void advance(Connection *connection) {
    while (connection->state == HEAD && connection->in.length && exchange_next(connection)) continue;
}

void connection_answered(Job *job) {
    Connection *connection = job->owner;
    if (connection->state == CLOSED) {
        exchange_hold(connection, 0);
        bury(connection);
        return;
    }
    exchange_answered(connection);
    advance(connection);
}

static void read_some(Connection *connection) {
    bool straight = connection->state == BODY && !connection->request.chunked;
    Text *into = straight ? &connection->job->body : &connection->in;
    size_t most = straight ? PIECE : LARGEST_HEAD;
    if (straight && connection->request.length - into->length < most) most = connection->request.length - into->length;
    if (connection->state == LINGERING) into->length = 0;
    if (!text_try_room(into, most)) {
        connection_shut(connection);
        return;
    }
    ssize_t count = recv(connection->socket, into->data + into->length, most, 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (count <= 0) {
        connection_shut(connection);
        return;
    }
    into->length += (size_t)count;
    if (connection->state == BODY) exchange_body(connection);
    advance(connection);
}

void connection_event(Connection *connection, uint32_t events) {
    if (connection->state == CLOSED) return;
    if (connection->state == WAITING) {
        if (events & (EPOLLHUP | EPOLLERR)) connection_shut(connection); /* the client is gone */
    } else if (connection->state == WRITING) {
        connection_write(connection);
        advance(connection);
    } else if (events) {
        read_some(connection);
    }
}

void connection_open(Loop *loop, int socket) {
    static const char busy[] = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    const Settings *settings = loop->site.settings;
    int one = 1, patience = (int)(settings->arrival * 1000);
    if (loop->count >= settings->connections) {
        if (send(socket, busy, sizeof busy - 1, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) shutdown(socket, SHUT_WR);
        close(socket);
        return;
    }
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, &patience, sizeof patience);
    Connection *connection = need(calloc(1, sizeof *connection));
    *connection = (Connection){.loop = loop, .socket = socket, .watched = EPOLLIN, .next = loop->first};
    connection->deadline = now() + settings->arrival;
    if (loop->first) loop->first->before = connection;
    loop->first = connection;
    loop->count++;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    if (epoll_ctl(loop->epoll, EPOLL_CTL_ADD, socket, &event)) connection_shut(connection);
}

void connections_finish(Loop *loop) {
    for (Connection *connection = loop->first, *next; connection; connection = next) {
        next = connection->next;
        if (connection->state == HEAD && !connection->in.length) connection_shut(connection);
    }
}

void connections_expire(Loop *loop, double time) {
    for (Connection *connection = loop->first, *next; connection; connection = next) {
        next = connection->next;
        if (connection->state == WAITING || time < connection->deadline) continue;
        if (connection->state == BODY || (connection->state == HEAD && connection->in.length))
            exchange_refuse(connection, 408, "the request did not arrive in time");
        else
            connection_shut(connection);
    }
}

void connections_bury(Loop *loop) {
    while (loop->dead) {
        Connection *connection = loop->dead;
        loop->dead = connection->next;
        exchange_forget(connection);
        text_free(&connection->in);
        text_free(&connection->out);
        free(connection);
    }
}
