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

enum { WARM_TOKENS = 256, WARM_STEPS = 8, MOST_CELLS = 2 * MEASURE_MOST_METHODS };

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
    float *logits;      /* [largest batch][n_vocab], as whoever samples needs them; nobody reads them */
    double done, total; /* of throughput_cost */
} bench;

/* One cell of one method: its sequences and its two points. */
typedef struct cell {
    int method, batch, prompt;
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

static float *logits_of(const bench *b, int seq) {
    return b->logits + (size_t)seq * (size_t)b->model->n_vocab;
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
                                            .phase = n == left ? PLEAT_PROMPT_END : PLEAT_PROMPT,
                                            .want = n == left ? PLEAT_LOGITS_LAST : PLEAT_LOGITS_NONE,
                                            .logits = logits_of(b, i)};
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
        status =
            engine_seq_fill(b->engine, method, c->prompt, THROUGHPUT_DECODE_TOKENS, (uint64_t)i, &c->seq[i], error);
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
            items[i] = (pleat_item){.seq = c->seq[i],
                                    .tokens = &c->token[i],
                                    .n_tokens = 1,
                                    .phase = PLEAT_DECODE,
                                    .want = PLEAT_LOGITS_LAST,
                                    .logits = logits_of(b, i)};
        }
        status = pleat_step(b->engine, items, c->batch, error);
    }
    free(items);
    return status;
}

static void note_bytes(const cell *c, store_point *p) {
    size_t now = 0, peak = 0;
    for (int i = 0; i < c->batch; i++) {
        pleat_seq_stats stats = pleat_seq_describe(c->seq[i]);
        now += stats.kv_bytes;
        peak += stats.kv_peak_bytes;
    }
    p->kv_peak_bytes = peak > p->kv_peak_bytes ? peak : p->kv_peak_bytes;
    p->kv_bytes = now;
}

static pleat_status measure_once(bench *b, cell *c, const pleat_method *method, double rate[2], pleat_error *error) {
    double started = clock_seconds();
    pleat_status status = (c->filled ? fill : prefill)(b, c, method, error);
    double prefilled = clock_seconds();
    if (!status) {
        note_bytes(c, &c->point[0]);
        rate[0] = (double)c->batch * c->prompt / (prefilled - started);
        prefilled = clock_seconds();
        status = decode(b, c, THROUGHPUT_DECODE_TOKENS, error);
    }
    if (!status) {
        rate[1] = (double)c->batch * THROUGHPUT_DECODE_TOKENS / (clock_seconds() - prefilled);
        note_bytes(c, &c->point[1]);
    }
    close_seqs(c);
    return status;
}

/* ---- a cell and what is known of it ---- */

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

static const store_point *known_point(const store_points *known, const store_point *p) {
    for (int i = 0; known && i < known->n; i++) {
        const store_point *k = &known->point[i];
        if (k->batch == p->batch && k->prompt_tokens == p->prompt_tokens && k->filled == p->filled &&
            !strcmp(k->label, p->label) && !strcmp(k->stage, p->stage))
            return k;
    }
    return NULL;
}

/* The points of a cell, with what is known of them; strings are borrowed. */
static void begin_cell(const throughput_grid *grid, const store_points *known, cell *c) {
    for (int stage = 0; stage < 2; stage++) {
        store_point *p = &c->point[stage];
        *p = (store_point){.label = grid->methods->label[c->method],
                           .spec = pleat_method_spec(grid->methods->method[c->method]),
                           .batch = c->batch,
                           .prompt_tokens = c->prompt,
                           .stage = stages[stage],
                           .filled = c->filled};
        const store_point *k = known_point(known, p);
        if (!k || k->error)
            continue;
        p->n_repeats = k->n_repeats;
        memcpy(p->rate, k->rate, sizeof(p->rate));
        p->median = k->median;
        p->spread = k->spread;
        p->kv_bytes = k->kv_bytes;
        p->kv_peak_bytes = k->kv_peak_bytes;
    }
}

/* The cells of a batch size and prompt length that take turns: one per method, two where prompt and fill are compared.
 */
