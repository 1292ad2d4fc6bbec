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
#define SPARED (16 << 10)     /* bytes that a buffer keeps between requests */
#define PIECE ((size_t)256 << 10)

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

static const Settings *settings_of(const Connection *connection) { return connection->loop->site.settings; }

static void hold(Connection *connection, size_t bytes) {
    connection->loop->held += bytes - connection->held;
    connection->held = bytes;
}

static void watch(Connection *connection, uint32_t events) {
    if (connection->watched == events) return;
    struct epoll_event event = {.events = events, .data.ptr = connection};
    epoll_ctl(connection->loop->epoll, EPOLL_CTL_MOD, connection->socket, &event);
    connection->watched = events;
}

static void drop(Text *text, size_t count) {
    text->length -= count;
    if (text->length && count) memmove(text->data, text->data + count, text->length);
}

static void bury(Connection *connection) {
    Loop *loop = connection->loop;
    connection->next = loop->dead;
    loop->dead = connection;
}

static void shut(Connection *connection) {
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
        hold(connection, 0);
        bury(connection);
    }
}

static void job_free(Job *job) {
    if (!job) return;
    text_free(&job->body);
    text_free(&job->answer.body);
    free(job);
}

static void forget(Connection *connection) {
    job_free(connection->job);
    connection->job = NULL;
    hold(connection, 0);
    if (connection->out.room > SPARED) text_free(&connection->out);
    if (connection->in.room > SPARED && !connection->in.length) text_free(&connection->in);
    connection->out.length = connection->written = connection->checked = 0;
}

/* Probes ask again and again; 503 is their ordinary answer while the model loads. */
static void log_request(const Connection *connection, int status, double seconds) {
    const Request *request = &connection->request;
    Text fields = {0};
    bool probe = connection->route == ROUTE_LIVE || connection->route == ROUTE_READY ||
                 connection->route == ROUTE_METRICS || connection->route == ROUTE_PING;
    if (!log_wants(LOG_INFO) || (probe && (status < 400 || status == 503))) return;
    text_say(&fields, ",\"method\":");
    text_json(&fields, request->method, strlen(request->method));
    text_say(&fields, ",\"path\":");
    text_json(&fields, request->shown, strlen(request->shown));
    text_format(&fields, ",\"code\":%d,\"ms\":%.2f,\"request_id\":\"%s\"", status, seconds * 1e3, request->id);
    text_add(&fields, "", 1);
    log_line(LOG_INFO, "request", fields.data);
    text_free(&fields);
}

static void write_some(Connection *connection) {
    while (connection->written < connection->out.length) {
        ssize_t count = send(connection->socket, connection->out.data + connection->written,
                             connection->out.length - connection->written, MSG_NOSIGNAL);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            watch(connection, EPOLLOUT);
            return;
        }
        if (count < 0) {
            shut(connection);
            return;
        }
        connection->written += (size_t)count;
        connection->deadline = now() + settings_of(connection)->arrival; /* a deaf reader does not move it */
    }
    bool linger = connection->unread;
    forget(connection);
    if (connection->keep_alive && !connection->loop->site.stopping) {
        connection->state = HEAD; /* what is pipelined comes next, in `advance` */
        connection->deadline = now() + settings_of(connection)->arrival;
        watch(connection, EPOLLIN);
    } else if (linger) {
        /* To close with unread bytes would reset the connection, and the client would never see its answer. */
        shutdown(connection->socket, SHUT_WR);
        connection->state = LINGERING;
        connection->deadline = now() + LINGER;
        watch(connection, EPOLLIN);
    } else {
        shut(connection);
    }
}

static void send_answer(Connection *connection, Answer *answer) {
    double seconds = now() - connection->began;
    connection->keep_alive = connection->request.keep_alive && !connection->unread && !connection->loop->site.stopping;
    metrics_request(connection->route, answer->status, seconds);
    log_request(connection, answer->status, seconds);
    http_answer(&connection->out, &connection->request, answer, connection->keep_alive);
    text_free(&answer->body);
    connection->state = WRITING;
    connection->deadline = now() + settings_of(connection)->arrival;
    write_some(connection);
}

static void refuse(Connection *connection, int status, const char *words) {
    Answer answer = {0};
    answer_fail(&answer, status, "%s", words);
    connection->unread = true;
    send_answer(connection, &answer);
}

static void finish_job(Connection *connection) {
    Job *job = connection->job;
    metrics_stage(STAGE_QUEUE, job->queue);
    if (job->answer.status == 503) metrics_refused();
    else metrics_stage(STAGE_PARSE, job->answer.parse);
    if (job->answer.infer > 0) metrics_stage(STAGE_INFER, job->answer.infer);
    send_answer(connection, &job->answer);
}

static void body_is_whole(Connection *connection) {
    Job *job = connection->job;
    if (job->json_length > (long)job->body.length) {
        Answer answer = {0};
        answer_fail(&answer, 400, "Inference-Header-Content-Length must be at most the length of the body");
        send_answer(connection, &answer);
        return;
    }
    job->arrived = now();
    connection->state = WAITING;
    if (line_is_full(connection->loop->line)) {
        Answer answer = {0};
        metrics_refused();
        answer_fail(&answer, 503, "too many requests wait already");
        send_answer(connection, &answer);
        return;
    }
    if (line_put(connection->loop->line, job))
        finish_job(connection);
    else
        watch(connection, 0);
}

