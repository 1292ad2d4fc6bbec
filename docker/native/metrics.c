/* What Prometheus reads at /metrics; the names are those of the Python server. */
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "server.h"

#define BOUNDS 16
#define CODES 16

static const double bounds[BOUNDS] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                      0.05,   0.1,     0.25,   0.5,   1,      2.5,   5,    10};
static const char *const routes[ROUTES] = {"infer",           "live",           "ready", "show_metrics",
                                           "server_metadata", "model_metadata", "ping",  "unknown"};
static const char *const stages[STAGES] = {"queue", "parse", "infer"};

typedef struct {
    uint64_t counts[BOUNDS + 1], count;
    double sum;
} Histogram;

static struct {
    int code;
    uint64_t count;
} answered[ROUTES][CODES];
static Histogram latency[ROUTES], stage[STAGES];
static uint64_t refused;

static void observe(Histogram *histogram, double seconds) {
    size_t place = 0;
    while (place < BOUNDS && seconds > bounds[place]) place++;
    histogram->counts[place]++;
    histogram->count++;
    histogram->sum += seconds;
}

void metrics_request(Route route, int status, double seconds) {
    size_t place = 0;
    while (place < CODES - 1 && answered[route][place].count && answered[route][place].code != status) place++;
    answered[route][place].code = status;
    answered[route][place].count++;
    observe(&latency[route], seconds);
}

void metrics_stage(Stage name, double seconds) { observe(&stage[name], seconds); }

void metrics_refused(void) { refused++; }

static void head(Text *text, const char *name, const char *kind, const char *help) {
    text_format(text, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind);
}

static void histogram_text(Text *text, const char *name, const char *label, const char *value, const Histogram *one) {
    uint64_t below = 0;
    if (!one->count) return;
    for (size_t place = 0; place <= BOUNDS; place++) {
        char bound[32] = "+Inf";
        if (place < BOUNDS) snprintf(bound, sizeof bound, "%g", bounds[place]);
        below += one->counts[place];
        text_format(text, "%s_bucket{%s=\"%s\",le=\"%s\"} %llu\n", name, label, value, bound, (unsigned long long)below);
    }
    text_format(text, "%s_count{%s=\"%s\"} %llu\n", name, label, value, (unsigned long long)one->count);
    text_format(text, "%s_sum{%s=\"%s\"} %.9g\n", name, label, value, one->sum);
}

static void process_text(Text *text) {
    unsigned long pages = 0;
    struct timespec used;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file) {
        if (fscanf(file, "%*u %lu", &pages) != 1) pages = 0;
        fclose(file);
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    head(text, "process_resident_memory_bytes", "gauge", "Resident memory size in bytes.");
    text_format(text, "process_resident_memory_bytes %lu\n", pages * (unsigned long)sysconf(_SC_PAGESIZE));
    head(text, "process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.");
    text_format(text, "process_cpu_seconds_total %.6f\n", (double)used.tv_sec + (double)used.tv_nsec * 1e-9);
}

void metrics_text(Text *text, const Serving *serving, bool ready, int in_flight) {
    process_text(text);
    head(text, "mlopt_requests_total", "counter", "Requests answered.");
    for (size_t route = 0; route < ROUTES; route++)
        for (size_t place = 0; place < CODES && answered[route][place].count; place++)
            text_format(text, "mlopt_requests_total{code=\"%d\",route=\"%s\"} %llu\n", answered[route][place].code,
                        routes[route], (unsigned long long)answered[route][place].count);
    head(text, "mlopt_request_seconds", "histogram", "From request to answer.");
    for (size_t route = 0; route < ROUTES; route++)
        histogram_text(text, "mlopt_request_seconds", "route", routes[route], &latency[route]);
    head(text, "mlopt_stage_seconds", "histogram", "Time by stage of an inference.");
    for (size_t name = 0; name < STAGES; name++)
        histogram_text(text, "mlopt_stage_seconds", "stage", stages[name], &stage[name]);
    head(text, "mlopt_in_flight", "gauge", "Inferences running or waiting for a thread.");
    text_format(text, "mlopt_in_flight %d\n", in_flight);
    head(text, "mlopt_refused_total", "counter", "Requests refused: too many wait, or too long.");
    text_format(text, "mlopt_refused_total %llu\n", (unsigned long long)refused);
    head(text, "mlopt_ready", "gauge", "1 when the model is loaded and warm.");
    text_format(text, "mlopt_ready %d\n", ready);
    head(text, "mlopt_model_info", "gauge", "The model that is served.");
    text_say(text, "mlopt_model_info{model=");
    text_json(text, serving->name, strlen(serving->name));
    text_say(text, ",version=");
    text_json(text, serving->version, strlen(serving->version));
    text_say(text, "} 1\n");
}
