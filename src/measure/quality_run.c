/* quality_run.c - see quality_run.h. A unit of work is one window, or one needle text with its questions, under all
 * methods: it is measured from one prefill and stored whole. */
#include "measure/quality_run.h"
#include "base/hash.h"
#include "base/status.h"
#include "engine/engine.h"
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char metric[] = "found";

typedef struct unit { /* a window of texts[size], or a round of needles */
    bool is_needle;
    int size, number;
} unit;

typedef struct work {
    pleat_engine *engine;
    const quality_plan *plan;
    store *db;
    int64_t run;
    quality_text *texts[QUALITY_MOST_SIZES];
    unit *unit;
    int n_units, i; /* i: the unit in work */
    const measure_watch *to;
} work;

/* ---- what there is to do ---- */

static pleat_status begin(work *w, store_how how, store_begun *begun, pleat_error *error) {
    const measure_methods *m = w->plan->methods;
    measure_identity identity;
    char hash[24];
    json_t *list = json_array();
    snprintf(hash, sizeof(hash), "%016" PRIx64, hash_bytes(w->plan->text, w->plan->text_bytes, 0));
    for (int i = 0; i < m->n; i++)
        json_array_append_new(list,
                              json_pack("{s:s,s:s}", "label", m->label[i], "spec", pleat_method_spec(m->method[i])));
    json_t *options = json_pack("{s:o,s:s,s:i}", "methods", list, "text", hash, "scored", w->plan->n_scored);
    measure_options_add(options, engine_model(w->engine));
    char *dumped = json_dumps(options, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(options);
    if (!dumped)
        return err_set(error, PLEAT_EMEMORY, "no memory for the options of a run");
    store_run r = measure_run_of("quality", engine_model(w->engine), w->engine, dumped, &identity);
    pleat_status status = store_run_begin(w->db, &r, how, begun, error);
    free(dumped);
    w->run = begun->id;
    return status;
}

static bool holds_window(const store_windows *known, const quality_plan *plan, int ctx, int number) {
    int n = 0;
    for (int i = 0; i < known->n; i++)
        n += known->window[i].window == number && known->window[i].ctx == ctx &&
             !strcmp(known->window[i].text_name, plan->text_name);
    return n >= plan->methods->n;
}

static bool holds_round(const store_scores *known, const quality_plan *plan, int tokens, int number) {
    int n = 0, n_tokens, round, percent;
    for (int i = 0; i < known->n; i++)
        n += needle_of(known->score[i].data_set, known->score[i].sample, &n_tokens, &round, &percent) &&
             n_tokens == tokens && round == number;
    return n >= plan->methods->n * NEEDLE_DEPTHS;
}

static void add_unit(work *w, unit u) {
    w->unit[w->n_units++] = u;
}

static pleat_status list_units(work *w, pleat_error *error) {
    const quality_plan *plan = w->plan;
    store_windows windows = {0};
    store_scores scores = {0};
    pleat_status status = store_windows_read(w->db, w->run, &windows, error);
    status = status ? status : store_scores_read(w->db, w->run, &scores, error);
    w->unit =
        malloc(((size_t)plan->n_ctx * (size_t)plan->n_windows + (size_t)plan->n_needles * (size_t)plan->n_rounds + 1) *
               sizeof(*w->unit));
    if (!status && !w->unit)
        status = err_set(error, PLEAT_EMEMORY, "no memory for a list of windows");
    for (int i = 0; i < plan->n_ctx && !status; i++)
        for (int k = 0; k < plan->n_windows; k++)
            if (!holds_window(&windows, plan, plan->ctx[i], k))
                add_unit(w, (unit){false, i, k});
    for (int i = 0; i < plan->n_needles && !status; i++)
        for (int k = 0; k < plan->n_rounds; k++)
            if (!holds_round(&scores, plan, plan->needle[i], k))
                add_unit(w, (unit){true, i, k});
    store_windows_free(&windows);
    store_scores_free(&scores);
    return status;
}

/* Cuts the text at every size, and tries every needle prompt: what is refused is refused before hours of work. */
static pleat_status check_sizes(work *w, pleat_error *error) {
    const quality_plan *plan = w->plan;
    const pleat_model *model = engine_model(w->engine);
    pleat_status status = PLEAT_OK;
    for (int i = 0; i < plan->n_ctx && plan->n_windows && !status; i++) {
        int n;
        status = quality_text_open(model, plan->methods, plan->text, plan->text_bytes, plan->ctx[i], plan->n_scored,
                                   plan->n_windows, &w->texts[i], &n, error);
        if (!status && n < plan->n_windows)
            status = err_set(error, PLEAT_EINPUT, "the text has %d windows of %d tokens, not %d", n, plan->ctx[i],
                             plan->n_windows);
    }
    for (int i = 0; i < plan->n_needles && plan->n_rounds && !status; i++) {
        needle *n = NULL;
        status = needle_open(model, plan->text, plan->text_bytes, plan->needle[i], plan->n_rounds - 1, &n, error);
        needle_close(n);
    }
    return status;
}

/* ---- units ---- */

static pleat_status measure_window(work *w, const unit *u, const measure_watch *watch, pleat_error *error) {
    store_window out[MEASURE_MOST_METHODS];
    int n = w->plan->methods->n;
    pleat_status status =
        quality_window_measure(w->engine, w->plan->methods, w->texts[u->size], u->number, out, watch, error);
    if (status)
        return status;
    for (int i = 0; i < n; i++)
        out[i].text_name = w->plan->text_name;
    status = store_windows_put(w->db, w->run, out, n, error);
    for (int i = 0; i < n; i++)
        quality_window_free(&out[i]);
    return status;
}

/* The scores last: they say that the round is whole. */
static pleat_status put_round(work *w, const store_answer *answers, const bool *found, int n, pleat_error *error) {
    store_score *scores = calloc((size_t)n, sizeof(*scores));
    if (!scores)
        return err_set(error, PLEAT_EMEMORY, "no memory for %d scores", n);
    for (int i = 0; i < n; i++)
        scores[i] = (store_score){.data_set = answers[i].data_set,
                                  .sample = answers[i].sample,
                                  .klass = answers[i].klass,
                                  .prompt = answers[i].prompt,
                                  .label = answers[i].label,
                                  .seed = answers[i].seed,
                                  .metric = metric,
                                  .value = found[i]};
    pleat_status status = store_answers_put(w->db, w->run, answers, n, error);
    status = status ? status : store_scores_put(w->db, w->run, scores, n, error);
    free(scores);
    return status;
}

static pleat_status measure_round(work *w, const unit *u, const measure_watch *watch, pleat_error *error) {
    store_answer answers[NEEDLE_DEPTHS * MEASURE_MOST_METHODS];
    bool found[NEEDLE_DEPTHS * MEASURE_MOST_METHODS];
    int n = NEEDLE_DEPTHS * w->plan->methods->n;
    needle *hidden;
    pleat_status status = needle_open(engine_model(w->engine), w->plan->text, w->plan->text_bytes,
                                      w->plan->needle[u->size], u->number, &hidden, error);
    if (status)
        return status;
    status = needle_measure(w->engine, w->plan->methods, hidden, answers, found, watch, error);
    if (!status) {
        status = put_round(w, answers, found, n, error);
        for (int i = 0; i < n; i++)
            free((char *)answers[i].text);
    }
    needle_close(hidden);
    return status;
}

static void tell(void *context, double done, double total, const char *detail) {
    const work *w = context;
    measure_tell(w->to, w->i + done / total, w->n_units, detail);
}

pleat_status quality_run(pleat_engine *engine, const quality_plan *plan, store *db, store_how how, store_begun *begun,
                         const measure_watch *watch, pleat_error *error) {
    work w = {.engine = engine, .plan = plan, .db = db, .to = watch};
    const measure_watch own = {tell, &w};
    pleat_status status = check_sizes(&w, error);
    status = status ? status : begin(&w, how, begun, error);
    status = status ? status : list_units(&w, error);
    for (; !status && w.i < w.n_units; w.i++)
        status = (w.unit[w.i].is_needle ? measure_round : measure_window)(&w, &w.unit[w.i], &own, error);
    for (int i = 0; i < plan->n_ctx; i++)
        quality_text_close(w.texts[i]);
    free(w.unit);
    return status ? status : store_run_finish(db, begun->id, error);
}

/* ---- the table ---- */

/* The next larger window size that the run holds; 0: none. */
static int next_ctx(const store_windows *w, int ctx) {
    int next = 0;
    for (int i = 0; i < w->n; i++)
        if (w->window[i].ctx > ctx && (!next || w->window[i].ctx < next))
            next = w->window[i].ctx;
    return next;
}

static bool first_of_label(const store_windows *w, int i) {
    for (int k = 0; k < i; k++)
        if (w->window[k].ctx == w->window[i].ctx && !strcmp(w->window[k].label, w->window[i].label))
            return false;
    return true;
}

static pleat_status join_rows(quality_table *t, pleat_error *error) {
    const store_windows *w = &t->windows;
    store_window *some = malloc(((size_t)w->n + 1) * sizeof(*some));
    t->row = malloc(((size_t)w->n + 1) * sizeof(*t->row));
    pleat_status status =
        some && t->row ? PLEAT_OK : err_set(error, PLEAT_EMEMORY, "no memory for a table of %d windows", w->n);
    for (int ctx = next_ctx(w, 0); ctx && !status; ctx = next_ctx(w, ctx))
        for (int i = 0; i < w->n && !status; i++) {
            int n = 0;
            if (w->window[i].ctx != ctx || !first_of_label(w, i))
                continue;
            for (int k = i; k < w->n; k++)
                if (w->window[k].ctx == ctx && !strcmp(w->window[k].label, w->window[i].label))
                    some[n++] = w->window[k];
            quality_row *row = &t->row[t->n_rows++];
            *row = (quality_row){.label = w->window[i].label, .spec = w->window[i].spec, .ctx = ctx};
            status = quality_join(some, n, &row->result, error);
        }
    free(some);
    return status;
}

static quality_found *found_of(quality_table *t, int tokens, const char *label) {
    for (int i = 0; i < t->n_found; i++)
        if (t->found[i].tokens == tokens && !strcmp(t->found[i].label, label))
            return &t->found[i];
    t->found[t->n_found] = (quality_found){.label = label, .tokens = tokens};
    return &t->found[t->n_found++];
}

static pleat_status count_found(quality_table *t, pleat_error *error) {
    t->found = malloc(((size_t)t->scores.n + 1) * sizeof(*t->found));
    if (!t->found)
        return err_set(error, PLEAT_EMEMORY, "no memory for a table of %d scores", t->scores.n);
    for (int i = 0; i < t->scores.n; i++) {
        const store_score *s = &t->scores.score[i];
        int tokens, round, percent;
        if (strcmp(s->metric, metric) || !needle_of(s->data_set, s->sample, &tokens, &round, &percent))
            continue;
        quality_found *f = found_of(t, tokens, s->label);
        for (int d = 0; d < NEEDLE_DEPTHS; d++)
            f->found[d] += needle_depth_percent(d) == percent && s->value > 0;
        f->n_rounds = round + 1 > f->n_rounds ? round + 1 : f->n_rounds;
    }
    return PLEAT_OK;
}

pleat_status quality_table_read(store *db, int64_t run, quality_table *out, pleat_error *error) {
    quality_table t = {.n_rows = 0};
    pleat_status status = store_windows_read(db, run, &t.windows, error);
    status = status ? status : store_scores_read(db, run, &t.scores, error);
    status = status ? status : join_rows(&t, error);
    status = status ? status : count_found(&t, error);
    if (status)
        quality_table_free(&t);
    else
        *out = t;
    return status;
}

void quality_table_free(quality_table *t) {
    free(t->row);
    free(t->found);
    store_windows_free(&t->windows);
    store_scores_free(&t->scores);
    *t = (quality_table){0};
}
