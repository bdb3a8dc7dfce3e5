/* test_scheduler.c - continuous batching: a request's text is the same alone and under load, for every method; queue,
 * fairness, admission, preemption, cancellation; nothing is left behind. */
#include "engine/scheduler.h"
#include "base/clock.h"
#include "engine/inside.h"
#include "support/bed.h"
#include "support/env.h"
#include <dirent.h>
#include <math.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

/* The scheduler's clock: this definition stands in for that of src/base/clock.c, so that a test can let time pass. */
static double passed_seconds;

double clock_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return passed_seconds + (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

enum { MOST_TOKENS = 400, CONTEXT = 2048 };

typedef struct answer {
    int32_t id[MOST_TOKENS];
    token_logprob last, prompt[8];
    int n, n_prompt, n_ends, stop_after, cached;
    atomic_int ended;
    char finish[16], sentence[200];
    request_usage usage;
    int order; /* of its first token */
} answer;

static int first_tokens;

static bool take(void *context, const request_event *event) {
    answer *a = context;
    if (event->kind == REQUEST_STARTED)
        return true;
    if (event->kind == REQUEST_END) {
        snprintf(a->finish, sizeof(a->finish), "%s", request_finish_name(event->finish));
        snprintf(a->sentence, sizeof(a->sentence), "%s", event->sentence ? event->sentence : "");
        a->usage = *event->usage;
        a->n_ends++;
        atomic_store(&a->ended, 1);
        return true;
    }
    if (event->kind == REQUEST_PROMPT_TOKEN) {
        if (a->n_prompt < 8)
            a->prompt[a->n_prompt] = *event->token;
        a->n_prompt++;
        return true;
    }
    if (a->n == 0)
        a->order = first_tokens++;
    a->last = *event->token;
    a->id[a->n++] = event->token->id;
    return a->n != a->stop_after;
}

typedef struct desk { /* a scheduler over a tiny model */
    bed bed;
    scheduler *s;
} desk;

static desk desk_open(size_t pool_bytes, size_t prefix_bytes, scheduler_options o) {
    tiny_options tiny = tiny_default();
    tiny.context = CONTEXT;
    desk d = {.bed = bed_open(tiny, (pleat_engine_options){.n_threads = 1,
                                                           .max_step_tokens = 256,
                                                           .max_sequences = 16,
                                                           .pool_bytes = pool_bytes ? pool_bytes : (size_t)256 << 20,
                                                           .prefix_bytes = prefix_bytes})};
    pleat_error error = {""};
    if (scheduler_open(d.bed.engine, &o, &d.s, &error))
        fail_msg("%s", error.text);
    first_tokens = 0;
    return d;
}

static void desk_close(desk *d) {
    scheduler_close(d->s);
    bed_close(&d->bed);
}

static int32_t *prompt_of(const desk *d, int n, int variant) {
    int32_t *ids = bed_tokens(&d->bed, n);
    for (int i = n / 2; variant && i < n; i++)
        ids[i] = bed_token(&d->bed, i + 555 * variant);
    return ids;
}

typedef struct ask {
    const char *spec, *tenant;
    int n_prompt, variant, max_tokens;
    float temperature;
} ask;

static pleat_status submit_told(desk *d, ask q, int pin_tokens, const char *salt, answer *a, uint64_t *id,
                                pleat_error *error) {
    pleat_method *method;
    if (pleat_method_parse(q.spec, d->bed.model, &method, error))
        fail_msg("%s", error->text);
    int32_t *ids = prompt_of(d, q.n_prompt, q.variant);
    request_spec spec = {.method = method,
                         .prompt = ids,
                         .n_prompt = q.n_prompt,
                         .max_tokens = q.max_tokens,
                         .ignore_end = true,
                         .sampling = pleat_sampling_default(),
                         .pin = &(token_span){0, pin_tokens},
                         .n_pins = pin_tokens > 0,
                         .tenant = q.tenant,
                         .salt = salt};
    spec.sampling.temperature = q.temperature;
    spec.sampling.seed = 11;
    pleat_status status = scheduler_submit(d->s, &spec, 1, take, (void *[]){a}, id, error);
    pleat_method_free(method);
    free(ids);
    return status;
}

static pleat_status submit(desk *d, ask q, answer *a, uint64_t *id, pleat_error *error) {
    return submit_told(d, q, 0, NULL, a, id, error);
}

static void must_submit(desk *d, ask q, answer *a, uint64_t *id) {
    pleat_error error = {""};
    uint64_t unused;
    if (submit(d, q, a, id ? id : &unused, &error))
        fail_msg("%s", error.text);
}

static void run_dry(desk *d) {
    for (int i = 0; scheduler_turn(d->s); i++)
        if (i > 100000)
            fail_msg("the scheduler does not come to an end");
}

static answer *answers(int n) {
    answer *a = calloc((size_t)n, sizeof(*a));
    assert_non_null(a);
    return a;
}

static void same_text(const answer *a, const answer *b, const char *what) {
    assert_string_equal(a->finish, b->finish);
    if (a->n != b->n || memcmp(a->id, b->id, (size_t)a->n * sizeof(*a->id)))
        fail_msg("%s: the text differs (%d and %d tokens)", what, a->n, b->n);
}

/* ---- texts ---- */

static void a_text_is_the_same_alone_and_under_load(void **state) {
    (void)state;
    int n = 0;
    while (kv_presets[n].name)
        n++;
    answer *alone = answers(2 * n), *loaded = answers(2 * n);
    desk d = desk_open(0, 0, (scheduler_options){0});
    for (int i = 0; i < 2 * n; i++) {
        char spec[200];
        snprintf(spec, sizeof(spec), "%s%s", kv_presets[i / 2].name, i % 2 ? "+prefill:bounded" : "");
        must_submit(&d, (ask){spec, "", 300 + 37 * (i % 40), i, 12, i % 3 ? 0.9f : 0}, &alone[i], NULL);
        run_dry(&d);
        assert_int_equal(alone[i].n, 12);
        assert_int_equal(kv_pool_used_bytes(engine_pool(d.bed.engine)), 0);
    }
    desk_close(&d);
    d = desk_open(0, (size_t)64 << 20, (scheduler_options){0});
    for (int i = 2 * n - 1; i >= 0; i--) {
        char spec[200];
        snprintf(spec, sizeof(spec), "%s%s", kv_presets[i / 2].name, i % 2 ? "+prefill:bounded" : "");
        must_submit(&d, (ask){spec, "", 300 + 37 * (i % 40), i, 12, i % 3 ? 0.9f : 0}, &loaded[i], NULL);
        if (i % 3 == 0)
            scheduler_turn(d.s);
    }
    run_dry(&d);
    for (int i = 0; i < 2 * n; i++)
        same_text(&alone[i], &loaded[i], kv_presets[i / 2].name);
    desk_close(&d);
    free(alone);
    free(loaded);
}

static void a_repeated_prompt_is_reused_and_says_so(void **state) {
    (void)state;
    desk d = desk_open(0, (size_t)64 << 20, (scheduler_options){0});
    answer *a = answers(3);
    uint64_t id;
    for (int i = 0; i < 3; i++) {
        ask q = {"f16", "", 1000, 0, 8, 0};
        assert_int_equal(submit_told(&d, q, 0, i < 2 ? "one" : "other", &a[i], &id, NULL), PLEAT_OK);
        run_dry(&d);
    }
    assert_int_equal(a[0].usage.cached_tokens, 0);
    assert_int_equal(a[1].usage.cached_tokens, 960);
    assert_int_equal(a[2].usage.cached_tokens, 0);
    same_text(&a[0], &a[1], "reused");
    assert_int_equal(scheduler_describe(d.s).cached_tokens, 960);
    desk_close(&d);
    free(a);
}

static void preempted_requests_go_on_to_the_same_text(void **state) {
    (void)state;
    enum { N = 6 };
    answer *alone = answers(N), *squeezed = answers(N);
    ask q[N];
    for (int i = 0; i < N; i++)
        q[i] = (ask){i % 2 ? "kivi-4+prefill:bounded" : "f16", "", 500 + i, i, 200, 0.7f};
    desk d = desk_open(0, 0, (scheduler_options){0});
    size_t need = pleat_model_describe(d.bed.model).f16_token_bytes * 704;
    for (int i = 0; i < N; i++) {
        must_submit(&d, q[i], &alone[i], NULL);
        run_dry(&d);
    }
    desk_close(&d);
    for (int to_file = 0; to_file < 2; to_file++) {
        d = desk_open(3 * need, 0,
                      (scheduler_options){.overcommit = 4, .moved_bytes = to_file ? 1 : 0, .moved_dir = "/tmp"});
        memset(squeezed, 0, N * sizeof(*squeezed));
        for (int i = 0; i < N; i++)
            must_submit(&d, q[i], &squeezed[i], NULL);
        run_dry(&d);
        assert_true(scheduler_describe(d.s).preemptions > 0);
        for (int i = 0; i < N; i++)
            same_text(&alone[i], &squeezed[i], "preempted");
        assert_int_equal(kv_pool_used_bytes(engine_pool(d.bed.engine)), 0);
        desk_close(&d);
    }
    free(alone);
    free(squeezed);
}

/* Files that this process has open and that have no name. */
static int nameless_files(void) {
    int n = 0;
    DIR *list = opendir("/proc/self/fd");
    assert_non_null(list);
    for (struct dirent *e; (e = readdir(list));) {
        struct stat st;
        n += !fstat(atoi(e->d_name), &st) && S_ISREG(st.st_mode) && st.st_nlink == 0 && *e->d_name != '.';
    }
    closedir(list);
    return n;
}

/* So a server that is killed leaves none, and two that share a folder cannot meet. */
static void a_moved_cache_has_no_name(void **state) {
    (void)state;
    char folder[] = "/tmp/pleat-moved-XXXXXX";
    answer *a = answers(2);
    assert_non_null(mkdtemp(folder));
    desk d =
        desk_open((size_t)1600 << 10, 0, (scheduler_options){.overcommit = 4, .moved_bytes = 1, .moved_dir = folder});
    int before = nameless_files();
    for (int i = 0; i < 2; i++)
        must_submit(&d, (ask){"f16", "", 500, i, 390, 0}, &a[i], NULL);
    while (!scheduler_describe(d.s).moved_out)
        assert_true(scheduler_turn(d.s));
    assert_int_equal(nameless_files(), before + 1);
    assert_int_equal(rmdir(folder), 0); /* it is empty */
    run_dry(&d);
    assert_int_equal(nameless_files(), before);
    for (int i = 0; i < 2; i++)
        assert_string_equal(a[i].finish, "length");
    desk_close(&d);
    free(a);
}

static void without_a_place_to_move_to_the_youngest_ends(void **state) {
    (void)state;
    answer *a = answers(4);
    desk d = desk_open(0, 0, (scheduler_options){0});
    size_t need = pleat_model_describe(d.bed.model).f16_token_bytes * 704;
    desk_close(&d);
    d = desk_open(2 * need, 0, (scheduler_options){.overcommit = 4, .moved_bytes = 1});
    for (int i = 0; i < 2; i++)
        must_submit(&d, (ask){"f16", "", 500, i, 300, 0}, &a[i], NULL);
    run_dry(&d);
    assert_string_equal(a[0].finish, "length");
    assert_string_equal(a[1].finish, "error");
    assert_non_null(strstr(a[1].sentence, "no place"));
    desk_close(&d);
    free(a);
}

/* ---- what a request may ask ---- */

/* The greedy answer of the engine alone, told what a request says. */
static void answer_of_engine(const desk *d, ask q, int pin_tokens, int32_t *to) {
    int32_t *ids = prompt_of(d, q.n_prompt, q.variant);
    float *logits = malloc((size_t)d->bed.n_vocab * sizeof(*logits));
    pleat_sampling greedy = pleat_sampling_default();
    pleat_seq *seq = bed_seq(&d->bed, q.spec);
    if (pin_tokens)
        assert_int_equal(pleat_seq_pin(seq, 0, pin_tokens, NULL), PLEAT_OK);
    assert_int_equal(pleat_seq_expect(seq, q.max_tokens, NULL), PLEAT_OK);
    bed_prefill(&d->bed, seq, ids, q.n_prompt, logits);
    for (int i = 0; i < q.max_tokens; i++) {
        assert_int_equal(pleat_sample(d->bed.engine, &greedy, logits, NULL, 0, &to[i], NULL), PLEAT_OK);
        bed_decode(&d->bed, seq, to[i], logits);
    }
    pleat_seq_close(seq);
    free(logits);
    free(ids);
}

/* Marked tokens and the answer's length reach the cache. */
static void caches_are_told_what_a_request_says(void **state) {
    (void)state;
    enum { N = 24 };
    static const ask list[] = {{"keydiff:keep=64+pin", "", 300, 0, N, 0},
                               {"keydiff:keep=64+pin", "", 300, 0, N, 0},
                               {"rocket:budget=64,window=8", "", 300, 0, N, 0}};
    static const int pins[] = {40, 0, 0};
    uint64_t id;
    desk d = desk_open(0, 0, (scheduler_options){0});
    answer *a = answers(3);
    int32_t want[3][N];
    for (int i = 0; i < 3; i++) {
        assert_int_equal(submit_told(&d, list[i], pins[i], NULL, &a[i], &id, NULL), PLEAT_OK);
        run_dry(&d);
        answer_of_engine(&d, list[i], pins[i], want[i]);
        assert_int_equal(a[i].n, N);
        assert_memory_equal(a[i].id, want[i], sizeof(want[i]));
    }
    assert_memory_not_equal(want[0], want[1], sizeof(want[0])); /* it made a difference */
    desk_close(&d);
    free(a);
}

static void logprobs_are_those_of_the_model(void **state) {
    (void)state;
    enum { N = 150 };
    desk d = desk_open(0, (size_t)64 << 20, (scheduler_options){0});
    answer *a = answers(1);
    pleat_error error = {""};
    pleat_method *method;
    uint64_t id;
    int32_t *ids = prompt_of(&d, N, 0);
    int n_vocab = d.bed.n_vocab;
    assert_int_equal(pleat_method_parse("f16", d.bed.model, &method, &error), PLEAT_OK);
    token_bias bias = {.id = 33, .bias = 1000};
    request_spec spec = {.method = method,
                         .prompt = ids,
                         .n_prompt = N,
                         .max_tokens = 1,
                         .ignore_end = true,
                         .sampling = pleat_sampling_default(),
                         .bias = &bias,
                         .n_bias = 1,
                         .logprobs = true,
                         .n_top = 3,
                         .prompt_logprobs = true};
    assert_int_equal(scheduler_submit(d.s, &spec, 1, take, (void *[]){a}, &id, &error), PLEAT_OK);
    run_dry(&d);
    float *logits = malloc((size_t)N * (size_t)n_vocab * sizeof(*logits));
    pleat_seq *seq = bed_seq(&d.bed, "f16");
    assert_int_equal(pleat_prefill(d.bed.engine, seq, ids, N, true, PLEAT_LOGITS_ALL, logits, &error), PLEAT_OK);
    pleat_seq_close(seq);
    assert_int_equal(a->n_prompt, N - 1);
    assert_int_equal(a->last.id, 33); /* by its bias, but the logprob is the model's */
    for (int which = 0; which < 2; which++) {
        const token_logprob *t = which ? &a->last : &a->prompt[4];
        const float *row = logits + (size_t)(which ? N - 1 : 4) * (size_t)n_vocab;
        double sum = 0;
        int best = 0;
        for (int i = 0; i < n_vocab; i++) {
            sum += exp((double)row[i]);
            best = row[i] > row[best] ? i : best;
        }
        assert_int_equal(t->id, which ? 33 : ids[5]);
        assert_float_equal(t->logprob, (float)((double)row[t->id] - log(sum)), 1e-4f);
        assert_int_equal(t->n_top, 3);
        assert_int_equal(t->top_id[0], best);
        assert_true(t->top_logprob[0] >= t->top_logprob[1] && t->top_logprob[1] >= t->top_logprob[2]);
    }
    pleat_method_free(method);
    free(logits);
    free(ids);
    free(a);
    desk_close(&d);
}

static struct { /* rows that met the output matrix, in whatever steps */
    const pack_matrix *head;
    void (*matmul)(const pack_matrix *w, int panel_first, int n_panels, const act_rows *x, int n_tokens, float *out,
                   size_t ldo);
    int n_rows;
} seen;

static void note_matmul(const pack_matrix *w, int panel_first, int n_panels, const act_rows *x, int n_tokens,
                        float *out, size_t ldo) {
    seen.n_rows += w == seen.head && panel_first == 0 ? n_tokens : 0;
    seen.matmul(w, panel_first, n_panels, x, n_tokens, out, ldo);
}

/* From now on the engine, which has one thread, counts those rows. */
static void count_rows(pleat_engine *e, cpu_kernels *noting) {
    *noting = *e->kernels;
    seen.head = &e->model->head;
    seen.matmul = noting->matmul[seen.head->type];
    noting->matmul[seen.head->type] = note_matmul;
    forward_close(e->pass);
    assert_int_equal(forward_open(e->model, e->max_step_tokens, e->max_sequences, e->pool, noting, &e->pass, NULL),
                     PLEAT_OK);
}

/* Of a prompt the last row alone meets the output matrix, unless the log probabilities of the prompt are asked for. */
static void only_rows_that_are_sampled_give_logits(void **state) {
    (void)state;
    enum { N = 300, ANSWER = 5 };
    desk d = desk_open(0, 0, (scheduler_options){0});
    answer *a = answers(2);
    cpu_kernels noting;
    pleat_method *method;
    uint64_t id;
    int32_t *ids = prompt_of(&d, N, 0);
    count_rows(d.bed.engine, &noting);
    assert_int_equal(pleat_method_parse("f16", d.bed.model, &method, NULL), PLEAT_OK);
    for (int i = 0; i < 2; i++) {
        request_spec spec = {.method = method,
                             .prompt = ids,
                             .n_prompt = N,
                             .max_tokens = ANSWER,
                             .ignore_end = true,
                             .sampling = pleat_sampling_default(),
                             .prompt_logprobs = i};
        seen.n_rows = 0;
        assert_int_equal(scheduler_submit(d.s, &spec, 1, take, (void *[]){&a[i]}, &id, NULL), PLEAT_OK);
        run_dry(&d);
        assert_int_equal(a[i].n, ANSWER);
        assert_int_equal(seen.n_rows, (i ? N : 1) + ANSWER - 1);
    }
    pleat_method_free(method);
    free(ids);
    free(a);
    desk_close(&d);
}

static void ends_are_held_back_until_min_tokens(void **state) {
    (void)state;
    desk d = desk_open(0, 0, (scheduler_options){0});
    answer *a = answers(2);
    pleat_error error = {""};
    pleat_method *method;
    uint64_t id;
    int32_t *ids = prompt_of(&d, 20, 0), end = 0;
    while (!pleat_token_ends(d.bed.model, end))
        end++;
    token_bias bias = {.id = end, .bias = 1000};
    assert_int_equal(pleat_method_parse("f16", d.bed.model, &method, &error), PLEAT_OK);
    for (int i = 0; i < 2; i++) {
        request_spec spec = {.method = method,
                             .prompt = ids,
                             .n_prompt = 20,
                             .max_tokens = 9,
                             .min_tokens = i ? 5 : 0,
                             .sampling = pleat_sampling_default(),
                             .bias = &bias,
                             .n_bias = 1};
        assert_int_equal(scheduler_submit(d.s, &spec, 1, take, (void *[]){&a[i]}, &id, &error), PLEAT_OK);
    }
    run_dry(&d);
    assert_string_equal(a[0].finish, "stop");
    assert_int_equal(a[0].n, 0);
    assert_string_equal(a[1].finish, "stop");
    assert_int_equal(a[1].n, 5);
    pleat_method_free(method);
    free(ids);
    free(a);
    desk_close(&d);
}

static void the_sink_ends_a_request(void **state) {
    (void)state;
    desk d = desk_open(0, 0, (scheduler_options){0});
    answer *a = answers(1);
    a->stop_after = 3;
    must_submit(&d, (ask){"f16", "", 40, 0, 50, 0}, a, NULL);
    run_dry(&d);
    assert_int_equal(a->n, 3);
    assert_string_equal(a->finish, "stop");
    assert_int_equal(a->usage.completion_tokens, 3);
    desk_close(&d);
    free(a);
}

static void the_context_is_a_clear_end(void **state) {
    (void)state;
    desk d = desk_open(0, 0, (scheduler_options){0});
    answer *a = answers(1);
    must_submit(&d, (ask){"f16", "", CONTEXT - 5, 0, 50, 0}, a, NULL);
    run_dry(&d);
    assert_string_equal(a->finish, "length");
    assert_in_range(a->n, 5, 6);
    desk_close(&d);
    free(a);
}

/* ---- who runs ---- */

static void refused(desk *d, ask q, pleat_status want, const char *why) {
    pleat_error error = {""};
    answer a = {0};
    uint64_t id;
    pleat_status status = submit(d, q, &a, &id, &error);
    if (status != want || !strstr(error.text, why))
        fail_msg("status %d, \"%s\" instead of \"%s\"", (int)status, error.text, why);
    assert_int_equal(a.n_ends, 0);
}

static void what_cannot_be_is_refused_at_once(void **state) {
    (void)state;
    desk d = desk_open(4 << 20, 0, (scheduler_options){.max_waiting = 2});
    refused(&d, (ask){"f16", "", CONTEXT + 1, 0, 5, 0}, PLEAT_EINPUT, "context");
    refused(&d, (ask){"f16", "", 100, 0, -1, 0}, PLEAT_EINPUT, "new tokens");
    refused(&d, (ask){"f16", "", 100, 0, 100000, 0}, PLEAT_EINPUT, "KV pool");
    answer *a = answers(3);
    must_submit(&d, (ask){"f16", "", 50, 0, 5, 0}, &a[0], NULL);
    must_submit(&d, (ask){"f16", "", 50, 0, 5, 0}, &a[1], NULL);
    refused(&d, (ask){"f16", "", 50, 0, 5, 0}, PLEAT_EFULL, "queue is full");
    run_dry(&d);
    must_submit(&d, (ask){"f16", "", 50, 0, 5, 0}, &a[2], NULL);
    assert_true(scheduler_drain(d.s, 30));
    refused(&d, (ask){"f16", "", 50, 0, 5, 0}, PLEAT_EFULL, "shutting down");
    for (int i = 0; i < 3; i++)
        assert_int_equal(a[i].n, 5);
    desk_close(&d);
    free(a);
}

/* All of a batch but one decode, and the last one's prompt gets on in every step; with less room it would wait for them
 * to end, so that is refused. */
static void a_prompt_gets_on_beside_a_batch_that_decodes(void **state) {
    (void)state;
    enum { N = 4, LONG = 600 };
    pleat_error error = {""};
    desk d = desk_open(0, 0, (scheduler_options){.max_running = 1, .step_tokens = 64});
    scheduler *s = NULL;
    for (int running = 2; running <= 16; running += 7) {
        scheduler_options o = {.max_running = running, .step_tokens = 64};
        assert_int_equal(scheduler_open(d.bed.engine, &o, &s, &error), PLEAT_EINPUT);
        assert_non_null(strstr(error.text, "a multiple of 64 from 128"));
    }
    desk_close(&d);
    d = desk_open(0, 0, (scheduler_options){.max_running = N, .step_tokens = scheduler_least_step(N)});
    answer *a = answers(N);
    for (int i = 0; i < N - 1; i++)
        must_submit(&d, (ask){"f16", "", 20, i, 300, 0}, &a[i], NULL);
    while (a[N - 2].n < 1)
        scheduler_turn(d.s);
    must_submit(&d, (ask){"f16", "", LONG, 9, 5, 0}, &a[N - 1], NULL);
    for (int i = 0; i < (LONG + 63) / 64; i++)
        scheduler_turn(d.s);
    assert_true(a[N - 1].n >= 1);
    for (int i = 0; i < N - 1; i++)
        assert_false(atomic_load(&a[i].ended));
    run_dry(&d);
    desk_close(&d);
    free(a);
}

static void tenants_take_turns(void **state) {
    (void)state;
    enum { N = 8 };
    desk d = desk_open(0, 0, (scheduler_options){.max_running = 2});
    answer *a = answers(N + 1);
    uint64_t id;
    static const char *const salts[N] = {"a", "b", "c", "d", "e", "f", "g", "h"}; /* of which none has a share */
    for (int i = 0; i < N; i++)
        assert_int_equal(submit_told(&d, (ask){"f16", "many", 60, i, 6, 0}, 0, salts[i], &a[i], &id, NULL), PLEAT_OK);
    assert_int_equal(submit_told(&d, (ask){"f16", "few", 60, 9, 6, 0}, 0, "a", &a[N], &id, NULL), PLEAT_OK);
    run_dry(&d);
    assert_true(a[N].order <= 1); /* though it came last */
    for (int i = 1; i < N; i++)
        assert_true(a[i].order > a[i - 1].order);
    desk_close(&d);
    free(a);
}

/* Many has filled the queue. Few comes in for all that, up to an equal share, at the cost of many's newest. */
static void a_full_queue_takes_in_who_has_less_of_it(void **state) {
    (void)state;
    enum { N = 6 };
    desk d = desk_open(0, 0, (scheduler_options){.max_running = 1, .max_waiting = N});
    answer *many = answers(N), *few = answers(N / 2), *running = answers(1);
    must_submit(&d, (ask){"f16", "many", 20, 0, 50, 0}, running, NULL);
    while (running->n < 2)
        scheduler_turn(d.s);
    for (int i = 0; i < N; i++)
        must_submit(&d, (ask){"f16", "many", 20, i, 3, 0}, &many[i], NULL);
    assert_true(scheduler_full(d.s, "many", 1));
    assert_false(scheduler_full(d.s, "few", 1));
    refused(&d, (ask){"f16", "many", 20, 0, 3, 0}, PLEAT_EFULL, "queue is full");
    for (int i = 0; i < N / 2; i++) {
        must_submit(&d, (ask){"f16", "few", 20, i, 3, 0}, &few[i], NULL);
        assert_int_equal(scheduler_describe(d.s).waiting, N);
        if (i == 1) /* two at a time as well */
            scheduler_turn(d.s);
    }
    assert_true(scheduler_full(d.s, "few", 1));
    refused(&d, (ask){"f16", "few", 20, 0, 3, 0}, PLEAT_EFULL, "queue is full");
    run_dry(&d);
    assert_int_equal(running->n, 50);
    for (int i = 0; i < N; i++) {
        assert_int_equal(many[i].n_ends, 1);
        assert_int_equal(many[i].n, i < N / 2 ? 3 : 0);
        assert_string_equal(many[i].finish, i < N / 2 ? "length" : "error");
    }
    for (int i = 0; i < N / 2; i++)
        assert_int_equal(few[i].n, 3);
    assert_int_equal(scheduler_describe(d.s).waiting, 0);
    desk_close(&d);
    free(many);
    free(few);
    free(running);
}

/* One that has lost its place and is admitted or cancelled before it is ended keeps the count right. */
static void places_are_counted_right_whoever_goes_first(void **state) {
    (void)state;
    enum { N = 4 };
    for (int cancels = 0; cancels < 2; cancels++) {
        desk d = desk_open(0, 0, (scheduler_options){.max_running = 4, .max_waiting = N});
        answer *many = answers(N), *few = answers(2);
        uint64_t id[N];
        for (int i = 0; i < N; i++)
            must_submit(&d, (ask){"f16", "many", 20, i, 3, 0}, &many[i], &id[i]);
        for (int i = 0; i < 2; i++)
            must_submit(&d, (ask){"f16", "few", 20, i, 3, 0}, &few[i], NULL);
        for (int i = 0; cancels && i < N; i++)
            scheduler_cancel(d.s, id[i]);
        run_dry(&d);
        assert_int_equal(scheduler_describe(d.s).waiting, 0);
        for (int i = 0; i < N; i++)
            assert_string_equal(many[i].finish, cancels ? "cancelled" : i < 2 ? "length" : "error");
        for (int i = 0; i < 2; i++)
            assert_int_equal(few[i].n, 3);
        answer *later = answers(N); /* the whole queue is there again */
        for (int i = 0; i < N; i++)
            must_submit(&d, (ask){"f16", "many", 20, i, 3, 0}, &later[i], NULL);
        refused(&d, (ask){"f16", "many", 20, 0, 3, 0}, PLEAT_EFULL, "queue is full");
        run_dry(&d);
        desk_close(&d);
        free(many);
        free(few);
        free(later);
    }
}

/* Turns with always eight small requests that run or wait, until `until` has ended or n_turns are over. */
static void flood(desk *d, answer *small, int *n_small, const answer *until, int n_turns) {
    for (int turn = 0; turn < n_turns && !atomic_load(&until->ended); turn++) {
        int n_open = 0;
        for (int i = 0; i < *n_small; i++)
            n_open += !atomic_load(&small[i].ended);
        for (; n_open < 8; n_open++, (*n_small)++)
            must_submit(d, (ask){"f16", "small", 300, 0, 10 + *n_small * 7 % 20, 0}, &small[*n_small], NULL);
        scheduler_turn(d->s);
    }
}

/* busy: its tenant has a request in the batch too, so that by turns alone the others would always come first. */
static void pass_over(bool busy) {
    enum { PASSING = 60, MOST_SMALL = 8 * 2 * PASSING };
    desk d = desk_open(0, 0, (scheduler_options){0});
    size_t token = pleat_model_describe(d.bed.model).f16_token_bytes;
    desk_close(&d);
    d = desk_open(token * (busy ? 2900 : 2400), 0, (scheduler_options){0});
    answer *small = answers(MOST_SMALL), *large = answers(1), *other = answers(1);
    int n = 0, n_before;
    if (busy)
        must_submit(&d, (ask){"f16", "large", 20, 1, 390, 0}, other, NULL);
    flood(&d, small, &n, large, 1);
    must_submit(&d, (ask){"f16", "large", 1700, 0, 4, 0}, large, NULL);
    flood(&d, small, &n, large, PASSING);
    assert_int_equal(large->n, 0); /* small ones are let in before it, as long as it has not waited for long */
    n_before = n;
    passed_seconds += 6;
    flood(&d, small, &n, large, PASSING); /* more turns than those that run have tokens left */
    assert_string_equal(large->finish, "length");
    assert_int_equal(atomic_load(&other->ended), 0);
    assert_true(n > n_before);
    run_dry(&d);
    for (int i = n_before; i < n; i++)
        assert_true(small[i].order > large->order); /* nobody new before it */
    desk_close(&d);
    free(small);
    free(large);
    free(other);
}

static void a_large_request_is_not_passed_over_for_good(void **state) {
    (void)state;
    pass_over(false);
    pass_over(true);
}

static void answers_of_one_request_come_in_together(void **state) {
    (void)state;
    enum { N = 4 };
    pleat_error error = {""};
    pleat_method *method;
    uint64_t id[N];
    desk d = desk_open(0, 0, (scheduler_options){.max_running = 2, .max_waiting = N - 1});
    answer *a = answers(N);
    int32_t *ids = bed_tokens(&d.bed, 20);
    assert_int_equal(pleat_method_parse("f16", d.bed.model, &method, &error), PLEAT_OK);
    request_spec spec[N];
    void *context[N];
    for (int i = 0; i < N; i++) {
        spec[i] = (request_spec){.method = method,
                                 .prompt = ids,
                                 .n_prompt = 20,
                                 .max_tokens = 3 + i,
                                 .ignore_end = true,
                                 .sampling = pleat_sampling_default()};
        context[i] = &a[i];
    }
    assert_int_equal(scheduler_submit(d.s, spec, N, take, context, id, &error), PLEAT_EFULL);
    spec[1].max_tokens = -1;
    assert_int_equal(scheduler_submit(d.s, spec, 2, take, context, id, &error), PLEAT_EINPUT);
    assert_int_equal(scheduler_describe(d.s).waiting, 0);
    spec[1].max_tokens = 4;
    assert_int_equal(scheduler_submit(d.s, spec, N - 1, take, context, id, &error), PLEAT_OK);
    assert_int_equal(scheduler_describe(d.s).waiting, N - 1);
    scheduler_cancel(d.s, id[1]);
    run_dry(&d);
    assert_int_equal(a[0].n, 3);
    assert_string_equal(a[1].finish, "cancelled");
    assert_int_equal(a[2].n, 5);
    assert_int_equal(a[N - 1].n_ends, 0);
    pleat_method_free(method);
    free(ids);
    desk_close(&d);
    free(a);
}

static void a_cancelled_request_is_gone_within_a_turn(void **state) {
    (void)state;
    desk d = desk_open(0, 0, (scheduler_options){.max_running = 2});
    answer *a = answers(4);
    uint64_t id[4];
    must_submit(&d, (ask){"f16", "", 40, 0, 300, 0}, &a[0], &id[0]);    /* decodes */
    must_submit(&d, (ask){"int8", "", 1500, 0, 300, 0}, &a[1], &id[1]); /* prefills */
    must_submit(&d, (ask){"f16", "", 40, 1, 300, 0}, &a[2], &id[2]);    /* waits */
    scheduler_turn(d.s);
    scheduler_turn(d.s);
    assert_true(a[0].n > 0);
    assert_int_equal(a[1].n, 0);
    for (int i = 0; i < 3; i++)
        scheduler_cancel(d.s, id[i]);
    scheduler_cancel(d.s, 12345678);
    int n = a[0].n;
    assert_false(scheduler_turn(d.s));
    assert_int_equal(a[0].n, n); /* not a token more */
    for (int i = 0; i < 3; i++) {
        assert_string_equal(a[i].finish, "cancelled");
        assert_int_equal(a[i].n_ends, 1);
    }
    assert_int_equal(kv_pool_used_bytes(engine_pool(d.bed.engine)), 0);
    desk_close(&d);
    free(a);
}

static void a_moved_out_request_is_cancelled_too(void **state) {
    (void)state;
    enum { N = 4 };
    char folder[] = "/tmp/pleat-cancel-XXXXXX";
    answer *a = answers(N);
    uint64_t id[N];
    assert_non_null(mkdtemp(folder));
    desk d = desk_open((size_t)2 << 20, 0, (scheduler_options){.overcommit = 4, .moved_bytes = 1, .moved_dir = folder});
    int before = nameless_files();
    for (int i = 0; i < N; i++)
        must_submit(&d, (ask){"f16", "", 500, i, 300, 0}, &a[i], &id[i]);
    while (!scheduler_describe(d.s).moved_out)
        assert_true(scheduler_turn(d.s));
    assert_true(nameless_files() > before); /* a cache is in one */
    for (int i = 0; i < N; i++)
        scheduler_cancel(d.s, id[i]);
    assert_false(scheduler_turn(d.s));
    for (int i = 0; i < N; i++)
        assert_string_equal(a[i].finish, "cancelled");
    assert_int_equal(scheduler_describe(d.s).moved_out, 0);
    assert_int_equal(kv_pool_used_bytes(engine_pool(d.bed.engine)), 0);
    assert_int_equal(nameless_files(), before);
    assert_int_equal(rmdir(folder), 0);
    desk_close(&d);
    free(a);
}

static void closing_ends_everything_once(void **state) {
    (void)state;
    desk d = desk_open(0, 0, (scheduler_options){.max_running = 1});
    answer *a = answers(3);
    for (int i = 0; i < 3; i++)
        must_submit(&d, (ask){"f16", "", 40, i, 300, 0}, &a[i], NULL);
    scheduler_turn(d.s);
    desk_close(&d);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(a[i].n_ends, 1);
        assert_string_equal(a[i].finish, "cancelled");
    }
    free(a);
}

