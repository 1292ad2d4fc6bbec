/* Heads of requests and of answers. picohttpparser takes requests apart; here stands what they may say. */
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <time.h>

#include "server.h"
#include "vendor/picohttpparser.h"

static bool is(const struct phr_header *header, const char *name) {
    return strlen(name) == header->name_len && !strncasecmp(header->name, name, header->name_len);
}

static bool says(const struct phr_header *header, const char *value) {
    return strlen(value) == header->value_len && !strncasecmp(header->value, value, header->value_len);
}

static bool lists(const struct phr_header *header, const char *word) {
    const char *place = header->value, *end = place + header->value_len;
    while (place < end) {
        const char *comma = memchr(place, ',', (size_t)(end - place)), *stop = comma ? comma : end;
        while (place < stop && (*place == ' ' || *place == '\t')) place++;
        const char *last = stop;
        while (last > place && (last[-1] == ' ' || last[-1] == '\t')) last--;
        if ((size_t)(last - place) == strlen(word) && !strncasecmp(place, word, strlen(word))) return true;
        place = stop + 1;
    }
    return false;
}

/* -1: no number. One of more digits than any body has bytes stays that large. */
static long digits(const struct phr_header *header) {
    long value = 0;
    if (!header->value_len) return -1;
    for (size_t place = 0; place < header->value_len; place++) {
        char letter = header->value[place];
        if (letter < '0' || letter > '9') return -1;
        value = value > (1L << 58) ? value : value * 10 + (letter - '0');
    }
    return value;
}

static void take_id(Request *request, const struct phr_header *header) {
    static const char others[] = "._:-";
    if (!header->value_len || header->value_len > LONGEST_ID) return;
    for (size_t place = 0; place < header->value_len; place++) {
        char letter = header->value[place], lower = (char)(letter | 0x20);
        if (!((letter >= '0' && letter <= '9') || (lower >= 'a' && lower <= 'z') || (letter && strchr(others, letter))))
            return;
    }
    memcpy(request->id, header->value, header->value_len);
    request->id[header->value_len] = 0;
}

static void make_id(Request *request) {
    static const char hex[] = "0123456789abcdef";
    static unsigned char pool[4096]; /* ids name requests and guard nothing: one system call serves 256 of them */
    static size_t used = sizeof pool;
    if (used + 16 > sizeof pool) {
        if (getrandom(pool, sizeof pool, 0) < 0) memset(pool, 0, sizeof pool);
        used = 0;
    }
    for (size_t place = 0; place < 16; place++, used++) {
        request->id[2 * place] = hex[pool[used] >> 4];
        request->id[2 * place + 1] = hex[pool[used] & 15];
    }
    request->id[32] = 0;
}

/* Of a path, what a log can hold. */
static void show_path(Request *request) {
    size_t place = 0;
    for (; place < request->path_length && place < sizeof request->shown - 1; place++) {
        char letter = request->path[place];
        request->shown[place] = letter > 0x20 && letter < 0x7f ? letter : '?';
    }
    request->shown[place] = 0;
}

/* The status of what a header gets wrong; 0 where it is in order. */
static int take(Request *request, const struct phr_header *header, int seen[3]) {
    if (!header->name) return 400; /* a line that goes on in the next */
    if (is(header, "host")) return seen[0]++ ? 400 : 0;
    if (is(header, "content-length")) {
        long length = digits(header);
        request->length = length < 0 ? 0 : (size_t)length;
        return length < 0 || seen[1]++ ? 400 : 0;
    }
    if (is(header, "transfer-encoding")) {
        request->chunked = true;
        return !says(header, "chunked") || seen[2]++ ? 400 : 0;
    }
    if (is(header, "connection")) {
        if (lists(header, "close")) request->keep_alive = false;
        else if (lists(header, "keep-alive")) request->keep_alive = true;
    } else if (is(header, "expect")) {
        request->expects = true;
        return says(header, "100-continue") ? 0 : 417;
    } else if (is(header, "content-encoding")) {
        return says(header, "identity") ? 0 : 415;
    } else if (is(header, "inference-header-content-length")) {
        request->json_length = digits(header);
        return request->json_length < 0 ? 400 : 0;
    } else if (is(header, "x-request-id")) {
        take_id(request, header);
    } else if (is(header, "x-api-key") || (is(header, "authorization") && header->value_len > 7 &&
                                           !strncasecmp(header->value, "bearer ", 7))) {
        size_t skip = header->name_len == 9 ? 0 : 7;
        if (request->key_count < sizeof request->keys / sizeof *request->keys) {
            while (skip < header->value_len && header->value[skip] == ' ') skip++;
            request->keys[request->key_count] = header->value + skip;
            request->key_lengths[request->key_count++] = header->value_len - skip;
        }
    }
    return 0;
}

int http_head(Request *request, const char *data, size_t length, size_t before) {
    struct phr_header headers[MOST_HEADERS];
    size_t count = MOST_HEADERS, method_length;
    const char *method;
    int minor, seen[3] = {0}, wrong = 0;
    *request = (Request){.json_length = -1};
    int found = phr_parse_request(data, length, &method, &method_length, &request->path, &request->path_length, &minor,
                                  headers, &count, before);
    make_id(request);
    if (found == -2) return length >= LARGEST_HEAD ? -431 : 0;
    if (found < 0 || method_length >= sizeof request->method) return -400;
    if (found > LARGEST_HEAD) return -431;
    memcpy(request->method, method, method_length);
    show_path(request);
    request->head = !strcmp(request->method, "HEAD");
    request->keep_alive = minor == 1;
    for (size_t place = 0; place < count; place++) {
        int status = take(request, &headers[place], seen);
        if (status && (!wrong || status == 400)) wrong = status;
    }
    if (minor == 1 && !seen[0]) wrong = 400;
    if (request->chunked && (seen[1] || minor == 0)) wrong = 400;
    return wrong ? -wrong : found;
}

const char *http_reason(int status) {
    switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 413: return "Content Too Large";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 431: return "Request Header Fields Too Large";
    case 503: return "Service Unavailable";
    default: return "Internal Server Error";
    }
}

/* Made once a second. */
static const char *date(void) {
    static char text[32];
    static time_t second;
    time_t present = time(NULL);
    struct tm parts;
    if (present != second) {
        second = present;
        strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&present, &parts));
    }
    return text;
}

void http_answer(Text *out, const Request *request, const Answer *answer, bool keep_alive) {
    text_format(out, "HTTP/1.1 %d %s\r\ncontent-type: %s\r\ncontent-length: %zu\r\ndate: %s\r\n", answer->status,
                http_reason(answer->status), answer->type, answer->body.length, date());
    text_format(out, "x-request-id: %s\r\n", request->id);
    if (answer->allow) text_format(out, "allow: %s\r\n", answer->allow);
    if (answer->json_length >= 0) text_format(out, "inference-header-content-length: %ld\r\n", answer->json_length);
    if (answer->retry_after) text_format(out, "retry-after: %d\r\n", answer->retry_after);
    if (answer->status == 401) text_say(out, "www-authenticate: Bearer\r\n");
    text_say(out, keep_alive ? "connection: keep-alive\r\n\r\n" : "connection: close\r\n\r\n");
    if (!request->head) text_add(out, answer->body.data, answer->body.length);
}
