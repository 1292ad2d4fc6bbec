/* From what a connection has read to its answer: heads, bodies, refusals. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "connection.h"

#define SPARED (16 << 10) /* bytes that a buffer keeps between requests */

static const Settings *settings_of(const Connection *connection) { return connection->loop->site.settings; }

static void drop(Text *text, size_t count) {
    text->length -= count;
    if (text->length && count) memmove(text->data, text->data + count, text->length);
}

void exchange_hold(Connection *connection, size_t bytes) {
    connection->loop->held += bytes - connection->held;
    connection->held = bytes;
}

static void job_free(Job *job) {
    if (!job) return;
    text_free(&job->body);
    text_free(&job->answer.body);
    free(job);
}

void exchange_forget(Connection *connection) {
    job_free(connection->job);
    connection->job = NULL;
    exchange_hold(connection, 0);
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

static void send_answer(Connection *connection, Answer *answer) {
    double seconds = now() - connection->began;
    connection->keep_alive = connection->request.keep_alive && !connection->unread && !connection->loop->site.stopping;
    metrics_request(connection->route, answer->status, seconds);
    log_request(connection, answer->status, seconds);
    http_answer(&connection->out, &connection->request, answer, connection->keep_alive);
    text_free(&answer->body);
    connection->state = WRITING;
    connection->deadline = now() + settings_of(connection)->arrival;
    connection_write(connection);
}

void exchange_refuse(Connection *connection, int status, const char *words) {
    Answer answer = {0};
    answer_fail(&answer, status, "%s", words);
    connection->unread = true;
    send_answer(connection, &answer);
}

void exchange_answered(Connection *connection) {
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
        exchange_answered(connection);
    else
        connection_watch(connection, 0);
}

/* Take what is there of the body out of `in`. False: it was refused. */
static bool take_body(Connection *connection, bool *whole) {
    const Settings *settings = settings_of(connection);
    Text *in = &connection->in, *body = &connection->job->body;
    size_t count = in->length;
    bool large = false;
    *whole = false;
    if (connection->request.chunked) {
        if (!count) return true;
        size_t decoded = count;
        ssize_t left = phr_decode_chunked(&connection->decoder, in->data, &decoded);
        if (left == -1) {
            exchange_refuse(connection, 400, "the chunks of the body are damaged");
            return false;
        }
        *whole = left >= 0;
        large = body->length + decoded > settings->body;
        if (!large) text_add(body, in->data, decoded);
        if (*whole) memmove(in->data, in->data + decoded, (size_t)left);
        in->length = *whole ? (size_t)left : 0;
    } else {
        size_t missing = connection->request.length - body->length;
        if (count > missing) count = missing;
        text_add(body, in->data, count);
        drop(in, count);
        *whole = body->length == connection->request.length;
    }
    exchange_hold(connection, body->length);
    if (large) {
        exchange_refuse(connection, 413, "the body is larger than this server takes");
        return false;
    }
    if (connection->loop->held > settings->held) {
        metrics_refused();
        exchange_refuse(connection, 503, "too many large requests at once");
        return false;
    }
    return true;
}

void exchange_body(Connection *connection) {
    bool whole;
    if (take_body(connection, &whole) && whole) body_is_whole(connection);
}

static void begin_body(Connection *connection) {
    const Settings *settings = settings_of(connection);
    if (connection->request.length > settings->body) {
        exchange_refuse(connection, 413, "the body is larger than this server takes");
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
            connection_shut(connection);
            return;
        }
    }
    exchange_body(connection);
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

bool exchange_next(Connection *connection) {
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
        exchange_refuse(connection, -length, http_reason(-length));
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

