/* study.c - see study.h. The parts run in the order in which they cost least and say most: throughput, answers,
 * quality. */
#include "measure/study.h"
#include "base/status.h"
#include "base/hash.h"
#include "engine/engine.h"
#include "measure/assets.h"
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILLED_LABEL "f16 (filled)"

typedef struct sink {
    store *db;
    int64_t run;
} sink;

static pleat_status put_point(void *context, const store_point *point, pleat_error *error) {
    const sink *s = context;
    return store_point_put(s->db, s->run, point, error);
}

/* ---- identity ---- */

static json_t *int_list(const int *value, int n) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(list, json_integer(value[i]));
    return list;
}

static json_t *grid_options(const throughput_grid *grid) {
    json_t *methods = json_array();
    for (int i = 0; i < grid->methods->n; i++)
        json_array_append_new(methods, json_pack("{s:s,s:s}", "label", grid->methods->label[i], "spec",
                                                 pleat_method_spec(grid->methods->method[i])));
    return json_pack("{s:o,s:o,s:o,s:i,s:i}", "methods", methods, "batch", int_list(grid->batch, grid->n_batch),
                     "prompt", int_list(grid->prompt, grid->n_prompt), "repeats", grid->repeats, "fill",
                     grid->fill_tokens);
}

static uint64_t prompts_hash(const study_plan *plan) {
    uint64_t hash = 0;
    for (int i = 0; i < plan->n_prompts; i++) {
        hash = hash_bytes(plan->prompts->prompt[i].id, strlen(plan->prompts->prompt[i].id), hash);
        hash = hash_bytes(plan->prompts->prompt[i].text, strlen(plan->prompts->prompt[i].text), hash);
    }
    return hash;
}

static json_t *study_options(const study_plan *plan) {
    char hash[24];
    json_t *options = grid_options(&plan->grid);
    snprintf(hash, sizeof(hash), "%016" PRIx64, prompts_hash(plan));
    json_object_update_new(options,
                           json_pack("{s:s,s:s,s:i,s:i,s:i,s:i}", "prompt_set", plan->prompt_set, "prompts", hash,
                                     "n_prompts", plan->n_prompts, "max_tokens", plan->max_tokens, "quality_ctx",
                                     plan->quality_ctx, "quality_windows", plan->quality_windows));
    return options;
}

