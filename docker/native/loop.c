/* The loop: one thread that owns every connection, and gives requests to the line. */
#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "connection.h"

typedef struct {
    Loop loop;
    const Serving *serving;
    Model model;
    Text reason;
    double began;
    bool loaded, good;
    int listener, signals;
} Server;

static void *load(void *argument) {
    Server *server = argument;
    server->good = model_load(&server->model, server->serving, &server->reason);
    __atomic_store_n(&server->loaded, true, __ATOMIC_RELEASE);
    if (write(server->loop.wake, &(uint64_t){1}, sizeof(uint64_t)) < 0) abort();
    return NULL;
}

/* Between two requests, so that the log never has one before `ready`. False: it will never be. */
static bool become_ready(Server *server) {
    Text fields = {0};
    if (!server->good) {
        text_say(&fields, ",\"reason\":");
        text_json(&fields, server->reason.data, server->reason.length);
        text_add(&fields, "", 1);
        log_line(LOG_ERROR, "cannot serve", fields.data);
        text_free(&fields);
        return false;
    }
    if (server->serving->batching)
        log_line(LOG_WARNING, "no batching", ",\"reason\":\"the native server computes each request by itself\"");
    server->loop.line = line_new(&server->model, server->loop.site.settings, server->loop.wake);
    server->loop.site.line = server->loop.line;
    text_say(&fields, ",\"model\":");
    text_json(&fields, server->serving->name, strlen(server->serving->name));
    text_format(&fields, ",\"threads\":%d,\"batch\":1,\"load_ms\":%.1f,\"pid\":%d", server->serving->threads,
                (now() - server->began) * 1e3, (int)getpid());
    text_add(&fields, "", 1);
    log_line(LOG_INFO, "ready", fields.data);
    text_free(&fields);
    return true;
}

static bool woken(Server *server) {
    uint64_t count;
    if (read(server->loop.wake, &count, sizeof count) < 0) return true;
    if (!server->loop.line && __atomic_load_n(&server->loaded, __ATOMIC_ACQUIRE) && !become_ready(server)) return false;
    for (Job *job; server->loop.line && (job = line_done(server->loop.line));) connection_answered(job);
    return true;
}

static void accept_some(Server *server) {
    for (int tries = 0; tries < 64; tries++) {
        int socket = accept4(server->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (socket < 0) {
            /* Out of descriptors: the connection stays in the queue, and a short rest keeps the loop from spinning. */
            if (errno == EMFILE || errno == ENFILE) usleep(1000);
            return;
        }
        connection_open(&server->loop, socket);
    }
}

static void watch(const Server *server, int descriptor, const void *what) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = (void *)what};
    need(epoll_ctl(server->loop.epoll, EPOLL_CTL_ADD, descriptor, &event) ? NULL : &event);
}

static void stop(Server *server, double *deadline) {
    if (server->loop.site.stopping) return;
    server->loop.site.stopping = true;
    *deadline = now() + server->loop.site.settings->grace;
    close(server->listener);
    connections_finish(&server->loop);
}

/* Exit status: 0 after a graceful stop, 1 when the model cannot be served. */
static int turn(Server *server) {
    struct epoll_event events[64];
    double deadline = 0, checked = now();
    bool stopping_signal = false;
    while (!server->loop.site.stopping || (server->loop.count && now() < deadline)) {
        log_flush();
        int count = epoll_wait(server->loop.epoll, events, 64, 100);
        for (int place = 0; place < count; place++) {
            const void *what = events[place].data.ptr;
            if (what == &server->listener)
                accept_some(server);
            else if (what == &server->loop.wake) {
                if (!woken(server)) return 1;
            } else if (what == &server->signals)
                stopping_signal = read(server->signals, &(struct signalfd_siginfo){0}, sizeof(struct signalfd_siginfo)) > 0;
            else
                connection_event((Connection *)what, events[place].events);
        }
        if (stopping_signal) stop(server, &deadline);
        if (now() - checked > 0.1) {
            checked = now();
            connections_expire(&server->loop, checked);
        }
        connections_bury(&server->loop);
    }
    log_line(LOG_INFO, "stopped", "");
    return 0;
}

int loop_run(const Settings *settings, const Serving *serving, int listener) {
    static Server server; /* the threads of the line outlive this call */
    pthread_t thread;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    server.serving = serving;
    server.began = now();
    server.listener = listener;
    server.loop.site = (Site){.settings = settings, .serving = serving};
    server.loop.epoll = epoll_create1(EPOLL_CLOEXEC);
    server.loop.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    server.signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    watch(&server, server.listener, &server.listener);
    watch(&server, server.loop.wake, &server.loop.wake);
    watch(&server, server.signals, &server.signals);
    need(pthread_create(&thread, NULL, load, &server) ? NULL : &server);
    pthread_detach(thread);
    int status = turn(&server);
    log_flush();
    /* A thread that still computes must not see the library taken down under it. */
    if (!server.loop.line || line_busy(server.loop.line)) _exit(status);
    return status;
}

int listen_on(const Settings *settings) {
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_PASSIVE, .ai_socktype = SOCK_STREAM}, *found;
    if (getaddrinfo(settings->host, NULL, &hints, &found)) return -1;
    int one = 1, listener = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (found->ai_family == AF_INET)
        ((struct sockaddr_in *)found->ai_addr)->sin_port = htons((uint16_t)settings->port);
    else
        ((struct sockaddr_in6 *)found->ai_addr)->sin6_port = htons((uint16_t)settings->port);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, found->ai_addr, found->ai_addrlen) || listen(listener, 1024)) listener = -1;
    freeaddrinfo(found);
    return listener;
}
