/* Values of clients to tensors of the runtime: checked against what the model declares. */
#include <stdlib.h>
#include <string.h>

#include "server.h"

size_t count_of(const int64_t *shape, size_t rank) {
    size_t count = 1;
    for (size_t axis = 0; axis < rank; axis++)
        if (shape[axis] < 0 || __builtin_mul_overflow(count, (size_t)shape[axis], &count)) return SIZE_MAX;
    return count;
}

void feed_free(const Model *model, Feed *feed) {
    if (feed->value) model->api->ReleaseValue(feed->value);
    free(feed->owned);
    *feed = (Feed){0};
}

static bool refuse(Text *why, const Tensor *wanted, const char *words) {
    text_say(why, "the data of input ");
    text_json(why, wanted->name, strlen(wanted->name));
    text_say(why, words);
    return false;
}

static bool wrap(const Model *model, const Tensor *wanted, const int64_t *shape, size_t bytes, Feed *feed, Text *why) {
    return !ort_refuses(model, model->api->CreateTensorWithDataAsOrtValue(model->memory, feed->owned, bytes, shape,
                                                                          wanted->rank, wanted->datatype->element,
                                                                          &feed->value), why);
}

static bool fill_text(const Model *model, Feed *feed, size_t place, const char *value, size_t length, Text *why) {
    char *room = NULL;
    if (ort_refuses(model, model->api->GetResizedStringTensorElementBuffer(feed->value, place, length, &room), why))
        return false;
    if (length) memcpy(room, value, length);
    return true;
}

static bool texts(const Model *model, const Tensor *wanted, const int64_t *shape, Feed *feed, Text *why) {
    return !ort_refuses(model, model->api->CreateTensorAsOrtValue(model->allocator, shape, wanted->rank,
                                                                  wanted->datatype->element, &feed->value), why);
}

#define INTEGER(type, least, most)                                                                                     \
    {                                                                                                                  \
        if (!yyjson_is_int(value)) return 0;                                                                           \
        if (yyjson_is_sint(value) ? yyjson_get_sint(value) < (int64_t)(least)                                          \
                                  : yyjson_get_uint(value) > (uint64_t)(most))                                         \
            return -1;                                                                                                 \
        ((type *)data)[place] = (type)yyjson_get_uint(value);                                                          \
        return 1;                                                                                                      \
    }

/* 1: it is stored. 0: it is of another kind. -1: it does not fit. Negative numbers alone are `sint` of yyjson. */
static int store(void *data, size_t place, const Datatype *datatype, yyjson_val *value) {
    switch (datatype->element) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
        if (!yyjson_is_num(value)) return 0;
        ((float *)data)[place] = (float)yyjson_get_num(value);
        return 1;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL:
        if (!yyjson_is_bool(value)) return 0;
        ((uint8_t *)data)[place] = yyjson_get_bool(value);
        return 1;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: INTEGER(uint8_t, 0, UINT8_MAX)
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16: INTEGER(uint16_t, 0, UINT16_MAX)
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32: INTEGER(uint32_t, 0, UINT32_MAX)
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64: INTEGER(uint64_t, 0, UINT64_MAX)
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8: INTEGER(int8_t, INT8_MIN, INT8_MAX)
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16: INTEGER(int16_t, INT16_MIN, INT16_MAX)
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32: INTEGER(int32_t, INT32_MIN, INT32_MAX)
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64: INTEGER(int64_t, INT64_MIN, INT64_MAX)
    default: break;
    }
    if (!yyjson_is_num(value)) return 0;
    double number = yyjson_get_num(value);
    if (datatype->element == ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE)
        ((double *)data)[place] = number;
    else
        ((uint16_t *)data)[place] = half_of(number);
    return 1;
}

typedef struct {
    const Model *model;
    const Tensor *wanted;
    Feed *feed;
    Text *why;
    size_t place;
} Filling;

/* Whether lists lie in lists as the shape says, down to the last axis: as many elements as it needs are there then. */
static bool nests(yyjson_val *data, const int64_t *shape, size_t rank) {
    size_t index, length;
    yyjson_val *inner;
    if (!yyjson_is_arr(data) || yyjson_arr_size(data) != (size_t)*shape) return false;
    if (rank == 1) return true;
    yyjson_arr_foreach(data, index, length, inner) {
        if (!nests(inner, shape + 1, rank - 1)) return false;
    }
    return true;
}

