/* env.c - see env.h. */
#include "support/env.h"
#include <ftw.h>
#include <glob.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>

void env_skip(const char *why) {
    printf("skipped: %s\n", why);
    fflush(stdout);
    skip();
}

const char *env_model(const char *name) {
    static char path[4200];
    char why[200];
    const char *own = getenv("PLEAT_HOME"), *home = getenv("HOME");
    if (own && *own)
        snprintf(path, sizeof(path), "%s/models/%s.gguf", own, name);
    else
        snprintf(path, sizeof(path), "%s/.cache/pleat/models/%s.gguf", home ? home : "", name);
    if (access(path, R_OK)) {
        snprintf(why, sizeof(why), "%s is not fetched", name);
        env_skip(why);
    }
    return path;
}

bool env_sanitized(void) {
#ifdef __SANITIZE_ADDRESS__
    return true;
#else
    return false;
#endif
}

bool env_all(void) {
    const char *all = getenv("PLEAT_ALL");
    return all && *all;
}

static char temp_names[300]; /* what all names of this program match */
static pid_t temp_owner;

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *where) {
    (void)info;
    (void)type;
    (void)where;
    return remove(path);
}

/* Not in children of the program, which inherit this. */
static void remove_temps(void) {
    glob_t found;
    if (getpid() != temp_owner || glob(temp_names, 0, NULL, &found))
        return;
    for (size_t i = 0; i < found.gl_pathc; i++)
        nftw(found.gl_pathv[i], remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    globfree(&found);
}

const char *env_temp(const char *tag) {
    static char path[8][300];
    static int next;
    const char *folder = getenv("TMPDIR");
    char *out = path[next++ % 8];
    if (!temp_owner) {
        temp_owner = getpid();
        snprintf(temp_names, sizeof(temp_names), "%s/pleat-test-%ld-*", folder ? folder : "/tmp", (long)temp_owner);
        atexit(remove_temps);
    }
    snprintf(out, sizeof(path[0]), "%s/pleat-test-%ld-%s", folder ? folder : "/tmp", (long)getpid(), tag);
    return out;
}

char *env_data(const char *name, size_t *n_bytes) {
    char path[300];
    snprintf(path, sizeof(path), "tests/data/%s", name);
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("%s is not there (tests run in the repository's root)", path);
    fseek(f, 0, SEEK_END);
    long n = ftell(f);
    rewind(f);
    char *bytes = malloc((size_t)n + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, (size_t)n, f), n);
    fclose(f);
    bytes[n] = 0;
    if (n_bytes)
        *n_bytes = (size_t)n;
    return bytes;
}

const char *env_reference(const char *name) {
    static char path[4200];
    char why[200];
    const char *folder = getenv("PLEAT_REFERENCE");
    snprintf(path, sizeof(path), "%s/%s", folder && *folder ? folder : "../shared", name);
    if (access(path, R_OK)) {
        snprintf(why, sizeof(why), "the reference file %.120s is not there (PLEAT_REFERENCE)", name);
        env_skip(why);
    }
    return path;
}
