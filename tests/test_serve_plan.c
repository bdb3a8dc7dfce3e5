/* test_serve_plan.c - what `pleat serve` says of itself before it serves: defaults in its help and manual, and the
 * memory it plans for. */
#include "support/program.h"
#include "base/text.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static char *read_manual(void) {
    text t = {0};
    char piece[4096];
    FILE *f = fopen("docs/server.md", "r");
    assert_non_null(f);
    for (size_t n; (n = fread(piece, 1, sizeof(piece), f));)
        text_append(&t, piece, n);
    fclose(f);
    return t.bytes;
}

/* The row of the options' table that names one. */
static void find_row(const char *manual, const char *option, char row[600]) {
    char name[80];
    snprintf(name, sizeof(name), "`--%s", option);
    const char *table = strstr(manual, "| option | meaning |");
    assert_non_null(table);
    for (const char *at = table; (at = strstr(at, name)); at++) {
        char after = at[strlen(name)];
        const char *begin = at;
        while (*begin != '\n')
            begin--;
        if ((after != ' ' && after != '`') || begin[1] != '|')
            continue;
        snprintf(row, 600, "%.*s", (int)strcspn(begin + 1, "\n"), begin + 1);
        return;
    }
    fail_msg("docs/server.md has no row for --%s", option);
}

/* Every option has a row, and the default that --help prints stands in its last column. */
static void the_manual_has_the_defaults_of_the_help(void **state) {
    (void)state;
    char *manual = read_manual();
    int n_defaults = 0;
    program_result r = PROGRAM("serve", "--help");
    assert_int_equal(r.code, 0);
    for (char *line = strtok(r.out, "\n"); line; line = strtok(NULL, "\n")) {
        char option[40], row[600], value[60];
        const char *dashes = strncmp(line, "  ", 2) ? NULL : strstr(line, "--");
        if (!dashes || dashes > line + 6 || sscanf(dashes, "--%39[a-z-]", option) != 1 || !strcmp(option, "help"))
            continue;
        find_row(manual, option, row);
        const char *at = strstr(line, " (default "), *last = row;
        if (!at)
            continue;
        snprintf(value, sizeof(value), "%.*s", (int)strcspn(at + 10, ")"), at + 10);
        for (const char *bar = row; (bar = strstr(bar, " | ")); bar++)
            last = bar;
        if (!strstr(last, value))
            fail_msg("--%s is %s by its help; its manual says%s", option, value, last);
        n_defaults++;
    }
    assert_true(n_defaults >= 10);
    program_free(&r);
    free(manual);
}

int main(int argc, char **argv) {
    (void)argc;
    program_find(argv[0]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_manual_has_the_defaults_of_the_help),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
