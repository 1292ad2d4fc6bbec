/* What the files of the native server share. One process serves one model: a loop owns the connections, a few
 * threads compute. */
#ifndef MLOPT_SERVER_H
#define MLOPT_SERVER_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vendor/onnxruntime_c_api.h"
#include "vendor/yyjson.h"

#define SERVER_VERSION "0.1.0"
#define MOST_DIMENSIONS 16
#define MOST_HEADERS 100
#define LARGEST_HEAD (16 << 10)
#define LONGEST_ID 128
#define PRINTF(words, first) __attribute__((__format__(__printf__, words, first)))

/* text.c: bytes that grow. Running out of memory ends the process, but for `text_try_room`. */
typedef struct {
    char *data;
    size_t length, room;
} Text;

bool text_try_room(Text *text, size_t more);
void text_add(Text *text, const void *data, size_t length);
void text_say(Text *text, const char *words);
void text_format(Text *text, const char *format, ...) PRINTF(2, 3);
void text_json(Text *text, const char *value, size_t length);
void text_free(Text *text);
void *need(void *memory);

/* log.c: JSON lines on standard output. Fields are made with `text_json` and `text_format`, each after a comma. */
enum { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR };
void log_level(int level);
bool log_wants(int level);
void log_line(int level, const char *event, const char *fields);
void log_flush(void);

/* settings.c */
typedef struct {
    const char *model_dir, *host, *keys_file, *keys_listed;
    int port, concurrency, waiting, connections, grace, level, health;
    size_t body, held;
    double arrival, patience;
    char **keys;
    size_t key_count;
} Settings;

void settings_read(Settings *settings, int count, char **words);

/* serving.c: what serving.json says. */
typedef struct {
    const char *name;
    size_t size; /* bytes of an element; 0 for texts */
    ONNXTensorElementDataType element;
    char kind; /* as numpy has it: b, u, i, f; O for texts */
} Datatype;

typedef struct {
    char *name;
    const Datatype *datatype;
    size_t rank;
    int64_t shape[MOST_DIMENSIONS];
} Tensor;

typedef struct {
    char *name, *version, *path;
    Tensor *inputs, *outputs;
    size_t input_count, output_count;
    int threads;
    bool batching;
} Serving;

const Datatype *datatype_of(ONNXTensorElementDataType element); /* NULL: the protocol has none for it */
bool serving_read(Serving *serving, const char *folder, Text *why);
void serving_metadata(const Serving *serving, Text *json);
int available_cores(void);

/* model.c */
typedef struct {
    const OrtApi *api;
    OrtSession *session;
    OrtMemoryInfo *memory;
    OrtAllocator *allocator;
    const Serving *serving;
} Model;

bool model_load(Model *model, const Serving *serving, Text *why);
/* Values by place; `wanted` are places of outputs. What it gives back is the caller's. False: the model refuses. */
bool model_infer(const Model *model, OrtValue *const *feeds, const size_t *wanted, size_t count, OrtValue **results,
                 Text *why);
bool ort_refuses(const Model *model, OrtStatus *status, Text *why);

/* infer.c: Open Inference Protocol v2, one request to one answer. */
typedef struct {
    int status, retry_after;
    const char *type, *allow; /* `allow` where the method is not one of these */
    Text body;
    long json_length; /* where tensors in bytes follow; -1 where all is JSON */
    double parse, infer;
} Answer;

void answer_fail(Answer *answer, int status, const char *format, ...) PRINTF(3, 4);
/* `json_length` is -1 where the client sent no Inference-Header-Content-Length. */
void infer(const Model *model, const char *body, size_t length, long json_length, Answer *answer);

/* tensors.c, results.c: values of clients to tensors of the runtime, and back. */
typedef struct {
    OrtValue *value;
    void *owned;
} Feed;

void feed_free(const Model *model, Feed *feed);
bool is_utf8(const char *letters, size_t length);
size_t count_of(const int64_t *shape, size_t rank); /* SIZE_MAX where no memory could hold it */
bool tensor_from_json(const Model *model, const Tensor *wanted, const int64_t *shape, yyjson_val *data, Feed *feed,
                      Text *why);
bool tensor_from_bytes(const Model *model, const Tensor *wanted, const int64_t *shape, const char *raw, size_t length,
                       Feed *feed, Text *why);
/* Both end with false on a bug or a runtime's error alone. */
bool tensor_shape(const Model *model, const OrtValue *value, int64_t *shape, size_t *rank);
bool tensor_to_json(const Model *model, const OrtValue *value, Text *json);
bool tensor_to_bytes(const Model *model, const OrtValue *value, Text *raw);

/* half.c */
float half_to_float(uint16_t half);
uint16_t half_of(double value);

/* line.c: where requests wait, worked off by a few threads. Used by the loop alone. */
typedef struct Job {
    struct Job *next;
    void *owner;
    Text body;
    long json_length;
    double arrived, queue;
    Answer answer;
} Job;

typedef struct Line Line;
Line *line_new(const Model *model, const Settings *settings, int wake);
bool line_is_full(const Line *line);
int line_busy(const Line *line);
/* True: it was computed at once. False: `line_done` will give it. */
bool line_put(Line *line, Job *job);
Job *line_done(Line *line);

/* metrics.c: used by the loop alone. */
typedef enum {
    ROUTE_INFER, ROUTE_LIVE, ROUTE_READY, ROUTE_METRICS, ROUTE_SERVER, ROUTE_MODEL, ROUTE_PING, ROUTE_UNKNOWN, ROUTES
} Route;
typedef enum { STAGE_QUEUE, STAGE_PARSE, STAGE_INFER, STAGES } Stage;
void metrics_request(Route route, int status, double seconds);
void metrics_stage(Stage stage, double seconds);
void metrics_refused(void);
void metrics_text(Text *text, const Serving *serving, bool ready, int in_flight);

/* http.c: heads of requests and of answers, around picohttpparser. */
typedef struct {
    char method[16];
    const char *path; /* as `keys`, in the connection's buffer: until that moves */
    size_t path_length;
    char shown[201]; /* of the path, for the log */
    bool head, keep_alive, chunked, expects;
    size_t length; /* of the body, as declared */
    long json_length;
    char id[LONGEST_ID + 1];
    const char *keys[4];
    size_t key_lengths[4];
    size_t key_count;
} Request;

/* 0: more is needed; above 0: the length of the head; below: minus the status of what is wrong with it. */
int http_head(Request *request, const char *data, size_t length, size_t before);
void http_answer(Text *out, const Request *request, const Answer *answer, bool keep_alive);
const char *http_reason(int status);

/* routes.c */
typedef struct {
    const Settings *settings;
    const Serving *serving;
    const Line *line; /* NULL until the model is ready */
    bool stopping;
} Site;

Route route_of(const Site *site, const Request *request, Answer *answer, bool *wants_body);

/* loop.c */
int loop_run(const Settings *settings, const Serving *serving, int listener);
int listen_on(const Settings *settings);

/* clock */
double now(void);

#endif
