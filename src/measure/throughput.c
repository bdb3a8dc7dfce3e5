/* throughput.c - see throughput.h.
 *
 * Prompts are the committed text, each sequence from another place. Before the first point the engine runs a short
 * prompt and a few steps, so that pages are mapped, clocks are up and caches are warm. Rates are kept per repeat; the
 * median is reported with its spread. */
#include "measure/throughput.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/status.h"
#include "engine/engine.h"
#include "measure/assets.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WARM_TOKENS = 256, WARM_STEPS = 8, MOST_BATCH = 1024 };

typedef struct bench {
    pleat_engine *engine;
    const pleat_model *model;
    const throughput_grid *grid;
    const store_points *known;
    throughput_sink sink;
    void *context;
    const measure_watch *watch;
    int32_t *ids; /* the text */
    int n_ids;
    int n_done, n_all; /* points x repeats, for the progress */
} bench;

/* One cell of one method: its sequences and its two points. */
typedef struct cell {
    int batch, prompt;
    bool filled;
    store_point point[2]; /* prefill, decode */
    pleat_seq **seq;      /* [batch] */
    int32_t *token;       /* [batch] */
} cell;

static const char *const stages[2] = {"prefill", "decode"};

/* ---- one measurement ---- */

static const int32_t *prompt_token(const bench *b, int seq, int position) {
    return &b->ids[((int64_t)seq * 997 + position) % b->n_ids];
}

static void close_seqs(cell *c) {
    for (int i = 0; i < c->batch; i++) {
        pleat_seq_close(c->seq[i]);
        c->seq[i] = NULL;
    }
}

/* All prompts of the batch: each step takes as much as it holds, sequence by sequence. */
static pleat_status prefill(bench *b, cell *c, const pleat_method *method, pleat_error *error) {
    pleat_item *items = calloc((size_t)c->batch, sizeof(*items));
    int32_t *ids = malloc((size_t)c->batch * (size_t)c->prompt * sizeof(*ids));
    int *done = calloc((size_t)c->batch, sizeof(*done));
    pleat_status status = PLEAT_OK;
    if (!items || !ids || !done)
        status = err_set(error, PLEAT_EMEMORY, "no memory for %d prompts of %d tokens", c->batch, c->prompt);
    for (int i = 0; i < c->batch && !status; i++) {
        for (int t = 0; t < c->prompt; t++)
            ids[(size_t)i * (size_t)c->prompt + (size_t)t] = *prompt_token(b, i, t);
        status = pleat_seq_open(b->engine, method, &c->seq[i], error);
        status = status ? status : pleat_seq_expect(c->seq[i], THROUGHPUT_DECODE_TOKENS, error);
    }
    for (int first = 0; first < c->batch && !status;) {
        int room = engine_max_step_tokens(b->engine), n_items = 0;
        for (int i = first; i < c->batch && room >= 64; i++) {
            int left = c->prompt - done[i], n = pleat_seq_cut(b->engine, c->seq[i], left < room ? left : room);
            if (n < left)
                n = n / 64 * 64;
            if (n == 0)
                break;
            items[n_items++] = (pleat_item){.seq = c->seq[i],
                                            .tokens = ids + (size_t)i * (size_t)c->prompt + done[i],
                                            .n_tokens = n,
                                            .phase = n == left ? PLEAT_PROMPT_END : PLEAT_PROMPT};
            done[i] += n;
            room -= n;
            if (done[i] < c->prompt)
                break;
        }
        status = pleat_step(b->engine, items, n_items, error);
        while (first < c->batch && done[first] == c->prompt)
            first++;
    }
    free(items);
    free(ids);
    free(done);
    return status;
}

static pleat_status fill(bench *b, cell *c, const pleat_method *method, pleat_error *error) {
    pleat_status status = PLEAT_OK;
    for (int i = 0; i < c->batch && !status; i++)
        status = engine_seq_fill(b->engine, method, c->prompt, THROUGHPUT_DECODE_TOKENS, (uint64_t)i, &c->seq[i], error);
    return status;
}

static pleat_status decode(bench *b, cell *c, int n_steps, pleat_error *error) {
    pleat_item *items = calloc((size_t)c->batch, sizeof(*items));
    if (!items)
        return err_set(error, PLEAT_EMEMORY, "no memory for a batch of %d", c->batch);
    pleat_status status = PLEAT_OK;
    for (int step = 0; step < n_steps && !status; step++) {
        for (int i = 0; i < c->batch; i++) {
            c->token[i] = *prompt_token(b, i, c->prompt + step);
            items[i] = (pleat_item){.seq = c->seq[i], .tokens = &c->token[i], .n_tokens = 1, .phase = PLEAT_DECODE};
        }
        status = pleat_step(b->engine, items, c->batch, error);
    }
    free(items);
    return status;
}

