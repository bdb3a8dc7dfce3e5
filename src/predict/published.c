/* published.c - profiles and measured points in the form that the study published: CSV, one method a file.
 *
 * operators.csv has one row per tokens of a step, a column per operator, and serves every method; attention-METHOD.csv
 * has stage, batch, new and cached tokens. A layer is the sum of its columns as they stand: `add` is one column for a
 * layer's two residual additions. Rows for more than one GPU (tensor_parallel) are left out.
 * Measured files: docs/predict_throughput.md says what is odd about them. */
#include "predict/points.h"
#include "predict/throughput.h"
#include "base/csv.h"
#include "base/status.h"
#include <stdio.h>
#include <string.h>

enum { MOST_TOKENS = 1 << 24, MOST_BATCH = 1 << 16 };
static const double most_ms = 1e7;

static pleat_status path_of(char *out, size_t cap, const char *directory, const char *prefix, const char *name,
                            pleat_error *error) {
    int n = snprintf(out, cap, "%s/%s%s.csv", directory, prefix, name);
    return n < 0 || (size_t)n >= cap ? err_set(error, PLEAT_EINPUT, "the path of the profile is too long") : PLEAT_OK;
}

/* The sum of columns from..to-1. */
static pleat_status sum_ms(const csv_row *row, int from, int to, double *ms, pleat_error *error) {
    *ms = 0;
    for (int i = from; i < to; i++) {
        double one;
        pleat_status status = csv_real(row, i, 0, most_ms, &one, error);
        if (status)
            return status;
        *ms += one;
    }
    return PLEAT_OK;
}

static pleat_status stage_of(const csv_row *row, int i, predict_stage *stage, pleat_error *error) {
    const char *s = row->value[i];
    if (!strcmp(s, "prefill"))
        *stage = PREDICT_PREFILL;
    else if (!strcmp(s, "decode") || !strcmp(s, "decoding"))
        *stage = PREDICT_DECODE;
    else
        return csv_fail(row, error, "%s is \"%.40s\", not prefill or decode", row->column[i], s);
    return PLEAT_OK;
}

/* ---- profiles ---- */

static const char *const operator_columns[] = {"num_tokens",
                                               "?tensor_parallel",
                                               "emb_ms",
                                               "input_layernorm_ms",
                                               "attn_pre_proj_ms",
                                               "attn_rope_ms",
                                               "attn_post_proj_ms",
                                               "post_attention_layernorm_ms",
                                               "mlp_up_proj_ms",
                                               "mlp_act_ms",
                                               "mlp_down_proj_ms",
                                               "add_ms",
                                               NULL};

static pleat_status take_operators(void *context, const csv_row *row, pleat_error *error) {
    int64_t tokens, gpus = 1;
    double once = 0, layer = 0;
    pleat_status status = csv_int(row, 0, 1, MOST_TOKENS, &tokens, error);
    if (!status && row->value[1])
        status = csv_int(row, 1, 1, 1024, &gpus, error);
    status = status ? status : sum_ms(row, 2, 3, &once, error);
    status = status ? status : sum_ms(row, 3, row->n, &layer, error);
    if (status || gpus != 1)
        return status;
    if (layer <= 0)
        return csv_fail(row, error, "all operators of a layer take 0 ms");
    predict_row r = {.part = PREDICT_ONCE, .tokens = (int)tokens, .ms = once};
    status = predict_rows_add(context, &r, error);
    r.part = PREDICT_LAYER;
    r.ms = layer;
    return status ? status : predict_rows_add(context, &r, error);
}

static const char *const attention_columns[] = {
    "batch_size",       "prefill_tokens",    "kv_tokens",  "stage", "attention_ms",
    "input_reshape_ms", "output_reshape_ms", "kv_save_ms", NULL};

static pleat_status take_attention(void *context, const csv_row *row, pleat_error *error) {
    int64_t batch, tokens, cached;
    predict_row r = {.part = PREDICT_ATTENTION};
    pleat_status status = csv_int(row, 0, 1, MOST_BATCH, &batch, error);
    status = status ? status : csv_int(row, 1, 0, MOST_TOKENS, &tokens, error);
    status = status ? status : csv_int(row, 2, 0, MOST_TOKENS, &cached, error);
    status = status ? status : stage_of(row, 3, &r.stage, error);
    status = status ? status : sum_ms(row, 4, row->n, &r.ms, error);
    if (status)
        return status;
    if (r.stage == PREDICT_PREFILL && tokens == 0)
        return csv_fail(row, error, "prefill_tokens is 0 in a row of prefill");
    r.batch = (int)batch;
    r.tokens = r.stage == PREDICT_PREFILL ? (int)tokens : 1;
    r.context = (int)cached;
    return predict_rows_add(context, &r, error);
}

pleat_status predict_rows_load(const char *directory, const char *method, predict_rows *rows, pleat_error *error) {
    char path[4200];
    if (!*method || strchr(method, '/'))
        return err_set(error, PLEAT_EINPUT, "\"%.60s\" is not the name of a method", method);
    pleat_status status = path_of(path, sizeof(path), directory, "operators", "", error);
    status = status ? status : csv_read(path, operator_columns, take_operators, rows, error);
    status = status ? status : path_of(path, sizeof(path), directory, "attention-", method, error);
    return status ? status : csv_read(path, attention_columns, take_attention, rows, error);
}

pleat_status predict_profile_load(const char *directory, const char *method, const predict_profile_options *options,
                                  predict_profile **profile, pleat_error *error) {
    predict_rows rows = {0};
    pleat_error why;
    pleat_status status = predict_rows_load(directory, method, &rows, error);
    if (!status && (status = predict_profile_make(&rows, options, profile, &why)))
        err_set(error, status, "%.200s, method %.60s: %.200s", directory, method, why.text);
    predict_rows_free(&rows);
    return status;
}

int predict_study_budget(const char *method) {
    return !strcmp(method, "h2o") || !strcmp(method, "stream") ? 512 : 0;
}

/* ---- measured points ---- */

static const char *const measured_columns[] = {"bsz", "prompt_len", "stage", "thr", NULL};

static pleat_status take_measured(void *context, const csv_row *row, pleat_error *error) {
    int64_t batch, length;
    predict_point p = {.n_rows = 1};
    pleat_status status = csv_int(row, 0, 1, MOST_BATCH, &batch, error);
    status = status ? status : csv_int(row, 1, 1, MOST_TOKENS, &length, error);
    status = status ? status : stage_of(row, 2, &p.stage, error);
    status = status ? status : csv_real(row, 3, 1e-6, 1e12, &p.rate, error);
    if (status)
        return status;
    p.batch = (int)batch;
    p.prompt_tokens = (int)length;
    if (p.stage == PREDICT_DECODE && length % 2 && length > PREDICT_DECODE_TOKENS)
        p.prompt_tokens -= PREDICT_DECODE_TOKENS;
    return predict_points_add(context, &p, error);
}

pleat_status predict_points_load(const char *file, predict_points *points, pleat_error *error) {
    pleat_status status = csv_read(file, measured_columns, take_measured, points, error);
    if (!status && points->n == 0)
        status = err_set(error, PLEAT_EINPUT, "%.300s holds no measured point", file);
    return status;
}
