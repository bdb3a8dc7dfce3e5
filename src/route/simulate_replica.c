/* simulate_replica.c - continuous batching in simulated time, a step at a time.
 *
 * A step gives one token to each decoding request and the rest of its token budget to prompts, oldest first, cut where
 * the budget ends (Sarathi's chunked prefill, OSDI 2024); its time is the predictor's. A prompt's end gives the first
 * token. Requests wait in one queue and are admitted in order while the batch and the memory have room: prompt and 1 %
 * of the memory as reserve. When a step's growth does not fit, the newest admitted request is put back to the queue's
 * head, and its prompt and what it has answered are prefilled again (vLLM's recompute). A request alone that outgrows
 * the memory ends there (`cut`).
 *
 * A prompt is held whole until it is done, under an evicting method too (`prefill: exact`); after it the method keeps,
 * and reads, at most its budget. Bytes are tokens times one figure: pages, and a quantised cache's fp16 window, are
 * left out. Cost: some 50 ns a step for the predictor and about 1 ns a decoding request. */
#include "route/simulate_replica.h"
#include "base/memory.h"
#include <string.h>

enum { MOST_CHUNKS = 64 }; /* prompts that a step takes at most */
static const double reserve = 0.01;

bool sim_replica_open(sim_replica *s, const route_replica *r, const sim_load *load, sim_answer *answer) {
    size_t batch = (size_t)r->most_batch, n = (size_t)load->n + 1;
    *s = (sim_replica){.r = r, .load = load, .answer = answer, .most_tokens = r->kv_bytes / r->token_bytes};
    s->queue_cap = (int)n;
    s->queue = mem_alloc(n, sizeof(*s->queue));
    s->part = mem_alloc(batch, sizeof(*s->part));
    s->id = mem_alloc(batch, sizeof(*s->id));
    s->left = mem_alloc(batch, sizeof(*s->left));
    s->keeps = mem_alloc(batch, sizeof(*s->keeps));
    s->order = mem_alloc(batch, sizeof(*s->order));
    s->ended = mem_alloc(n, sizeof(*s->ended));
    return s->queue && s->part && s->id && s->left && s->keeps && s->order && s->ended;
}

void sim_replica_close(sim_replica *s) {
    mem_free(s->queue);
    mem_free(s->part);
    mem_free(s->id);
    mem_free(s->left);
    mem_free(s->keeps);
    mem_free(s->order);
    mem_free(s->ended);
    *s = (sim_replica){0};
}

/* ---- one request ---- */

/* What is to be prefilled: after a preemption the answer so far too. */
static int prompt_of(const sim_replica *s, int id) {
    return s->load->prompt[id] + s->answer[id].tokens;
}

static int whole_answer(const sim_replica *s, int id) {
    return s->load->answer[(size_t)id * (size_t)s->load->n_methods + (size_t)s->r->method];
}

static int keeps_of(const sim_replica *s, int tokens) {
    return s->r->most_kept_tokens > 0 && tokens > s->r->most_kept_tokens ? (int)s->r->most_kept_tokens : tokens;
}

static void end(sim_replica *s, int id, double now_s) {
    s->answer[id].end_s = now_s;
    s->ended[s->n_ended++] = id;
}

static void drop_running(sim_replica *s, int i) {
    int last = --s->n;
    s->kept -= s->keeps[i];
    s->id[i] = s->id[last];
    s->left[i] = s->left[last];
    s->keeps[i] = s->keeps[last];
    s->order[i] = s->order[last];
}

/* The prompt is done: the first token, or after a preemption the next one. */
static void begin_answer(sim_replica *s, int id, int64_t order, double now_s) {
    sim_answer *a = &s->answer[id];
    s->kept -= prompt_of(s, id);
    if (a->tokens++ == 0)
        a->first_s = now_s;
    if (a->tokens >= whole_answer(s, id)) {
        end(s, id, now_s);
        return;
    }
    int i = s->n++;
    s->id[i] = id;
    s->left[i] = whole_answer(s, id) - a->tokens;
    s->keeps[i] = keeps_of(s, prompt_of(s, id));
    s->order[i] = order;
    s->kept += s->keeps[i];
}

/* ---- admission and preemption ---- */

static void put_back(sim_replica *s, int id) {
    s->queue_head = (s->queue_head + s->queue_cap - 1) % s->queue_cap;
    s->queue[s->queue_head] = id;
    s->n_queue++;
    s->answer[id].n_preempted++;
}

static void admit(sim_replica *s) {
    while (s->n_queue && s->n + s->n_part < s->r->most_batch) {
        int id = s->queue[s->queue_head], tokens = prompt_of(s, id);
        bool alone = s->n + s->n_part == 0;
        if (!alone && s->kept + tokens > (1 - reserve) * s->most_tokens)
            return;
        s->queue_head = (s->queue_head + 1) % s->queue_cap;
        s->n_queue--;
        s->part[s->n_part++] = (sim_part){id, 0};
        s->kept += tokens;
        s->n_admitted++;
    }
}

