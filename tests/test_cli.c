/* test_cli.c - the commands as a person meets them: help, exit codes, one sentence for what is wrong, the fixed fields
 * of
 * --json, bytes in and out, a chat to its end. Runs build/pleat on a tiny model. fetch: test_fetch.c. */
#include "base/progress.h"
#include "engine/engine.h"
#include "support/env.h"
#include "support/program.h"
#include "support/tiny_model.h"
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

static char model[300], home[300];

enum { CONTEXT = 128 };

static int make_model(void **state) {
    (void)state;
    tiny_options o = tiny_default();
    char path[400];
    o.context = CONTEXT;
    snprintf(model, sizeof(model), "%s", env_temp("cli.gguf"));
    tiny_write(model, &o);
    snprintf(home, sizeof(home), "%s", env_temp("home"));
    mkdir(home, 0700);
    snprintf(path, sizeof(path), "%s/models", home);
    mkdir(path, 0700);
    snprintf(path, sizeof(path), "%s/models/own.gguf", home);
    return symlink(model, path);
}

static int remove_model(void **state) {
    (void)state;
    char path[400];
    snprintf(path, sizeof(path), "%s/models/own.gguf", home);
    unlink(path);
    snprintf(path, sizeof(path), "%s/models", home);
    rmdir(path);
    rmdir(home);
    unlink(model);
    return 0;
}

static int64_t int_of(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value))
        fail_msg("%s is not a whole number", key);
    return json_integer_value(value);
}

static const char *text_of(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_string(value))
        fail_msg("%s is not a text", key);
    return json_string_value(value);
}

static size_t list_of(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_array(value))
        fail_msg("%s is not a list", key);
    return json_array_size(value);
}

static bool same(const json_t *a, const json_t *b, const char *key) {
    return json_equal(json_object_get(a, key), json_object_get(b, key));
}

/* ---- help and usage ---- */

static void every_command_has_help_with_an_example(void **state) {
    (void)state;
    program_result all = PROGRAM("--help");
    int n = 0;
    assert_int_equal(all.code, 0);
    for (char *line = strstr(all.out, "\n  "); line; line = strstr(line + 1, "\n  ")) {
        char name[40], words[80];
        assert_int_equal(sscanf(line, "%39s", name), 1);
        program_result r = PROGRAM(name, "--help"), h = PROGRAM(name, "-h");
        assert_true(r.code == 0 && r.n_err == 0 && h.code == 0);
        assert_string_equal(r.out, h.out);
        snprintf(words, sizeof(words), "Usage: pleat %s", name);
        assert_non_null(strstr(r.out, words));
        snprintf(words, sizeof(words), "\n  pleat %s", name);
        const char *example = strstr(r.out, "\nExample:");
        bool group = strstr(r.out, "--help` says more") != NULL; /* of commands below it */
        if (!group && (!example || !strstr(example, words) || !strstr(r.out, "--json") || !strstr(r.out, "--threads")))
            fail_msg("%s: no example, no --json or no --threads in: %s", name, r.out);
        program_free(&r);
        program_free(&h);
        n++;
    }
    assert_true(n >= 9);
    program_free(&all);
    all = PROGRAM("--version");
    assert_true(all.code == 0 && !strcmp(all.out, "pleat " PLEAT_VERSION "\n"));
    program_free(&all);
    all = program_run((const char *const[]){NULL}, NULL, 0);
    assert_true(all.code == 2 && all.n_out == 0 && strstr(all.err, "Usage: pleat COMMAND"));
    program_free(&all);
}

/* A broken PATH, so that a check that went on would end at once, another way. */
static void check_takes_all_or_nothing(void **state) {
    (void)state;
    static const char *const wrong[] = {"--foo", "--all extra", "--all --all", "\"\" x"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        char line[100];
        snprintf(line, sizeof(line), "PATH=/nonexistent ./check %s 2>/dev/null", wrong[i]);
        int status = system(line);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 2);
    }
}