/* `deep` is how many lists lie in each other. */
static bool fill(Filling *filling, yyjson_val *data, size_t deep) {
    size_t index, length;
    yyjson_val *value;
    yyjson_arr_foreach(data, index, length, value) {
        if (deep > 1) {
            if (!fill(filling, value, deep - 1)) return false;
        } else if (filling->wanted->datatype->kind == 'O') {
            if (!yyjson_is_str(value)) return refuse(filling->why, filling->wanted, " are not all BYTES");
            if (!fill_text(filling->model, filling->feed, filling->place++, yyjson_get_str(value), yyjson_get_len(value),
                           filling->why))
                return false;
        } else {
            int stored = store(filling->feed->owned, filling->place++, filling->wanted->datatype, value);
            if (stored == 0) return refuse(filling->why, filling->wanted, " are not all of its datatype");
            if (stored < 0) return refuse(filling->why, filling->wanted, " do not fit into its datatype");
        }
    }
    return true;
}

bool tensor_from_json(const Model *model, const Tensor *wanted, const int64_t *shape, yyjson_val *data, Feed *feed,
                      Text *why) {
    size_t count = count_of(shape, wanted->rank), size = wanted->datatype->size;
    bool nested = wanted->rank > 1 && yyjson_is_arr(yyjson_arr_get_first(data));
    /* Before anything is allocated: what is declared must be there. Every element takes two bytes of the body. */
    if (nested && !nests(data, shape, wanted->rank)) return refuse(why, wanted, " are not nested as its shape is");
    if (!nested && yyjson_arr_size(data) != count) return refuse(why, wanted, " are not as many as its shape needs");
    if (size) {
        feed->owned = malloc(count * size + 1);
        if (!feed->owned) return refuse(why, wanted, " are too many");
    } else if (!texts(model, wanted, shape, feed, why)) {
        return false;
    }
    Filling filling = {model, wanted, feed, why, 0};
    if (!fill(&filling, data, nested ? wanted->rank : 1)) return false;
    return !size || wrap(model, wanted, shape, count * size, feed, why);
}

bool is_utf8(const char *letters, size_t length) {
    const unsigned char *text = (const unsigned char *)letters;
    for (size_t place = 0; place < length;) {
        unsigned char first = text[place];
        size_t more = first < 0x80                    ? 0
                      : first >= 0xc2 && first < 0xe0 ? 1
                      : (first & 0xf0) == 0xe0        ? 2
                      : first >= 0xf0 && first < 0xf5 ? 3
                                                      : length;
        if (more > length - place - 1) return false;
        for (size_t next = 1; next <= more; next++)
            if ((text[place + next] & 0xc0) != 0x80) return false;
        unsigned char second = more ? text[place + 1] : 0;
        if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) || (first == 0xf0 && second < 0x90) ||
            (first == 0xf4 && second > 0x8f))
            return false;
        place += more + 1;
    }
    return true;
}

/* Each element has its length before it. */
static bool texts_from_bytes(const Model *model, const Tensor *wanted, const int64_t *shape, const char *raw,
                             size_t length, Feed *feed, Text *why) {
    size_t count = count_of(shape, wanted->rank), found = 0, place = 0;
    if (count > length / 4) return refuse(why, wanted, " do not have the elements of its shape");
    if (!texts(model, wanted, shape, feed, why)) return false;
    while (place < length && found < count) {
        uint32_t size = 0;
        if (length - place < 4) break;
        memcpy(&size, raw + place, 4);
        place += 4;
        if (size > length - place) return refuse(why, wanted, " end within an element");
        if (!is_utf8(raw + place, size)) return refuse(why, wanted, " are not UTF-8");
        if (!fill_text(model, feed, found++, raw + place, size, why)) return false;
        place += size;
    }
    return (found == count && place == length) || refuse(why, wanted, " do not have the elements of its shape");
}

bool tensor_from_bytes(const Model *model, const Tensor *wanted, const int64_t *shape, const char *raw, size_t length,
                       Feed *feed, Text *why) {
    size_t count = count_of(shape, wanted->rank), size = wanted->datatype->size, bytes;
    if (!size) return texts_from_bytes(model, wanted, shape, raw, length, feed, why);
    if (__builtin_mul_overflow(count, size, &bytes) || bytes != length)
        return refuse(why, wanted, " are not as many bytes as its shape needs");
    feed->owned = need(malloc(bytes + 1)); /* a copy: kernels may read by the word what lies at an odd address */
    memcpy(feed->owned, raw, bytes);
    if (wanted->datatype->kind == 'b') /* any byte but 0 is true */
        for (size_t place = 0; place < bytes; place++) ((uint8_t *)feed->owned)[place] = raw[place] != 0;
    return wrap(model, wanted, shape, bytes, feed, why);
}
