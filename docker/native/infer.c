/* Open Inference Protocol v2: what a request may say, how its answer is written, as JSON or with tensors in bytes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server.h"

typedef struct {
    const Model *model;
    const char *id; /* of the request, in its document; NULL where there is none */
    size_t id_length, count;
    size_t *wanted; /* places of outputs */
    bool *binary, *given;
    Feed *feeds;
    OrtValue **results;
    Text why;
} Asked;

void answer_fail(Answer *answer, int status, const char *format, ...) {
    char words[1024];
    va_list list;
    va_start(list, format);
    vsnprintf(words, sizeof words, format, list);
    va_end(list);
    answer->status = status;
    answer->type = "application/json";
    answer->json_length = -1;
    answer->retry_after = status == 503;
    answer->body.length = 0;
    text_say(&answer->body, "{\"error\":");
    text_json(&answer->body, words, strlen(words));
    text_say(&answer->body, "}");
}

static bool say(Asked *asked, const char *words) {
    text_say(&asked->why, words);
    return false;
}

static const char *named(yyjson_val *entry, size_t *length) {
    yyjson_val *name = yyjson_obj_get(entry, "name");
    *length = yyjson_get_len(name);
    return yyjson_get_str(name);
}

static size_t place_of(const Tensor *tensors, size_t count, yyjson_val *entry) {
    size_t length, place = 0;
    const char *name = named(entry, &length);
    while (place < count && !(name && strlen(tensors[place].name) == length && !memcmp(tensors[place].name, name, length)))
        place++;
    return place;
}

/* False where they are no object or ask for what is not here. NULL of `found`: there are none. */
static bool parameters_of(Asked *asked, yyjson_val *entry, yyjson_val **found) {
    static const char *const elsewhere[] = {"shared_memory_region", "classification"};
    *found = yyjson_obj_get(entry, "parameters");
    if (*found && !yyjson_is_obj(*found)) return say(asked, "parameters must be an object");
    for (size_t place = 0; place < 2; place++) {
        yyjson_val *value = yyjson_obj_get(*found, elsewhere[place]);
        if (value && !yyjson_is_null(value) && !yyjson_is_false(value)) {
            text_format(&asked->why, "this server does not know the parameter %s; it has binary_tensor_data",
                        elsewhere[place]);
            return false;
        }
    }
    return true;
}

static bool read_wanted(Asked *asked, yyjson_val *message) {
    const Serving *serving = asked->model->serving;
    yyjson_val *outputs = yyjson_obj_get(message, "outputs"), *parameters, *entry;
    size_t place, count;
    if (!parameters_of(asked, message, &parameters)) return false;
    bool as_bytes = yyjson_is_true(yyjson_obj_get(parameters, "binary_data_output"));
    if (!outputs || yyjson_is_null(outputs) || (yyjson_is_arr(outputs) && !yyjson_arr_size(outputs))) {
        for (; asked->count < serving->output_count; asked->count++) {
            asked->wanted[asked->count] = asked->count;
            asked->binary[asked->count] = as_bytes;
        }
        return true;
    }
    if (!yyjson_is_arr(outputs)) return say(asked, "outputs must be a list of objects with a name");
    yyjson_arr_foreach(outputs, place, count, entry) {
        size_t output = place_of(serving->outputs, serving->output_count, entry);
        if (output == serving->output_count) return say(asked, "there is no such output as one that is asked for");
        for (size_t before = 0; before < asked->count; before++)
            if (asked->wanted[before] == output) return say(asked, "an output is asked for twice");
        if (!parameters_of(asked, entry, &parameters)) return false;
        yyjson_val *binary = yyjson_obj_get(parameters, "binary_data");
        asked->binary[asked->count] = binary ? yyjson_is_true(binary) : as_bytes;
        asked->wanted[asked->count++] = output;
    }
    return true;
}

static bool read_shape(Asked *asked, const Tensor *wanted, yyjson_val *given, int64_t *shape) {
    yyjson_val *size;
    size_t place, count;
    bool fits = yyjson_is_arr(given) && yyjson_arr_size(given) == wanted->rank;
    yyjson_arr_foreach(given, place, count, size) {
        if (!fits) break;
        shape[place] = yyjson_is_uint(size) && yyjson_get_uint(size) <= INT32_MAX ? (int64_t)yyjson_get_uint(size) : 0;
        fits = shape[place] > 0 && (wanted->shape[place] == -1 || wanted->shape[place] == shape[place]);
    }
    if (fits) return true;
    text_say(&asked->why, "the shape of input ");
    text_json(&asked->why, wanted->name, strlen(wanted->name));
    return say(asked, " is not the one that the model's metadata tell");
}