static void wrong_usage_is_2_and_one_sentence(void **state) {
    (void)state;
    PROGRAM_REFUSES(2, "did you mean run?", "rnu");
    PROGRAM_REFUSES(2, "there is no command", "xyzzy");
    PROGRAM_REFUSES(2, "did you mean --model?", "run", "--modle", model);
    PROGRAM_REFUSES(2, "there is no option", "tokenize", "-x");
    PROGRAM_REFUSES(2, "a value is missing after --model", "run", "-m");
    PROGRAM_REFUSES(2, "it takes no value", "run", "--raw=1");
    PROGRAM_REFUSES(2, "one argument too many", "tokenize", "-m", model, "a", "b");
    PROGRAM_REFUSES(2, "an argument is missing", "inspect");
    PROGRAM_REFUSES(2, "one argument too many", "methods", "kivi");
    PROGRAM_REFUSES(2, "which model?", "run", "-p", "x");
    PROGRAM_REFUSES(2, "which model?", "tokenize", "x");
    PROGRAM_REFUSES(2, "-p TEXT and -i", "run", "-m", model);
    PROGRAM_REFUSES(2, "-p TEXT and -i", "run", "-m", model, "-i", "-p", "x");
    PROGRAM_REFUSES(2, "-p TEXT and -i", "run", "-m", model, "-i", "--json");
    PROGRAM_REFUSES(2, "by -f FILE", "tokenize", "-m", model);
    PROGRAM_REFUSES(2, "by -f FILE", "tokenize", "-m", model, "-f", "-", "x");
    PROGRAM_REFUSES(2, "a number is expected", "run", "-m", model, "-p", "x", "--temp", "warm");
    PROGRAM_REFUSES(2, "between 0 and 100", "run", "-m", model, "-p", "x", "--temp", "-1");
    PROGRAM_REFUSES(2, "between 0 and 1", "run", "-m", model, "-p", "x", "--top-p", "1.5");
    PROGRAM_REFUSES(2, "between 0 and 1", "run", "-m", model, "-p", "x", "--min-p", "nan");
    PROGRAM_REFUSES(2, "a whole number", "run", "-m", model, "-p", "x", "-n", "1.5");
    PROGRAM_REFUSES(2, "a whole number", "run", "-m", model, "-p", "x", "-n", "99999999999999999999x");
    PROGRAM_REFUSES(2, "it must be between", "run", "-m", model, "-p", "x", "-n", "99999999999999999999");
    PROGRAM_REFUSES(2, "from 0 on", "run", "-m", model, "-p", "x", "--seed", "-1");
    PROGRAM_REFUSES(2, "from 0 on", "run", "-m", model, "-p", "x", "--seed", "18446744073709551616");
    PROGRAM_REFUSES(2, "chatml, llama-2, llama-3, gemma, mistral", "run", "-m", model, "-p", "x", "--chat", "vicuna");
    PROGRAM_REFUSES(2, "kiwi", "run", "-m", model, "-p", "x", "--method", "kiwi");
    PROGRAM_REFUSES(2, "--raw has no", "run", "-m", model, "-p", "x", "--raw", "--system", "y");
}

static void failures_are_1_and_one_sentence(void **state) {
    (void)state;
    static const char missing[] = "/tmp/there-is-none.gguf";
    PROGRAM_REFUSES(1, missing, "run", "-m", missing, "-p", "x");
    PROGRAM_REFUSES(1, missing, "tokenize", "-m", missing, "x");
    PROGRAM_REFUSES(1, missing, "inspect", missing);
    PROGRAM_REFUSES(1, "not a GGUF file", "inspect", "./Makefile");
    PROGRAM_REFUSES(1, "not a regular file", "inspect", "/tmp/");
    PROGRAM_REFUSES(1, "/nowhere/f: cannot be opened", "tokenize", "-m", model, "-f", "/nowhere/f");
    PROGRAM_REFUSES(1, "cannot be read", "tokenize", "-m", model, "-f", "/tmp");
    PROGRAM_REFUSES(1, "the prompt has no tokens", "run", "-m", model, "--raw", "-p", "");
    char large[4000];
    memset(large, 'x', sizeof(large) - 1);
    large[sizeof(large) - 1] = 0;
    PROGRAM_REFUSES(1, "the prompt has 3999 tokens; the context of 128 tokens has room for 128 more", "run", "-m",
                    model, "--raw", "-p", large);
}

static void models_are_found_by_name(void **state) {
    (void)state;
    setenv("PLEAT_HOME", home, 1);
    json_t *r = PROGRAM_JSON("tokenize", "-m", "own", "x");
    json_decref(r);
    PROGRAM_REFUSES(1, "get it with `pleat fetch smollm2-135m`", "run", "-m", "smollm2-135m", "-p", "x");
    PROGRAM_REFUSES(1, "there is no model nobody", "run", "-m", "nobody", "-p", "x");
    unsetenv("PLEAT_HOME");
    char *old = strdup(getenv("HOME") ? getenv("HOME") : "");
    unsetenv("HOME");
    PROGRAM_REFUSES(1, "set PLEAT_HOME or HOME", "run", "-m", "own", "-p", "x");
    setenv("HOME", old, 1);
    free(old);
}

static void results_that_cannot_be_written_are_failures(void **state) {
    (void)state;
    static const char *const commands[][3] = {{"methods"}, {"methods", "--json"}};
    for (int i = 0; i < 2; i++) {
        program_live p = program_start(commands[i]);
        close(p.out);
        p.out = open("/dev/null", O_RDONLY);
        program_result r = program_end(&p);
        if (r.n_err) { /* it may have been quicker than we were */
            assert_int_equal(r.code, 1);
            assert_non_null(strstr(r.err, "could not be written"));
        }
        program_free(&r);
    }
    char line[500];
    snprintf(line, sizeof(line), "exec %s tokenize -m %s x >/dev/full 2>/dev/null", program_path(), model);
    assert_int_equal(WEXITSTATUS(system(line)), 1);
    snprintf(line, sizeof(line), "exec %s run -m %s -p x -n 5 >/dev/full 2>/dev/null", program_path(), model);
    assert_int_equal(WEXITSTATUS(system(line)), 1);
}

