/* test_serve_figures.c - /metrics: every name is there, and its value moves with what it counts. */
#include "support/desk.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#define TEXT "/v1/completions"

static int count(const desk *d, const char *name) {
    return (int)desk_figure(d, name);
}

static void is(const desk *d, const char *name, const char *label, double want) {
    double x = desk_figure_of(d, name, label);
    if (!(fabs(x - want) < 1e-9))
        fail_msg("%s {%s} is %g, not %g", name, label ? label : "", x, want);
}

static void rises(const desk *d, const char *name, double above) {
    double x = desk_figure(d, name);
    if (!(x > above))
        fail_msg("%s is %g, not above %g", name, x, above);
}

/* Above zero within 10 s. */
static void comes(const desk *d, const char *name, const char *label) {
    for (int i = 0; i < 1000 && !(desk_figure_of(d, name, label) > 0); i++)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    assert_true(desk_figure_of(d, name, label) > 0);
}

/* ---- answers that end ---- */

static const char *const times[] = {"vllm:time_to_first_token_seconds",
                                    "vllm:e2e_request_latency_seconds",
                                    "vllm:request_queue_time_seconds",
                                    "vllm:request_prefill_time_seconds",
                                    "vllm:request_decode_time_seconds",
                                    "vllm:request_inference_time_seconds",
                                    "vllm:request_time_per_output_token_seconds",
                                    "vllm:request_prompt_tokens",
                                    "vllm:request_generation_tokens"};

static double of(const desk *d, const char *name, const char *part, const char *label) {
    char full[120];
    snprintf(full, sizeof(full), "%s_%s", name, part);
    return desk_figure_of(d, full, label);
}

/* The counts of the buckets rise with their bounds, to the count of all. */
static void check_buckets(const desk *d, const char *name) {
    web_answer a = web_ask(d->port, "GET /metrics", NULL, NULL);
    char bucket[120];
    double last = 0;
    int n_buckets = 0;
    snprintf(bucket, sizeof(bucket), "\n%s_bucket{", name);
    for (const char *at = a.body.bytes; (at = strstr(at, bucket)); at++, n_buckets++) {
        double now = strtod(strstr(at, "} ") + 2, NULL);
        assert_true(now >= last);
        last = now;
    }
    assert_true(n_buckets > 5);
    assert_true(last == of(d, name, "count", NULL) && last == of(d, name, "bucket", "le=\"+Inf\""));
    web_free(&a);
}

static void answers_are_counted_and_timed(void **state) {
    (void)state;
    enum { N_TIMES = sizeof(times) / sizeof(*times) };
    desk d = desk_open((serve_options){0}, 0, 0);
    for (int n = 0; n < 3; n++) {
        for (int i = 0; i < N_TIMES; i++)
            assert_true(of(&d, times[i], "count", NULL) == n);
        is(&d, "vllm:prompt_tokens_total", NULL, 3 * n);
        is(&d, "vllm:generation_tokens_total", NULL, 6 * n);
        is(&d, "vllm:inter_token_latency_seconds_count", NULL, 5 * n);
        is(&d, "vllm:time_per_output_token_seconds_count", NULL, 5 * n);
        is(&d, "vllm:request_success_total", "finished_reason=\"length\"", n);
        assert_true(count(&d, "pleat:steps_total") >= 6 * n && count(&d, "pleat:steps_total") <= 7 * n);
        json_decref(desk_ask(&d, TEXT, "{\"prompt\":[1,2,3],\"max_tokens\":6,\"ignore_eos\":true}"));
    }
    json_decref(desk_ask(&d, TEXT,
                         "{\"prompt\":[1,2,3],\"max_tokens\":6,\"stop_token_ids\":[64],\"logit_bias\":{\"64\":100}}"));
    is(&d, "vllm:request_success_total", "finished_reason=\"stop\"", 1);
    is(&d, "vllm:request_success_total", "finished_reason=\"length\"", 3);
    is(&d, "vllm:request_success_total", "finished_reason=\"error\"", 0);
    double sum[N_TIMES];
    for (int i = 0; i < N_TIMES; i++) {
        sum[i] = of(&d, times[i], "sum", NULL);
        assert_true(sum[i] > 0 || i == 2); /* an empty queue may take less than is counted */
        check_buckets(&d, times[i]);
    }
    check_buckets(&d, "vllm:inter_token_latency_seconds");
    rises(&d, "vllm:inter_token_latency_seconds_sum", 0);
    assert_true(fabs(sum[1] - sum[2] - sum[3] - sum[4]) < 1e-4); /* whole = queue + prefill + decode */
    assert_true(fabs(sum[5] - sum[3] - sum[4]) < 1e-4);
    assert_true(sum[7] == 12 && sum[8] == 18);
    is(&d, "vllm:request_prompt_tokens_bucket", "le=\"2\"", 0);
    is(&d, "vllm:request_prompt_tokens_bucket", "le=\"5\"", 4);
    is(&d, "vllm:request_generation_tokens_bucket", "le=\"5\"", 1);
    is(&d, "vllm:request_generation_tokens_bucket", "le=\"10\"", 4);
    is(&d, "vllm:cache_config_info", "block_size=\"64\"", 1);
    desk_close(&d);
}

