/* mlopt-serve: one ONNX model over the Open Inference Protocol v2, until SIGTERM. */
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "server.h"

/* The container's health check: 0 when the server on this machine is ready. */
static int ask_health(int port) {
    static const char question[] = "GET /v2/health/ready HTTP/1.0\r\n\r\n";
    char answer[13] = {0};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval patience = {.tv_sec = 3};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int descriptor = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    bool asked = !connect(descriptor, (struct sockaddr *)&address, sizeof address) &&
                 write(descriptor, question, sizeof question - 1) > 0 &&
                 recv(descriptor, answer, sizeof answer - 1, MSG_WAITALL) == sizeof answer - 1;
    close(descriptor);
    return asked && !strcmp(answer + 8, " 200") ? 0 : 1;
}

int main(int count, char **words) {
    static Settings settings;
    static Serving serving;
    Text why = {0}, fields = {0};
    settings_read(&settings, count, words);
    if (settings.health) return ask_health(settings.health);
    log_level(settings.level);
    int listener = -1;
    if (serving_read(&serving, settings.model_dir, &why)) {
        listener = listen_on(&settings);
        if (listener < 0) text_format(&why, "nothing can listen on %s, port %d", settings.host, settings.port);
    }
    if (why.length) {
        text_say(&fields, ",\"reason\":");
        text_json(&fields, why.data, why.length);
        text_add(&fields, "", 1);
        log_line(LOG_ERROR, "cannot serve", fields.data);
        log_flush();
        return 1;
    }
    return loop_run(&settings, &serving, listener);
}