/* ---- tokenize ---- */

static void tokenize_takes_bytes_as_they_are(void **state) {
    (void)state;
    json_t *r = PROGRAM_JSON("tokenize", "-m", model, "the  x");
    assert_int_equal(json_object_size(r), 2);
    /* th + e, a space alone, a space and x; see tiny_model.c */
    json_t *want = json_pack("{s:[i,i,i,i],s:[s,s,s,s]}", "ids", 261, ' ', ' ', 'x', "pieces", "the", " ", " ", "x");
    assert_true(json_equal(r, want));
    json_decref(want);
    json_decref(r);
    r = PROGRAM_JSON("tokenize", "-m", model, "");
    assert_true(list_of(r, "ids") == 0 && list_of(r, "pieces") == 0);
    json_decref(r);
    r = PROGRAM_JSON("tokenize", "-m", model, "  \n");
    assert_int_equal(list_of(r, "ids"), 3);
    json_decref(r);
    r = PROGRAM_JSON("tokenize", "-m", model, "<|im_start|>");
    assert_int_equal(list_of(r, "ids"), 12); /* plain: special text stays text */
    json_decref(r);
    r = PROGRAM_JSON("tokenize", "-m", model, "--special", "<|im_start|>");
    want = json_pack("{s:[i],s:[s]}", "ids", 257, "pieces", "<|im_start|>");
    assert_true(json_equal(r, want));
    json_decref(want);
    json_decref(r);
    r = PROGRAM_JSON("tokenize", "-m", model, "--", "--special"); /* -- ends the options */
    assert_int_equal(list_of(r, "ids"), 9);
    json_decref(r);
}

static void tokenize_reads_files_to_the_last_byte(void **state) {
    (void)state;
    static const char bytes[] = "a\0\r\n\t\xf0\x9f\x98\x80 \n\n";
    enum { N = sizeof(bytes) - 1 };
    const char *path = env_temp("text");
    FILE *f = fopen(path, "wb");
    fwrite(bytes, 1, N, f);
    fclose(f);
    json_t *r = PROGRAM_JSON("tokenize", "-m", model, "-f", path);
    assert_int_equal(list_of(r, "ids"), N);
    for (int i = 0; i < N; i++)
        assert_int_equal(json_integer_value(json_array_get(json_object_get(r, "ids"), (size_t)i)), (uint8_t)bytes[i]);
    json_decref(r);
    unlink(path);
    const char *arguments[] = {"tokenize", "-m", model, "-f", "-", NULL};
    program_result out = program_run(arguments, bytes, N);
    int n_lines = 0;
    for (const char *at = out.out; (at = strchr(at, '\n')); at++)
        n_lines++;
    assert_true(out.code == 0 && n_lines == N);
    assert_non_null(strstr(out.out, "      97  \"a\"\n       0  \"\\u0000\"\n      13  \"\\r\"\n"));
    program_free(&out);
}

/* ---- run ---- */

static void run_prints_exactly_the_fixed_fields(void **state) {
    (void)state;
    static const char *const fields[] = {"text",   "ids",      "prompt_tokens", "completion_tokens", "finish",
                                         "method", "kv_bytes", "kv_peak_bytes", "ttft_ms",           "tpot_ms"};
    json_t *r = PROGRAM_JSON("run", "-m", model, "-p", "Hello", "-n", "20", "--method", "kivi-4");
    for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++)
        if (!json_object_get(r, fields[i]))
            fail_msg("%s is missing", fields[i]);
    int n = (int)int_of(r, "completion_tokens");
    assert_true(n > 0 && n <= 20 && (int)list_of(r, "ids") == n);
    assert_true(!strcmp(text_of(r, "finish"), "length") == (n == 20));
    assert_true(strstr(text_of(r, "method"), "kivi") && int_of(r, "kv_bytes") > 0);
    assert_true(int_of(r, "kv_peak_bytes") >= int_of(r, "kv_bytes"));
    assert_true(json_is_real(json_object_get(r, "ttft_ms")) && json_is_real(json_object_get(r, "tpot_ms")));
    json_decref(r);
}