static void http_answers_are_counted_by_class(void **state) {
    (void)state;
    desk d = desk_open((serve_options){0}, 0, 0);
    double good = desk_figure_of(&d, "pleat:http_answers_total", "status=\"2xx\"");
    web_answer a = web_ask(d.port, "GET /nowhere", NULL, NULL);
    assert_int_equal(a.status, 404);
    web_free(&a);
    a = web_ask(d.port, "GET /metrics", NULL, NULL);
    assert_non_null(strstr(web_header(&a, "Content-Type"), "version=0.0.4"));
    assert_null(strstr(a.body.bytes, "nan"));
    assert_null(strstr(a.body.bytes, "} inf"));
    web_free(&a);
    is(&d, "pleat:http_answers_total", "status=\"4xx\"", 1);
    is(&d, "pleat:http_answers_total", "status=\"5xx\"", 0);
    assert_true(desk_figure_of(&d, "pleat:http_answers_total", "status=\"2xx\"") >= good + 3);
    desk_close(&d);
}

/* ---- answers under way ---- */

static void what_runs_and_waits_is_shown(void **state) {
    (void)state;
    enum { N = 5 };
    int fd[N];
    desk d = desk_open((serve_options){.scheduler = {.max_running = 2}}, 0, 0);
    is(&d, "vllm:kv_cache_usage_perc", NULL, 0);
    is(&d, "pleat:kv_pool_used_bytes", NULL, 0);
    is(&d, "pleat:kv_pool_budget_bytes", NULL, 64 << 20);
    for (int i = 0; i < N; i++) {
        char body[200];
        fd[i] = web_connect(d.port);
        snprintf(body, sizeof(body),
                 "{\"prompt\":[1,2,3],\"max_tokens\":2000,\"ignore_eos\":true,\"stream\":true,\"kv_method\":\"%s\"}",
                 i == 1 ? "streaming:sinks=4,recent=64" : "f16");
        web_request(fd[i], "POST " TEXT, NULL, body);
        if (i < 2)
            desk_await(&d, "vllm:num_requests_running", i + 1);
    }
    desk_await(&d, "vllm:num_requests_waiting", N - 2);
    is(&d, "vllm:num_requests_running", NULL, 2);
    is(&d, "pleat:requests", "method=\"f16\"", N - 1);
    is(&d, "pleat:requests", NULL, N);
    comes(&d, "pleat:kv_bytes", "method=\"f16\"");
    comes(&d, "pleat:kv_bytes", "method=\"streaming");
    static const char *const used[] = {"vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"};
    for (int i = 0; i < 2; i++)
        assert_true(desk_figure(&d, used[i]) > 0 && desk_figure(&d, used[i]) < 1);
    rises(&d, "pleat:kv_pool_used_bytes", 0);
    for (int i = 0; i < N; i++)
        close(fd[i]);
    desk_quiet(&d);
    is(&d, "vllm:kv_cache_usage_perc", NULL, 0);
    is(&d, "vllm:request_success_total", "finished_reason=\"abort\"", N);
    desk_unasked(&d); /* no line of any method is left */
    desk_close(&d);
}

