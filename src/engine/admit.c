/* admit.c - who runs: the queue, admission by bytes, those moved out, and who gives way.
 *
 * A request whose place in the queue went to another tenant (tenants.h) is ended before anybody is admitted.
 *
 * Order of admission: those moved out first (oldest first), then, among tenants, the one with the fewest running
 * requests; within a tenant by arrival. A request that does not fit holds back only its tenant's later ones while
 * others fit, but never for good: one that found no room after HELD_SECONDS is next, and nobody is admitted before it.
 */
#include "engine/scheduler_inside.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/status.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HELD_SECONDS = 5 };

/* ---- intake ---- */

static void append(request **list, request *r) {
    while (*list)
        list = &(*list)->next;
    r->next = NULL;
    *list = r;
}

static bool cancel_in(request *list, uint64_t id) {
    for (; list; list = list->next)
        if (list->id == id)
            return list->cancelled = true;
    return false;
}

static void mark_cancelled(scheduler *s, uint64_t id) {
    if (cancel_in(s->waiting, id) || cancel_in(s->moved, id))
        return;
    for (int i = 0; i < s->n_running; i++)
        s->running[i]->cancelled |= s->running[i]->id == id;
}

static void end_cancelled_in(scheduler *s, request **list) {
    while (*list) {
        request *r = *list;
        if (!r->cancelled) {
            list = &r->next;
            continue;
        }
        *list = r->next;
        request_end(s, r, REQUEST_CANCELLED, NULL);
    }
}

/* The newest request of a tenant that has one too many. */
static request **find_surplus(scheduler *s) {
    request **newest = NULL;
    for (request **at = &s->waiting; *at; at = &(*at)->next)
        if (tenants_surplus((*at)->tenant) > 0)
            newest = at;
    return newest;
}

static void end_surplus(scheduler *s) {
    for (request **at; atomic_load(&s->tenants.n_surplus) > 0 && (at = find_surplus(s));) {
        request *r = *at;
        *at = r->next;
        request_end(s, r, REQUEST_NO_ROOM, "the queue is full, and this client had the most requests in it");
    }
}

/* Cancellations are fetched first: what one of them names was submitted before, and is in the mailbox by then. */
void admit_take_in(scheduler *s) {
    cancellation *c = atomic_exchange(&s->cancelled, NULL);
    request *newest = atomic_exchange(&s->mailbox, NULL), *oldest = NULL;
    while (newest) { /* turned round: oldest first */
        request *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest) {
        request *next = oldest->next;
        append(&s->waiting, oldest);
        oldest = next;
    }
    bool any = c != NULL;
    while (c) {
        cancellation *next = c->next;
        mark_cancelled(s, c->id);
        free(c);
        c = next;
    }
    if (any) {
        end_cancelled_in(s, &s->waiting);
        end_cancelled_in(s, &s->moved);
        for (int i = s->n_running - 1; i >= 0; i--)
            if (s->running[i]->cancelled)
                admit_end(s, i, REQUEST_CANCELLED, NULL);
    }
    end_surplus(s);
}

/* ---- running ---- */

static request *take_running(scheduler *s, int i) {
    request *r = s->running[i];
    s->n_running--;
    memmove(&s->running[i], &s->running[i + 1], (size_t)(s->n_running - i) * sizeof(*s->running));
    s->committed_bytes -= r->plan_bytes;
    r->tenant->n_running--;
    return r;
}

void admit_end(scheduler *s, int i, request_finish finish, const char *sentence) {
    request_end(s, take_running(s, i), finish, sentence);
}

static void run(scheduler *s, request *r) {
    r->next = NULL;
    s->committed_bytes += r->plan_bytes;
    r->tenant->n_running++;
    int i = s->n_running++;
    for (; i > 0 && s->running[i - 1]->turn > r->turn; i--) /* back in its old place */
        s->running[i] = s->running[i - 1];
    s->running[i] = r;
}

static bool fits(const scheduler *s, const request *r) {
    double budget = s->options.overcommit * (double)kv_pool_budget_bytes(s->engine->pages);
    return s->n_running < s->options.max_running && (double)(s->committed_bytes + r->plan_bytes) <= budget;
}

/* ---- giving way ---- */

static bool move_out(scheduler *s, request *r) {
    size_t bytes = kv_image_bytes(r->seq->cache);
    bool to_memory = s->moved_bytes + bytes <= s->options.moved_bytes;
    if (!to_memory && !s->options.moved_dir)
        return false;
    if (pleat_seq_move_out(r->seq, to_memory ? NULL : s->options.moved_dir, NULL))
        return false;
    r->moved_bytes = to_memory ? bytes : 0;
    s->moved_bytes += r->moved_bytes;
    return true;
}