static void run_answers_the_same_question_the_same(void **state) {
    (void)state;
    json_t *plain = PROGRAM_JSON("run", "-m", model, "-p", "Hello", "-n", "30", "-t", "1");
    program_result streamed = PROGRAM("run", "-m", model, "-p", "Hello", "-n", "30", "-t", "2");
    const json_t *text = json_object_get(plain, "text");
    assert_int_equal(streamed.code, 0); /* the stream is the text and a line's end */
    assert_int_equal(streamed.n_out, json_string_length(text) + 1);
    assert_memory_equal(streamed.out, json_string_value(text), json_string_length(text));
    program_free(&streamed);
    /* greedy: every penalty and filter is off */
    json_t *other = PROGRAM_JSON("run", "-m", model, "-p", "Hello", "-n", "30", "--temp", "0", "--repeat-penalty", "5",
                                 "--presence-penalty", "9", "--top-k", "1", "--seed", "7");
    assert_true(same(plain, other, "ids"));
    json_decref(other);
    other = PROGRAM_JSON("run", "-m", model, "--raw", "-p",
                         "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", "-n", "30");
    assert_true(same(plain, other, "ids") && same(plain, other, "prompt_tokens"));
    json_decref(other);
    other = PROGRAM_JSON("run", "-m", model, "--raw", "-p", "Hello", "-n", "30");
    assert_int_equal(int_of(other, "prompt_tokens"), 5);
    json_decref(other);
    json_t *one = PROGRAM_JSON("run", "-m", model, "-p", "Hello", "-n", "30", "--temp", "1", "--seed", "1"),
           *two = PROGRAM_JSON("run", "-m", model, "-p", "Hello", "-n", "30", "--temp", "1", "--seed", "1"),
           *three = PROGRAM_JSON("run", "-m", model, "-p", "Hello", "-n", "30", "--temp", "1", "--seed", "2");
    assert_true(same(one, two, "ids") && !same(one, three, "ids"));
    json_decref(one);
    json_decref(two);
    json_decref(three);
    json_decref(plain);
}

static program_result session_turn(const char *path, const char *prompt) {
    return PROGRAM("run", "-m", model, "--session", path, "-p", prompt, "-n", "9", "--method", "kivi-4", "--temp", "1",
                   "--seed", "4");
}

static void a_session_goes_on_in_the_next_process(void **state) {
    (void)state;
    static const char lines[] = "One\nTwo\nThree\n";
    const char *in_one[] = {"run",    "-m",     model, "-i",     "-n", "9", "--method",
                            "kivi-4", "--temp", "1",   "--seed", "4",  NULL};
    char path[200], damaged[200];
    snprintf(path, sizeof(path), "%s", env_temp("session.kv"));
    program_result whole = program_run(in_one, lines, strlen(lines));
    program_result turn[3] = {session_turn(path, "One"), session_turn(path, "Two"), session_turn(path, "Three")};
    size_t at = 0;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(turn[i].code, 0);
        assert_true(at + turn[i].n_out <= whole.n_out);
        assert_memory_equal(turn[i].out, whole.out + at, turn[i].n_out);
        at += turn[i].n_out;
        program_free(&turn[i]);
    }
    assert_int_equal(at, whole.n_out);
    program_free(&whole);
    PROGRAM_REFUSES(1, "was begun with --method kivi", "run", "-m", model, "--session", path, "-p", "x", "--method",
                    "f16");
    PROGRAM_REFUSES(1, "--system comes too late", "run", "-m", model, "--session", path, "-p", "x", "--system", "s");
    PROGRAM_REFUSES(1, "is not a saved sequence", "run", "-m", model, "--session", model, "-p", "x");
    PROGRAM_REFUSES(1, "/nowhere/x cannot be written", "run", "-m", model, "--session", "/nowhere/x", "-p", "x");
    json_t *more = PROGRAM_JSON("run", "-m", model, "--session", path, "-p", "Four", "-n", "2"); /* its own method */
    assert_non_null(strstr(text_of(more, "method"), "kivi"));
    json_decref(more);
    snprintf(damaged, sizeof(damaged), "%s", env_temp("damaged.kv"));
    FILE *from = fopen(path, "rb"), *to = fopen(damaged, "wb");
    for (int c, i = 0; (c = fgetc(from)) != EOF; i++)
        fputc(i == 2000 ? c ^ 1 : c, to);
    fclose(from);
    fclose(to);
    PROGRAM_REFUSES(1, "damaged", "run", "-m", model, "--session", damaged, "-p", "x");
    unlink(path);
    unlink(damaged);
}

static void run_stops_where_it_must(void **state) {
    (void)state;
    json_t *r = PROGRAM_JSON("run", "-m", model, "-p", "x", "-n", "0");
    assert_true(int_of(r, "completion_tokens") == 0 && !strcmp(text_of(r, "text"), ""));
    assert_string_equal(text_of(r, "finish"), "length");
    json_decref(r);
    char prompt[CONTEXT - 8];
    memset(prompt, 'x', sizeof(prompt) - 1);
    prompt[sizeof(prompt) - 1] = 0;
    r = PROGRAM_JSON("run", "-m", model, "--raw", "-p", prompt, "--temp", "0.01", "--seed", "3");
    assert_true(int_of(r, "prompt_tokens") == CONTEXT - 9);
    if (!strcmp(text_of(r, "finish"), "length")) /* room for 9 more, and one that is not in the cache */
        assert_int_equal(int_of(r, "completion_tokens"), 10);
    json_decref(r);
    r = PROGRAM_JSON("run", "-m", model, "--raw", "-p", prompt, "-n", "300", "--method", "streaming:sinks=4,recent=28",
                     "--temp", "1.5");
    assert_true(!strcmp(text_of(r, "finish"), "stop") || int_of(r, "completion_tokens") == 300);
    json_decref(r);
}

