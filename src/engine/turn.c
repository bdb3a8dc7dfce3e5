/* turn.c - one step of everything that runs: what goes in, and what comes out to whom. */
#include "engine/scheduler_inside.h"
#include "base/clock.h"
#include "base/status.h"
#include <assert.h>
#include <math.h>
#include <string.h>

/* ---- what goes in ---- */

static size_t row_floats(const scheduler *s) {
    return (size_t)s->engine->model->n_vocab;
}

static void add_item(scheduler *s, int *n_items, request *r, int n, pleat_phase phase, float *logits,
                     pleat_logits want) {
    s->of_item[*n_items] = r;
    s->item[(*n_items)++] = (pleat_item){.seq = r->seq,
                                         .tokens = r->tokens + r->n_done,
                                         .n_tokens = n,
                                         .phase = phase,
                                         .want = want,
                                         .logits = want == PLEAT_LOGITS_NONE ? NULL : logits};
}

/* Prompt tokens that this step may take of r: a whole rest, or up to a multiple of 64. n_rows: of logits that are left
 * for prompts that want theirs. */
static int prompt_piece(const scheduler *s, const request *r, int budget, int n_rows) {
    int left = r->n_prompt - r->n_done, n = pleat_seq_cut(s->engine, r->seq, left);
    int most = r->prompt_logprobs && budget > n_rows ? n_rows : budget;
    return n <= most ? n : (r->n_done + most) / PIECE_TOKENS * PIECE_TOKENS - r->n_done;
}

/* Decoding requests first, each a token; then prompts in the order of admission, as far as the budget goes. */
static int fill_step(scheduler *s) {
    int n_items = 0, budget = s->options.step_tokens, n_rows = PROMPT_ROWS;
    for (int i = 0; i < s->n_running; i++) {
        if (s->running[i]->state != REQUEST_DECODE)
            continue;
        add_item(s, &n_items, s->running[i], 1, PLEAT_DECODE, s->row + (size_t)n_items * row_floats(s),
                 PLEAT_LOGITS_LAST);
        budget--;
    }
    for (int i = 0; i < s->n_running; i++) {
        request *r = s->running[i];
        int n = r->state == REQUEST_PROMPT ? prompt_piece(s, r, budget, n_rows) : 0;
        if (n <= 0)
            continue;
        bool last = r->n_done + n == r->n_prompt;
        pleat_phase phase = last ? PLEAT_PROMPT_END : PLEAT_PROMPT;
        if (r->prompt_logprobs) {
            add_item(s, &n_items, r, n, phase, s->prompt_row + (size_t)(PROMPT_ROWS - n_rows) * row_floats(s),
                     PLEAT_LOGITS_ALL);
            n_rows -= n;
        } else {
            add_item(s, &n_items, r, n, phase, s->row + (size_t)n_items * row_floats(s),
                     last ? PLEAT_LOGITS_LAST : PLEAT_LOGITS_NONE);
        }
        budget -= n;
    }
    return n_items;
}

/* ---- what comes out ---- */

static void fill_logprobs(const float *logits, int n_vocab, int n_top, token_logprob *t) {
    float most = -INFINITY;
    for (int i = 0; i < n_vocab; i++)
        most = logits[i] > most ? logits[i] : most;
    double shift = (double)most + log(sample_exp_sum(logits, n_vocab, most, 1));
    t->logprob = (float)((double)logits[t->id] - shift);
    t->n_top = 0;
    for (int i = 0; i < n_vocab && n_top; i++) {
        if (t->n_top == n_top && logits[i] <= logits[t->top_id[n_top - 1]])
            continue;
        int at = t->n_top < n_top ? t->n_top++ : n_top - 1;
        for (; at > 0 && logits[i] > logits[t->top_id[at - 1]]; at--)
            t->top_id[at] = t->top_id[at - 1];
        t->top_id[at] = i;
    }
    for (int i = 0; i < t->n_top; i++)
        t->top_logprob[i] = (float)((double)logits[t->top_id[i]] - shift);
}

/* Of n prompt tokens, whose logits are given. false: the sink has what it needs. */
static bool deliver_prompt(const scheduler *s, request *r, int n, const float *logits) {
    for (int i = 0; i < n; i++) {
        int at = r->n_done + i + 1;
        if (at >= r->n_prompt)
            break;
        token_logprob t = {.id = r->tokens[at]};
        fill_logprobs(logits + (size_t)i * row_floats(s), s->engine->model->n_vocab, r->n_top, &t);
        if (!r->sink(r->context, &(request_event){.kind = REQUEST_PROMPT_TOKEN, .token = &t}))
            return false;
    }
    return true;
}

