/* measure.c - see measure.h. */
#include "measure/measure.h"
#include "base/hash.h"
#include "base/status.h"
#include "cpu/detect.h"
#include "engine/engine.h"
#include "text/chat.h"
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

void measure_tell(const measure_watch *watch, double done, double total, const char *detail) {
    if (watch && watch->update)
        watch->update(watch->context, done, total, detail);
}

pleat_status measure_prompt_ids(const pleat_model *model, const char *prompt, size_t n_bytes, int32_t **ids, int *n_ids,
                                pleat_error *error) {
    chat_format format;
    if (chat_format_detect(model->file, &format, NULL))
        return pleat_tokenize(model, prompt, n_bytes, true, ids, n_ids, error);
    chat_message message = {"user", prompt, n_bytes};
    return chat_encode(model->tok, model->file, format, &message, 1, 0, ids, n_ids, error);
}

double measure_step_cost(int batch, int n_tokens) {
    return 8 + batch * (1.5 + n_tokens / 450.0);
}

/* ---- methods ---- */

/* The end of the first spec of a list: at ";", or at a comma after which no "key=value" goes on (specs have "=" in each
 * of their pairs). */
static size_t spec_end(const char *list) {
    int depth = 0;
    for (size_t i = 0; list[i]; i++) {
        depth += list[i] == '(';
        depth -= list[i] == ')';
        if (depth == 0 && list[i] == ';')
            return i;
        if (depth == 0 && list[i] == ',') {
            size_t word = strcspn(list + i + 1, ",;+:=(");
            if (list[i + 1 + word] != '=' || !memcmp(list + i + 1, "k=", 2))
                return i;
        }
    }
    return strlen(list);
}

static pleat_status add(measure_methods *m, const char *spec, size_t n, const pleat_model *model, pleat_error *error) {
    if (m->n == MEASURE_MOST_METHODS)
        return err_set(error, PLEAT_EINPUT, "more than %d methods at once", MEASURE_MOST_METHODS);
    char *label = strndup(spec, n);
    if (!label)
        return err_set(error, PLEAT_EMEMORY, "no memory for a list of methods");
    for (int i = 0; i < m->n; i++)
        if (!strcmp(m->label[i], label)) {
            free(label);
            return PLEAT_OK;
        }
    pleat_status status = pleat_method_parse(label, model, &m->method[m->n], error);
    if (status)
        free(label);
    else
        m->label[m->n++] = label;
    return status;
}

pleat_status measure_methods_parse(const char *list, const pleat_model *model, measure_methods *out,
                                   pleat_error *error) {
    measure_methods m = {.n = 0};
    bool all = !strcmp(list, "all");
    pleat_status status = add(&m, "f16", 3, model, error);
    for (int i = 0; all && kv_presets[i].name && !status; i++)
        status = add(&m, kv_presets[i].name, strlen(kv_presets[i].name), model, error);
    for (const char *at = list; !all && !status;) {
        size_t n = spec_end(at);
        status = add(&m, at, n, model, error);
        if (!at[n])
            break;
        at += n + 1;
    }
    if (status)
        measure_methods_free(&m);
    else
        *out = m;
    return status;
}

void measure_methods_free(measure_methods *m) {
    for (int i = 0; i < m->n; i++) {
        free(m->label[i]);
        pleat_method_free(m->method[i]);
    }
    m->n = 0;
}

/* ---- identity ---- */

/* "0.1.0 (build 1a2b3c4d)": a hash of the running program's file. */
static void version_of_program(char *out, size_t cap) {
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    struct stat st;
    void *bytes = MAP_FAILED;
    if (fd >= 0 && !fstat(fd, &st) && st.st_size > 0)
        bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes != MAP_FAILED) {
        snprintf(out, cap, "%s (build %08" PRIx64 ")", PLEAT_VERSION, hash_bytes(bytes, (size_t)st.st_size, 0) >> 32);
        munmap(bytes, (size_t)st.st_size);
    } else {
        snprintf(out, cap, "%s", PLEAT_VERSION);
    }
    if (fd >= 0)
        close(fd);
}

void measure_options_add(json_t *options, const pleat_model *model) {
    if (model->mapped)
        json_object_set_new(options, "repack", json_string("off"));
}

bool measure_options_repacked(const char *options) {
    json_t *read = options ? json_loads(options, 0, NULL) : NULL;
    const char *repack = json_string_value(json_object_get(read, "repack"));
    bool repacked = !repack || strcmp(repack, "off") != 0;
    json_decref(read);
    return repacked;
}

store_run measure_run_of(const char *what, const pleat_model *model, const pleat_engine *engine, const char *options,
                         measure_identity *identity) {
    const gguf_tensor *t = gguf_tensor_at(model->file, 0);
    const uint8_t *start = t->data - t->file_offset;
    version_of_program(identity->version, sizeof(identity->version));
    cpu_detect_name(identity->machine, sizeof(identity->machine));
    snprintf(identity->hash, sizeof(identity->hash), "%016" PRIx64, hash_bytes(start, gguf_file_bytes(model->file), 0));
    return (store_run){.what = what,
                       .model_name = model->name,
                       .model_path = gguf_path(model->file),
                       .model_hash = identity->hash,
                       .machine = identity->machine,
                       .level = pleat_engine_level(engine),
                       .version = identity->version,
                       .options = options,
                       .n_threads = engine_threads(engine)};
}
