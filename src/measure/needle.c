/* needle.c - see needle.h.
 *
 * The haystack is a stretch of a real text, cut at line ends. At 10, 30, ... 90 % of its bytes, at the next line end,
 * stands the line "The secret number of CITY is NUMBER." of a city of its own; five digits, drawn from (length, round).
 * The question names one city. The needles are each other's distractors, so this is harder than one needle in a text of
 * its own (Kamradt's test) and near RULER's multi-key one (arXiv 2404.06654, section 3.1); in return one prefill serves
 * all depths. An answer is right when it holds the number.
 *
 * What the prompts have in common, down to a multiple of 64 tokens, is prefilled once with all that the methods want,
 * and forked to each (question, method); the fork reads the rest of its prompt, which is the question. All methods'
 * answers to a question are decoded as one batch. */
#include "measure/needle.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/status.h"
#include "engine/engine.h"
#include "engine/generate.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ANSWER_TOKENS = 16,
    SEAM_TOKENS = 32,   /* that words may take more in a prompt than alone */
    LEAST_TOKENS = 256, /* of the text */
    TOKEN_BYTES = 12,   /* more than a token of text has on average */
    FACT_BYTES = 64,
};

static const char *const city[NEEDLE_DEPTHS] = {"Lisbon", "Oslo", "Cairo", "Lima", "Kyoto"};
static const char before[] = "Here is a long text. Some of its lines name the secret number of a city. Read it, then "
                             "answer the question behind it.\n\n";
static const char question[] = "\n\nWhat is the secret number of %s in the text above? Answer with the number alone.";

struct needle {
    char data_set[32], sample[NEEDLE_DEPTHS][40], number[NEEDLE_DEPTHS][8], prompt[NEEDLE_DEPTHS][160];
    int32_t *ids[NEEDLE_DEPTHS]; /* of the whole prompts */
    int n_ids[NEEDLE_DEPTHS], n_common;
    const char *words; /* [n_bytes] the stretch, borrowed */
    size_t n_bytes;
};

int needle_depth_percent(int i) {
    return (2 * i + 1) * 100 / (2 * NEEDLE_DEPTHS);
}

bool needle_of(const char *data_set, const char *sample, int *n_tokens, int *round, int *depth_percent) {
    return sscanf(data_set, "needle-%d", n_tokens) == 1 &&
           sscanf(sample, "round %d, depth %d", round, depth_percent) == 2;
}

/* ---- prompts ---- */

/* The first line end at or behind `at`; n: there is none. */
static size_t line_end(const char *words, size_t n, size_t at) {
    const char *end = at < n ? memchr(words + at, '\n', n - at) : NULL;
    return end ? (size_t)(end - words) + 1 : n;
}

/* A stretch of the words of whole lines and about n_tokens tokens, the round-th: *from, *n_bytes. */
static pleat_status cut_stretch(const pleat_model *model, const char *words, size_t n_words, int n_tokens, int round,
                                size_t *from, size_t *n_bytes, pleat_error *error) {
    size_t most = (size_t)n_tokens * TOKEN_BYTES, at = 0, end = 0;
    for (int r = 0; r <= round; r++) {
        int32_t *ids;
        int n;
        at = end;
        size_t left = n_words - at;
        pleat_status status =
            tokenizer_encode(model->tok, words + at, left < most ? left : most, TOKENIZER_PLAIN, &ids, &n, error);
        if (status)
            return status;
        size_t bytes = 0, piece;
        for (int i = 0; i < n_tokens && i < n; i++) {
            pleat_token_bytes(model, ids[i], false, &piece);
            bytes += piece;
        }
        free(ids);
        if (n < n_tokens || bytes > left)
            return err_set(error, PLEAT_EINPUT, "the text has too few tokens for round %d of needles in %d", round,
                           n_tokens);
        for (end = at + bytes; end > at && words[end - 1] != '\n'; end--)
            ;
        if (end == at)
            return err_set(error, PLEAT_EINPUT, "the text has no line ends to hide needles at");
    }
    *from = at;
    *n_bytes = end - at;
    return PLEAT_OK;
}

const char *needle_fact(const needle *n, int i, char *out, size_t cap) {
    snprintf(out, cap, "The secret number of %s is %s.\n", city[i], n->number[i]);
    return out;
}

static void write_haystack(const needle *n, const char *words, size_t n_bytes, text *out) {
    char fact[FACT_BYTES];
    size_t at = 0;
    text_puts(out, before);
    for (int i = 0; i < NEEDLE_DEPTHS; i++) {
        size_t to = line_end(words, n_bytes, n_bytes * (size_t)needle_depth_percent(i) / 100);
        text_append(out, words + at, to - at);
        text_puts(out, needle_fact(n, i, fact, sizeof(fact)));
        at = to;
    }
    text_append(out, words + at, n_bytes - at);
}

