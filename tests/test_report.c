/* test_report.c - the page is one well-formed file that fetches nothing, and its words say what the figures say. */
#include "report/report.h"
#include "support/env.h"
#include <ctype.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

#define OK(call)                                                                                                       \
    do {                                                                                                               \
        pleat_error error_ = {""}, *error = &error_;                                                                   \
        if (call)                                                                                                      \
            fail_msg("%s", error->text);                                                                               \
    } while (0)

/* ---- synthetic studies ---- */

typedef struct bed {
    const char *db_path, *page_path;
    store *db;
    int64_t run;
    char *page; /* malloc'ed */
} bed;

static bed begin(void) {
    bed b = {.db_path = env_temp("report.db"), .page_path = env_temp("report.html")};
    store_run run = {.what = "study",
                     .model_name = "A <model> & \"more\"",
                     .model_hash = "abc",
                     .machine = "a machine",
                     .level = "portable",
                     .version = "0.1.0",
                     .options = "{\"a\":\"<b>\"}",
                     .n_threads = 2};
    store_begun begun;
    unlink(b.db_path);
    OK(store_open(b.db_path, true, &b.db, error));
    OK(store_run_begin(b.db, &run, STORE_ANEW, &begun, error));
    b.run = begun.id;
    return b;
}

static void put_rates(bed *b, const char *label, int batch, int prompt, const char *stage, size_t kv_bytes, int n,
                      const double *rate) {
    store_point p = {.label = label,
                     .spec = label,
                     .batch = batch,
                     .prompt_tokens = prompt,
                     .stage = stage,
                     .n_repeats = n,
                     .kv_bytes = kv_bytes,
                     .kv_peak_bytes = kv_bytes + 1000};
    double low = rate[0], high = rate[0];
    for (int i = 0; i < n; i++) {
        p.rate[i] = rate[i];
        low = rate[i] < low ? rate[i] : low;
        high = rate[i] > high ? rate[i] : high;
    }
    p.median = rate[n / 2]; /* given in rising order */
    p.spread = (high - low) / p.median;
    OK(store_points_put(b->db, b->run, &p, 1, error));
}

/* A point whose three repeats lie within +/- 1 % of a rate. */
static void put_point(bed *b, const char *label, int batch, int prompt, size_t kv_bytes, double rate) {
    put_rates(b, label, batch, prompt, "decode", kv_bytes, 3, (double[]){rate * 0.99, rate, rate * 1.01});
}

/* KL and agreement of a method over 1,000 positions. */
static void put_window(bed *b, const char *label, float kl, int same_best) {
    float *values = malloc(1000 * sizeof(*values)), *nll = malloc(1000 * sizeof(*nll));
    for (int i = 0; i < 1000; i++) {
        values[i] = kl;
        nll[i] = 3;
    }
    store_window w = {.label = label,
                      .spec = label,
                      .text_name = "text",
                      .ctx = 2002,
                      .n = 1000,
                      .nll = nll,
                      .kl = values,
                      .same_best = same_best,
                      .kept_share = 1};
    OK(store_windows_put(b->db, b->run, &w, 1, error));
    free(values);
    free(nll);
}

static void put_answers(bed *b, const char *label, int n, int n_longer, bool acted) {
    char name[16];
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof(name), "p%d", i);
        store_answer a[2] = {{.data_set = "s",
                              .sample = name,
                              .prompt = "?",
                              .label = "f16",
                              .spec = "f16",
                              .n_tokens = 100,
                              .finish = "stop",
                              .agree_tokens = 100},
                             {.data_set = "s",
                              .sample = name,
                              .prompt = "?",
                              .label = label,
                              .spec = label,
                              .n_tokens = i < n_longer ? 200 : 100,
                              .finish = "stop",
                              .agree_tokens = 50,
                              .acted = acted}};
        OK(store_answers_put(b->db, b->run, a, 2, error));
    }
}

