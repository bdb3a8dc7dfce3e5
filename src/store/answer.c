/* answer.c - samples and the answers of every method to them. */
#include "store/inside.h"
#include "base/memory.h"
#include "base/status.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static pleat_status sample_id(store *s, const store_answer *a, int64_t *id, pleat_error *error) {
    sqlite3_stmt *q;
    pleat_status status =
        store_prepare(s, "INSERT OR IGNORE INTO sample (data_set, name, class, prompt) VALUES (?,?,?,?)", &q, error,
                      "tttt", a->data_set, a->sample, a->klass, a->prompt);
    status = status ? status : store_do(s, q, error);
    if (!status)
        status = store_prepare(s, "SELECT id FROM sample WHERE data_set=? AND name=? AND prompt=?", &q, error, "ttt",
                               a->data_set, a->sample, a->prompt);
    if (status)
        return status;
    if (sqlite3_step(q) == SQLITE_ROW)
        *id = sqlite3_column_int64(q, 0);
    else
        status = store_fail(s, "reading", error);
    sqlite3_finalize(q);
    return status;
}

static pleat_status put(store *s, int64_t run, int64_t sample, const store_answer *a, pleat_error *error) {
    sqlite3_stmt *q;
    char seed[24];
    snprintf(seed, sizeof(seed), "%" PRIu64, a->seed);
    pleat_status status =
        store_prepare(s,
                      "INSERT OR REPLACE INTO response (run, sample, label, spec, seed, text, prompt_tokens,"
                      " n_tokens, finish, ttft_ms, tpot_ms, kv_bytes, agree_tokens, acted)"
                      " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                      &q, error, "iittttiitddiii", run, sample, a->label, a->spec, seed, a->text,
                      (int64_t)a->prompt_tokens, (int64_t)a->n_tokens, a->finish, a->ttft_ms, a->tpot_ms,
                      (int64_t)a->kv_bytes, (int64_t)a->agree_tokens, (int64_t)a->acted);
    return status ? status : store_do(s, q, error);
}

pleat_status store_answers_put(store *s, int64_t run, const store_answer *answer, int n, pleat_error *error) {
    pleat_status status = store_tx_begin(s, error);
    if (status)
        return status;
    for (int i = 0; i < n && !status; i++) {
        int64_t sample = 0;
        status = sample_id(s, &answer[i], &sample, error);
        status = status ? status : put(s, run, sample, &answer[i], error);
    }
    return store_tx_end(s, status, error);
}

pleat_status store_answers_has(store *s, int64_t run, const char *data_set, const char *sample, bool *has,
                               pleat_error *error) {
    sqlite3_stmt *q;
    pleat_status status =
        store_prepare(s,
                      "SELECT 1 FROM response JOIN sample ON response.sample=sample.id WHERE run=? AND"
                      " data_set=? AND name=?",
                      &q, error, "itt", run, data_set, sample);
    return status ? status : store_has(s, q, has, error);
}

pleat_status store_answers_read(store *s, int64_t run, store_answers *out, pleat_error *error) {
    sqlite3_stmt *q;
    store_answers list = {0};
    int cap = 0, code;
    pleat_status status = store_prepare(
        s,
        "SELECT data_set, name, class, prompt, label, spec, seed, text, prompt_tokens, n_tokens, finish, ttft_ms,"
        " tpot_ms, kv_bytes, agree_tokens, acted FROM response JOIN sample ON response.sample=sample.id WHERE run=?"
        " ORDER BY response.id",
        &q, error, "i", run);
    if (status)
        return status;
    while ((code = sqlite3_step(q)) == SQLITE_ROW) {
        if (!mem_grow(&list.answer, &cap, list.n + 1, sizeof(*list.answer)))
            break;
        const char *seed = (const char *)sqlite3_column_text(q, 6);
        list.answer[list.n++] = (store_answer){.data_set = store_text(q, 0),
                                               .sample = store_text(q, 1),
                                               .klass = store_text(q, 2),
                                               .prompt = store_text(q, 3),
                                               .label = store_text(q, 4),
                                               .spec = store_text(q, 5),
                                               .seed = seed ? strtoull(seed, NULL, 10) : 0,
                                               .text = store_text(q, 7),
                                               .prompt_tokens = sqlite3_column_int(q, 8),
                                               .n_tokens = sqlite3_column_int(q, 9),
                                               .finish = store_text(q, 10),
                                               .ttft_ms = sqlite3_column_double(q, 11),
                                               .tpot_ms = sqlite3_column_double(q, 12),
                                               .kv_bytes = (size_t)sqlite3_column_int64(q, 13),
                                               .agree_tokens = sqlite3_column_int(q, 14),
                                               .acted = sqlite3_column_int(q, 15) != 0};
    }
    if (code != SQLITE_DONE)
        status = code == SQLITE_ROW ? err_set(error, PLEAT_EMEMORY, "no memory for the answers of %.200s", s->path)
                                    : store_fail(s, "reading", error);
    sqlite3_finalize(q);
    if (status)
        store_answers_free(&list);
    else
        *out = list;
    return status;
}

void store_answers_free(store_answers *answers) {
    for (int i = 0; i < answers->n; i++) {
        const store_answer *a = &answers->answer[i];
        const char *parts[] = {a->data_set, a->sample, a->klass, a->prompt, a->label, a->spec, a->text, a->finish};
        for (size_t k = 0; k < sizeof(parts) / sizeof(*parts); k++)
            free((char *)parts[k]);
    }
    free(answers->answer);
    *answers = (store_answers){0};
}
