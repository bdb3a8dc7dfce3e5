/* score.c - scores of answers: measured here, or imported from a published file (then without texts).
 *
 * A score hangs on a response, a response on a sample, so that published scores and own answers lie in the same tables.
 * Published files hold tens of thousands of rows: the statements are prepared once, and a row that was just inserted is
 * not looked up again. About 8 us a row (memory, one core of a Xeon). */
#include "store/inside.h"
#include "base/memory.h"
#include "base/status.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { ADD_SAMPLE, FIND_SAMPLE, ADD_RESPONSE, FIND_RESPONSE, ADD_SCORE, N_STATEMENTS };

static const char *const sql[N_STATEMENTS] = {
    [ADD_SAMPLE] = "INSERT OR IGNORE INTO sample (data_set, name, class, prompt) VALUES (?1,?2,?4,?3)",
    [FIND_SAMPLE] = "SELECT id FROM sample WHERE data_set=?1 AND name=?2 AND prompt=?3",
    [ADD_RESPONSE] = "INSERT OR IGNORE INTO response (run, sample, label, seed) VALUES (?1,?2,?3,?4)",
    [FIND_RESPONSE] = "SELECT id FROM response WHERE run=?1 AND sample=?2 AND label=?3 AND seed=?4",
    [ADD_SCORE] = "INSERT OR REPLACE INTO score (response, metric, value) VALUES (?1,?2,?3)",
};

typedef struct writer {
    store *s;
    sqlite3_stmt *q[N_STATEMENTS];
    pleat_error *error;
} writer;

static void bind_text(sqlite3_stmt *q, int i, const char *value) {
    sqlite3_bind_text(q, i, value ? value : "", -1, SQLITE_STATIC); /* outlives the step */
}

/* The id of the row that `add` inserts, or of the one that is there already. Both take the same arguments. */
static pleat_status id_of(writer *w, int add, int find, int64_t *id) {
    int code = sqlite3_step(w->q[add]);
    *id = sqlite3_last_insert_rowid(w->s->db);
    bool added = code == SQLITE_DONE && sqlite3_changes(w->s->db) > 0;
    if (code == SQLITE_DONE && !added) {
        code = sqlite3_step(w->q[find]);
        *id = code == SQLITE_ROW ? sqlite3_column_int64(w->q[find], 0) : 0;
    }
    pleat_status status = added || code == SQLITE_ROW ? PLEAT_OK : store_fail(w->s, "writing", w->error);
    sqlite3_reset(w->q[add]);
    sqlite3_reset(w->q[find]);
    return status;
}

static pleat_status put(writer *w, int64_t run, const store_score *x) {
    int64_t sample, response;
    char seed[24];
    for (int i = ADD_SAMPLE; i <= FIND_SAMPLE; i++) {
        bind_text(w->q[i], 1, x->data_set);
        bind_text(w->q[i], 2, x->sample);
        bind_text(w->q[i], 3, x->prompt);
    }
    bind_text(w->q[ADD_SAMPLE], 4, x->klass);
    pleat_status status = id_of(w, ADD_SAMPLE, FIND_SAMPLE, &sample);
    if (status)
        return status;
    snprintf(seed, sizeof(seed), "%" PRIu64, x->seed);
    for (int i = ADD_RESPONSE; i <= FIND_RESPONSE; i++) {
        sqlite3_bind_int64(w->q[i], 1, run);
        sqlite3_bind_int64(w->q[i], 2, sample);
        bind_text(w->q[i], 3, x->label);
        bind_text(w->q[i], 4, seed);
    }
    status = id_of(w, ADD_RESPONSE, FIND_RESPONSE, &response);
    if (status)
        return status;
    sqlite3_bind_int64(w->q[ADD_SCORE], 1, response);
    bind_text(w->q[ADD_SCORE], 2, x->metric);
    sqlite3_bind_double(w->q[ADD_SCORE], 3, x->value);
    status = sqlite3_step(w->q[ADD_SCORE]) == SQLITE_DONE ? PLEAT_OK : store_fail(w->s, "writing", w->error);
    sqlite3_reset(w->q[ADD_SCORE]);
    return status;
}

pleat_status store_scores_put(store *s, int64_t run, const store_score *score, int n, pleat_error *error) {
    writer w = {.s = s, .error = error};
    pleat_status status = store_tx_begin(s, error);
    if (status)
        return status;
    for (int i = 0; i < N_STATEMENTS && !status; i++)
        status = store_prepare(s, sql[i], &w.q[i], error, "");
    for (int i = 0; i < n && !status; i++)
        status = put(&w, run, &score[i]);
    for (int i = 0; i < N_STATEMENTS; i++)
        sqlite3_finalize(w.q[i]);
    return store_tx_end(s, status, error);
}

pleat_status store_scores_read(store *s, int64_t run, store_scores *out, pleat_error *error) {
    sqlite3_stmt *q;
    store_scores list = {0};
    int cap = 0, code;
    pleat_status status = store_prepare(s,
                                        "SELECT data_set, name, class, prompt, label, seed, metric, value FROM score"
                                        " JOIN response ON score.response=response.id"
                                        " JOIN sample ON response.sample=sample.id WHERE run=? ORDER BY score.id",
                                        &q, error, "i", run);
    if (status)
        return status;
    while ((code = sqlite3_step(q)) == SQLITE_ROW) {
        if (!mem_grow(&list.score, &cap, list.n + 1, sizeof(*list.score)))
            break;
        const char *seed = (const char *)sqlite3_column_text(q, 5);
        store_score *x = &list.score[list.n++];
        *x = (store_score){.data_set = store_text(q, 0),
                           .sample = store_text(q, 1),
                           .klass = store_text(q, 2),
                           .prompt = store_text(q, 3),
                           .label = store_text(q, 4),
                           .seed = seed ? strtoull(seed, NULL, 10) : 0,
                           .metric = store_text(q, 6),
                           .value = sqlite3_column_double(q, 7)};
        if (!x->data_set || !x->sample || !x->label)
            break;
    }
    if (code != SQLITE_DONE)
        status = code == SQLITE_ROW ? err_set(error, PLEAT_EMEMORY, "no memory for the scores of %.200s", s->path)
                                    : store_fail(s, "reading", error);
    sqlite3_finalize(q);
    if (status)
        store_scores_free(&list);
    else
        *out = list;
    return status;
}

void store_scores_free(store_scores *scores) {
    for (int i = 0; i < scores->n; i++) {
        const store_score *x = &scores->score[i];
        const char *parts[] = {x->data_set, x->sample, x->klass, x->prompt, x->label, x->metric};
        for (size_t k = 0; k < sizeof(parts) / sizeof(*parts); k++)
            free((char *)parts[k]);
    }
    free(scores->score);
    *scores = (store_scores){0};
}
