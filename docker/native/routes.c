/* Which route a request takes, and all answers but those of the model. */
#include <ctype.h>
#include <string.h>

#include "server.h"

#define MOST_PARTS 8
#define LONGEST_PART 256

static int hex(char letter) {
    return isdigit((unsigned char)letter) ? letter - '0' : isxdigit((unsigned char)letter) ? (letter | 0x20) - 'a' + 10 : -1;
}

/* The parts of a path, decoded. -1 where there are more or longer ones than any route has, or a damaged one. */
static int parts_of(const Request *request, char parts[MOST_PARTS][LONGEST_PART]) {
    const char *place = request->path, *end = place + request->path_length;
    const char *query = memchr(place, '?', request->path_length);
    int count = 0;
    size_t length = 0;
    if (query) end = query;
    if (place == end || *place != '/') return -1;
    for (place++;; place++) {
        if (place == end || *place == '/') {
            parts[count++][length] = 0;
            length = 0;
            if (place == end) return count;
            if (count == MOST_PARTS) return -1;
            continue;
        }
        char letter = *place;
        if (letter == '%') {
            if (end - place < 3 || hex(place[1]) < 0 || hex(place[2]) < 0) return -1;
            letter = (char)(hex(place[1]) << 4 | hex(place[2]));
            place += 2;
        }
        if (!letter || length == LONGEST_PART - 1) return -1;
        parts[count][length++] = letter;
    }
}

static bool guarded(Route route) { return route != ROUTE_LIVE && route != ROUTE_READY && route != ROUTE_PING; }

/* Every key is compared to its end: the time tells nothing about any but its length. */
static bool knows(const Settings *settings, const Request *request) {
    int found = 0;
    for (size_t given = 0; given < request->key_count; given++)
        for (size_t place = 0; place < settings->key_count; place++) {
            const char *key = settings->keys[place];
            size_t length = strlen(key);
            unsigned char differs = length != request->key_lengths[given];
            for (size_t letter = 0; letter < length; letter++)
                differs |= (unsigned char)(key[letter] ^ (letter < request->key_lengths[given] ? request->keys[given][letter] : 0));
            found |= !differs;
        }
    return found || !settings->key_count;
}

static void answer_text(Answer *answer, int status, const char *type) {
    answer->status = status;
    answer->type = type;
    answer->json_length = -1;
}

static void answer_plain(const Site *site, Route route, Answer *answer) {
    answer_text(answer, 200, "application/json");
    Text *body = &answer->body;
    const Serving *serving = site->serving;
    bool ready = site->line && !site->stopping;
    switch (route) {
    case ROUTE_LIVE: text_say(body, "{\"live\":true}"); return;
    case ROUTE_READY:
        if (!ready) {
            answer_fail(answer, 503, "the model is not loaded yet");
            return;
        }
        text_say(body, "{\"name\":");
        text_json(body, serving->name, strlen(serving->name));
        text_say(body, ",\"ready\":true}");
        return;
    case ROUTE_PING:
        answer->status = ready ? 200 : 503;
        text_format(body, "{\"status\":\"%s\"}", ready ? "Healthy" : "Unhealthy");
        return;
    case ROUTE_SERVER:
        text_say(body, "{\"name\":\"mlopt\",\"version\":\"" SERVER_VERSION "\",\"extensions\":[\"binary_tensor_data\"]}");
        return;
    case ROUTE_MODEL: serving_metadata(serving, body); return;
    case ROUTE_METRICS:
        answer_text(answer, 200, "text/plain; version=0.0.4; charset=utf-8");
        metrics_text(body, serving, ready, site->line ? line_busy(site->line) : 0);
        return;
    default: answer_fail(answer, 404, "Not Found");
    }
}

static Route find(const Site *site, const Request *request, bool *foreign) {
    char parts[MOST_PARTS][LONGEST_PART];
    int count = parts_of(request, parts);
    *foreign = false;
    if (count == 1 && !strcmp(parts[0], "metrics")) return ROUTE_METRICS;
    if (count == 1 && !strcmp(parts[0], "ping")) return ROUTE_PING;
    if (count < 1 || strcmp(parts[0], "v2")) return ROUTE_UNKNOWN;
    if (count == 1) return ROUTE_SERVER;
    if (count == 3 && !strcmp(parts[1], "health"))
        return !strcmp(parts[2], "live") ? ROUTE_LIVE : !strcmp(parts[2], "ready") ? ROUTE_READY : ROUTE_UNKNOWN;
    if (count < 3 || strcmp(parts[1], "models")) return ROUTE_UNKNOWN;
    bool versioned = count >= 5 && !strcmp(parts[3], "versions");
    int next = versioned ? 5 : 3;
    *foreign = strcmp(parts[2], site->serving->name) || (versioned && strcmp(parts[4], site->serving->version));
    if (count == next) return ROUTE_MODEL;
    if (count > next + 1) return ROUTE_UNKNOWN;
    return !strcmp(parts[next], "infer") ? ROUTE_INFER : !strcmp(parts[next], "ready") ? ROUTE_READY : ROUTE_UNKNOWN;
}

/* Either there is an answer already, or the body is wanted for the model. Refuses before a body is taken. */
Route route_of(const Site *site, const Request *request, Answer *answer, bool *wants_body) {
    bool foreign, post = !strcmp(request->method, "POST"), get = request->head || !strcmp(request->method, "GET");
    Route route = find(site, request, &foreign);
    *wants_body = false;
    if (guarded(route) && !knows(site->settings, request))
        answer_fail(answer, 401, "send an API key: Authorization: Bearer KEY, or X-Api-Key: KEY");
    else if (route == ROUTE_UNKNOWN)
        answer_fail(answer, 404, "Not Found");
    else if (route == ROUTE_INFER ? !post : !get) {
        answer_fail(answer, 405, "Method Not Allowed");
        answer->allow = route == ROUTE_INFER ? "POST" : "GET, HEAD";
    } else if (foreign)
        answer_fail(answer, 404, "there is no such model; this server has %s", site->serving->name);
    else if (route != ROUTE_INFER)
        answer_plain(site, route, answer);
    else if (!site->line)
        answer_fail(answer, 503, "the model is not loaded yet");
    else if (line_is_full(site->line)) {
        metrics_refused();
        answer_fail(answer, 503, "too many requests wait already");
    } else
        *wants_body = true;
    return route;
}