static void write_page(bed *b) {
    OK(report_write(b->db, b->run, b->page_path, error));
    FILE *f = fopen(b->page_path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    size_t n = (size_t)ftell(f);
    rewind(f);
    b->page = malloc(n + 1);
    assert_int_equal(fread(b->page, 1, n, f), n);
    b->page[n] = 0;
    fclose(f);
}

static void end(bed *b) {
    free(b->page);
    store_close(b->db);
    unlink(b->db_path);
    unlink(b->page_path);
}

/* ---- reading the page ---- */

/* Well-formed as XML: tags closed in order, attributes quoted, ampersands are entities. */
static void check_well_formed(const char *page) {
    const char *stack[200];
    size_t length[200];
    int depth = 0;
    const char *at = strstr(page, "<html");
    assert_non_null(at);
    assert_true(at - page < 40);
    while (*at) {
        if (*at == '&') {
            const char *stop = strchr(at, ';');
            if (!stop || stop - at > 8)
                fail_msg("a bare ampersand: %.40s", at);
        }
        if (*at != '<') {
            at++;
            continue;
        }
        bool closing = at[1] == '/';
        const char *name = at + 1 + closing;
        size_t n = strcspn(name, " \t\r\n/>");
        if (!isalpha((unsigned char)*name))
            fail_msg("a stray <: %.40s", at);
        bool empty = false;
        for (at = name + n; *at != '>'; at++) {
            if (!*at || *at == '<')
                fail_msg("a tag without end: %.40s", name);
            if (*at == '"' || *at == '\'') {
                if (at[-1] != '=')
                    fail_msg("a stray quote: %.40s", name);
                at = strchr(at + 1, *at);
                assert_non_null(at);
            } else if (*at == '=' && at[1] != '"' && at[1] != '\'') {
                fail_msg("a value without quotes: %.40s", name);
            }
            empty = *at == '/';
        }
        at++;
        if (closing) {
            if (depth == 0 || length[depth - 1] != n || memcmp(stack[depth - 1], name, n))
                fail_msg("</%.*s> closes <%.20s", (int)n, name, depth ? stack[depth - 1] : "nothing");
            depth--;
        } else if (!empty) {
            assert_true(depth < 200);
            stack[depth] = name;
            length[depth++] = n;
            if (n == 5 && !memcmp(name, "style", 5)) /* its text is no markup */
                at = strstr(at, "</style>");
        }
    }
    assert_int_equal(depth, 0);
}

static int count(const char *page, const char *what) {
    int n = 0;
    for (const char *at = page; (at = strstr(at, what)); at += strlen(what))
        n++;
    return n;
}

static void check_fetches_nothing(const char *page) {
    static const char *const never[] = {"http:",   "https:",  "//",   "src=",    "<link",  "<script",
                                        "<iframe", "@import", "<img", "<object", "<embed", "srcset"};
    for (size_t i = 0; i < sizeof(never) / sizeof(*never); i++)
        if (strstr(page, never[i]))
            fail_msg("the page holds %s: %.60s", never[i], strstr(page, never[i]));
    assert_int_equal(count(page, "url("), count(page, "url(#"));
    assert_int_equal(count(page, " href="), count(page, " href='#") + count(page, " href=\"#"));
}

static void check_ids(const char *page) {
    for (const char *at = page; (at = strstr(at, " id=")); at += 4) {
        char id[80];
        size_t n = strcspn(at + 5, "\"'");
        snprintf(id, sizeof(id), "%.*s", (int)(n + 6), at);
        if (count(page, id) != 1)
            fail_msg("%s stands there %d times", id, count(page, id));
    }
}

/* The text between two marks without its tags, in one of a few turns. */
static const char *plain(const char *from, const char *until) {
    static char out[4][6000];
    static int turn;
    char *to = out[turn = (turn + 1) % 4];
    size_t n = 0;
    for (const char *at = from; at < until && n < 5999; at++) {
        if (*at == '<')
            at = strchr(at, '>');
        else
            to[n++] = *at;
    }
    to[n] = 0;
    return to;
}

static const char *lead_of(const bed *b) {
    const char *at = strstr(b->page, "<p class=\"lead\">");
    assert_non_null(at);
    assert_int_equal(count(b->page, "<p class=\"lead\">"), 1);
    return plain(at, strstr(at, "</p>"));
}

/* The verdict on one method. */
static const char *verdict_of(const bed *b, const char *label) {
    char mark[80];
    snprintf(mark, sizeof(mark), "<li><b class=\"name\">%s</b>", label);
    const char *at = strstr(b->page, mark);
    if (!at)
        fail_msg("there is no verdict on %s", label);
    const char *next = strstr(at + 5, "<li><b class=\"name\">"), *last = strstr(at, "How the words are chosen");
    return plain(at, next && next < last ? next : last);
}

#define SAYS(words, what)                                                                                              \
    do {                                                                                                               \
        if (!strstr(words, what))                                                                                      \
            fail_msg("\"%s\" is not said in: %.3000s", what, words);                                                   \
    } while (0)
#define NEVER(words, what)                                                                                             \
    do {                                                                                                               \
        if (strstr(words, what))                                                                                       \
            fail_msg("\"%s\" is said in: %s", what, words);                                                            \
    } while (0)

/* ---- the page ---- */

static void fill_study(bed *b) {
    static const char *const labels[] = {"f16", "kivi-4", "h2o <&> 'x'"};
    static const int prompts[] = {256, 1024, 4096};
    for (int p = 0; p < 3; p++)
        for (int batch = 1; batch <= 4; batch *= 4)
            for (int i = 0; i < 3; i++) {
                double r = 1000 * (i + 1);
                put_point(b, labels[i], batch, prompts[p], (size_t)(prompts[p] * batch * (300 - 100 * i)),
                          200.0 / (1 + p) * (1 + 0.2 * i));
                if (p < 2)
                    put_rates(b, labels[i], batch, prompts[p], "prefill", 1 << 20, 3, (double[]){r, r + 1, r + 2});
            }
    store_point filled = {.label = "kivi-4",
                          .spec = "kivi-4",
                          .batch = 1,
                          .prompt_tokens = 1024,
                          .stage = "decode",
                          .filled = true,
                          .n_repeats = 1,
                          .rate = {123.4},
                          .median = 123.4};
    store_point refused = {.label = "f16",
                           .spec = "f16",
                           .batch = 4,
                           .prompt_tokens = 9000,
                           .stage = "decode",
                           .error = "too <long>",
                           .bytes_needed = 123000000};
    OK(store_points_put(b->db, b->run, &filled, 1, error));
    OK(store_points_put(b->db, b->run, &refused, 1, error));
    put_answers(b, "kivi-4", 12, 2, true);
    for (int i = 0; i < 3; i++)
        put_window(b, labels[i], 0.005f * (float)i * (float)i, 1000 - 20 * i);
}

static void the_page_is_whole_and_fetches_nothing(void **state) {
    (void)state;
    bed b = begin();
    fill_study(&b);
    write_page(&b);
    check_well_formed(b.page);
    check_fetches_nothing(b.page);
    check_ids(b.page);
    SAYS(b.page, "not finished");
    SAYS(b.page, "A &lt;model&gt; &amp; &quot;more&quot;");
    SAYS(b.page, "h2o &lt;&amp;&gt; &#39;x&#39;");
    SAYS(b.page, "prefers-color-scheme:dark");
    SAYS(b.page, "width=device-width");
    SAYS(b.page, "too &lt;long&gt; (123 MB needed)");
    SAYS(b.page, "123.4"); /* the check of the fill */
    static const char *const sections[] = {"decode", "prefill", "memory", "lengths", "quality", "conditions"};
    for (size_t i = 0; i < sizeof(sections) / sizeof(*sections); i++) {
        char mark[60];
        snprintf(mark, sizeof(mark), "<section id=\"%s\">", sections[i]);
        assert_int_equal(count(b.page, mark), 1);
    }
    int has_gnuplot = system("gnuplot --version >/dev/null 2>&1") == 0;
    static const char *const drawings[] = {"Decode rate of every method", "Length of every answer",
                                           "KL divergence from"};
    for (size_t i = 0; i < sizeof(drawings) / sizeof(*drawings); i++)
        assert_int_equal(count(b.page, drawings[i]), has_gnuplot ? 1 : 0);
    assert_true(count(b.page, "<svg") >= (has_gnuplot ? 3 : 0));
    OK(store_run_finish(b.db, b.run, error));
    free(b.page);
    write_page(&b);
    NEVER(b.page, "not finished");
    end(&b);
}

static void the_page_does_without_gnuplot(void **state) {
    (void)state;
    bed b = begin();
    char *path = strdup(getenv("PATH"));
    fill_study(&b);
    setenv("PATH", "/nowhere", 1);
    write_page(&b);
    setenv("PATH", path, 1);
    free(path);
    check_well_formed(b.page);
    assert_int_equal(count(b.page, "<svg"), 0);
    SAYS(b.page, "gnuplot is not installed");
    end(&b);
}

static void a_part_that_was_not_measured_has_no_section(void **state) {
    (void)state;
    bed b = begin();
    put_window(&b, "f16", 0, 1000);
    put_window(&b, "kivi-4", 0.02f, 960);
    write_page(&b);
    check_well_formed(b.page);
    SAYS(lead_of(&b), "Nothing can be said about speed and memory");
    SAYS(verdict_of(&b, "kivi-4"), "KL 0.0200, another next token at 4.0 % of positions");
    NEVER(b.page, "<section id=\"decode\"");
    NEVER(b.page, "<section id=\"lengths\"");
    SAYS(b.page, "<section id=\"quality\"");
    end(&b);
    b = begin(); /* nothing at all */
    write_page(&b);
    check_well_formed(b.page);
    SAYS(lead_of(&b), "Nothing can be said");
    end(&b);
}

static void runs_are_picked(void **state) {
    (void)state;
    bed b = begin();
    store_run bench = {.what = "bench",
                       .model_name = "the bench",
                       .model_hash = "x",
                       .machine = "m",
                       .level = "l",
                       .version = "1",
                       .options = "{}",
                       .n_threads = 1};
    store_begun begun;
    pleat_error why = {""};
    OK(store_run_begin(b.db, &bench, STORE_ANEW, &begun, error));
    b.run = 0; /* the newest study, though a bench is newer */
    write_page(&b);
    SAYS(b.page, "A &lt;model&gt;");
    free(b.page);
    b.run = begun.id;
    write_page(&b);
    SAYS(b.page, "the bench");
    assert_int_equal(report_write(b.db, 99, b.page_path, &why), PLEAT_EINPUT);
    SAYS(why.text, "no run 99");
    assert_int_equal(report_write(b.db, 0, "/no/such/folder/r.html", &why), PLEAT_EIO);
    SAYS(why.text, "/no/such/folder/r.html");
    end(&b);
    OK(store_open(b.db_path, true, &b.db, error));
    assert_int_equal(report_write(b.db, 0, b.page_path, &why), PLEAT_EINPUT);
    SAYS(why.text, "no run yet");
    b.page = NULL;
    end(&b);
}

/* ---- the verdict ---- */

static void a_faster_method_is_called_faster(void **state) {
    (void)state;
    bed b = begin();
    put_point(&b, "f16", 8, 4096, 3000, 100);
    put_point(&b, "kivi-4", 8, 4096, 1000, 160);
    put_point(&b, "f16", 1, 256, 300, 100);
    put_point(&b, "kivi-4", 1, 256, 200, 80);
    put_window(&b, "f16", 0, 1000);
    put_window(&b, "kivi-4", 0.005f, 950);
    write_page(&b);
    const char *lead = lead_of(&b), *v = verdict_of(&b, "kivi-4");
    SAYS(lead,
         "At batch 8 and 4,096 tokens, compression pays in speed: kivi-4 decodes 1.60x as fast as f16, holds 3.00x "
         "the requests and hardly changes the model (KL 0.0050).");
    SAYS(lead, "Avoid it where speed counts at batch 1 and 256 tokens (0.80x).");
    NEVER(lead, "Faster still");
    SAYS(v, "Decodes faster than f16: 1.60x at batch 8 and 4,096 tokens; 0.80x to 1.60x over the 2 measured cells, "
            "faster in 1 and slower in 1.");
    SAYS(v, "Holds 3.00x the requests in the same memory at batch 8 and 4,096 tokens (33 % of f16's bytes).");
    SAYS(v, "another next token at 5.0 %");
    NEVER(v, "answers are");
    end(&b);
}

static void a_slower_method_is_called_slower(void **state) {
    (void)state;
    bed b = begin();
    put_point(&b, "f16", 4, 1024, 2000, 100);
    put_point(&b, "kivi-2", 4, 1024, 500, 70);
    write_page(&b);
    const char *lead = lead_of(&b), *v = verdict_of(&b, "kivi-2");
    SAYS(lead, "kivi-2 was not seen to decode faster than f16 beyond the noise; what compression saves here is memory: "
               "kivi-2 holds 4.00x the requests.");
    NEVER(lead, "pays in speed");
    NEVER(lead, "KL");
    SAYS(v, "Decodes slower than f16: 0.70x at batch 4 and 1,024 tokens.");
    SAYS(v, "Avoid it where speed counts.");
    end(&b);
}

static void noise_is_not_a_difference(void **state) {
    (void)state;
    bed b = begin();
    put_rates(&b, "f16", 1, 256, "decode", 100, 3, (double[]){90, 100, 140});
    put_rates(&b, "kivi-4", 1, 256, "decode", 50, 3, (double[]){110, 130, 150}); /* 1.30x, but the repeats overlap */
    put_point(&b, "int8", 1, 256, 50, 102); /* apart or not, 2 % is no difference */
    put_rates(&b, "streaming-512", 1, 256, "decode", 100, 3, (double[]){60, 75, 89}); /* all below all of f16's */
    write_page(&b);
    SAYS(lead_of(&b), "no method was seen to decode faster than f16 beyond the noise");
    SAYS(verdict_of(&b, "kivi-4"), "Decode does not differ from f16 beyond the noise: 1.30x at batch 1 and 256 tokens "
                                   "(repeats spread by 50 %).");
    NEVER(verdict_of(&b, "kivi-4"), "faster");
    SAYS(verdict_of(&b, "int8"), "Decode does not differ from f16 beyond the noise: 1.02x");
    SAYS(verdict_of(&b, "streaming-512"), "Decodes slower than f16: 0.75x");
    assert_int_equal(count(b.page, "style=\"background"), 1); /* the one cell that differs has a colour */
    end(&b);
}

static void one_repeat_says_nothing_about_noise(void **state) {
    (void)state;
    bed b = begin();
    put_rates(&b, "f16", 1, 256, "decode", 100, 1, (double[]){100});
    put_rates(&b, "kivi-4", 1, 256, "decode", 50, 1, (double[]){200});
    write_page(&b);
    SAYS(lead_of(&b),
         "nothing can be said about speed, because rates were timed only once; what compression saves here "
         "is memory: kivi-4 holds 2.00x the requests.");
    SAYS(verdict_of(&b, "kivi-4"), "Decode was timed once, so that its noise is not known: 2.00x");
    end(&b);
}

static void what_was_not_measured_is_said(void **state) {
    (void)state;
    bed b = begin();
    put_point(&b, "f16", 4, 1024, 2000, 100);
    put_point(&b, "kivi-4", 4, 1024, 500, 150);
    put_point(&b, "f16", 1, 256, 300, 100);
    put_point(&b, "int8", 1, 256, 200, 130);
    store_point refused = {.label = "h2o-512",
                           .spec = "h2o",
                           .batch = 4,
                           .prompt_tokens = 1024,
                           .stage = "decode",
                           .error = "it needs more",
                           .bytes_needed = 5};
    OK(store_points_put(b.db, b.run, &refused, 1, error));
    write_page(&b);
    SAYS(verdict_of(&b, "int8"), "Decode was not measured at batch 4 and 1,024 tokens.");
    NEVER(verdict_of(&b, "int8"), "Holds");
    SAYS(verdict_of(&b, "h2o-512"), "Decode could not be measured at batch 4 and 1,024 tokens.");
    SAYS(lead_of(&b), "kivi-4 decodes 1.50x as fast as f16 and holds 4.00x the requests.");
    end(&b);
    b = begin(); /* no room for f16 */
    put_point(&b, "f16", 1, 1024, 2000, 100);
    put_point(&b, "kivi-4", 1, 1024, 500, 150);
    put_point(&b, "kivi-4", 8, 1024, 4000, 400);
    refused.label = "f16";
    refused.batch = 8;
    OK(store_points_put(b.db, b.run, &refused, 1, error));
    write_page(&b);
    SAYS(verdict_of(&b, "kivi-4"), "Ran in 1 cell where f16 could not be measured, the largest at batch 8 and 1,024");
    SAYS(lead_of(&b), "At batch 1 and 1,024 tokens");
    end(&b);
    b = begin(); /* f16 alone */
    put_point(&b, "f16", 4, 1024, 2000, 100);
    write_page(&b);
    SAYS(lead_of(&b), "Nothing can be said about speed and memory: no method was measured beside f16.");
    assert_int_equal(count(b.page, "<ul class=\"verdicts\">"), 0);
    end(&b);
    b = begin(); /* f16 missing */
    put_point(&b, "kivi-4", 4, 1024, 2000, 100);
    write_page(&b);
    SAYS(lead_of(&b), "Nothing can be said");
    end(&b);
}

static void the_gentle_method_comes_first(void **state) {
    (void)state;
    bed b = begin();
    put_point(&b, "f16", 4, 1024, 8000, 100);
    put_point(&b, "kivi-4", 4, 1024, 2500, 140);
    put_point(&b, "streaming-512", 4, 1024, 1000, 250);
    put_window(&b, "f16", 0, 1000);
    put_window(&b, "kivi-4", 0.05f, 930);
    put_window(&b, "streaming-512", 0.14f, 800);
    put_answers(&b, "streaming-512", 10, 3, true);
    write_page(&b);
    const char *lead = lead_of(&b), *v = verdict_of(&b, "streaming-512");
    SAYS(lead,
         "compression pays in speed: kivi-4 decodes 1.40x as fast as f16, holds 3.20x the requests and changes the "
         "model visibly (KL 0.0500). Faster still: streaming-512 decodes 2.50x as fast as f16, holds 8.00x the "
         "requests and changes the model a lot (KL 0.1400).");
    SAYS(v, "Its answers are 1.30 times as long as f16's in the mean; 30 % of 10 grew to 1.5 times and more.");
    SAYS(v, "Avoid it where answers must stay what they are and where every token of an answer costs.");
    end(&b);
}

/* Nine methods: m0 decodes at 1.1x in half of the bytes, m1 at 1.2x, ... */
static void put_many(bed *b, int n) {
    char label[16];
    put_point(b, "f16", 2, 512, 1000, 100);
    put_point(b, "f16", 1, 256, 1000, 100);
    put_window(b, "f16", 0, 1000);
    for (int i = 0; i < n; i++) {
        snprintf(label, sizeof(label), "m%d", i);
        put_point(b, label, 2, 512, 500, 100 + 10 * (i + 1));
        if (i == 0)
            put_point(b, label, 1, 256, 500, 75);
        put_window(b, label, 0.01f * (float)i, 1000 - 10 * i);
    }
}

static void many_methods_stand_in_one_table(void **state) {
    (void)state;
    bed b = begin();
    put_many(&b, 8);
    write_page(&b);
    assert_null(strstr(b.page, "Method by method"));
    end(&b);
    b = begin();
    put_many(&b, 9);
    put_answers(&b, "m1", 5, 5, true);
    write_page(&b);
    const char *table = strstr(b.page, "Decode at batch 2 and 512 tokens"), *fold = strstr(b.page, "Method by method");
    assert_non_null(table);
    assert_non_null(fold);
    assert_true(table < fold && fold < strstr(b.page, "<ul class=\"verdicts\">"));
    SAYS(plain(table, fold), "m01.10x0.75x to 1.10x&#8211;2.00x0.00000.0 %&#8211;");
    SAYS(plain(table, fold), "m11.20x1.20x to 1.20x&#8211;2.00x0.01001.0 %2.00x");
    SAYS(plain(table, fold), "m21.30x1.30x to 1.30x&#8211;2.00x0.02002.0 %&#8211;");
    SAYS(plain(table, fold), "m81.90x");
    SAYS(verdict_of(&b, "m8"), "Decodes faster than f16: 1.90x");
    end(&b);
}

static void answers_without_an_act_say_nothing(void **state) {
    (void)state;
    bed b = begin();
    put_point(&b, "f16", 4, 1024, 8000, 100);
    put_point(&b, "h2o-512", 4, 1024, 1000, 100);
    put_answers(&b, "h2o-512", 5, 0, false);
    write_page(&b);
    SAYS(verdict_of(&b, "h2o-512"), "It never acted within the 5 answers, so their lengths say nothing about it.");
    NEVER(verdict_of(&b, "h2o-512"), "Its answers are");
    end(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_page_is_whole_and_fetches_nothing),
        cmocka_unit_test(the_page_does_without_gnuplot),
        cmocka_unit_test(a_part_that_was_not_measured_has_no_section),
        cmocka_unit_test(runs_are_picked),
        cmocka_unit_test(a_faster_method_is_called_faster),
        cmocka_unit_test(a_slower_method_is_called_slower),
        cmocka_unit_test(noise_is_not_a_difference),
        cmocka_unit_test(one_repeat_says_nothing_about_noise),
        cmocka_unit_test(what_was_not_measured_is_said),
        cmocka_unit_test(the_gentle_method_comes_first),
        cmocka_unit_test(many_methods_stand_in_one_table),
        cmocka_unit_test(answers_without_an_act_say_nothing),
    };
    return cmocka_run_group_tests_name("report", tests, NULL, NULL);
}
