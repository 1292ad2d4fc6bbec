/* Where requests wait: in the order of arrival, worked off by a few threads. */
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "server.h"

#define SMALL (16 << 10) /* bytes of a body that is read in far less than a millisecond */
#define QUICK 5e-4       /* seconds for which the loop may be held up */
#define FORGET 0.9       /* the slowest of late counts, and fades */

typedef struct {
    Job *first, *last;
} Queue;

struct Line {
    const Model *model;
    pthread_mutex_t lock;
    pthread_cond_t some;
    Queue waiting, done;
    double patience, slowest;
    int most, busy, wake;
};

static void push(Queue *queue, Job *job) {
    job->next = NULL;
    if (queue->last)
        queue->last->next = job;
    else
        queue->first = job;
    queue->last = job;
}

static Job *pop(Queue *queue) {
    Job *job = queue->first;
    if (job && !(queue->first = job->next)) queue->last = NULL;
    return job;
}

static void compute(Line *line, Job *job) {
    double began = now();
    job->queue = began - job->arrived;
    if (job->queue > line->patience)
        answer_fail(&job->answer, 503, "it waited longer than %g s", line->patience);
    else
        infer(line->model, job->body.data, job->body.length, job->json_length, &job->answer);
}

static void *work(void *argument) {
    Line *line = argument;
    for (;;) {
        pthread_mutex_lock(&line->lock);
        Job *job;
        while (!(job = pop(&line->waiting))) pthread_cond_wait(&line->some, &line->lock);
        pthread_mutex_unlock(&line->lock);
        compute(line, job);
        pthread_mutex_lock(&line->lock);
        bool first = !line->done.first;
        push(&line->done, job);
        pthread_mutex_unlock(&line->lock);
        if (first && write(line->wake, &(uint64_t){1}, sizeof(uint64_t)) < 0) continue; /* it is awake */
    }
    return NULL;
}

Line *line_new(const Model *model, const Settings *settings, int wake) {
    Line *line = need(calloc(1, sizeof *line));
    line->model = model;
    line->patience = settings->patience;
    line->most = settings->concurrency + settings->waiting;
    line->slowest = 1;
    line->wake = wake;
    pthread_mutex_init(&line->lock, NULL);
    pthread_cond_init(&line->some, NULL);
    for (int place = 0; place < settings->concurrency; place++) {
        pthread_t thread;
        need(pthread_create(&thread, NULL, work, line) ? NULL : line);
        pthread_detach(thread);
    }
    return line;
}

bool line_is_full(const Line *line) { return line->busy >= line->most; }

int line_busy(const Line *line) { return line->busy; }

static void notice(Line *line, const Job *job) {
    double took = job->answer.parse + job->answer.infer;
    line->slowest = took > FORGET * line->slowest ? took : FORGET * line->slowest;
}

/* A small request to a quick model is computed at once where nobody waits: two changes of thread would cost more. */
bool line_put(Line *line, Job *job) {
    if (!line->busy && job->body.length <= SMALL && line->slowest < QUICK) {
        compute(line, job);
        notice(line, job);
        return true;
    }
    line->busy++;
    pthread_mutex_lock(&line->lock);
    push(&line->waiting, job);
    pthread_cond_signal(&line->some);
    pthread_mutex_unlock(&line->lock);
    return false;
}

Job *line_done(Line *line) {
    pthread_mutex_lock(&line->lock);
    Job *job = pop(&line->done);
    pthread_mutex_unlock(&line->lock);
    if (job) {
        line->busy--;
        notice(line, job);
    }
    return job;
}