static void preempt_newest(sim_replica *s) {
    if (s->n_part) {
        int id = s->part[--s->n_part].id;
        s->kept -= prompt_of(s, id);
        put_back(s, id);
        return;
    }
    int newest = 0;
    for (int i = 1; i < s->n; i++)
        newest = s->order[i] > s->order[newest] ? i : newest;
    int id = s->id[newest];
    s->answer[id].tokens = whole_answer(s, id) - s->left[newest];
    drop_running(s, newest);
    put_back(s, id);
}

static int growth(const sim_replica *s) {
    int n = 0, most = s->r->most_kept_tokens > 0 ? (int)s->r->most_kept_tokens : INT32_MAX;
    for (int i = 0; i < s->n; i++)
        n += s->keeps[i] < most;
    return n;
}

static void make_room(sim_replica *s, double now_s) {
    while (s->n && s->kept + growth(s) > s->most_tokens) {
        if (s->n + s->n_part > 1) {
            preempt_newest(s);
            continue;
        }
        int id = s->id[0];
        s->answer[id].tokens = whole_answer(s, id) - s->left[0];
        s->answer[id].cut = true;
        drop_running(s, 0);
        end(s, id, now_s);
    }
}

/* ---- steps ---- */

/* The tokens that prompt part i gets of a step, taken off its budget; asked of each in turn, oldest first. */
static int share(const sim_replica *s, int i, int *budget) {
    int left = prompt_of(s, s->part[i].id) - s->part[i].done, tokens = left < *budget ? left : *budget;
    *budget -= tokens;
    return tokens;
}

static int prompt_budget(const sim_replica *s) {
    return s->r->step_tokens > s->n ? s->r->step_tokens - s->n : 1;
}

static void begin_step(sim_replica *s, double now_s) {
    predict_chunk chunk[MOST_CHUNKS];
    predict_step step = {.chunk = chunk};
    make_room(s, now_s);
    admit(s);
    int budget = prompt_budget(s);
    for (int i = 0; i < s->n_part && budget && step.n_chunk < MOST_CHUNKS; i++) {
        int done = s->part[i].done;
        chunk[step.n_chunk++] = (predict_chunk){1, share(s, i, &budget), done};
    }
    step.decode_batch = s->n;
    if (s->n) {
        int64_t reads = 0;
        for (int i = 0; i < s->n; i++)
            reads += s->keeps[i];
        step.decode_reads = (double)(reads + growth(s)) / s->n;
    }
    s->busy = s->n || step.n_chunk;
    s->end_s = now_s + predict_step_ms(s->r->profile, &step) / 1e3;
}

static void finish_decodes(sim_replica *s, int n) {
    int most = s->r->most_kept_tokens > 0 ? (int)s->r->most_kept_tokens : INT32_MAX, least = INT32_MAX, grown = 0;
    for (int i = 0; i < n; i++) {
        int grows = s->keeps[i] < most;
        s->keeps[i] += grows;
        grown += grows;
        s->left[i]--;
        least = s->left[i] < least ? s->left[i] : least;
    }
    s->kept += grown;
    for (int i = n - 1; least == 0 && i >= 0; i--)
        if (s->left[i] == 0) {
            int id = s->id[i];
            s->answer[id].tokens = whole_answer(s, id);
            drop_running(s, i);
            end(s, id, s->end_s);
        }
}

static void finish_step(sim_replica *s) {
    int budget = prompt_budget(s), n_done = 0, n_decoded = s->n;
    s->n_steps++;
    for (int i = 0; i < s->n_part && budget && i < MOST_CHUNKS; i++) {
        s->part[i].done += share(s, i, &budget);
        n_done += s->part[i].done == prompt_of(s, s->part[i].id);
    }
    finish_decodes(s, n_decoded);
    for (int i = 0; i < n_done; i++)
        begin_answer(s, s->part[i].id, s->n_admitted - s->n_part + i, s->end_s);
    if (n_done) {
        memmove(s->part, s->part + n_done, (size_t)(s->n_part - n_done) * sizeof(*s->part));
        s->n_part -= n_done;
    }
}

void sim_replica_advance(sim_replica *s, double until_s) {
    while (s->busy && s->end_s <= until_s) {
        finish_step(s);
        begin_step(s, s->end_s);
    }
}

void sim_replica_add(sim_replica *s, int id, double now_s) {
    s->queue[(s->queue_head + s->n_queue++) % s->queue_cap] = id;
    if (!s->busy)
        begin_step(s, now_s);
}