/* ---- its own thread ---- */

static void requests_from_other_threads_are_answered(void **state) {
    (void)state;
    enum { N = 24 };
    desk d = desk_open(0, (size_t)16 << 20, (scheduler_options){.max_running = 5});
    answer *a = answers(N);
    uint64_t id[N];
    assert_int_equal(scheduler_start(d.s, NULL), PLEAT_OK);
    for (int i = 0; i < N; i++) {
        must_submit(&d, (ask){i % 2 ? "kivi-2" : "h2o-512", "", 30 + 40 * i, i, 10, 0}, &a[i], &id[i]);
        if (i % 5 == 4)
            scheduler_cancel(d.s, id[i]);
        if (i % 7 == 0)
            usleep(20000);
    }
    assert_true(scheduler_drain(d.s, 120));
    for (int i = 0; i < N; i++) {
        assert_int_equal(a[i].n_ends, 1);
        if (strcmp(a[i].finish, "cancelled"))
            assert_int_equal(a[i].n, 10);
        else
            assert_int_equal(i % 5, 4);
    }
    scheduler_figures f = scheduler_describe(d.s);
    assert_int_equal(f.running + f.waiting + f.moved_out, 0);
    assert_int_equal(f.requests_ended[REQUEST_LENGTH] + f.requests_ended[REQUEST_CANCELLED], N);
    desk_close(&d);
    free(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_text_is_the_same_alone_and_under_load),
        cmocka_unit_test(a_repeated_prompt_is_reused_and_says_so),
        cmocka_unit_test(preempted_requests_go_on_to_the_same_text),
        cmocka_unit_test(a_moved_cache_has_no_name),
        cmocka_unit_test(without_a_place_to_move_to_the_youngest_ends),
        cmocka_unit_test(logprobs_are_those_of_the_model),
        cmocka_unit_test(only_rows_that_are_sampled_give_logits),
        cmocka_unit_test(ends_are_held_back_until_min_tokens),
        cmocka_unit_test(the_sink_ends_a_request),
        cmocka_unit_test(the_context_is_a_clear_end),
        cmocka_unit_test(caches_are_told_what_a_request_says),
        cmocka_unit_test(what_cannot_be_is_refused_at_once),
        cmocka_unit_test(a_prompt_gets_on_beside_a_batch_that_decodes),
        cmocka_unit_test(tenants_take_turns),
        cmocka_unit_test(a_full_queue_takes_in_who_has_less_of_it),
        cmocka_unit_test(places_are_counted_right_whoever_goes_first),
        cmocka_unit_test(a_large_request_is_not_passed_over_for_good),
        cmocka_unit_test(answers_of_one_request_come_in_together),
        cmocka_unit_test(a_cancelled_request_is_gone_within_a_turn),
        cmocka_unit_test(a_moved_out_request_is_cancelled_too),
        cmocka_unit_test(closing_ends_everything_once),
        cmocka_unit_test(requests_from_other_threads_are_answered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