static int list_cells(const throughput_grid *grid, const store_points *known, int batch, int prompt, cell *out) {
    int n = 0, longest = 0, smallest = grid->batch[0];
    bool fills = false;
    for (int i = 0; i < grid->n_prompt; i++) {
        bool filled = grid->fill_tokens && grid->prompt[i] >= grid->fill_tokens;
        fills = fills || filled;
        longest = !filled && grid->prompt[i] > longest ? grid->prompt[i] : longest;
    }
    for (int i = 1; i < grid->n_batch; i++)
        smallest = grid->batch[i] < smallest ? grid->batch[i] : smallest;
    bool filled = grid->fill_tokens && prompt >= grid->fill_tokens;
    bool both = fills && prompt == longest && batch == smallest;
    for (int i = 0; i < grid->methods->n; i++)
        for (int k = 0; k <= both; k++) {
            cell *c = &out[n++];
            *c = (cell){.method = i, .batch = batch, .prompt = prompt, .filled = filled || k};
            begin_cell(grid, known, c);
        }
    return n;
}

static double repeat_cost(const cell *c) {
    double prefill = (c->filled ? 0.1 : 1) * (double)c->batch * c->prompt;
    return prefill + THROUGHPUT_DECODE_TOKENS * measure_step_cost(c->batch, c->prompt);
}

double throughput_cost(const throughput_grid *grid, const store_points *known) {
    cell cells[MOST_CELLS];
    double cost = 0;
    for (int i = 0; i < grid->n_prompt; i++)
        for (int k = 0; k < grid->n_batch; k++) {
            int n = list_cells(grid, known, grid->batch[k], grid->prompt[i], cells);
            for (int m = 0; m < n; m++)
                if (cells[m].point[1].n_repeats < grid->repeats)
                    cost += repeat_cost(&cells[m]) * (grid->repeats - cells[m].point[1].n_repeats);
        }
    return cost;
}

/* ---- running a cell ---- */

/* Upper bound of the pool bytes of a cell. A fill has no more than one layer of one sequence in fp16 at a time, and
 * what it leaves is what a short prompt and a long answer would. */
static size_t plan_bytes(const bench *b, const cell *c) {
    const pleat_method *method = b->grid->methods->method[c->method];
    size_t batch = (size_t)c->batch, f16_token_bytes = pleat_model_describe(b->model).f16_token_bytes;
    if (!c->filled)
        return batch * engine_plan_bytes(b->model, method, c->prompt, THROUGHPUT_DECODE_TOKENS);
    return batch * engine_plan_bytes(b->model, method, 1, c->prompt + THROUGHPUT_DECODE_TOKENS) +
           (size_t)(c->prompt + 3 * 64) * f16_token_bytes / (size_t)b->model->n_layer;
}

/* Why this cell cannot be measured; NULL: it can. */
static const char *refusal(bench *b, const cell *c, size_t *bytes_needed, char *out, size_t cap) {
    size_t budget = kv_pool_budget_bytes(engine_pool(b->engine));
    *bytes_needed = plan_bytes(b, c);
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
    return b->sink(b->context, &c->point[c->filled], 2 - c->filled, error);
}

/* The cell cannot be measured: told once. */
static pleat_status refuse(bench *b, cell *c, const char *why, size_t bytes_needed, pleat_error *error) {
    for (int stage = 0; stage < 2; stage++) {
        c->point[stage].error = why;
        c->point[stage].bytes_needed = bytes_needed;
    }
    pleat_status status = put(b, c, error);
    for (int stage = 0; stage < 2; stage++)
        c->point[stage].error = "told"; /* `why` ends with the caller */
    return status;
}

/* The round's repeat of a cell; nothing when it has it already. */
static pleat_status repeat(bench *b, cell *c, int round, pleat_error *error) {
    double rate[2] = {0};
    char why[160];
    size_t bytes_needed;
    pleat_error reason;
    if (c->point[1].error || c->point[1].n_repeats > round)
        return PLEAT_OK;
    const pleat_method *method = b->grid->methods->method[c->method];
    const char *no = refusal(b, c, &bytes_needed, why, sizeof(why));
    pleat_status status = no ? PLEAT_EFULL : measure_once(b, c, method, rate, &reason);
    b->done += repeat_cost(c) * (no ? b->grid->repeats : 1);
    if (status == PLEAT_EFULL)
        return refuse(b, c, no ? no : reason.text, bytes_needed, error);
    if (status)
        return err_set(error, status, "%s", reason.text);
    for (int stage = c->filled; stage < 2; stage++) {
        store_point *p = &c->point[stage];
        p->rate[p->n_repeats++] = rate[stage];
        summarise(p);
    }
    return put(b, c, error);
}