/* ---- chat ---- */

static program_result chat(const char *input) {
    const char *arguments[] = {"run", "-m", model, "-i", "-n", "12", NULL};
    return program_run(arguments, input, strlen(input));
}

static void a_chat_ends_with_its_input(void **state) {
    (void)state;
    program_result r = chat("");
    assert_true(r.code == 0 && r.n_out == 0 && r.n_err == 0);
    program_free(&r);
    r = chat("\n\r\n\n");
    assert_true(r.code == 0 && r.n_out == 0);
    program_free(&r);
    json_t *first = PROGRAM_JSON("run", "-m", model, "-n", "12", "-p", "Hi");
    size_t n = json_string_length(json_object_get(first, "text"));
    r = chat("Hi\n\nwho?"); /* the last line has no end */
    assert_true(r.code == 0 && r.n_err == 0 && r.n_out > n);
    assert_memory_equal(r.out, json_string_value(json_object_get(first, "text")), n);
    assert_true(r.out[n] == '\n' && r.out[r.n_out - 1] == '\n');
    json_decref(first);
    program_free(&r);
}

static void a_chat_stops_at_the_end_of_the_context(void **state) {
    (void)state;
    char large[2 * CONTEXT];
    memset(large, 'y', sizeof(large) - 1);
    large[sizeof(large) - 2] = '\n';
    large[sizeof(large) - 1] = 0;
    program_result r = chat(large); /* too long for the context: said, and the chat goes on */
    assert_true(r.code == 0 && r.n_out == 0);
    assert_non_null(strstr(r.err, "the context of 128 tokens has room for 128 more"));
    program_free(&r);
    char lines[20 * 12 + 1] = "";
    for (int i = 0; i < 12; i++)
        strcat(lines, "and then?\n");
    r = chat(lines);
    assert_int_equal(r.code, 0);
    assert_true(strstr(r.err, "has room for") || strstr(r.err, "the chat ends here"));
    assert_true(r.n_out > 12);
    program_free(&r);
}

/* In-cache positions go on beyond the context: such an answer ends only by chance. */
static program_live start_endless(void) {
    const char *arguments[] = {
        "run", "-m", model, "-i", "--raw", "-n", "10000000", "--method", "streaming:sinks=4,recent=28", NULL};
    return program_start(arguments);
}

static void ctrl_c_ends_the_answer_and_then_the_chat(void **state) {
    (void)state;
    program_live p = start_endless();
    assert_int_equal(write(p.in, "x\n", 2), 2);
    char byte;
    assert_int_equal(read(p.out, &byte, 1), 1);
    kill(p.pid, SIGINT);
    free(program_await(p.out, "\n"));
    assert_int_equal(write(p.in, "y\n", 2), 2);
    usleep(300000);
    kill(p.pid, SIGINT);
    program_result r = program_end(&p);
    if (r.code != 0 && r.code != -SIGINT)
        fail_msg("exit code %d: %s", r.code, r.err);
    program_free(&r);
    p = start_endless(); /* while it waits for a line */
    usleep(500000);
    kill(p.pid, SIGINT);
    r = program_end(&p);
    assert_int_equal(r.code, -SIGINT);
    program_free(&r);
}

/* A model file that another process cuts off: the next read of a token's row is a bus error. */
static void a_model_that_shrinks_ends_the_program_in_a_sentence(void **state) {
    (void)state;
    char copy[320], line[800];
    snprintf(copy, sizeof(copy), "%s.shrinks.gguf", model);
    snprintf(line, sizeof(line), "cp %s %s", model, copy);
    assert_int_equal(system(line), 0);
    const char *arguments[] = {"run", "-m", copy, "-i", "-n", "3", NULL};
    program_live p = program_start(arguments);
    assert_int_equal(write(p.in, "x\n", 2), 2);
    free(program_await(p.out, "\n"));
    assert_int_equal(truncate(copy, 100), 0);
    assert_int_equal(write(p.in, "x\n", 2), 2);
    program_result r = program_end(&p);
    assert_int_equal(r.code, 1);
    assert_non_null(strstr(r.err, "has shrunk"));
    program_free(&r);
    unlink(copy);
}

/* ---- methods, inspect ---- */

