/* Values of the runtime to those of clients. */
#include <stdlib.h>

#include "server.h"

static const OrtTensorTypeAndShapeInfo *info_of(const Model *model, const OrtValue *value) {
    OrtTensorTypeAndShapeInfo *info = NULL;
    OrtStatus *status = model->api->GetTensorTypeAndShape(value, &info);
    if (status) model->api->ReleaseStatus(status);
    return info;
}

static bool good(const Model *model, OrtStatus *status) {
    if (status) model->api->ReleaseStatus(status);
    return !status;
}

bool tensor_shape(const Model *model, const OrtValue *value, int64_t *shape, size_t *rank) {
    const OrtTensorTypeAndShapeInfo *info = info_of(model, value);
    bool whole = info && good(model, model->api->GetDimensionsCount(info, rank)) && *rank <= MOST_DIMENSIONS &&
                 good(model, model->api->GetDimensions(info, shape, *rank));
    if (info) model->api->ReleaseTensorTypeAndShapeInfo((OrtTensorTypeAndShapeInfo *)info);
    return whole;
}

typedef struct {
    ONNXTensorElementDataType element;
    size_t count;
    void *data;     /* of numbers */
    char *letters;  /* of texts: all of them, one after another */
    size_t *starts; /* count + 1 of them */
} Result;

static bool open_result(const Model *model, const OrtValue *value, Result *result) {
    const OrtTensorTypeAndShapeInfo *info = info_of(model, value);
    size_t letters = 0;
    bool whole = info && good(model, model->api->GetTensorElementType(info, &result->element)) &&
                 good(model, model->api->GetTensorShapeElementCount(info, &result->count));
    if (info) model->api->ReleaseTensorTypeAndShapeInfo((OrtTensorTypeAndShapeInfo *)info);
    if (!whole) return false;
    if (result->element != ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING)
        return good(model, model->api->GetTensorMutableData((OrtValue *)value, &result->data));
    if (!good(model, model->api->GetStringTensorDataLength(value, &letters))) return false;
    result->letters = need(malloc(letters + 1));
    result->starts = need(malloc((result->count + 1) * sizeof *result->starts));
    result->starts[result->count] = letters;
    return !result->count ||
           good(model, model->api->GetStringTensorContent(value, result->letters, letters, result->starts, result->count));
}

static void close_result(Result *result) {
    free(result->letters);
    free(result->starts);
}

static void number(yyjson_val *value, const Result *result, size_t place) {
    const void *data = result->data;
    switch (result->element) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL: yyjson_set_bool(value, ((const uint8_t *)data)[place]); return;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: yyjson_set_uint(value, ((const uint8_t *)data)[place]); return;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16: yyjson_set_uint(value, ((const uint16_t *)data)[place]); return;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32: yyjson_set_uint(value, ((const uint32_t *)data)[place]); return;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64: yyjson_set_uint(value, ((const uint64_t *)data)[place]); return;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8: yyjson_set_sint(value, ((const int8_t *)data)[place]); return;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16: yyjson_set_sint(value, ((const int16_t *)data)[place]); return;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32: yyjson_set_sint(value, ((const int32_t *)data)[place]); return;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64: yyjson_set_sint(value, ((const int64_t *)data)[place]); return;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE: yyjson_set_real(value, ((const double *)data)[place]); return;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: yyjson_set_float(value, ((const float *)data)[place]); return;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16: yyjson_set_float(value, half_to_float(((const uint16_t *)data)[place])); return;
    default: yyjson_set_null(value);
    }
}

/* Flat and row-major. What is not finite becomes null: JSON has no NaN. */
bool tensor_to_json(const Model *model, const OrtValue *value, Text *json) {
    Result result = {0};
    bool whole = open_result(model, value, &result);
    text_say(json, "[");
    for (size_t place = 0; whole && place < result.count; place++) {
        if (place) text_add(json, ",", 1);
        if (result.letters) {
            size_t start = result.starts[place], length = result.starts[place + 1] - start;
            if (is_utf8(result.letters + start, length))
                text_json(json, result.letters + start, length);
            else
                text_say(json, "\"\\ufffd\"");
        } else if (result.element == ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL) {
            text_say(json, ((const uint8_t *)result.data)[place] ? "true" : "false");
        } else {
            char digits[48];
            yyjson_val entry = {0};
            entry.tag = YYJSON_TYPE_NUM;
            number(&entry, &result, place);
            char *end = yyjson_write_number(&entry, digits);
            if (end)
                text_add(json, digits, (size_t)(end - digits));
            else
                text_say(json, "null");
        }
    }
    text_say(json, "]");
    close_result(&result);
    return whole;
}

bool tensor_to_bytes(const Model *model, const OrtValue *value, Text *raw) {
    Result result = {0};
    bool whole = open_result(model, value, &result);
    for (size_t place = 0; whole && result.letters && place < result.count; place++) {
        uint32_t length = (uint32_t)(result.starts[place + 1] - result.starts[place]);
        text_add(raw, &length, 4);
        text_add(raw, result.letters + result.starts[place], length);
    }
    if (whole && !result.letters) {
        const Datatype *datatype = datatype_of(result.element);
        whole = datatype && datatype->size;
        if (whole) text_add(raw, result.data, result.count * datatype->size);
    }
    close_result(&result);
    return whole;
}