/* Take what is there of the body out of `in`. False: it was refused. */
static bool take_body(Connection *connection, bool *whole) {
    const Settings *settings = settings_of(connection);
    Text *in = &connection->in, *body = &connection->job->body;
    size_t count = in->length;
    *whole = false;
    if (connection->request.chunked) {
        size_t decoded = count;
        ssize_t left = phr_decode_chunked(&connection->decoder, in->data, &decoded);
        if (left == -1) {
            refuse(connection, 400, "the chunks of the body are damaged");
            return false;
        }
        *whole = left >= 0;
        if (body->length + decoded <= settings->body) text_add(body, in->data, decoded);
        else *whole = false, body->length = settings->body + 1;
        if (*whole) memmove(in->data, in->data + decoded, (size_t)left);
        in->length = *whole ? (size_t)left : 0;
    } else {
        size_t missing = connection->request.length - body->length;
        if (count > missing) count = missing;
        text_add(body, in->data, count);
        drop(in, count);
        *whole = body->length == connection->request.length;
    }
    hold(connection, body->length);
    if (body->length > settings->body) {
        refuse(connection, 413, "the body is larger than this server takes");
        return false;
    }
    if (connection->loop->held > settings->held) {
        metrics_refused();
        refuse(connection, 503, "too many large requests at once");
        return false;
    }
    return true;
}

static void more_body(Connection *connection) {
    bool whole;
    if (take_body(connection, &whole) && whole) body_is_whole(connection);
}

static void begin_body(Connection *connection) {
    const Settings *settings = settings_of(connection);
    if (connection->request.length > settings->body) {
        refuse(connection, 413, "the body is larger than this server takes");
        return;
    }
    connection->job = need(calloc(1, sizeof *connection->job));
    connection->job->owner = connection;
    connection->job->json_length = connection->request.json_length;
    connection->job->answer.json_length = -1;
    connection->decoder = (struct phr_chunked_decoder){.consume_trailer = 1};
    connection->state = BODY;
    connection->deadline = now() + settings->arrival;
    if (connection->request.expects && !connection->in.length) {
        static const char go[] = "HTTP/1.1 100 Continue\r\n\r\n";
        if (send(connection->socket, go, sizeof go - 1, MSG_NOSIGNAL) < 0) {
            shut(connection);
            return;
        }
    }
    more_body(connection);
}

/* An answer without the model. What is not here yet of a body is not waited for. */
static void answer_at_once(Connection *connection, Answer *answer) {
    Text *in = &connection->in;
    if (!connection->request.chunked && connection->request.length <= in->length)
        drop(in, connection->request.length);
    else
        connection->unread = true;
    send_answer(connection, answer);
}

/* The next head, if it is whole, and what follows from it. False: more is needed. */
static bool next_request(Connection *connection) {
    Text *in = &connection->in;
    Answer answer = {.json_length = -1};
    bool wants_body;
    size_t blank = 0;
    while (!connection->checked && blank < in->length && (in->data[blank] == '\r' || in->data[blank] == '\n')) blank++;
    drop(in, blank);
    if (!in->length) return false;
    connection->began = now();
    connection->route = ROUTE_UNKNOWN;
    int length = http_head(&connection->request, in->data, in->length, connection->checked);
    if (length == 0) {
        connection->checked = in->length;
        return false;
    }
    connection->checked = 0;
    if (length < 0) {
        refuse(connection, -length, http_reason(-length));
        return true;
    }
    connection->route = route_of(&connection->loop->site, &connection->request, &answer, &wants_body);
    drop(in, (size_t)length);
    if (wants_body)
        begin_body(connection);
    else
        answer_at_once(connection, &answer);
    return true;
}

static void advance(Connection *connection) {
    while (connection->state == HEAD && connection->in.length && next_request(connection)) continue;
}

void connection_answered(Job *job) {
    Connection *connection = job->owner;
    if (connection->state == CLOSED) {
        hold(connection, 0);
        bury(connection);
        return;
    }
    finish_job(connection);
    advance(connection);
}

static void read_some(Connection *connection) {
    bool straight = connection->state == BODY && !connection->request.chunked;
    Text *into = straight ? &connection->job->body : &connection->in;
    size_t most = connection->state == HEAD ? LARGEST_HEAD : PIECE;
    if (straight && connection->request.length - into->length < most) most = connection->request.length - into->length;
    if (connection->state == LINGERING) into->length = 0;
    if (!text_try_room(into, most)) {
        shut(connection);
        return;
    }
    ssize_t count = recv(connection->socket, into->data + into->length, most, 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (count <= 0) {
        shut(connection);
        return;
    }
    into->length += (size_t)count;
    if (connection->state == BODY) more_body(connection);
    advance(connection);
}

void connection_event(Connection *connection, uint32_t events) {
    if (connection->state == CLOSED) return;
    if (connection->state == WAITING) {
        shut(connection); /* nothing else was asked for: the client is gone */
    } else if (connection->state == WRITING) {
        write_some(connection);
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
    if (epoll_ctl(loop->epoll, EPOLL_CTL_ADD, socket, &event)) shut(connection);
}

void connections_finish(Loop *loop) {
    for (Connection *connection = loop->first, *next; connection; connection = next) {
        next = connection->next;
        if (connection->state == HEAD && !connection->in.length) shut(connection);
    }
}

void connections_expire(Loop *loop, double time) {
    for (Connection *connection = loop->first, *next; connection; connection = next) {
        next = connection->next;
        if (connection->state == WAITING || time < connection->deadline) continue;
        if (connection->state == BODY || (connection->state == HEAD && connection->in.length))
            refuse(connection, 408, "the request did not arrive in time");
        else
            shut(connection);
    }
}

void connections_bury(Loop *loop) {
    while (loop->dead) {
        Connection *connection = loop->dead;
        loop->dead = connection->next;
        job_free(connection->job);
        text_free(&connection->in);
        text_free(&connection->out);
        free(connection);
    }
}