static void methods_lists_the_fixed_fields(void **state) {
    (void)state;
    json_t *r = PROGRAM_JSON("methods");
    static const char *const kinds[] = {"formats", "policies", "splits", "modifiers"};
    for (int i = 0; i < 4; i++) {
        size_t k;
        json_t *part;
        assert_true(list_of(r, kinds[i]) > 0);
        json_array_foreach(json_object_get(r, kinds[i]), k, part) {
            text_of(part, "name");
            text_of(part, "paper");
            list_of(part, "parameters");
        }
    }
    size_t k;
    json_t *preset;
    program_result all = PROGRAM("methods");
    static const char *const modifiers[] = {"  prefill ", "  sinks ",    "  pin ",
                                            "  layers ",  "  critical ", "    vnorm "};
    for (int i = 0; i < 6; i++)
        if (!strstr(all.out, modifiers[i]))
            fail_msg("pleat methods does not list%s", modifiers[i]);
    program_free(&all);
    assert_true(list_of(r, "presets") >= 6);
    json_array_foreach(json_object_get(r, "presets"), k, preset) {
        text_of(preset, "spec");
        program_result named = PROGRAM("methods");
        assert_non_null(strstr(named.out, text_of(preset, "name")));
        program_free(&named);
    }
    json_decref(r);
}

/* The table of combinations: each in --json, a line for each policy and split, refusals with their sentence. */
static void methods_says_what_goes_with_what(void **state) {
    (void)state;
    json_t *r = PROGRAM_JSON("methods"), *c;
    program_result shown = PROGRAM("methods");
    size_t i, n_refused = 0;
    assert_int_equal(list_of(r, "combinations"),
                     list_of(r, "formats") * list_of(r, "policies") * list_of(r, "splits") * 2);
    json_array_foreach(json_object_get(r, "combinations"), i, c) {
        const json_t *refusal = json_object_get(c, "refusal");
        bool possible = json_is_true(json_object_get(c, "possible"));
        char line[40];
        assert_int_equal(possible, json_is_null(refusal));
        assert_true(possible || strstr(shown.out, json_string_value(refusal)));
        n_refused += !possible;
        snprintf(line, sizeof(line), "  %-10s %-8s ", text_of(c, "policy"), text_of(c, "split"));
        assert_non_null(strstr(shown.out, line));
        assert_true(!strcmp(text_of(c, "prefix"), "none") == (int_of(c, "prefix_tokens") == 0));
    }
    assert_true(n_refused > 0 && n_refused < list_of(r, "combinations") / 2);
    assert_non_null(strstr(shown.out, "  all        even     64/64   64/512 "));
    assert_non_null(strstr(shown.out, "refused: streaming+pin: pin keeps tokens"));
    program_free(&shown);
    json_decref(r);
}

static void quality_prints_its_table_and_goes_on(void **state) {
    (void)state;
    char path[300];
    snprintf(path, sizeof(path), "%s", env_temp("quality.db"));
    static const char *const fields[] = {"perplexity", "kl_mean", "bytes_per_token", "top1_agreement"};
    for (int again = 0; again < 2; again++) { /* the second time from the store */
        json_t *r = PROGRAM_JSON("quality", "-m", model, "--methods", "int8,streaming:sinks=4,recent=28", "--ctx",
                                 "128", "--scored", "20", "--windows", again ? "2" : "1", "--store", path);
        json_t *row = json_array_get(json_object_get(r, "rows"), 2);
        assert_int_equal(list_of(r, "rows"), 3);
        assert_int_equal(list_of(r, "needles"), 0);
        assert_string_equal(text_of(row, "method"), "streaming:sinks=4,recent=28");
        assert_int_equal(int_of(row, "ctx"), 128);
        assert_int_equal(int_of(row, "tokens"), again ? 40 : 20);
        assert_int_equal(int_of(r, "run"), 1);
        assert_true(int_of(row, "kv_peak_bytes") > int_of(row, "kv_bytes"));
        for (int i = 0; i < 4; i++)
            assert_true(json_is_real(json_object_get(row, fields[i])));
        json_decref(r);
    }
    program_result shown = PROGRAM("quality", "-m", model, "--methods", "int8,streaming:sinks=4,recent=28", "--ctx",
                                   "128", "--scored", "20", "--store", path);
    assert_int_equal(shown.code, 0);
    assert_non_null(strstr(shown.out, "| int8 "));
    assert_non_null(strstr(shown.out, "2 windows of 128 tokens, 40 positions scored"));
    program_free(&shown);
    PROGRAM_REFUSES(1, "scored positions", "quality", "-m", model, "--methods", "int8", "--ctx", "128", "--store",
                    path);
    PROGRAM_REFUSES(1, "the model's context", "quality", "-m", model, "--methods", "int8", "--ctx", "0", "--needle",
                    "8192", "--store", path);
    unlink(path);
}

/* ---- pins ---- */

/* KV bytes after an answer; system NULL: none. */
static int64_t kv_bytes_of(const char *path, const char *method, const char *system) {
    json_t *r = PROGRAM_JSON("run", "-m", path, "--chat", "chatml", "-p", "x", "-n", "8", "--method", method,
                             system ? "--system" : "--threads", system ? system : "1");
    int64_t n = int_of(r, "kv_bytes");
    json_decref(r);
    return n;
}