static pleat_status run_cells(bench *b, int batch, int prompt, pleat_error *error) {
    cell cells[MOST_CELLS];
    int n = list_cells(b->grid, b->known, batch, prompt, cells);
    pleat_seq **seq = calloc((size_t)batch, sizeof(*seq));
    int32_t *token = calloc((size_t)batch, sizeof(*token));
    pleat_status status = PLEAT_OK;
    if (!seq || !token)
        status = err_set(error, PLEAT_EMEMORY, "no memory for a batch of %d", batch);
    for (int round = 0; round < b->grid->repeats && !status; round++)
        for (int i = 0; i < n && !status; i++) {
            char detail[80];
            cells[i].seq = seq;
            cells[i].token = token;
            snprintf(detail, sizeof(detail), "%s, batch %d, %d tokens", cells[i].point[1].label, batch, prompt);
            measure_tell(b->watch, b->done, b->total, detail);
            status = repeat(b, &cells[i], round, error);
        }
    free(seq);
    free(token);
    return status;
}

/* ---- the grid ---- */

void throughput_add_size(int *list, int *n, int value) {
    for (int i = 0; i < *n; i++)
        if (list[i] == value)
            return;
    if (*n < THROUGHPUT_MOST_SIZES)
        list[(*n)++] = value;
}

static pleat_status load_text(bench *b, pleat_error *error) {
    size_t n_bytes;
    const char *bytes = assets_text(&n_bytes);
    return tokenizer_encode(b->model->tok, bytes, n_bytes, TOKENIZER_PLAIN, &b->ids, &b->n_ids, error);
}

static pleat_status warm_up(bench *b, pleat_error *error) {
    pleat_seq *seq = NULL;
    int32_t token;
    pleat_error reason;
    cell c = {.batch = 1, .prompt = WARM_TOKENS, .seq = &seq, .token = &token};
    if (b->model->context_tokens < WARM_TOKENS + WARM_STEPS)
        return PLEAT_OK;
    pleat_status status = prefill(b, &c, b->grid->methods->method[0], &reason);
    status = status ? status : decode(b, &c, WARM_STEPS, &reason);
    close_seqs(&c);
    /* a pool too small even for this is told point by point */
    return status == PLEAT_EFULL || !status ? PLEAT_OK : err_set(error, status, "%s", reason.text);
}

pleat_status throughput_run(pleat_engine *engine, const throughput_grid *grid, const store_points *known,
                            throughput_sink sink, void *context, const measure_watch *watch, pleat_error *error) {
    bench b = {.engine = engine,
               .model = engine_model(engine),
               .grid = grid,
               .known = known,
               .sink = sink,
               .context = context,
               .watch = watch,
               .total = throughput_cost(grid, known)};
    if (b.total <= 0)
        return PLEAT_OK;
    int most = 1;
    for (int k = 0; k < grid->n_batch; k++)
        most = grid->batch[k] > most ? grid->batch[k] : most;
    b.logits = mem_alloc((size_t)most * (size_t)b.model->n_vocab, sizeof(*b.logits));
    pleat_status status = b.logits ? load_text(&b, error) : err_set(error, PLEAT_EMEMORY, "no memory for logits");
    measure_tell(watch, 0, b.total, "warming up");
    status = status ? status : warm_up(&b, error);
    for (int i = 0; i < grid->n_prompt; i++)
        for (int k = 0; k < grid->n_batch && !status; k++)
            status = run_cells(&b, grid->batch[k], grid->prompt[i], error);
    if (!status)
        measure_tell(watch, b.total, b.total, "throughput");
    free(b.ids);
    mem_free(b.logits);
    return status;
}