static bool read_input(Asked *asked, yyjson_val *entry, const char **rest, size_t *left) {
    const Model *model = asked->model;
    const Serving *serving = model->serving;
    yyjson_val *parameters, *data = yyjson_obj_get(entry, "data");
    size_t place = place_of(serving->inputs, serving->input_count, entry);
    if (place == serving->input_count) return say(asked, "there is no such input as one that is given");
    if (asked->given[place]) return say(asked, "an input is given twice");
    asked->given[place] = true;
    if (!parameters_of(asked, entry, &parameters)) return false;
    const Tensor *wanted = &serving->inputs[place];
    int64_t shape[MOST_DIMENSIONS];
    if (!yyjson_equals_str(yyjson_obj_get(entry, "datatype"), wanted->datatype->name)) {
        text_json(&asked->why, wanted->name, strlen(wanted->name));
        text_format(&asked->why, " must have datatype %s", wanted->datatype->name);
        return false;
    }
    if (!read_shape(asked, wanted, yyjson_obj_get(entry, "shape"), shape)) return false;
    yyjson_val *size = yyjson_obj_get(parameters, "binary_data_size");
    if (!size || yyjson_is_null(size)) {
        if (!yyjson_is_arr(data)) return say(asked, "an input has no data (a list, flat or nested)");
        return tensor_from_json(model, wanted, shape, data, &asked->feeds[place], &asked->why);
    }
    if (data && !yyjson_is_null(data)) return say(asked, "an input has both data and binary_data_size");
    if (!yyjson_is_uint(size) || yyjson_get_uint(size) > *left)
        return say(asked, "binary_data_size is more than what is left of the body");
    const char *raw = *rest;
    *rest += yyjson_get_uint(size);
    *left -= yyjson_get_uint(size);
    return tensor_from_bytes(model, wanted, shape, raw, yyjson_get_uint(size), &asked->feeds[place], &asked->why);
}

static bool read_message(Asked *asked, yyjson_val *message, const char *rest, size_t left) {
    const Serving *serving = asked->model->serving;
    yyjson_val *id = yyjson_obj_get(message, "id"), *inputs = yyjson_obj_get(message, "inputs"), *entry;
    size_t place, count;
    if (!yyjson_is_obj(message)) return say(asked, "the body must be a JSON object");
    if (id && !yyjson_is_null(id) && !yyjson_is_str(id)) return say(asked, "id must be a string");
    asked->id = yyjson_get_str(id);
    asked->id_length = yyjson_get_len(id);
    if (!read_wanted(asked, message)) return false;
    if (!yyjson_is_arr(inputs)) return say(asked, "inputs must be a list of tensors: name, shape, datatype, data");
    yyjson_arr_foreach(inputs, place, count, entry) {
        if (!read_input(asked, entry, &rest, &left)) return false;
    }
    for (place = 0; place < serving->input_count; place++)
        if (!asked->given[place]) return say(asked, "an input is missing");
    return !left || say(asked, "bytes after the last tensor belong to none");
}

/* A body that is nothing but the one tensor: the first free dimension is as long as the bytes make it. */
static bool read_raw(Asked *asked, const char *body, size_t length) {
    const Serving *serving = asked->model->serving;
    const Tensor *wanted = &serving->inputs[0];
    int64_t shape[MOST_DIMENSIONS];
    if (serving->input_count != 1 || !wanted->datatype->size)
        return say(asked, "a body without a JSON header is for models with one input of numbers");
    size_t free = wanted->rank;
    for (size_t axis = wanted->rank; axis-- > 0;) {
        if (wanted->shape[axis] == -1) free = axis;
        shape[axis] = wanted->shape[axis] == -1 ? 1 : wanted->shape[axis];
    }
    size_t row = count_of(shape, wanted->rank);
    if (free < wanted->rank && row < SIZE_MAX / 8) {
        size_t rows = length / (row * wanted->datatype->size);
        shape[free] = rows ? (int64_t)rows : 1;
    }
    for (; asked->count < serving->output_count; asked->count++) {
        asked->wanted[asked->count] = asked->count;
        asked->binary[asked->count] = true;
    }
    return tensor_from_bytes(asked->model, wanted, shape, body, length, &asked->feeds[0], &asked->why);
}