static void note_bytes(const cell *c, store_point *p, bool peak_only) {
    size_t now = 0, peak = 0;
    for (int i = 0; i < c->batch; i++) {
        pleat_seq_stats stats = pleat_seq_describe(c->seq[i]);
        now += stats.kv_bytes;
        peak += stats.kv_peak_bytes;
    }
    p->kv_peak_bytes = peak > p->kv_peak_bytes ? peak : p->kv_peak_bytes;
    p->kv_bytes = peak_only ? p->kv_bytes : now;
}

static pleat_status measure_once(bench *b, cell *c, const pleat_method *method, double rate[2], pleat_error *error) {
    double started = clock_seconds();
    pleat_status status = (c->filled ? fill : prefill)(b, c, method, error);
    double prefilled = clock_seconds();
    if (!status) {
        note_bytes(c, &c->point[0], false);
        rate[0] = (double)c->batch * c->prompt / (prefilled - started);
        prefilled = clock_seconds();
        status = decode(b, c, THROUGHPUT_DECODE_TOKENS, error);
    }
    if (!status) {
        rate[1] = (double)c->batch * THROUGHPUT_DECODE_TOKENS / (clock_seconds() - prefilled);
        note_bytes(c, &c->point[1], false);
    }
    close_seqs(c);
    return status;
}

/* ---- a cell ---- */

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void summarise(store_point *p) {
    double sorted[STORE_MOST_REPEATS];
    memcpy(sorted, p->rate, (size_t)p->n_repeats * sizeof(*sorted));
    qsort(sorted, (size_t)p->n_repeats, sizeof(*sorted), by_size);
    int n = p->n_repeats;
    p->median = n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
    p->spread = (sorted[n - 1] - sorted[0]) / p->median;
}

static const store_point *known_point(const bench *b, const store_point *p) {
    for (int i = 0; b->known && i < b->known->n; i++) {
        const store_point *k = &b->known->point[i];
        if (k->batch == p->batch && k->prompt_tokens == p->prompt_tokens && !strcmp(k->label, p->label) &&
            !strcmp(k->stage, p->stage))
            return k;
    }
    return NULL;
}

/* The points of a method in a cell, with what is known of them; strings are borrowed. */
static void begin_cell(const bench *b, int method, cell *c) {
    for (int stage = 0; stage < 2; stage++) {
        store_point *p = &c->point[stage];
        *p = (store_point){.label = b->grid->methods->label[method],
                           .spec = pleat_method_spec(b->grid->methods->method[method]),
                           .batch = c->batch,
                           .prompt_tokens = c->prompt,
                           .stage = stages[stage],
                           .filled = c->filled};
        const store_point *k = known_point(b, p);
        if (!k)
            continue;
        p->n_repeats = k->n_repeats;
        memcpy(p->rate, k->rate, sizeof(p->rate));
        p->kv_bytes = k->kv_bytes;
        p->kv_peak_bytes = k->kv_peak_bytes;
        p->error = k->error;
    }
}

/* Why this cell cannot be measured; NULL: it can. */
static const char *refusal(bench *b, const pleat_method *method, const cell *c, size_t *bytes_needed, char *out,
                           size_t cap) {
    *bytes_needed = (size_t)c->batch * engine_plan_bytes(b->model, method, c->prompt, THROUGHPUT_DECODE_TOKENS);
    size_t budget = kv_pool_budget_bytes(engine_pool(b->engine));
    if (c->prompt + THROUGHPUT_DECODE_TOKENS > b->model->context_tokens)
        snprintf(out, cap, "%d tokens and %d new ones are beyond the model's context of %d", c->prompt,
                 THROUGHPUT_DECODE_TOKENS, b->model->context_tokens);
    else if (*bytes_needed > budget)
        snprintf(out, cap, "the KV cache needs up to %zu bytes; the pool has %zu", *bytes_needed, budget);
    else
        return NULL;
    return out;
}

static pleat_status put(bench *b, const cell *c, pleat_error *error) {
    pleat_status status = PLEAT_OK;
    for (int stage = c->filled; stage < 2 && !status; stage++)
        status = b->sink(b->context, &c->point[stage], error);
    return status;
}

/* One more repeat of one method; nothing when it has them all. */
static pleat_status repeat(bench *b, cell *c, int method, int round, pleat_error *error) {
    double rate[2] = {0};
    char why[160];
    store_point *last = &c->point[1];
    if (last->error || last->n_repeats > round)
        return PLEAT_OK;
    const pleat_method *m = b->grid->methods->method[method];
    size_t bytes_needed;
    const char *no = refusal(b, m, c, &bytes_needed, why, sizeof(why));
    pleat_error reason;
    pleat_status status = no ? PLEAT_EFULL : measure_once(b, c, m, rate, &reason);
    if (status == PLEAT_EFULL) {
        for (int stage = 0; stage < 2; stage++) {
            c->point[stage].error = no ? why : reason.text;
            c->point[stage].bytes_needed = bytes_needed;
        }
        status = put(b, c, error);
        for (int stage = 0; stage < 2; stage++)
            c->point[stage].error = "told"; /* `why` ends here */
        return status;
    }
    if (status)
        return err_set(error, status, "%s", reason.text);
    for (int stage = 0; stage < 2; stage++) {
        store_point *p = &c->point[stage];
        p->rate[p->n_repeats++] = rate[stage];
        summarise(p);
    }
    return put(b, c, error);
}

