/* lengths.c - see lengths.h. */
#include "measure/lengths.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/status.h"
#include "engine/engine.h"
#include "engine/generate.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- prompts ---- */

static pleat_status read_line(const char *source, int line, const char *bytes, size_t n, lengths_prompt *out,
                              pleat_error *error) {
    json_error_t why;
    json_t *object = json_loadb(bytes, n, 0, &why);
    const char *prompt = json_string_value(json_object_get(object, "prompt"));
    const char *id = json_string_value(json_object_get(object, "id"));
    const char *klass = json_string_value(json_object_get(object, "class"));
    char number[32];
    snprintf(number, sizeof(number), "line-%d", line);
    pleat_status status = PLEAT_OK;
    if (!object)
        status = err_set(error, PLEAT_EINPUT, "%.150s: line %d: %s", source, line, why.text);
    else if (!prompt || !*prompt)
        status = err_set(error, PLEAT_EINPUT, "%.150s: line %d has no text in \"prompt\"", source, line);
    if (!status) {
        *out = (lengths_prompt){strdup(id ? id : number), strdup(klass ? klass : ""), strdup(prompt)};
        if (!out->id || !out->klass || !out->text)
            status = err_set(error, PLEAT_EMEMORY, "no memory for the prompts of %.150s", source);
    }
    json_decref(object);
    return status;
}

static bool is_blank(const char *line, size_t n) {
    size_t i = 0;
    while (i < n && (line[i] == ' ' || line[i] == '\t' || line[i] == '\r'))
        i++;
    return i == n;
}

pleat_status lengths_read(const char *source, const char *bytes, size_t n_bytes, lengths_prompts *out,
                          pleat_error *error) {
    lengths_prompts list = {0};
    int cap = 0, line = 0;
    pleat_status status = PLEAT_OK;
    for (size_t at = 0; at < n_bytes && !status;) {
        const char *end = memchr(bytes + at, '\n', n_bytes - at);
        size_t n = end ? (size_t)(end - bytes) - at : n_bytes - at;
        line++;
        if (!is_blank(bytes + at, n)) {
            if (!mem_grow(&list.prompt, &cap, list.n + 1, sizeof(*list.prompt)))
                status = err_set(error, PLEAT_EMEMORY, "no memory for the prompts of %.150s", source);
            else if (!(status = read_line(source, line, bytes + at, n, &list.prompt[list.n], error)))
                list.n++;
        }
        at += n + 1;
    }
    if (!status && list.n == 0)
        status = err_set(error, PLEAT_EINPUT, "%.150s holds no prompts", source);
    for (int i = 1; i < list.n && !status; i++)
        for (int k = 0; k < i; k++)
            if (!strcmp(list.prompt[i].id, list.prompt[k].id))
                status = err_set(error, PLEAT_EINPUT, "%.150s: the id \"%.60s\" stands there twice", source,
                                 list.prompt[i].id);
    if (status)
        lengths_free(&list);
    else
        *out = list;
    return status;
}

void lengths_free(lengths_prompts *prompts) {
    for (int i = 0; i < prompts->n; i++) {
        free(prompts->prompt[i].id);
        free(prompts->prompt[i].klass);
        free(prompts->prompt[i].text);
    }
    free(prompts->prompt);
    *prompts = (lengths_prompts){0};
}

/* ---- answers ---- */

typedef struct pair { /* one prompt, all methods */
    pleat_engine *engine;
    const pleat_model *model;
    const measure_methods *methods;
    pleat_seq *prompt;
    generate_stream stream[MEASURE_MOST_METHODS];
    float *logits; /* [n][n_vocab] */
    double ttft_ms[MEASURE_MOST_METHODS];
    int n_prompt;
} pair;

