/* The command line, and the same as MLOPT_SERVE_…: --max-body is MLOPT_SERVE_MAX_BODY. Exits with 2 when wrong. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server.h"

extern char **environ;

#define PREFIX "MLOPT_SERVE_"

typedef enum { TEXT, WHOLE, MEBIBYTES, SECONDS, LEVEL } Kind;

typedef struct {
    const char *name;
    Kind kind;
    size_t offset;
    const char *help, *value;
    double least;
} Option;

#define AT(field) offsetof(Settings, field)

static const Option options[] = {
    {"model-dir", TEXT, AT(model_dir), "folder with serving.json and the model", NULL, 0},
    {"host", TEXT, AT(host), "address to listen on", "127.0.0.1", 0},
    {"port", WHOLE, AT(port), "port to listen on", "8080", 0},
    {"concurrency", WHOLE, AT(concurrency), "inferences at once", "2", 1},
    {"max-waiting", WHOLE, AT(waiting), "more than these waiting get 503", "32", 0},
    {"max-wait", SECONDS, AT(patience), "longest wait for an inference; then 503", "30", 0},
    {"max-body", MEBIBYTES, AT(body), "largest request body, MiB", "64", 1},
    {"max-held", MEBIBYTES, AT(held), "all request bodies together, MiB; beyond it 503", "256", 1},
    {"max-arrival", SECONDS, AT(arrival), "time for a head, and for a body, to arrive", "30", 0},
    {"max-connections", WHOLE, AT(connections), "open connections; more get 503", "1000", 1},
    {"api-keys-file", TEXT, AT(keys_file), "one key a line; or " PREFIX "API_KEYS, with commas", NULL, 0},
    {"grace", WHOLE, AT(grace), "seconds to finish on SIGTERM", "20", 1},
    {"log-level", LEVEL, AT(level), "debug, info, warning or error", "info", 0},
};

enum { OPTIONS = sizeof options / sizeof *options };

static _Noreturn void wrong(const char *name, const char *why) {
    fprintf(stderr, "mlopt-serve: %s: %s\n", name, why);
    exit(2);
}

static _Noreturn void show_help(void) {
    printf("usage: mlopt-serve --model-dir DIR [OPTIONS]\nServe one model. Every option can be set as " PREFIX
           "… too.\n\n");
    for (const Option *option = options; option < options + OPTIONS; option++)
        printf("  --%-16s %s%s%s%s\n", option->name, option->help, option->value ? "  [default: " : "",
               option->value ? option->value : "", option->value ? "]" : "");
    printf("  --%-16s %s\n", "health PORT", "ask the server on this machine whether it is ready, and end");
    exit(0);
}

static void variable_of(char *variable, size_t room, const char *name) {
    int length = snprintf(variable, room, PREFIX "%s", name);
    for (int place = 0; place < length; place++)
        variable[place] = variable[place] == '-' ? '_' : (char)toupper((unsigned char)variable[place]);
}

static double number(const Option *option, const char *text, double most) {
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (!*text || *end || errno || !(value >= option->least) || value > most) wrong(option->name, "not a number it takes");
    if (option->kind == SECONDS ? value <= 0 : value != (double)(long)value) wrong(option->name, "not a number it takes");
    return value;
}

static void set(Settings *settings, const Option *option, const char *text) {
    static const char *const levels[] = {"debug", "info", "warning", "error"};
    void *field = (char *)settings + option->offset;
    switch (option->kind) {
    case TEXT: *(const char **)field = text; return;
    case WHOLE: *(int *)field = (int)number(option, text, option->offset == AT(port) ? 65535 : 1e6); return;
    case MEBIBYTES: *(size_t *)field = (size_t)number(option, text, 1 << 20) << 20; return;
    case SECONDS: *(double *)field = number(option, text, 1e6); return;
    case LEVEL:
        for (int level = 0; level < 4; level++)
            if (!strcmp(text, levels[level])) {
                *(int *)field = level;
                return;
            }
        wrong(option->name, "must be debug, info, warning or error");
    }
}

/* A setting of the Python server that this one does not have is never passed over: it may be what guards the port. */
static void from_environment(Settings *settings) {
    char variable[64];
    for (char **entry = environ; *entry; entry++) {
        if (strncmp(*entry, PREFIX, strlen(PREFIX))) continue;
        const char *value = strchr(*entry, '=');
        size_t length = value ? (size_t)(value - *entry) : 0;
        const Option *option = options;
        for (; option < options + OPTIONS; option++) {
            variable_of(variable, sizeof variable, option->name);
            if (strlen(variable) == length && !strncmp(variable, *entry, length)) break;
        }
        if (option < options + OPTIONS)
            set(settings, option, value + 1);
        else if (length == strlen(PREFIX "API_KEYS") && !strncmp(*entry, PREFIX "API_KEYS", length))
            settings->keys_listed = value + 1;
        else
            wrong(*entry, "the native server has no such setting");
    }
}

static void add_key(Settings *settings, const char *start, size_t length) {
    while (length && isspace((unsigned char)*start)) start++, length--;
    while (length && isspace((unsigned char)start[length - 1])) length--;
    if (!length) return;
    for (size_t place = 0; place < length; place++)
        if (start[place] < 0x21 || start[place] > 0x7e) length = 0;
    if (length < 16) wrong("api-keys", "a key is not 16 or more printable characters without spaces");
    settings->keys = need(realloc(settings->keys, (settings->key_count + 1) * sizeof *settings->keys));
    settings->keys[settings->key_count++] = need(strndup(start, length));
}

static void read_keys(Settings *settings) {
    if (settings->keys_file) {
        FILE *file = fopen(settings->keys_file, "re");
        char line[4096];
        if (!file) wrong(settings->keys_file, strerror(errno));
        while (fgets(line, sizeof line, file))
            if (line[strspn(line, " \t")] != '#') add_key(settings, line, strlen(line));
        fclose(file);
    }
    for (const char *start = settings->keys_listed; start && *start;) {
        size_t length = strcspn(start, ",");
        add_key(settings, start, length);
        start += length + (start[length] == ',');
    }
    if ((settings->keys_file || settings->keys_listed) && !settings->key_count)
        wrong("api-keys", "keys are asked for and none is given");
}

void settings_read(Settings *settings, int count, char **words) {
    *settings = (Settings){0};
    for (const Option *option = options; option < options + OPTIONS; option++)
        if (option->value) set(settings, option, option->value);
    from_environment(settings);
    for (int place = 1; place < count; place++) {
        const char *word = words[place];
        if (!strcmp(word, "--help")) show_help();
        const char *value = strchr(word, '=');
        size_t length = value ? (size_t)(value - word) : strlen(word);
        value = value ? value + 1 : place + 1 < count ? words[++place] : NULL;
        const Option *option = options;
        while (option < options + OPTIONS &&
               (strncmp(word, "--", 2) || strlen(option->name) + 2 != length || strncmp(word + 2, option->name, length - 2)))
            option++;
        if (!strcmp(word, "--health") && value)
            settings->health = atoi(value);
        else if (option == options + OPTIONS || !value)
            wrong(word, "no such option, or no value for it (--help lists them)");
        else
            set(settings, option, value);
    }
    if (settings->health) return;
    if (!settings->model_dir) wrong("model-dir", "is needed");
    if (settings->held < settings->body) wrong("max-held", "must be at least max-body");
    read_keys(settings);
}