static bool write_output(const Asked *asked, size_t place, Text *json, Text *raw) {
    const Tensor *tensor = &asked->model->serving->outputs[asked->wanted[place]];
    int64_t shape[MOST_DIMENSIONS];
    size_t rank = 0, before = raw->length;
    if (!tensor_shape(asked->model, asked->results[place], shape, &rank)) return false;
    text_say(json, place ? ",{\"name\":" : "{\"name\":");
    text_json(json, tensor->name, strlen(tensor->name));
    text_format(json, ",\"datatype\":\"%s\",\"shape\":[", tensor->datatype->name);
    for (size_t axis = 0; axis < rank; axis++) text_format(json, axis ? ",%lld" : "%lld", (long long)shape[axis]);
    text_say(json, "]");
    if (asked->binary[place]) {
        if (!tensor_to_bytes(asked->model, asked->results[place], raw)) return false;
        text_format(json, ",\"parameters\":{\"binary_data_size\":%zu}", raw->length - before);
    } else {
        text_say(json, ",\"data\":");
        if (!tensor_to_json(asked->model, asked->results[place], json)) return false;
    }
    text_say(json, "}");
    return true;
}

static bool write_answer(const Asked *asked, Answer *answer) {
    const Serving *serving = asked->model->serving;
    Text *json = &answer->body, raw = {0};
    bool whole = true, any = false;
    text_say(json, "{\"model_name\":");
    text_json(json, serving->name, strlen(serving->name));
    text_say(json, ",\"model_version\":");
    text_json(json, serving->version, strlen(serving->version));
    text_say(json, ",\"outputs\":[");
    for (size_t place = 0; whole && place < asked->count; place++) {
        whole = write_output(asked, place, json, &raw);
        any |= asked->binary[place];
    }
    text_say(json, "]");
    if (asked->id) {
        text_say(json, ",\"id\":");
        text_json(json, asked->id, asked->id_length);
    }
    text_say(json, "}");
    answer->type = any ? "application/octet-stream" : "application/json";
    answer->json_length = any ? (long)json->length : -1;
    text_add(json, raw.data, raw.length);
    text_free(&raw);
    answer->status = 200;
    return whole;
}

static void run(Asked *asked, const char *body, size_t length, long json_length, Answer *answer) {
    const Model *model = asked->model;
    const Serving *serving = model->serving;
    size_t header = json_length < 0 ? length : (size_t)json_length;
    yyjson_read_err error = {0};
    yyjson_doc *document = NULL;
    bool read;
    if (json_length == 0) {
        read = read_raw(asked, body, length);
    } else {
        document = yyjson_read_opts((char *)body, header, 0, NULL, &error);
        read = document && read_message(asked, yyjson_doc_get_root(document), body + header, length - header);
        if (!document) text_format(&asked->why, "the body is not JSON: %s at byte %zu", error.msg, error.pos);
    }
    double parsed = now();
    answer->parse = parsed;
    if (read) {
        OrtValue *feeds[serving->input_count];
        for (size_t place = 0; place < serving->input_count; place++) feeds[place] = asked->feeds[place].value;
        text_say(&asked->why, "the model refuses these inputs: ");
        read = model_infer(model, feeds, asked->wanted, asked->count, asked->results, &asked->why);
        answer->infer = now() - parsed;
    }
    if (!read)
        answer_fail(answer, 400, "%.*s", (int)asked->why.length, asked->why.data);
    else if (!write_answer(asked, answer))
        answer_fail(answer, 500, "the answer of the model could not be written");
    yyjson_doc_free(document);
}

void infer(const Model *model, const char *body, size_t length, long json_length, Answer *answer) {
    size_t inputs = model->serving->input_count, outputs = model->serving->output_count;
    Feed feeds[inputs];
    OrtValue *results[outputs];
    size_t wanted[outputs];
    bool binary[outputs], given[inputs];
    double began = now();
    memset(feeds, 0, sizeof feeds);
    memset(results, 0, sizeof results);
    memset(given, 0, sizeof given);
    Asked asked = {.model = model, .wanted = wanted, .binary = binary, .given = given, .feeds = feeds, .results = results};
    run(&asked, body, length, json_length, answer);
    answer->parse -= began;
    for (size_t place = 0; place < inputs; place++) feed_free(model, &feeds[place]);
    for (size_t place = 0; place < outputs; place++)
        if (results[place]) model->api->ReleaseValue(results[place]);
    text_free(&asked.why);
}