bool admit_preempt(scheduler *s) {
    if (s->n_running < 2)
        return false;
    request *r = s->running[s->n_running - 1];
    if (!move_out(s, r)) {
        admit_end(s, s->n_running - 1, REQUEST_NO_ROOM,
                  "the KV pool is full, and there is no place to move this request's cache out to");
        return true;
    }
    take_running(s, s->n_running - 1);
    r->state = REQUEST_MOVED;
    r->usage.preemptions++;
    figure_add(s, FIGURE_PREEMPTIONS, 1);
    request **at = &s->moved; /* oldest first */
    while (*at && (*at)->turn < r->turn)
        at = &(*at)->next;
    r->next = *at;
    *at = r;
    return true;
}

/* Back only when the pool really has room for it, so that it is not moved out again by the next step. */
static bool resume_first(scheduler *s) {
    request *r = s->moved;
    size_t budget = kv_pool_budget_bytes(s->engine->pages), used = kv_pool_used_bytes(s->engine->pages);
    size_t held = s->engine->prefix ? prefix_describe(s->engine->prefix).bytes : 0;
    used -= held < used ? held : used;
    if (s->n_running && (!fits(s, r) || used + r->plan_bytes > budget))
        return false;
    pleat_error error = {""};
    pleat_status status = pleat_seq_move_in(r->seq, &error);
    if (status == PLEAT_EFULL && s->n_running)
        return false;
    s->moved = r->next;
    s->moved_bytes -= r->moved_bytes;
    r->moved_bytes = 0;
    if (status) {
        request_end(s, r, finish_of(status), error.text);
        return true;
    }
    r->state = r->n_done < r->n_prompt ? REQUEST_PROMPT : REQUEST_DECODE;
    run(s, r);
    return true;
}

/* ---- admission ---- */

/* Whose turn it is; NULL: nobody who waits fits. */
static request **next_waiting(scheduler *s, double now) {
    request **best = NULL;
    for (request **at = &s->waiting; *at; at = &(*at)->next)
        if ((*at)->held)
            return fits(s, *at) ? at : NULL;
    for (request **at = &s->waiting; *at && s->n_running < s->options.max_running; at = &(*at)->next) {
        if (!fits(s, *at)) {
            (*at)->held = now - (*at)->submitted > HELD_SECONDS;
            if ((*at)->held)
                return best;
            continue;
        }
        if (!best || (*at)->tenant->n_running < (*best)->tenant->n_running)
            best = at;
    }
    return best;
}

static pleat_status start(scheduler *s, request *r, pleat_error *error) {
    if (r->prompt_logprobs && !s->prompt_row) {
        s->prompt_row = mem_alloc((size_t)PROMPT_ROWS * (size_t)s->engine->model->n_vocab, sizeof(*s->prompt_row));
        if (!s->prompt_row)
            return err_set(error, PLEAT_EMEMORY, "no memory for the logits of a prompt");
    }
    pleat_status status = pleat_seq_open(s->engine, &r->method, &r->seq, error);
    for (int i = 0; i < r->n_pins && !status; i++)
        status = pleat_seq_pin(r->seq, r->pin[i].first, r->pin[i].end - r->pin[i].first, error);
    status = status ? status : pleat_seq_expect(r->seq, r->max_tokens, error);
    if (!status && !r->prompt_logprobs)
        status = pleat_seq_reuse(r->seq, r->tokens, r->n_prompt, r->salt, &r->n_done, error);
    if (status)
        return status;
    r->usage.cached_tokens = r->n_done;
    figure_add(s, FIGURE_CACHED, r->n_done);
    r->state = REQUEST_PROMPT;
    return PLEAT_OK;
}

void admit_resume_and_start(scheduler *s) {
    while (s->moved)
        if (!resume_first(s))
            return; /* nobody new before those moved out are back */
    double now = clock_seconds();
    for (request **at; s->waiting && (at = next_waiting(s, now));) {
        request *r = *at;
        pleat_error error = {""};
        *at = r->next;
        r->admitted = now;
        r->turn = s->turn;
        pleat_status status = start(s, r, &error);
        if (status) {
            request_end(s, r, finish_of(status), error.text);
            continue;
        }
        run(s, r);
        atomic_store(&s->figure_running, s->n_running); /* before: a drain looks at both */
        tenants_give(&s->tenants, r->tenant);
        r->sink(r->context, &(request_event){.kind = REQUEST_STARTED});
    }
}