static pleat_status begin(const char *what, pleat_engine *engine, json_t *options, store *db, int64_t *run,
                          pleat_error *error) {
    measure_identity identity;
    bool resumed;
    char *dumped = json_dumps(options, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(options);
    if (!dumped)
        return err_set(error, PLEAT_EMEMORY, "no memory for the options of a run");
    store_run r = measure_run_of(what, engine_model(engine), engine, dumped, &identity);
    pleat_status status = store_run_begin(db, &r, run, &resumed, error);
    free(dumped);
    return status;
}

/* ---- parts ---- */

/* A watch that maps a part's progress to its share of the whole. */
typedef struct share {
    const measure_watch *watch;
    double from, part;
} share;

static void tell_share(void *context, double done, double total, const char *detail) {
    const share *s = context;
    measure_tell(s->watch, s->from + s->part * (total > 0 ? done / total : 1), 1, detail);
}

static pleat_status run_grid(pleat_engine *engine, const throughput_grid *grid, store *db, int64_t run,
                             const measure_watch *watch, pleat_error *error) {
    store_points known;
    sink s = {.db = db, .run = run};
    pleat_status status = store_points_read(db, run, &known, error);
    if (status)
        return status;
    status = throughput_run(engine, grid, &known, put_point, &s, watch, error);
    store_points_free(&known);
    return status;
}

/* Decode over a fill beside decode over a real prompt, at the longest real length. */
static pleat_status run_agreement(pleat_engine *engine, const throughput_grid *grid, store *db, int64_t run,
                                  pleat_error *error) {
    int longest = 0, filled = 0;
    store_points known;
    throughput_agreement agreement;
    for (int i = 0; i < grid->n_prompt; i++) {
        bool is_filled = grid->fill_tokens && grid->prompt[i] >= grid->fill_tokens;
        filled += is_filled;
        longest = !is_filled && grid->prompt[i] > longest ? grid->prompt[i] : longest;
    }
    if (!filled || !longest || longest + THROUGHPUT_DECODE_TOKENS > engine_model(engine)->context_tokens)
        return PLEAT_OK;
    pleat_status status = store_points_read(db, run, &known, error);
    if (status)
        return status;
    bool has = false;
    for (int i = 0; i < known.n; i++)
        has = has || !strcmp(known.point[i].label, FILLED_LABEL);
    store_points_free(&known);
    if (has)
        return PLEAT_OK;
    status = throughput_agree(engine, grid->methods, longest, &agreement, error);
    if (status)
        return status;
    store_point p = {.label = FILLED_LABEL,
                     .spec = "f16",
                     .batch = 1,
                     .prompt_tokens = longest,
                     .stage = "decode",
                     .filled = true,
                     .n_repeats = 2,
                     .rate = {agreement.filled_rate, agreement.real_rate},
                     .median = agreement.filled_rate};
    p.spread = agreement.filled_rate / agreement.real_rate - 1; /* of this row: filled against real */
    return store_point_put(db, run, &p, error);
}

static pleat_status run_prompts(pleat_engine *engine, const study_plan *plan, store *db, int64_t run, int *n_skipped,
                                const measure_watch *watch, pleat_error *error) {
    store_answer answers[MEASURE_MOST_METHODS];
    int n = plan->grid.methods->n;
    *n_skipped = 0;
    for (int i = 0; i < plan->n_prompts; i++) {
        const lengths_prompt *prompt = &plan->prompts->prompt[i];
        bool has;
        measure_tell(watch, i, plan->n_prompts, "answers");
        pleat_status status = store_answers_has(db, run, plan->prompt_set, prompt->id, &has, error);
        if (!status && has)
            continue;
        status = status ? status
                        : lengths_measure(engine, plan->grid.methods, plan->prompt_set, prompt, plan->max_tokens,
                                          answers, error);
        if (status == PLEAT_EFULL) {
            ++*n_skipped;
            continue;
        }
        if (status)
            return status;
        status = store_answers_put(db, run, answers, n, error);
        for (int k = 0; k < n; k++)
            free((char *)answers[k].text);
        if (status)
            return status;
    }
    return PLEAT_OK;
}

static pleat_status run_quality(pleat_engine *engine, const study_plan *plan, store *db, int64_t run,
                                const measure_watch *watch, pleat_error *error) {
    static const char text_name[] = "shakespeare-40k";
    const measure_methods *methods = plan->grid.methods;
    quality_result result[MEASURE_MOST_METHODS];
    store_quality rows[MEASURE_MOST_METHODS];
    size_t n_bytes;
    bool has = true;
    const char *bytes = assets_text(&n_bytes);
    pleat_status status = PLEAT_OK;
    for (int i = 0; i < methods->n && !status && has; i++)
        status = store_quality_has(db, run, methods->label[i], text_name, plan->quality_ctx, &has, error);
    if (status || has)
        return status;
    status = quality_methods(engine, methods, bytes, n_bytes, plan->quality_ctx, plan->quality_windows, result, watch,
                             error);
    if (status)
        return status;
    for (int i = 0; i < methods->n; i++)
        rows[i] = (store_quality){.label = methods->label[i],
                                  .spec = pleat_method_spec(methods->method[i]),
                                  .text_name = text_name,
                                  .ctx = plan->quality_ctx,
                                  .windows = result[i].windows,
                                  .tokens = result[i].tokens,
                                  .perplexity = result[i].perplexity,
                                  .stderr_ppl = result[i].error,
                                  .kl_mean = result[i].kl_mean,
                                  .kl_p99 = result[i].kl_p99,
                                  .top1_agreement = result[i].top1_agreement,
                                  .kept_share = result[i].kept_share,
                                  .kv_bytes = result[i].kv_bytes};
    return store_quality_put(db, run, rows, methods->n, error);
}

/* ---- the whole ---- */

pleat_status study_bench(pleat_engine *engine, const throughput_grid *grid, store *db, int64_t *run,
                         const measure_watch *watch, pleat_error *error) {
    pleat_status status = begin("bench", engine, grid_options(grid), db, run, error);
    status = status ? status : run_grid(engine, grid, db, *run, watch, error);
    status = status ? status : run_agreement(engine, grid, db, *run, error);
    return status ? status : store_run_finish(db, *run, error);
}

pleat_status study_run(pleat_engine *engine, const study_plan *plan, store *db, int64_t *run, int *n_skipped,
                       const measure_watch *watch, pleat_error *error) {
    /* Shares of the time, as the quick study takes them. */
    share parts[] = {{watch, 0, 0.5}, {watch, 0.5, 0.2}, {watch, 0.7, 0.3}};
    measure_watch watches[3];
    for (int i = 0; i < 3; i++)
        watches[i] = (measure_watch){tell_share, &parts[i]};
    pleat_status status = begin("study", engine, study_options(plan), db, run, error);
    status = status ? status : run_grid(engine, &plan->grid, db, *run, &watches[0], error);
    status = status ? status : run_agreement(engine, &plan->grid, db, *run, error);
    status = status ? status : run_prompts(engine, plan, db, *run, n_skipped, &watches[1], error);
    if (!status && plan->quality_windows)
        status = run_quality(engine, plan, db, *run, &watches[2], error);
    return status ? status : store_run_finish(db, *run, error);
}
