/* serving.json: the same file that the Python server reads. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server.h"

static const Datatype datatypes[] = {
    {"BOOL", 1, ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, 'b'},     {"UINT8", 1, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, 'u'},
    {"UINT16", 2, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16, 'u'}, {"UINT32", 4, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32, 'u'},
    {"UINT64", 8, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64, 'u'}, {"INT8", 1, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, 'i'},
    {"INT16", 2, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16, 'i'},   {"INT32", 4, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, 'i'},
    {"INT64", 8, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, 'i'},   {"FP16", 2, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, 'f'},
    {"FP32", 4, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, 'f'},    {"FP64", 8, ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, 'f'},
    {"BYTES", 0, ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING, 'O'},
};

const Datatype *datatype_of(ONNXTensorElementDataType element) {
    for (size_t place = 0; place < sizeof datatypes / sizeof *datatypes; place++)
        if (datatypes[place].element == element) return &datatypes[place];
    return NULL;
}

static char *text_of(yyjson_val *table, const char *key, const char *otherwise) {
    const char *found = yyjson_get_str(yyjson_obj_get(table, key));
    found = found ? found : otherwise;
    return found ? need(strdup(found)) : NULL;
}

static bool read_tensor(Tensor *tensor, yyjson_val *entry) {
    const char *datatype = yyjson_get_str(yyjson_obj_get(entry, "datatype"));
    yyjson_val *shape = yyjson_obj_get(entry, "shape"), *size;
    size_t place, count;
    tensor->name = text_of(entry, "name", NULL);
    for (size_t kind = 0; datatype && kind < sizeof datatypes / sizeof *datatypes; kind++)
        if (!strcmp(datatype, datatypes[kind].name)) tensor->datatype = &datatypes[kind];
    tensor->rank = yyjson_arr_size(shape);
    if (!tensor->name || !tensor->datatype || !yyjson_is_arr(shape) || tensor->rank > MOST_DIMENSIONS) return false;
    yyjson_arr_foreach(shape, place, count, size) {
        if (!yyjson_is_int(size)) return false;
        int64_t length = yyjson_get_sint(size);
        if (length < -1 || length == 0 || length > INT32_MAX) return false;
        tensor->shape[place] = length;
    }
    return true;
}

static bool read_tensors(Tensor **tensors, size_t *count, yyjson_val *list) {
    yyjson_val *entry;
    size_t place, length;
    *count = yyjson_arr_size(list);
    *tensors = need(calloc(*count + 1, sizeof **tensors));
    yyjson_arr_foreach(list, place, length, entry) {
        if (!read_tensor(&(*tensors)[place], entry)) return false;
    }
    return *count > 0;
}

static const char *read_table(Serving *serving, yyjson_val *table, const char *folder) {
    const char *runtime = yyjson_get_str(yyjson_obj_get(table, "runtime"));
    yyjson_val *threads = yyjson_obj_get(table, "threads"), *batching = yyjson_obj_get(table, "batching");
    if (!yyjson_is_obj(table)) return "it is no JSON object";
    if (yyjson_get_sint(yyjson_obj_get(table, "schema")) != 1) return "its schema is not 1";
    if (runtime && strcmp(runtime, "onnxruntime")) return "the native server runs models in onnxruntime alone";
    serving->name = text_of(table, "name", NULL);
    serving->version = text_of(table, "version", "1");
    char *file = text_of(table, "file", "model.onnx");
    if (!serving->name) return "it has no name";
    if (strchr(file, '/') || *file == '.') return "its file must lie in the folder itself";
    serving->path = need(malloc(strlen(folder) + strlen(file) + 2));
    sprintf(serving->path, "%s/%s", folder, file);
    free(file);
    if (threads && !yyjson_is_null(threads) && (!yyjson_is_uint(threads) || yyjson_get_uint(threads) - 1 >= 1024))
        return "its threads must be a number above 0, or absent";
    serving->threads = yyjson_is_uint(threads) ? (int)yyjson_get_uint(threads) : available_cores();
    serving->batching = yyjson_get_sint(yyjson_obj_get(batching, "largest")) > 1;
    if (!read_tensors(&serving->inputs, &serving->input_count, yyjson_obj_get(table, "inputs")))
        return "its inputs cannot be used";
    if (!read_tensors(&serving->outputs, &serving->output_count, yyjson_obj_get(table, "outputs")))
        return "its outputs cannot be used";
    return NULL;
}

bool serving_read(Serving *serving, const char *folder, Text *why) {
    char *path = need(malloc(strlen(folder) + sizeof "/serving.json"));
    yyjson_read_err error;
    sprintf(path, "%s/serving.json", folder);
    *serving = (Serving){0};
    yyjson_doc *document = yyjson_read_file(path, 0, NULL, &error);
    const char *wrong = document ? read_table(serving, yyjson_doc_get_root(document), folder) : error.msg;
    yyjson_doc_free(document);
    if (wrong) text_format(why, "%s cannot be used: %s", path, wrong);
    free(path);
    return !wrong;
}

static void tensors_metadata(Text *json, const char *key, const Tensor *tensors, size_t count) {
    text_format(json, ",\"%s\":[", key);
    for (const Tensor *tensor = tensors; tensor < tensors + count; tensor++) {
        text_say(json, tensor == tensors ? "{\"name\":" : ",{\"name\":");
        text_json(json, tensor->name, strlen(tensor->name));
        text_format(json, ",\"datatype\":\"%s\",\"shape\":[", tensor->datatype->name);
        for (size_t place = 0; place < tensor->rank; place++)
            text_format(json, place ? ",%lld" : "%lld", (long long)tensor->shape[place]);
        text_say(json, "]}");
    }
    text_say(json, "]");
}

void serving_metadata(const Serving *serving, Text *json) {
    text_say(json, "{\"name\":");
    text_json(json, serving->name, strlen(serving->name));
    text_say(json, ",\"versions\":[");
    text_json(json, serving->version, strlen(serving->version));
    text_say(json, "],\"platform\":\"onnxruntime_onnx\"");
    tensors_metadata(json, "inputs", serving->inputs, serving->input_count);
    tensors_metadata(json, "outputs", serving->outputs, serving->output_count);
    text_say(json, "}");
}

static double quota(void) {
    double limit = 0, period = 0;
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (file) {
        int found = fscanf(file, "%lf %lf", &limit, &period);
        fclose(file);
        return found == 2 && period > 0 ? limit / period : 0;
    }
    if ((file = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "re"))) {
        if (fscanf(file, "%lf", &limit) != 1) limit = 0;
        fclose(file);
    }
    if ((file = fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "re"))) {
        if (fscanf(file, "%lf", &period) != 1) period = 0;
        fclose(file);
    }
    return limit > 0 && period > 0 ? limit / period : 0;
}

/* Of this process: its affinity, cut by the container's quota. */
int available_cores(void) {
    cpu_set_t set;
    CPU_ZERO(&set);
    int cores = sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
    double allowed = quota();
    if (allowed > 0 && allowed + 0.999 < cores) cores = (int)(allowed + 0.999);
    return cores > 0 ? cores : 1;
}