static int common_tokens(const needle *n) {
    int common = n->n_ids[0] - 1;
    for (int i = 1; i < NEEDLE_DEPTHS; i++) {
        int k = 0;
        while (k < common && k < n->n_ids[i] - 1 && n->ids[i][k] == n->ids[0][k])
            k++;
        common = k;
    }
    return common / PAGE_TOKENS * PAGE_TOKENS;
}

static void drop_prompts(needle *n) {
    for (int i = 0; i < NEEDLE_DEPTHS; i++) {
        free(n->ids[i]);
        n->ids[i] = NULL;
    }
}

void needle_prompt(const needle *n, int i, text *out) {
    write_haystack(n, n->words, n->n_bytes, out);
    text_puts(out, n->prompt[i]);
}

/* The prompts of all questions; *most: tokens of the longest. */
static pleat_status write_prompts(needle *n, const pleat_model *model, int *most, pleat_error *error) {
    pleat_status status = PLEAT_OK;
    *most = 0;
    for (int i = 0; i < NEEDLE_DEPTHS && !status; i++) {
        text prompt = {0};
        needle_prompt(n, i, &prompt);
        status = prompt.failed ? err_set(error, PLEAT_EMEMORY, "no memory for a prompt of %zu bytes", n->n_bytes)
                               : measure_prompt_ids(model, prompt.bytes, prompt.n, &n->ids[i], &n->n_ids[i], error);
        text_free(&prompt);
        *most = !status && n->n_ids[i] > *most ? n->n_ids[i] : *most;
    }
    return status;
}

static pleat_status write_all(needle *n, const pleat_model *model, const char *words, size_t n_words, int n_tokens,
                              int round, pleat_error *error) {
    size_t from = 0;
    int most;
    n->words = words;
    pleat_status status = write_prompts(n, model, &most, error); /* without words: what stands around them */
    drop_prompts(n);
    int n_left = n_tokens - most - ANSWER_TOKENS - SEAM_TOKENS;
    if (!status && n_left < LEAST_TOKENS)
        status = err_set(error, PLEAT_EINPUT, "needles in %d tokens; at least %d are needed with this tokenizer",
                         n_tokens, n_tokens - n_left + LEAST_TOKENS);
    status = status ? status : cut_stretch(model, words, n_words, n_left, round, &from, &n->n_bytes, error);
    if (!status) {
        n->words += from;
        status = write_prompts(n, model, &most, error);
    }
    if (!status && most + ANSWER_TOKENS > n_tokens)
        status = err_set(error, PLEAT_EINPUT, "this text takes %d tokens more among needles than alone",
                         most + ANSWER_TOKENS + SEAM_TOKENS - n_tokens);
    if (!status)
        n->n_common = common_tokens(n);
    return status;
}

pleat_status needle_open(const pleat_model *model, const char *words, size_t n_words, int n_tokens, int round,
                         needle **out, pleat_error *error) {
    if (n_tokens < 1 || n_tokens > model->context_tokens)
        return err_set(error, PLEAT_EINPUT, "needles in %d tokens; the model's context has %d", n_tokens,
                       model->context_tokens);
    needle *n = calloc(1, sizeof(*n));
    if (!n)
        return err_set(error, PLEAT_EMEMORY, "no memory for needles");
    snprintf(n->data_set, sizeof(n->data_set), "needle-%d", n_tokens);
    for (int i = 0; i < NEEDLE_DEPTHS; i++) {
        uint64_t drawn = rng_u64((uint64_t)n_tokens, (uint64_t)round, (uint64_t)i);
        snprintf(n->number[i], sizeof(n->number[i]), "%" PRIu64, 10000 + drawn % 90000);
        snprintf(n->sample[i], sizeof(n->sample[i]), "round %d, depth %d %%", round, needle_depth_percent(i));
        snprintf(n->prompt[i], sizeof(n->prompt[i]), question, city[i]);
    }
    pleat_status status = write_all(n, model, words, n_words, n_tokens, round, error);
    if (status)
        needle_close(n);
    else
        *out = n;
    return status;
}

void needle_close(needle *n) {
    if (n)
        drop_prompts(n);
    free(n);
}

/* ---- answers ---- */

typedef struct search {
    pleat_engine *engine;
    const measure_methods *methods;
    const needle *n;
    pleat_seq *common;
    generate_stream stream[MEASURE_MOST_METHODS];
    float *logits; /* [methods->n][n_vocab] */
} search;

