/* JSON lines on standard output: gathered while the loop works, written before it waits. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "server.h"

static int least = LOG_INFO;
static Text lines;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

void log_level(int level) { least = level; }

bool log_wants(int level) { return level >= least; }

void log_line(int level, const char *event, const char *fields) {
    static const char *const names[] = {"debug", "info", "warning", "error"};
    if (level < least) return;
    struct timespec time;
    struct tm parts;
    char stamp[32];
    clock_gettime(CLOCK_REALTIME, &time);
    gmtime_r(&time.tv_sec, &parts);
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &parts);
    pthread_mutex_lock(&lock);
    text_format(&lines, "{\"time\":\"%s.%03ldZ\",\"level\":\"%s\",\"event\":\"%s\"", stamp, time.tv_nsec / 1000000,
                names[level], event);
    text_say(&lines, fields);
    text_say(&lines, "}\n");
    pthread_mutex_unlock(&lock);
}

void log_flush(void) {
    pthread_mutex_lock(&lock);
    for (size_t done = 0; done < lines.length;) {
        ssize_t wrote = write(STDOUT_FILENO, lines.data + done, lines.length - done);
        if (wrote < 0 && errno != EINTR) break; /* nobody reads the log: serving goes on */
        if (wrote > 0) done += (size_t)wrote;
    }
    lines.length = 0;
    pthread_mutex_unlock(&lock);
}
