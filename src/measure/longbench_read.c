/* longbench_read.c - LongBench's samples and the answers of models to them, read and checked, and their scores. */
#include "base/file.h"
#include "base/memory.h"
#include "base/status.h"
#include "measure/longbench.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct reader {
    longbench_samples *to;
    longbench_need need;
    const char *file, *group; /* group: the data set of a list, NULL in JSON lines */
    char from_name[80];       /* data set by the file's name */
    int line;                 /* or place in the list */
    json_t *seen;             /* "data set / _id": line */
    pleat_error *error;
} reader;

static pleat_status refuse(const reader *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
static pleat_status refuse(const reader *r, const char *format, ...) {
    char sentence[300];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof(sentence), format, args);
    va_end(args);
    if (r->group)
        return err_set(r->error, PLEAT_EINPUT, "%.150s: %.60s, sample %d: %s", r->file, r->group, r->line, sentence);
    return err_set(r->error, PLEAT_EINPUT, "%.150s: line %d: %s", r->file, r->line, sentence);
}

/* ---- one sample ---- */

typedef struct field {
    const char *name;
    enum { TEXT, TEXTS, TEXTS_OR_NULL, COUNT } kind;
    bool texts, answers; /* needed for */
} field;

static const field fields[] = {
    {"input", TEXT, true, false},   {"context", TEXT, true, false},  {"answers", TEXTS, true, true},
    {"length", COUNT, true, false}, {"language", TEXT, true, false}, {"all_classes", TEXTS_OR_NULL, true, true},
    {"_id", TEXT, true, false},     {"pred", TEXT, false, true},
};

static bool all_texts(const json_t *list) {
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item) if (!json_is_string(item)) return false;
    return true;
}

static pleat_status check_field(const reader *r, const json_t *record, const field *f) {
    const json_t *value = json_object_get(record, f->name);
    if (!value)
        return refuse(r, "the field \"%s\" is missing", f->name);
    if (f->kind == TEXT && !json_is_string(value))
        return refuse(r, "the field \"%s\" is no text", f->name);
    if (f->kind == COUNT && (!json_is_integer(value) || json_integer_value(value) < 0))
        return refuse(r, "the field \"%s\" is no whole number from 0 on", f->name);
    if (f->kind == TEXTS_OR_NULL && json_is_null(value))
        return PLEAT_OK;
    if ((f->kind == TEXTS || f->kind == TEXTS_OR_NULL) && (!json_is_array(value) || !all_texts(value)))
        return refuse(r, "the field \"%s\" is no list of texts", f->name);
    if (f->kind == TEXTS && !json_array_size(value))
        return refuse(r, "the field \"%s\" is empty", f->name);
    return PLEAT_OK;
}

static pleat_status check_classes(const reader *r, const json_t *record, const char *data_set) {
    const longbench_set *set = longbench_find(data_set);
    if (set && set->metric == METRICS_CLASSIFICATION && !json_array_size(json_object_get(record, "all_classes")))
        return refuse(r, "\"all_classes\" is empty, which %.60s needs", data_set);
    return PLEAT_OK;
}

static pleat_status check_twice(reader *r, const json_t *record, const char *data_set) {
    const char *id = json_string_value(json_object_get(record, "_id"));
    char key[400];
    if (!id || (size_t)snprintf(key, sizeof(key), "%s / %s", data_set, id) >= sizeof(key))
        return PLEAT_OK;
    const json_t *before = json_object_get(r->seen, key);
    if (before)
        return refuse(r, "_id \"%.60s\" stands in %s %d already", id, r->group ? "sample" : "line",
                      (int)json_integer_value(before));
    return json_object_set_new(r->seen, key, json_integer(r->line))
               ? err_set(r->error, PLEAT_EMEMORY, "no memory for the samples of %.200s", r->file)
               : PLEAT_OK;
}

/* The data set: the field, the list's name, the file's name. */
static pleat_status find_set(const reader *r, const json_t *record, const char **data_set) {
    const json_t *value = json_object_get(record, "dataset");
    *data_set = json_string_value(value);
    if (value && (!*data_set || !**data_set))
        return refuse(r, "the field \"dataset\" is no name");
    if (!*data_set)
        *data_set = r->group ? r->group : r->need == LONGBENCH_ANSWERS ? r->from_name : NULL;
    if (!*data_set)
        return refuse(r, "the field \"dataset\" is missing");
    if (r->group && strcmp(r->group, *data_set))
        return refuse(r, "the field \"dataset\" is \"%.60s\"", *data_set);
    return PLEAT_OK;
}