static pleat_status run_cell(bench *b, int batch, int prompt, pleat_error *error) {
    int n = b->grid->methods->n;
    cell cells[MEASURE_MOST_METHODS];
    pleat_seq **seq = calloc((size_t)batch, sizeof(*seq));
    int32_t *token = calloc((size_t)batch, sizeof(*token));
    pleat_status status = PLEAT_OK;
    if (!seq || !token)
        status = err_set(error, PLEAT_EMEMORY, "no memory for a batch of %d", batch);
    for (int i = 0; i < n; i++) {
        cells[i] = (cell){.batch = batch, .prompt = prompt, .seq = seq, .token = token};
        cells[i].filled = b->grid->fill_tokens && prompt >= b->grid->fill_tokens;
        begin_cell(b, i, &cells[i]);
    }
    for (int round = 0; round < b->grid->repeats && !status; round++)
        for (int i = 0; i < n && !status; i++) {
            char detail[80];
            snprintf(detail, sizeof(detail), "%s, batch %d, %d tokens", b->grid->methods->label[i], batch, prompt);
            measure_tell(b->watch, b->n_done++, b->n_all, detail);
            status = repeat(b, &cells[i], i, round, error);
        }
    free(seq);
    free(token);
    return status;
}

/* ---- the grid ---- */

static pleat_status load_text(bench *b, pleat_error *error) {
    size_t n_bytes;
    const char *bytes = assets_text(&n_bytes);
    return tokenizer_encode(b->model->tok, bytes, n_bytes, TOKENIZER_PLAIN, &b->ids, &b->n_ids, error);
}

static pleat_status warm_up(bench *b, pleat_error *error) {
    pleat_seq *seq = NULL;
    int32_t token;
    cell c = {.batch = 1, .prompt = WARM_TOKENS, .seq = &seq, .token = &token};
    if (b->model->context_tokens < WARM_TOKENS + WARM_STEPS)
        return PLEAT_OK;
    pleat_status status = prefill(b, &c, b->grid->methods->method[0], error);
    status = status ? status : decode(b, &c, WARM_STEPS, error);
    close_seqs(&c);
    return status;
}

static bool complete(const bench *b) {
    for (int i = 0; i < b->grid->n_prompt; i++)
        for (int k = 0; k < b->grid->n_batch; k++)
            for (int m = 0; m < b->grid->methods->n; m++) {
                store_point p = {.label = b->grid->methods->label[m],
                                 .batch = b->grid->batch[k],
                                 .prompt_tokens = b->grid->prompt[i],
                                 .stage = stages[1]};
                const store_point *known = known_point(b, &p);
                if (!known || (!known->error && known->n_repeats < b->grid->repeats))
                    return false;
            }
    return true;
}

pleat_status throughput_run(pleat_engine *engine, const throughput_grid *grid, const store_points *known,
                            throughput_sink sink, void *context, const measure_watch *watch, pleat_error *error) {
    bench b = {.engine = engine,
               .model = engine_model(engine),
               .grid = grid,
               .known = known,
               .sink = sink,
               .context = context,
               .watch = watch};
    b.n_all = grid->n_batch * grid->n_prompt * grid->methods->n * grid->repeats;
    if (complete(&b))
        return PLEAT_OK;
    pleat_status status = load_text(&b, error);
    status = status ? status : warm_up(&b, error);
    for (int i = 0; i < grid->n_prompt; i++)
        for (int k = 0; k < grid->n_batch && !status; k++)
            status = run_cell(&b, grid->batch[k], grid->prompt[i], error);
    if (!status)
        measure_tell(watch, b.n_all, b.n_all, "throughput");
    free(b.ids);
    return status;
}

pleat_status throughput_agree(pleat_engine *engine, const measure_methods *methods, int prompt_tokens,
                              throughput_agreement *out, pleat_error *error) {
    enum { TURNS = 3 };
    throughput_grid grid = {.methods = methods};
    bench b = {.engine = engine, .model = engine_model(engine), .grid = &grid};
    pleat_seq *seq = NULL;
    int32_t token;
    store_point real = {.n_repeats = 0}, filled = {.n_repeats = 0};
    pleat_status status = load_text(&b, error);
    for (int turn = 0; turn < 2 * TURNS && !status; turn++) {
        cell c = {.batch = 1, .prompt = prompt_tokens, .filled = turn % 2, .seq = &seq, .token = &token};
        double rate[2];
        status = measure_once(&b, &c, methods->method[0], rate, error);
        store_point *p = turn % 2 ? &filled : &real;
        p->rate[p->n_repeats++] = rate[1];
    }
    free(b.ids);
    if (status)
        return status;
    summarise(&real);
    summarise(&filled);
    *out =
        (throughput_agreement){.prompt_tokens = prompt_tokens, .real_rate = real.median, .filled_rate = filled.median};
    return PLEAT_OK;
}
