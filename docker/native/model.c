/* The model in ONNX Runtime: the library is found when the server starts, so that nothing links against it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "server.h"

#define LIBRARY "libonnxruntime.so.1"

bool ort_refuses(const Model *model, OrtStatus *status, Text *why) {
    if (!status) return false;
    const char *said = model->api->GetErrorMessage(status);
    size_t length = strcspn(said, "\n");
    text_add(why, said, length < 500 ? length : 500);
    model->api->ReleaseStatus(status);
    return true;
}

static bool open_library(Model *model, Text *why) {
    setenv("ORT_DISABLE_TELEMETRY", "1", 1);
    void *library = dlopen(LIBRARY, RTLD_LAZY | RTLD_LOCAL);
    const OrtApiBase *(*base)(void) = NULL;
    if (library) *(void **)&base = dlsym(library, "OrtGetApiBase");
    model->api = base ? base()->GetApi(ORT_API_VERSION) : NULL;
    if (!model->api) text_format(why, "onnxruntime cannot be used here: %s", library ? "another version" : dlerror());
    return model->api;
}

/* A file whose graph must not be changed says so in its metadata (mlopt/serve/session.py); it is opened once more. */
static bool open_as_written(Model *model, const OrtEnv *environment, OrtSessionOptions *options, Text *why) {
    const OrtApi *api = model->api;
    OrtModelMetadata *metadata = NULL;
    char *asked = NULL;
    bool failed = ort_refuses(model, api->SessionGetModelMetadata(model->session, &metadata), why) ||
                  ort_refuses(model, api->ModelMetadataLookupCustomMetadataMap(metadata, model->allocator,
                                                                               "mlopt.as-written", &asked), why);
    if (metadata) api->ReleaseModelMetadata(metadata);
    if (failed || !asked) return !failed;
    failed = ort_refuses(model, api->AllocatorFree(model->allocator, asked), why);
    api->ReleaseSession(model->session);
    model->session = NULL;
    return !failed && !ort_refuses(model, api->SetSessionGraphOptimizationLevel(options, ORT_DISABLE_ALL), why) &&
           !ort_refuses(model, api->CreateSession(environment, model->serving->path, options, &model->session), why);
}

static bool open_session(Model *model, Text *why) {
    const OrtApi *api = model->api;
    OrtEnv *environment = NULL;
    OrtSessionOptions *options = NULL;
    bool failed = ort_refuses(model, api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "mlopt", &environment), why) ||
                  ort_refuses(model, api->CreateSessionOptions(&options), why) ||
                  ort_refuses(model, api->SetIntraOpNumThreads(options, model->serving->threads), why) ||
                  ort_refuses(model, api->SetInterOpNumThreads(options, 1), why) ||
                  ort_refuses(model, api->CreateSession(environment, model->serving->path, options, &model->session), why) ||
                  ort_refuses(model, api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &model->memory), why) ||
                  ort_refuses(model, api->GetAllocatorWithDefaultOptions(&model->allocator), why) ||
                  !open_as_written(model, environment, options, why);
    if (options) api->ReleaseSessionOptions(options);
    return !failed;
}

bool model_infer(const Model *model, OrtValue *const *feeds, const size_t *wanted, size_t count, OrtValue **results,
                 Text *why) {
    const Serving *serving = model->serving;
    const char *inputs[serving->input_count], *outputs[serving->output_count];
    for (size_t place = 0; place < serving->input_count; place++) inputs[place] = serving->inputs[place].name;
    for (size_t place = 0; place < count; place++) outputs[place] = serving->outputs[wanted[place]].name;
    memset(results, 0, count * sizeof *results);
    return !ort_refuses(model, model->api->Run(model->session, NULL, inputs, (const OrtValue *const *)feeds,
                                               serving->input_count, outputs, count, results), why);
}

/* One inference on zeros (every free dimension 1), so that no client pays for first-time work. A model with free
 * dimensions may refuse that made-up shape; that says nothing about real requests. */
static bool warm_up(Model *model, Text *why) {
    const Serving *serving = model->serving;
    OrtValue *feeds[serving->input_count], *results[serving->output_count];
    size_t wanted[serving->output_count];
    bool fixed = true, good = true;
    memset(feeds, 0, sizeof feeds);
    memset(results, 0, sizeof results);
    for (size_t place = 0; place < serving->output_count; place++) wanted[place] = place;
    for (size_t place = 0; place < serving->input_count && good; place++) {
        const Tensor *tensor = &serving->inputs[place];
        int64_t shape[MOST_DIMENSIONS];
        void *data = NULL;
        for (size_t axis = 0; axis < tensor->rank; axis++) {
            shape[axis] = tensor->shape[axis] < 1 ? 1 : tensor->shape[axis];
            if (axis && tensor->shape[axis] < 1) fixed = false;
        }
        good = count_of(shape, tensor->rank) < SIZE_MAX / 8 &&
               !ort_refuses(model, model->api->CreateTensorAsOrtValue(model->allocator, shape, tensor->rank,
                                                                      tensor->datatype->element, &feeds[place]), why);
        if (good && tensor->datatype->size) {
            good = !ort_refuses(model, model->api->GetTensorMutableData(feeds[place], &data), why);
            if (good) memset(data, 0, count_of(shape, tensor->rank) * tensor->datatype->size);
        }
    }
    good = good && model_infer(model, feeds, wanted, serving->output_count, results, why);
    for (size_t place = 0; place < serving->input_count; place++)
        if (feeds[place]) model->api->ReleaseValue(feeds[place]);
    for (size_t place = 0; place < serving->output_count; place++)
        if (results[place]) model->api->ReleaseValue(results[place]);
    return good || !fixed;
}

static int let_go(struct dl_phdr_info *object, size_t size, void *unused) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    (void)size, (void)unused;
    for (size_t place = 0; strstr(object->dlpi_name, LIBRARY) && place < object->dlpi_phnum; place++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[place];
        uintptr_t start = object->dlpi_addr + segment->p_vaddr, end = (start + segment->p_filesz) & ~(page - 1);
        start = (start + page - 1) & ~(page - 1);
        if (segment->p_type == PT_LOAD && !(segment->p_flags & PF_W) && start < end)
            madvise((void *)start, end - start, MADV_DONTNEED);
    }
    return 0;
}

/* What loading left free in the heap, and the pages of the library that it alone ran through: they are the file's own,
 * and come back when they are needed. */
static void give_back_memory(void) {
    malloc_trim(0);
    dl_iterate_phdr(let_go, NULL);
}

bool model_load(Model *model, const Serving *serving, Text *why) {
    Text reason = {0};
    *model = (Model){.serving = serving};
    bool good = open_library(model, why);
    if (good && !(good = open_session(model, &reason)))
        text_format(why, "%s cannot be loaded: %.*s", serving->path, (int)reason.length, reason.data);
    if (good) give_back_memory();
    if (good && !(good = warm_up(model, &reason)))
        text_format(why, "the first inference failed: %.*s", (int)reason.length, reason.data);
    text_free(&reason);
    return good;
}