static pleat_status name_sample(const reader *r, const json_t *record, longbench_sample *s) {
    const json_t *id = json_object_get(record, "id");
    s->own_id = id != NULL;
    int n;
    if (json_is_string(id))
        n = snprintf(s->id, sizeof(s->id), "%s", json_string_value(id));
    else if (json_is_integer(id))
        n = snprintf(s->id, sizeof(s->id), "%lld", (long long)json_integer_value(id));
    else if (id)
        return refuse(r, "the field \"id\" is neither text nor number");
    else
        n = snprintf(s->id, sizeof(s->id), "%d", longbench_count(r->to, s->data_set));
    return n > 0 && n < (int)sizeof(s->id) ? PLEAT_OK : refuse(r, "the field \"id\" is empty or too long");
}

/* record is kept on success. */
static pleat_status take(reader *r, json_t *record) {
    longbench_sample s = {.record = record};
    if (!json_is_object(record))
        return refuse(r, "it is no JSON object");
    pleat_status status = find_set(r, record, &s.data_set);
    for (size_t i = 0; i < sizeof(fields) / sizeof(*fields) && !status; i++)
        if (r->need == LONGBENCH_TEXTS ? fields[i].texts : fields[i].answers)
            status = check_field(r, record, &fields[i]);
    status = status ? status : check_classes(r, record, s.data_set);
    status = status || r->need == LONGBENCH_ANSWERS ? status : check_twice(r, record, s.data_set);
    status = status ? status : name_sample(r, record, &s);
    if (status)
        return status;
    /* the name outlives the reader as a key of `sets` */
    if (json_object_set_new(r->to->sets, s.data_set, json_integer(longbench_count(r->to, s.data_set) + 1)) ||
        !mem_grow(&r->to->sample, &r->to->cap, r->to->n + 1, sizeof(*r->to->sample)))
        return err_set(r->error, PLEAT_EMEMORY, "no memory for the samples of %.200s", r->file);
    const char *key = json_object_iter_key(json_object_iter_at(r->to->sets, s.data_set));
    s.data_set = key;
    json_incref(record);
    r->to->sample[r->to->n++] = s;
    return PLEAT_OK;
}

/* ---- a file ---- */

static pleat_status read_lists(reader *r, json_t *root) {
    const char *name;
    json_t *list, *record;
    size_t i;
    json_object_foreach(root, name, list) {
        r->group = name;
        json_array_foreach(list, i, record) {
            r->line = (int)i + 1;
            pleat_status status = take(r, record);
            if (status)
                return status;
        }
    }
    return PLEAT_OK;
}

static pleat_status read_line(reader *r, const char *bytes, size_t n_bytes) {
    json_error_t why;
    json_t *record = json_loadb(bytes, n_bytes, JSON_REJECT_DUPLICATES, &why);
    if (!record)
        return refuse(r, "it is no JSON: %.160s", why.text);
    pleat_status status = take(r, record);
    json_decref(record);
    return status;
}

static bool is_blank(const char *bytes, size_t n) {
    while (n && strchr(" \t\r\n", bytes[n - 1]) && bytes[n - 1])
        n--;
    return !n;
}

static pleat_status read_lines(reader *r, const char *bytes, size_t n_bytes) {
    pleat_status status = PLEAT_OK;
    int before = r->to->n;
    for (r->line = 1; n_bytes && !status; r->line++) {
        const char *end = memchr(bytes, '\n', n_bytes);
        size_t n = end ? (size_t)(end - bytes) : n_bytes;
        if (!is_blank(bytes, n))
            status = read_line(r, bytes, n);
        n += end != NULL;
        bytes += n;
        n_bytes -= n;
    }
    if (!status && r->to->n == before)
        status = err_set(r->error, PLEAT_EINPUT, "%.200s: holds no samples", r->file);
    return status;
}