static pleat_status prefill(pair *p, const int32_t *ids, int max_tokens, pleat_error *error) {
    double started = clock_seconds();
    size_t n_vocab = (size_t)p->model->n_vocab;
    pleat_status status = pleat_seq_open(p->engine, p->methods->method[0], &p->prompt, error);
    if (status)
        return status;
    for (int i = 0; i < p->methods->n; i++)
        engine_seq_want(p->prompt, p->methods->method[i]);
    status = pleat_seq_expect(p->prompt, max_tokens, error);
    if (status)
        return status;
    status = pleat_prefill(p->engine, p->prompt, ids, p->n_prompt, false, PLEAT_LOGITS_LAST, p->logits, error);
    double shared_ms = (clock_seconds() - started) * 1e3;
    for (int i = 0; i < p->methods->n && !status; i++) {
        generate_stream *s = &p->stream[i];
        started = clock_seconds();
        status = pleat_seq_fork(p->engine, p->prompt, p->methods->method[i], &s->seq, error);
        double forked = clock_seconds();
        status = status ? status : engine_seq_end_prompt(p->engine, s->seq, error);
        p->ttft_ms[i] = shared_ms + (clock_seconds() - forked) * 1e3;
        s->logits = p->logits + (size_t)i * n_vocab;
        if (i)
            memcpy(s->logits, p->logits, n_vocab * sizeof(*p->logits));
        s->history = malloc((size_t)p->n_prompt * sizeof(*ids));
        if (!s->history)
            return err_set(error, PLEAT_EMEMORY, "no memory for an answer");
        memcpy(s->history, ids, (size_t)p->n_prompt * sizeof(*ids));
        s->n_history = s->cap_history = p->n_prompt;
    }
    return status;
}

static int agreement(const generate_stream *a, const generate_stream *b) {
    int n = a->n_ids < b->n_ids ? a->n_ids : b->n_ids, i = 0;
    while (i < n && a->history[a->n_history - a->n_ids + i] == b->history[b->n_history - b->n_ids + i])
        i++;
    return i;
}

/* Evicted or packed something; a method that only reads less shows in what it says. */
static bool acted(const pleat_seq_stats *stats, const store_answer *a, const generate_stream *base) {
    return stats->evicted || stats->seals || a->agree_tokens < a->n_tokens || a->n_tokens != base->n_ids;
}

static void take_answers(pair *p, const char *data_set, const lengths_prompt *prompt, store_answer *answers) {
    for (int i = 0; i < p->methods->n; i++) {
        generate_stream *s = &p->stream[i];
        pleat_seq_stats stats = pleat_seq_describe(s->seq);
        answers[i] = (store_answer){.data_set = data_set,
                                    .sample = prompt->id,
                                    .klass = prompt->klass,
                                    .prompt = prompt->text,
                                    .label = p->methods->label[i],
                                    .spec = pleat_method_spec(p->methods->method[i]),
                                    .text = s->answer.bytes,
                                    .prompt_tokens = p->n_prompt,
                                    .n_tokens = s->n_ids,
                                    .finish = s->finish,
                                    .ttft_ms = p->ttft_ms[i],
                                    .tpot_ms = s->n_steps ? s->decode_ms / s->n_steps : 0,
                                    .kv_bytes = stats.kv_bytes,
                                    .agree_tokens = agreement(s, &p->stream[0])};
        answers[i].acted = acted(&stats, &answers[i], &p->stream[0]);
        s->answer = (text){0}; /* the answer's now */
    }
}

pleat_status lengths_measure(pleat_engine *engine, const measure_methods *methods, const char *data_set,
                             const lengths_prompt *prompt, int max_tokens, store_answer *answers, pleat_error *error) {
    pair p = {.engine = engine, .model = engine_model(engine), .methods = methods};
    generate_options options = {.max_tokens = max_tokens, .sampling = pleat_sampling_default()};
    int32_t *ids = NULL;
    pleat_status status = measure_prompt_ids(p.model, prompt->text, strlen(prompt->text), &ids, &p.n_prompt, error);
    p.logits = mem_alloc((size_t)methods->n * (size_t)p.model->n_vocab, sizeof(*p.logits));
    if (!status && !p.logits)
        status = err_set(error, PLEAT_EMEMORY, "no memory for the logits of %d methods", methods->n);
    status = status ? status : prefill(&p, ids, max_tokens, error);
    status = status ? status : generate_run(engine, p.stream, methods->n, &options, NULL, NULL, error);
    if (!status)
        take_answers(&p, data_set, prompt, answers);
    for (int i = 0; i < methods->n; i++) {
        pleat_seq_close(p.stream[i].seq);
        free(p.stream[i].history);
        text_free(&p.stream[i].answer);
    }
    pleat_seq_close(p.prompt);
    mem_free(p.logits);
    free(ids);
    return status;
}
