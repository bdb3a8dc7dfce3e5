/* quality.c - perplexity and KL per method. */
#include "store/inside.h"
#include "base/memory.h"
#include "base/status.h"
#include <stdlib.h>

static pleat_status put(store *s, int64_t run, const store_quality *x, pleat_error *error) {
    sqlite3_stmt *q;
    pleat_status status = store_prepare(
        s,
        "INSERT OR REPLACE INTO quality (run, label, spec, text_name, ctx, windows, tokens, perplexity, stderr,"
        " kl_mean, kl_p99, top1_agreement, kept_share, kv_bytes) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        &q, error, "itttiiiddddddi", run, x->label, x->spec, x->text_name, (int64_t)x->ctx, (int64_t)x->windows,
        (int64_t)x->tokens, x->perplexity, x->stderr_ppl, x->kl_mean, x->kl_p99, x->top1_agreement, x->kept_share,
        (int64_t)x->kv_bytes);
    return status ? status : store_do(s, q, error);
}

pleat_status store_quality_put(store *s, int64_t run, const store_quality *quality, int n, pleat_error *error) {
    pleat_status status = store_begin(s, error);
    if (status)
        return status;
    for (int i = 0; i < n && !status; i++)
        status = put(s, run, &quality[i], error);
    return store_end(s, status, error);
}

pleat_status store_quality_has(store *s, int64_t run, const char *label, const char *text_name, int ctx, bool *has,
                               pleat_error *error) {
    sqlite3_stmt *q;
    pleat_status status = store_prepare(s, "SELECT 1 FROM quality WHERE run=? AND label=? AND text_name=? AND ctx=?",
                                        &q, error, "itti", run, label, text_name, (int64_t)ctx);
    return status ? status : store_has(s, q, has, error);
}

pleat_status store_qualities_read(store *s, int64_t run, store_qualities *out, pleat_error *error) {
    sqlite3_stmt *q;
    store_qualities list = {0};
    int cap = 0, code;
    pleat_status status =
        store_prepare(s,
                      "SELECT label, spec, text_name, ctx, windows, tokens, perplexity, stderr, kl_mean,"
                      " kl_p99, top1_agreement, kept_share, kv_bytes FROM quality WHERE run=? ORDER BY id",
                      &q, error, "i", run);
    if (status)
        return status;
    while ((code = sqlite3_step(q)) == SQLITE_ROW) {
        if (!mem_grow(&list.quality, &cap, list.n + 1, sizeof(*list.quality)))
            break;
        list.quality[list.n++] = (store_quality){.label = store_text(q, 0),
                                                 .spec = store_text(q, 1),
                                                 .text_name = store_text(q, 2),
                                                 .ctx = sqlite3_column_int(q, 3),
                                                 .windows = sqlite3_column_int(q, 4),
                                                 .tokens = sqlite3_column_int(q, 5),
                                                 .perplexity = sqlite3_column_double(q, 6),
                                                 .stderr_ppl = sqlite3_column_double(q, 7),
                                                 .kl_mean = sqlite3_column_double(q, 8),
                                                 .kl_p99 = sqlite3_column_double(q, 9),
                                                 .top1_agreement = sqlite3_column_double(q, 10),
                                                 .kept_share = sqlite3_column_double(q, 11),
                                                 .kv_bytes = (size_t)sqlite3_column_int64(q, 12)};
    }
    if (code != SQLITE_DONE)
        status = code == SQLITE_ROW ? err_set(error, PLEAT_EMEMORY, "no memory for the figures of %.200s", s->path)
                                    : store_fail(s, "reading", error);
    sqlite3_finalize(q);
    if (status)
        store_qualities_free(&list);
    else
        *out = list;
    return status;
}

void store_qualities_free(store_qualities *qualities) {
    for (int i = 0; i < qualities->n; i++) {
        free((char *)qualities->quality[i].label);
        free((char *)qualities->quality[i].spec);
        free((char *)qualities->quality[i].text_name);
    }
    free(qualities->quality);
    *qualities = (store_qualities){0};
}