/* An object whose values are all lists, whole. */
static json_t *load_lists(const char *bytes, size_t n_bytes) {
    json_t *root = json_loadb(bytes, n_bytes, JSON_REJECT_DUPLICATES, NULL), *list;
    const char *name;
    bool lists = json_object_size(root) > 0;
    json_object_foreach(root, name, list) lists = lists && json_is_array(list);
    if (lists)
        return root;
    json_decref(root);
    return NULL;
}

/* "pred/gov_report.jsonl" is of gov_report. */
static void set_of_name(const char *path, char *out, size_t cap) {
    const char *base = file_name(path);
    snprintf(out, cap, "%.*s", (int)strcspn(base, "."), base);
}

pleat_status longbench_read(longbench_samples *samples, longbench_need need, const char *name, const char *bytes,
                            size_t n_bytes, pleat_error *error) {
    reader r = {.to = samples, .need = need, .file = name, .seen = json_object(), .error = error};
    if (!samples->sets)
        samples->sets = json_object();
    if (n_bytes >= 3 && !memcmp(bytes, "\xef\xbb\xbf", 3))
        bytes += 3, n_bytes -= 3;
    set_of_name(name, r.from_name, sizeof(r.from_name));
    json_t *root = load_lists(bytes, n_bytes);
    pleat_status status;
    if (!r.seen || !samples->sets)
        status = err_set(error, PLEAT_EMEMORY, "no memory for the samples of %.200s", name);
    else
        status = root ? read_lists(&r, root) : read_lines(&r, bytes, n_bytes);
    json_decref(root);
    json_decref(r.seen);
    return status;
}

void longbench_free(longbench_samples *s) {
    for (int i = 0; i < s->n; i++)
        json_decref(s->sample[i].record);
    free(s->sample);
    json_decref(s->sets);
    *s = (longbench_samples){0};
}

int longbench_count(const longbench_samples *s, const char *data_set) {
    return (int)json_integer_value(json_object_get(s->sets, data_set));
}

const longbench_sample *longbench_sample_find(const longbench_samples *s, const char *data_set, const char *id) {
    for (int i = 0; i < s->n; i++)
        if (!strcmp(s->sample[i].id, id) && !strcmp(s->sample[i].data_set, data_set))
            return &s->sample[i];
    return NULL;
}

/* ---- scores ---- */

/* What the metric sees of an answer: all of it, or its first line that is not empty at the front. */
static char *answer_of(const char *pred, bool first_line) {
    if (!first_line)
        return strdup(pred);
    pred += strspn(pred, "\n");
    return strndup(pred, strcspn(pred, "\n"));
}

static const char **texts_of(const json_t *list, int *n) {
    *n = (int)json_array_size(list);
    const char **texts = malloc(((size_t)*n + 1) * sizeof(*texts));
    for (int i = 0; texts && i < *n; i++)
        texts[i] = json_string_value(json_array_get(list, (size_t)i));
    return texts;
}

pleat_status longbench_score(const longbench_sample *s, double *score, pleat_error *error) {
    const longbench_set *set = longbench_find(s->data_set);
    if (!set)
        return err_set(error, PLEAT_EINPUT, "%.80s is no data set of LongBench: its metric is not known", s->data_set);
    if (set->metric == METRICS_SEGMENTED)
        return err_set(error, PLEAT_EINPUT, "%.80s cannot be scored: its metric needs a Chinese word segmenter",
                       s->data_set);
    int n_answers, n_classes;
    const char **answers = texts_of(json_object_get(s->record, "answers"), &n_answers),
               **classes = texts_of(json_object_get(s->record, "all_classes"), &n_classes);
    char *pred = answer_of(json_string_value(json_object_get(s->record, "pred")), set->first_line);
    pleat_status status = PLEAT_OK;
    double best = 0, one;
    if (!answers || !classes || !pred)
        status = err_set(error, PLEAT_EMEMORY, "no memory to score an answer");
    for (int i = 0; i < n_answers && !status; i++) {
        pleat_error why = {""};
        status = metrics_score(set->metric, pred, answers[i], classes, n_classes, &one, &why);
        if (status)
            err_set(error, status, "sample %.60s of %.80s: %.300s", s->id, s->data_set, why.text);
        else
            best = one > best ? one : best;
    }
    free(answers);
    free(classes);
    free(pred);
    if (!status)
        *score = best;
    return status;
}
