/* score_file.c - see score_file.h. The file is read and checked as a whole before the store is touched. */
#include "measure/score_file.h"
#include "base/csv.h"
#include "base/hash.h"
#include "base/intern.h"
#include "base/memory.h"
#include "base/status.h"
#include "measure/longbench.h"
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const char *const wanted[] = {"algorithm", "dataset", "id", "config", "score", NULL};
enum { ALGORITHM, DATASET, ID, CONFIG, SCORE, N_COLUMNS };

typedef struct reading {
    intern labels, sets, ids, keys; /* keys: (label, set, id) */
    int (*row)[3];                  /* [n] label, set, id */
    double *value;                  /* [n] */
    int *line;                      /* [n] */
    int n, cap_row, cap_value, cap_line;
    uint64_t hash;
    text scratch;
} reading;

static void reading_free(reading *r) {
    intern_free(&r->labels);
    intern_free(&r->sets);
    intern_free(&r->ids);
    intern_free(&r->keys);
    free(r->row);
    free(r->value);
    free(r->line);
    text_free(&r->scratch);
}

static pleat_status check_names(const csv_row *row, pleat_error *error) {
    for (int i = ALGORITHM; i <= ID; i++)
        if (!row->value[i][0])
            return csv_fail(row, error, "%s is empty", wanted[i]);
    if (strchr(row->value[ALGORITHM], '/'))
        return csv_fail(row, error, "algorithm is \"%.60s\": a slash separates algorithm and config and is not allowed",
                        row->value[ALGORITHM]);
    return PLEAT_OK;
}

static int add(intern *table, text *name) {
    return name->failed ? -1 : intern_add(table, name->bytes, name->n, NULL);
}

static pleat_status take_row(void *context, const csv_row *row, pleat_error *error) {
    reading *r = context;
    double value;
    pleat_status status = check_names(row, error);
    status = status ? status : csv_real(row, SCORE, 0, 1, &value, error);
    if (status)
        return status;
    int id[3];
    r->scratch.n = 0;
    text_puts(&r->scratch, row->value[ALGORITHM]);
    if (row->value[CONFIG][0])
        text_printf(&r->scratch, "/%s", row->value[CONFIG]);
    id[0] = add(&r->labels, &r->scratch);
    id[1] = intern_add(&r->sets, row->value[DATASET], strlen(row->value[DATASET]), NULL);
    id[2] = intern_add(&r->ids, row->value[ID], strlen(row->value[ID]), NULL);
    bool is_new = true;
    int key = id[0] < 0 || id[1] < 0 || id[2] < 0 ? -1 : intern_add(&r->keys, id, sizeof(id), &is_new);
    if (!is_new)
        return csv_fail(row, error, "%.80s has a score for sample %.80s of %.80s already, in line %d", r->scratch.bytes,
                        row->value[ID], row->value[DATASET], r->line[key]);
    if (key < 0 || !mem_grow(&r->row, &r->cap_row, r->n + 1, sizeof(*r->row)) ||
        !mem_grow(&r->value, &r->cap_value, r->n + 1, sizeof(*r->value)) ||
        !mem_grow(&r->line, &r->cap_line, r->n + 1, sizeof(*r->line)))
        return err_set(error, PLEAT_EMEMORY, "no memory for line %d of %.200s", row->line, row->file);
    memcpy(r->row[r->n], id, sizeof(id));
    r->value[r->n] = value;
    r->line[r->n++] = row->line;
    for (int i = 0; i < N_COLUMNS; i++)
        r->hash = hash_bytes(row->value[i], strlen(row->value[i]) + 1, r->hash);
    return PLEAT_OK;
}

static pleat_status put(const reading *r, store *db, int64_t run, pleat_error *error) {
    store_score *score = calloc((size_t)r->n, sizeof(*score));
    if (!score)
        return err_set(error, PLEAT_EMEMORY, "no memory for %d scores", r->n);
    for (int i = 0; i < r->n; i++) {
        const char *set = intern_key(&r->sets, r->row[i][1]);
        const longbench_set *known = longbench_find(set);
        score[i] = (store_score){.data_set = set,
                                 .sample = intern_key(&r->ids, r->row[i][2]),
                                 .klass = longbench_class(set),
                                 .label = intern_key(&r->labels, r->row[i][0]),
                                 .metric = known ? metrics_name(known->metric) : "score",
                                 .value = r->value[i]};
    }
    pleat_status status = store_scores_put(db, run, score, r->n, error);
    free(score);
    return status ? status : store_run_finish(db, run, error);
}

pleat_status score_file_import(const char *path, store *db, int64_t *run, pleat_error *error) {
    reading r = {.n = 0};
    char hash[24];
    pleat_status status = csv_read(path, wanted, take_row, &r, error);
    if (!status && !r.n)
        status = err_set(error, PLEAT_EINPUT, "%.300s: has a header and no scores", path);
    json_t *options = json_pack("{s:s}", "scores", path);
    char *text_options = options ? json_dumps(options, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    json_decref(options);
    if (!status && !text_options)
        status = err_set(error, PLEAT_EMEMORY, "no memory to import %.200s", path);
    if (!status) {
        store_begun begun;
        snprintf(hash, sizeof(hash), "%016" PRIx64, r.hash);
        store_run about = {.what = "scores",
                           .model_name = path,
                           .model_path = path,
                           .model_hash = hash,
                           .machine = "",
                           .level = "",
                           .version = PLEAT_VERSION,
                           .options = text_options};
        status = store_run_begin(db, &about, STORE_GO_ON, &begun, error);
        if (!status && !begun.finished)
            status = put(&r, db, begun.id, error);
        if (!status)
            *run = begun.id;
    }
    free(text_options);
    reading_free(&r);
    return status;
}