/* Three pages of a system message are there behind the prompt, or they are not. */
static void a_method_with_pin_keeps_the_system_message(void **state) {
    (void)state;
    tiny_options o = tiny_default();
    const char *path = env_temp("cli-pin.gguf");
    char system[201];
    o.context = 1024;
    tiny_write(path, &o);
    memset(system, 'z', sizeof(system) - 1);
    system[sizeof(system) - 1] = 0;
    int64_t kept = kv_bytes_of(path, "h2o:heavy=32,recent=32+pin", system),
            without = kv_bytes_of(path, "h2o:heavy=32,recent=32", system),
            none = kv_bytes_of(path, "h2o:heavy=32,recent=32+pin", NULL);
    assert_true(kept > without);
    assert_true(kept > none);
    unlink(path);
}

/* ---- warnings ---- */

/* Lines of a text that hold a word. */
static int lines_with(const char *text, const char *word) {
    int n = 0;
    for (const char *at = text; (at = strstr(at, word)); n++) {
        at = strchr(at, '\n');
        if (!at)
            fail_msg("an unfinished line: %s", text);
    }
    return n;
}

/* Each of the command's warnings holds word and is said n times in all, and standard output stays one object. */
static void check_warnings(int n, const char *word, const char *const *arguments) {
    program_result r = program_run(arguments, NULL, 0);
    json_t *object = json_loads(r.out, 0, NULL);
    if (r.code || !object || lines_with(r.err, ": warning: ") != n || lines_with(r.err, word) != n)
        fail_msg("%s with code %d; %d warnings of \"%s\" expected in: %s", arguments[0], r.code, n, word, r.err);
    json_decref(object);
    program_free(&r);
}
#define WARNINGS(n, word, ...) check_warnings(n, word, (const char *const[]){__VA_ARGS__, "--json", NULL})

static void a_method_that_costs_answers_is_warned_of_once(void **state) {
    (void)state;
    tiny_options biased = tiny_default(), normed = tiny_default();
    const char *bias = env_temp("cli-bias.gguf"), *norm = env_temp("cli-norm.gguf");
    biased.arch = "qwen2";
    normed.arch = "gemma3";
    normed.spm = true;
    tiny_write(bias, &biased);
    tiny_write(norm, &normed);
    WARNINGS(1, "pleat run: warning: lm: 3 bits", "run", "-m", model, "--raw", "-p", "x", "-n", "2", "--method", "lm3");
    WARNINGS(1, "lm: 2 bits", "run", "-m", model, "--raw", "-p", "x", "-n", "2", "--method", "lm:bits=2");
    WARNINGS(0, "warning", "run", "-m", model, "--raw", "-p", "x", "-n", "2");
    WARNINGS(0, "warning", "run", "-m", model, "--raw", "-p", "x", "-n", "2", "--method", "rot4");
    WARNINGS(0, "warning", "run", "-m", model, "--raw", "-p", "x", "-n", "2", "--method", "lm4");
    WARNINGS(1, "rot: 4 bits", "run", "-m", bias, "--raw", "-p", "x", "-n", "2", "--method", "rot4");
    WARNINGS(1, "key bias", "run", "-m", bias, "--raw", "-p", "x", "-n", "2", "--method", "lm4");
    WARNINGS(0, "warning", "run", "-m", bias, "--raw", "-p", "x", "-n", "2", "--method", "lm:bits=4,center=1");
    WARNINGS(1, "knorm: this model", "run", "-m", norm, "--raw", "-p", "x", "-n", "2", "--method", "knorm-512");
    unlink(bias);
    unlink(norm);
}

/* Every command that takes a list of methods; what two of them share is said once. */
static void lists_of_methods_are_warned_of_once(void **state) {
    (void)state;
    const char *text = env_temp("warned.txt"), *db = env_temp("warned.db"), *page = env_temp("warned.html");
    FILE *f = fopen(text, "w");
    assert_non_null(f);
    for (int i = 0; i < 200; i++)
        fputs("a line of words ", f);
    assert_int_equal(fclose(f), 0);
    WARNINGS(1, "perplexity: warning: lm: 3", "perplexity", "-m", model, "-f", text, "--ctx", "128", "--windows", "1",
             "--method", "lm3,lm:bits=3+prefill:exact");
    WARNINGS(1, "quality: warning: lm: 3", "quality", "-m", model, "-f", text, "--ctx", "128", "--scored", "16",
             "--methods", "lm3,k=lm3,v=lm4", "--store", db);
    WARNINGS(1, "bench: warning: lm: 3", "bench", "-m", model, "--methods", "lm3,int8", "--batch", "1", "--prompt",
             "16", "--repeats", "1", "--store", db);
    WARNINGS(1, "study: warning: lm: 3", "study", "-m", model, "--methods", "lm3", "--batch", "1", "--prompt", "16",
             "--repeats", "1", "--samples", "1", "-n", "1", "--windows", "0", "--store", db, "-o", page);
    unlink(text);
    unlink(db);
    unlink(page);
}