/* ---- caches ---- */

static void prompts_found_again_are_counted(void **state) {
    (void)state;
    enum { N_PROMPT = 900, N_FOUND = 896 };
    static const char *const asked[] = {"vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"};
    static const char *const found[] = {"vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total",
                                        "pleat:cached_prompt_tokens_total"};
    desk d = desk_open((serve_options){0}, 0, (size_t)8 << 20);
    char body[1500];
    snprintf(body, sizeof(body), "{\"prompt\":\"%0*d\",\"max_tokens\":2}", N_PROMPT, 1);
    for (int n = 0; n < 3; n++) {
        for (int i = 0; i < 2; i++) {
            double x = desk_figure(&d, asked[i]);
            assert_true(x >= N_FOUND * n && x <= (N_PROMPT + 1) * n);
        }
        for (int i = 0; i < 3; i++)
            is(&d, found[i], NULL, n ? N_FOUND * (n - 1) : 0);
        json_decref(desk_ask(&d, TEXT, body));
    }
    desk_close(&d);
}

static void seals_and_evictions_are_counted(void **state) {
    (void)state;
    static const struct {
        const char *method;
        bool evicts, seals, reseals;
    } cases[] = {{"f16", false, false, false},
                 {"h2o:heavy=32,recent=32", true, false, false},
                 {"kivi-4", false, true, false},
                 {"kivi-4+h2o:heavy=64,recent=64+prefill:exact", true, true, true},
                 {"int8+h2o:heavy=100,recent=100", true, true, false}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char body[800];
        desk d = desk_open((serve_options){0}, 0, 0);
        snprintf(body, sizeof(body),
                 "{\"prompt\":\"%0*d\",\"max_tokens\":300,\"ignore_eos\":true,\"kv_method\":\"%s\"}", 400, 1,
                 cases[i].method);
        json_decref(desk_ask(&d, TEXT, body));
        static const char *const names[] = {"pleat:evictions_total", "pleat:seals_total", "pleat:reseals_total"};
        const bool moves[] = {cases[i].evicts, cases[i].seals, cases[i].reseals};
        for (int k = 0; k < 3; k++)
            if ((count(&d, names[k]) > 0) != moves[k])
                fail_msg("%s: %s is %d", cases[i].method, names[k], count(&d, names[k]));
        desk_close(&d);
    }
}

/* However many methods clients write, the sums hold. */
static void methods_without_a_line_are_counted_together(void **state) {
    (void)state;
    enum { N = 40, LINES = 31 };
    int fd[N];
    desk d = desk_open((serve_options){.scheduler = {.max_running = 2}}, 0, 0);
    for (int i = 0; i < N; i++) {
        char body[200];
        fd[i] = web_connect(d.port);
        snprintf(body, sizeof(body),
                 "{\"prompt\":[1,2,3],\"max_tokens\":100000,\"ignore_eos\":true,"
                 "\"kv_method\":\"streaming:sinks=4,recent=%d\"}",
                 64 + i);
        web_request(fd[i], "POST /v1/completions", NULL, body);
    }
    desk_await(&d, "pleat:requests", N);
    is(&d, "pleat:requests", "method=\"others\"", N - LINES);
    for (int i = 0; i < N; i++)
        close(fd[i]);
    desk_quiet(&d);
    desk_close(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_counted_and_timed),
        cmocka_unit_test(http_answers_are_counted_by_class),
        cmocka_unit_test(what_runs_and_waits_is_shown),
        cmocka_unit_test(prompts_found_again_are_counted),
        cmocka_unit_test(seals_and_evictions_are_counted),
        cmocka_unit_test(methods_without_a_line_are_counted_together),
    };
    return cmocka_run_group_tests_name("serve_figures", tests, NULL, NULL);
}