static pleat_status prefill_common(search *s, pleat_error *error) {
    pleat_status status = pleat_seq_open(s->engine, s->methods->method[0], &s->common, error);
    if (status)
        return status;
    for (int i = 0; i < s->methods->n; i++)
        engine_seq_want(s->common, s->methods->method[i]);
    status = pleat_seq_expect(s->common, ANSWER_TOKENS, error);
    return status ? status
                  : pleat_prefill(s->engine, s->common, s->n->ids[0], s->n->n_common, false, PLEAT_LOGITS_NONE, NULL,
                                  error);
}

static pleat_status read_question(search *s, int question_of, int i, pleat_error *error) {
    generate_stream *stream = &s->stream[i];
    const int32_t *ids = s->n->ids[question_of];
    int n_ids = s->n->n_ids[question_of], first = s->n->n_common;
    *stream = (generate_stream){.logits = s->logits + (size_t)i * (size_t)engine_model(s->engine)->n_vocab};
    pleat_status status = pleat_seq_fork(s->engine, s->common, s->methods->method[i], &stream->seq, error);
    if (status)
        return status;
    stream->history = malloc((size_t)n_ids * sizeof(*ids));
    if (!stream->history)
        return err_set(error, PLEAT_EMEMORY, "no memory for an answer");
    memcpy(stream->history, ids, (size_t)n_ids * sizeof(*ids));
    stream->n_history = stream->cap_history = n_ids;
    return pleat_prefill(s->engine, stream->seq, ids + first, n_ids - first, true, PLEAT_LOGITS_LAST, stream->logits,
                         error);
}

static void take_answer(search *s, int question_of, int i, store_answer *answer, bool *found) {
    generate_stream *stream = &s->stream[i];
    pleat_seq_stats stats = pleat_seq_describe(stream->seq);
    *answer = (store_answer){.data_set = s->n->data_set,
                             .sample = s->n->sample[question_of],
                             .klass = "needle",
                             .prompt = s->n->prompt[question_of],
                             .label = s->methods->label[i],
                             .spec = pleat_method_spec(s->methods->method[i]),
                             .text = stream->answer.bytes,
                             .prompt_tokens = s->n->n_ids[question_of],
                             .n_tokens = stream->n_ids,
                             .finish = stream->finish,
                             .kv_bytes = stats.kv_bytes,
                             .acted = stats.evicted || stats.seals};
    *found = answer->text && strstr(answer->text, s->n->number[question_of]);
    stream->answer = (text){0}; /* the answer's now */
}

static void drop_streams(search *s) {
    for (int i = 0; i < s->methods->n; i++) {
        pleat_seq_close(s->stream[i].seq);
        free(s->stream[i].history);
        text_free(&s->stream[i].answer);
        s->stream[i] = (generate_stream){0};
    }
}

static pleat_status ask(search *s, int question_of, store_answer *answers, bool *found, const measure_watch *watch,
                        pleat_error *error) {
    const generate_options options = {.max_tokens = ANSWER_TOKENS, .sampling = pleat_sampling_default()};
    pleat_status status = PLEAT_OK;
    for (int i = 0; i < s->methods->n && !status; i++) {
        measure_tell(watch, 1 + question_of + (double)i / s->methods->n, 1 + NEEDLE_DEPTHS, "needles, each asked for");
        status = read_question(s, question_of, i, error);
    }
    status = status ? status : generate_run(s->engine, s->stream, s->methods->n, &options, NULL, NULL, error);
    for (int i = 0; i < s->methods->n && !status; i++)
        take_answer(s, question_of, i, &answers[i], &found[i]);
    drop_streams(s);
    return status;
}

pleat_status needle_measure(pleat_engine *engine, const measure_methods *methods, const needle *n,
                            store_answer *answers, bool *found, const measure_watch *watch, pleat_error *error) {
    search s = {.engine = engine, .methods = methods, .n = n};
    int n_done = 0;
    s.logits = mem_alloc((size_t)methods->n * (size_t)engine_model(engine)->n_vocab, sizeof(*s.logits));
    measure_tell(watch, 0, 1 + NEEDLE_DEPTHS, "needles, one prefill for all");
    pleat_status status = s.logits
                              ? prefill_common(&s, error)
                              : err_set(error, PLEAT_EMEMORY, "no memory for the logits of %d methods", methods->n);
    for (; n_done < NEEDLE_DEPTHS && !status; n_done += !status)
        status = ask(&s, n_done, answers + n_done * methods->n, found + n_done * methods->n, watch, error);
    for (int i = 0; status && i < n_done * methods->n; i++)
        free((char *)answers[i].text);
    pleat_seq_close(s.common);
    mem_free(s.logits);
    return status;
}