static void inspect_says_what_the_engine_takes(void **state) {
    (void)state;
    struct stat info;
    pleat_model *m;
    json_t *r = PROGRAM_JSON("inspect", "--tensors", model), *plan;
    size_t i;
    assert_int_equal(stat(model, &info), 0);
    assert_int_equal(pleat_model_open(model, 1, &m, NULL), PLEAT_OK);
    pleat_model_info said = pleat_model_describe(m);
    assert_int_equal(int_of(r, "file_bytes"), info.st_size);
    assert_int_equal(int_of(r, "packed_bytes"), said.packed_bytes);
    assert_int_equal(int_of(r, "f16_token_bytes"), 2 * 2 * 2 * 64 * 2); /* K and V, layers, KV heads, elements, bytes */
    assert_int_equal(int_of(r, "context_tokens"), CONTEXT);
    assert_int_equal(list_of(r, "tensors"), gguf_n_tensors(m->file));
    assert_string_equal(text_of(json_object_get(r, "metadata"), "general.architecture"), "llama");
    pleat_model_close(m);
    assert_true(list_of(r, "plans") >= 6);
    json_array_foreach(json_object_get(r, "plans"), i, plan) {
        char prompt[CONTEXT - 64 + 1]; /* all of the context but 64 tokens as a prompt, then to its end */
        memset(prompt, 'z', sizeof(prompt) - 1);
        prompt[sizeof(prompt) - 1] = 0;
        json_t *run =
            PROGRAM_JSON("run", "-m", model, "--raw", "-p", prompt, "-n", "64", "--method", text_of(plan, "method"));
        int64_t peak = int_of(run, "kv_peak_bytes"),
                most = json_integer_value(json_array_get(json_object_get(plan, "prompt_bytes"), 2));
        if (peak > most || peak <= 0)
            fail_msg("%s takes %lld bytes, %lld planned", text_of(plan, "method"), (long long)peak, (long long)most);
        json_decref(run);
    }
    json_decref(r);
}

/* ---- the bar ---- */

/* In a child whose standard error is a terminal: nothing for two seconds, then a bar with time left, then nothing
 * again. */
static void a_bar_comes_after_two_seconds_on_a_terminal_alone(void **state) {
    (void)state;
    int terminal;
    pid_t pid = forkpty(&terminal, NULL, NULL, NULL);
    assert_true(pid >= 0);
    if (pid == 0) {
        progress bar;
        progress_begin(&bar, "work", 100);
        for (int i = 1; i <= 9; i++) {
            progress_update(&bar, i, "detail");
            usleep(i < 8 ? 10000 : 2050000);
        }
        progress_update(&bar, 50, "detail");
        progress_end(&bar);
        fprintf(stderr, "done");
        _exit(0);
    }
    char *seen = program_await(terminal, "done");
    assert_null(strstr(seen, " 7%"));
    if (!strstr(seen, "work [") || !strstr(seen, "left") || !strstr(seen, "detail") || !strstr(seen, "\r\033[Kdone"))
        fail_msg("the bar was: %s", seen);
    free(seen);
    waitpid(pid, NULL, 0);
    close(terminal);
    progress bar; /* here it is none */
    progress_begin(&bar, "work", 1);
    assert_true(bar.shown < 0 || isatty(STDERR_FILENO));
}

int main(int argc, char **argv) {
    (void)argc;
    program_find(argv[0]);
    alarm(600);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_command_has_help_with_an_example),
        cmocka_unit_test(check_takes_all_or_nothing),
        cmocka_unit_test(wrong_usage_is_2_and_one_sentence),
        cmocka_unit_test(failures_are_1_and_one_sentence),
        cmocka_unit_test(models_are_found_by_name),
        cmocka_unit_test(results_that_cannot_be_written_are_failures),
        cmocka_unit_test(tokenize_takes_bytes_as_they_are),
        cmocka_unit_test(tokenize_reads_files_to_the_last_byte),
        cmocka_unit_test(run_prints_exactly_the_fixed_fields),
        cmocka_unit_test(run_answers_the_same_question_the_same),
        cmocka_unit_test(a_session_goes_on_in_the_next_process),
        cmocka_unit_test(run_stops_where_it_must),
        cmocka_unit_test(a_chat_ends_with_its_input),
        cmocka_unit_test(a_chat_stops_at_the_end_of_the_context),
        cmocka_unit_test(ctrl_c_ends_the_answer_and_then_the_chat),
        cmocka_unit_test(a_model_that_shrinks_ends_the_program_in_a_sentence),
        cmocka_unit_test(methods_lists_the_fixed_fields),
        cmocka_unit_test(methods_says_what_goes_with_what),
        cmocka_unit_test(quality_prints_its_table_and_goes_on),
        cmocka_unit_test(a_method_with_pin_keeps_the_system_message),
        cmocka_unit_test(a_method_that_costs_answers_is_warned_of_once),
        cmocka_unit_test(lists_of_methods_are_warned_of_once),
        cmocka_unit_test(inspect_says_what_the_engine_takes),
        cmocka_unit_test(a_bar_comes_after_two_seconds_on_a_terminal_alone),
    };
    return cmocka_run_group_tests_name("cli", tests, make_model, remove_model);
}
