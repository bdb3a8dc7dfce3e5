/* generate.c - the decode loop: sample from each running stream's logits, show what is whole, step the rest as one
 * batch.
 *
 * A sampled token enters the cache only with the step after it, so an answer that ends never pays for its last token.
 */
#include "engine/generate.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/status.h"
#include "engine/engine.h"
#include "text/utf8.h"
#include <stdlib.h>

typedef struct run {
    pleat_engine *engine;
    const pleat_model *model;
    const generate_options *options;
    generate_sink sink;
    void *context;
    bool stopped; /* the sink said so */
} run;

/* Shows the bytes of the answer that end in a whole character; all: the rest too, repaired. */
static pleat_status show(run *r, generate_stream *s, int index, text *held, bool all, pleat_error *error) {
    size_t n = all ? held->n : utf8_complete(held->bytes, held->n);
    if (n == 0) {
        r->stopped = r->stopped || (r->sink && !r->sink(r->context, index, "", 0));
        return PLEAT_OK;
    }
    char *repaired = malloc(3 * n);
    if (!repaired)
        return err_set(error, PLEAT_EMEMORY, "no memory for an answer");
    size_t n_repaired = utf8_repair(held->bytes, n, repaired);
    text_append(&s->answer, repaired, n_repaired);
    if (r->sink && !r->stopped && !r->sink(r->context, index, repaired, n_repaired))
        r->stopped = true;
    free(repaired);
    text rest = {0};
    text_append(&rest, held->bytes + n, held->n - n);
    bool failed = rest.failed || s->answer.failed;
    text_free(held);
    *held = rest;
    return failed ? err_set(error, PLEAT_EMEMORY, "no memory for an answer") : PLEAT_OK;
}

/* One token more of a stream, or its end (s->finish). */
static pleat_status advance(run *r, generate_stream *s, int index, text *held, pleat_error *error) {
    int32_t token;
    if (s->n_ids >= r->options->max_tokens || r->stopped) {
        s->finish = "length";
        return PLEAT_OK;
    }
    pleat_status status =
        pleat_sample(r->engine, &r->options->sampling, s->logits, s->history, s->n_history, &token, error);
    if (status)
        return status;
    if (!r->options->ignore_end && pleat_token_ends(r->model, token)) {
        s->finish = "stop";
        s->pending = -1;
        return PLEAT_OK;
    }
    if (!mem_grow(&s->history, &s->cap_history, s->n_history + 1, sizeof(*s->history)))
        return err_set(error, PLEAT_EMEMORY, "no memory for an answer");
    s->history[s->n_history++] = token;
    s->n_ids++;
    s->pending = token;
    size_t n_bytes;
    const char *bytes = pleat_token_bytes(r->model, token, false, &n_bytes);
    text_append(held, bytes, n_bytes);
    status = show(r, s, index, held, false, error);
    if (!status && (s->n_ids >= r->options->max_tokens || r->stopped || pleat_seq_room(s->seq) < 1))
        s->finish = "length";
    return status;
}

static pleat_status step(run *r, generate_stream *streams, int n_streams, pleat_item *items, pleat_error *error) {
    int n_items = 0;
    for (int i = 0; i < n_streams; i++)
        if (!streams[i].finish)
            items[n_items++] = (pleat_item){.seq = streams[i].seq,
                                            .tokens = &streams[i].history[streams[i].n_history - 1],
                                            .n_tokens = 1,
                                            .phase = PLEAT_DECODE,
                                            .want = PLEAT_LOGITS_LAST,
                                            .logits = streams[i].logits};
    pleat_status status = pleat_step(r->engine, items, n_items, error);
    for (int i = 0; i < n_streams && !status; i++)
        if (!streams[i].finish) {
            streams[i].pending = -1;
            streams[i].n_steps++;
        }
    return status;
}

static pleat_status loop(run *r, generate_stream *streams, int n_streams, text *held, pleat_item *items,
                         pleat_error *error) {
    double started = clock_seconds();
    for (;;) {
        int n_running = 0;
        for (int i = 0; i < n_streams; i++) {
            if (streams[i].finish)
                continue;
            pleat_status status = advance(r, &streams[i], i, &held[i], error);
            if (!status && streams[i].finish)
                status = show(r, &streams[i], i, &held[i], true, error);
            if (status)
                return status;
            n_running += streams[i].finish == NULL;
            streams[i].decode_ms = (clock_seconds() - started) * 1e3;
        }
        if (n_running == 0)
            return PLEAT_OK;
        pleat_status status = step(r, streams, n_streams, items, error);
        if (status)
            return status;
    }
}

pleat_status generate_run(pleat_engine *engine, generate_stream *streams, int n_streams,
                          const generate_options *options, generate_sink sink, void *context, pleat_error *error) {
    run r = {.engine = engine, .model = engine_model(engine), .options = options, .sink = sink, .context = context};
    text *held = calloc((size_t)n_streams, sizeof(*held));
    pleat_item *items = calloc((size_t)n_streams, sizeof(*items));
    pleat_status status = PLEAT_OK;
    if (!held || !items)
        status = err_set(error, PLEAT_EMEMORY, "no memory for %d answers", n_streams);
    for (int i = 0; i < n_streams; i++) {
        streams[i].n_ids = streams[i].n_steps = 0;
        streams[i].finish = NULL;
        streams[i].pending = -1;
        streams[i].answer = (text){0};
    }
    if (!status)
        status = loop(&r, streams, n_streams, held, items, error);
    for (int i = 0; held && i < n_streams; i++)
        text_free(&held[i]);
    free(held);
    free(items);
    return status;
}