static pleat_status choose(scheduler *s, request *r, float *logits, token_logprob *t, pleat_error *error) {
    int n_new = r->n_tokens - r->n_prompt;
    *t = (token_logprob){.id = 0};
    if (r->logprobs)
        memcpy(s->raw, logits, row_floats(s) * sizeof(*s->raw));
    for (int i = 0; i < r->n_bias; i++)
        logits[r->bias[i].id] += r->bias[i].bias;
    for (int i = 0; r->allowed && i < s->engine->model->n_vocab; i++)
        if (!(r->allowed[i / 8] >> i % 8 & 1))
            logits[i] = -INFINITY;
    for (int i = 0; i < s->n_end && n_new < r->min_tokens; i++)
        logits[s->end_id[i]] = -INFINITY;
    for (int i = 0; i < r->n_stop && n_new < r->min_tokens; i++)
        logits[r->stop[i]] = -INFINITY;
    pleat_status status = pleat_sample(s->engine, &r->sampling, logits, r->tokens, r->n_tokens, &t->id, error);
    if (!status && r->logprobs)
        fill_logprobs(s->raw, s->engine->model->n_vocab, r->n_top, t);
    return status;
}

static bool ends(const scheduler *s, const request *r, int32_t id) {
    for (int i = 0; i < r->n_stop; i++)
        if (r->stop[i] == id)
            return true;
    return !r->ignore_end && pleat_token_ends(s->engine->model, id);
}

/* What of the usage goes with the token that was just added, NULL: nothing. */
static const request_usage *usage_now(request *r) {
    enum { EVERY = 16 };
    if (r->usage.completion_tokens % EVERY != 1)
        return NULL;
    pleat_seq_stats stats = pleat_seq_describe(r->seq);
    r->usage.kv_bytes = stats.kv_bytes;
    r->usage.kv_peak_bytes = stats.kv_peak_bytes;
    return &r->usage;
}

static request_finish advance(scheduler *s, request *r, float *logits, pleat_error *error) {
    token_logprob t;
    if (r->first == 0) {
        r->first = clock_seconds();
        figure_add(s, FIGURE_PROMPT, r->n_prompt);
    }
    if (r->n_tokens - r->n_prompt >= r->max_tokens)
        return REQUEST_LENGTH;
    pleat_status status = choose(s, r, logits, &t, error);
    if (status)
        return finish_of(status);
    if (ends(s, r, t.id))
        return REQUEST_STOP;
    r->tokens[r->n_tokens++] = t.id;
    r->usage.completion_tokens++;
    figure_add(s, FIGURE_GENERATION, 1);
    if (!r->sink(r->context, &(request_event){.kind = REQUEST_TOKEN, .token = &t, .usage = usage_now(r)}))
        return REQUEST_STOP;
    if (r->n_tokens - r->n_prompt >= r->max_tokens || pleat_seq_room(r->seq) < 1)
        return REQUEST_LENGTH;
    return REQUEST_GOES_ON;
}

static int running_at(const scheduler *s, const request *r) {
    int i = 0;
    while (s->running[i] != r)
        i++;
    return i;
}

static void take_out(scheduler *s, request *r, const pleat_item *item) {
    pleat_error error = {""};
    request_finish finish = REQUEST_GOES_ON;
    float *last = item->logits;
    if (item->want == PLEAT_LOGITS_ALL) {
        if (!deliver_prompt(s, r, item->n_tokens, item->logits))
            finish = REQUEST_STOP;
        last += (size_t)(item->n_tokens - 1) * row_floats(s);
    }
    r->n_done += item->n_tokens;
    if (item->phase == PLEAT_PROMPT_END)
        r->state = REQUEST_DECODE;
    if (!finish && item->phase != PLEAT_PROMPT)
        finish = advance(s, r, last, &error);
    if (finish)
        admit_end(s, running_at(s, r), finish, error.text);
}

/* ---- a step ---- */

/* The step of all has failed, and pages of the pool are not what it lacks: nothing has changed, so each is stepped by
 * itself, and ends if that fails. Results do not depend on the batch. */
static void step_each(scheduler *s, int n_items) {
    for (int i = 0; i < n_items; i++) {
        pleat_error error = {""};
        pleat_status status = pleat_step(s->engine, &s->item[i], 1, &error);
        if (status)
            admit_end(s, running_at(s, s->of_item[i]), finish_of(status), error.text);
        else
            take_out(s, s->of_item[i], &s->item[i]);
    }
}

/* The youngest gives way to a full pool, until the step fits or one request is left. */
void turn_step(scheduler *s) {
    while (s->n_running) {
        int n_items = fill_step(s);
        assert(n_items > 0);
        pleat_status status = pleat_step(s->engine, s->item, n_items, NULL);
        if (status == PLEAT_EFULL && admit_preempt(s))
            continue;
        figure_add(s, FIGURE_STEPS, 1);
        for (int i = 0; !status && i < n_items; i++)
            take_out(s, s->of_item[i], &s->item[i]);
        if (status)
            step_each(s, n_items);
        return;
    }
}
