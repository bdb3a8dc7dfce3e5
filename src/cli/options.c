/* options.c - see options.h. Long options take "--name value" or "--name=value", letters "-n 5" or "-n5". */
#include "cli/options.h"
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int usage_error(const command *c, const char *what, const char *detail) {
    fprintf(stderr, "pleat %s: %s%s; see `pleat %s --help`\n", c->name, what, detail, c->name);
    return EXIT_USAGE;
}

/* Edits (insertions, deletions, replacements) between two short words. */
static int distance(const char *a, const char *b) {
    enum { MOST = 40 };
    int n = (int)strlen(a), m = (int)strlen(b), row[MOST + 1];
    if (n > MOST || m > MOST)
        return MOST;
    for (int j = 0; j <= m; j++)
        row[j] = j;
    for (int i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            best = row[j] + 1 < best ? row[j] + 1 : best;
            row[j] = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
        }
    }
    return row[m];
}

const char *options_guess(const char *word, const char *const *words) {
    const char *best = NULL;
    int least = 3;
    for (; *words; words++) {
        int n = distance(word, *words);
        if (n < least && n < (int)strlen(*words)) {
            least = n;
            best = *words;
        }
    }
    return best;
}

static int unknown_option(const command *c, const option *options, const char *name) {
    const char *names[64], *guess;
    int n = 0;
    char detail[120];
    for (; options[n].name && n < 63; n++)
        names[n] = options[n].name;
    names[n] = NULL;
    guess = strlen(name) > 1 ? options_guess(name, names) : NULL;
    snprintf(detail, sizeof(detail), guess ? "\"%.40s\" (did you mean --%s?)" : "\"%.40s\"", name, guess);
    return usage_error(c, "there is no option ", detail);
}

/* ---- values ---- */

static int bad_value(const command *c, const option *o, const char *value, const char *why) {
    fprintf(stderr, "pleat %s: --%s is \"%.60s\"; %s; see `pleat %s --help`\n", c->name, o->name, value, why, c->name);
    return EXIT_USAGE;
}

static int out_of_range(const command *c, const option *o, const char *value) {
    char why[80];
    snprintf(why, sizeof(why), "it must be between %.10g and %.10g", o->low, o->high);
    return bad_value(c, o, value, why);
}

/* A whole number in [low, high] up to `end`; false: not one. */
static bool whole(const char *s, const char *end, const option *o, int *value, bool *in_range) {
    char *stop;
    errno = 0;
    long long x = strtoll(s, &stop, 10);
    if (stop == s || stop != end || s[0] == ' ')
        return false;
    *in_range = !errno && (double)x >= o->low && (double)x <= o->high;
    *value = (int)x;
    return true;
}

static int set_ints(const command *c, const option *o, const char *value) {
    option_ints list = {.n = 0};
    for (const char *at = value;;) {
        const char *end = at + strcspn(at, ",");
        bool in_range = false;
        if (list.n == OPTION_MOST_INTS)
            return bad_value(c, o, value, "that is too many numbers");
        if (!whole(at, end, o, &list.value[list.n], &in_range))
            return bad_value(c, o, value, "whole numbers separated by commas are expected");
        if (!in_range)
            return out_of_range(c, o, value);
        list.n++;
        if (!*end)
            break;
        at = end + 1;
    }
    *(option_ints *)o->to = list;
    return -1;
}

static int set_value(const command *c, const option *o, const char *value) {
    char *end;
    int number = 0;
    bool in_range = false;
    switch (o->kind) {
    case OPTION_INT:
        if (!whole(value, value + strlen(value), o, &number, &in_range))
            return bad_value(c, o, value, "a whole number is expected");
        if (!in_range)
            return out_of_range(c, o, value);
        *(int *)o->to = number;
        return -1;
    case OPTION_FLOAT: {
        double x = strtod(value, &end);
        if (end == value || *end || value[0] == ' ')
            return bad_value(c, o, value, "a number is expected");
        if (!(x >= o->low && x <= o->high))
            return out_of_range(c, o, value);
        *(double *)o->to = x;
        return -1;
    }
    case OPTION_SEED:
        errno = 0;
        *(uint64_t *)o->to = strtoull(value, &end, 10);
        if (end == value || *end || errno || value[0] == '-' || value[0] == ' ')
            return bad_value(c, o, value, "a whole number from 0 on is expected");
        return -1;
    case OPTION_INTS:
        return set_ints(c, o, value);
    case OPTION_TEXT:
        *(const char **)o->to = value;
        return -1;
    case OPTION_SWITCH:
        if (strcmp(value, "on") && strcmp(value, "off"))
            return bad_value(c, o, value, "on or off is expected");
        *(bool *)o->to = !strcmp(value, "on");
        return -1;
    case OPTION_FLAG:
        break;
    }
    return bad_value(c, o, value, "it takes no value");
}

/* ---- help ---- */

static void print_default(const option *o) {
    if (o->kind == OPTION_INT && *(int *)o->to)
        printf(" (default %d)", *(int *)o->to);
    if (o->kind == OPTION_FLOAT)
        printf(" (default %g)", *(double *)o->to);
    if (o->kind == OPTION_TEXT && *(const char **)o->to)
        printf(" (default %s)", *(const char **)o->to);
    if (o->kind == OPTION_SWITCH)
        printf(" (default %s)", *(bool *)o->to ? "on" : "off");
    const option_ints *list = o->to;
    for (int i = 0; o->kind == OPTION_INTS && i < list->n; i++)
        printf("%s%d%s", i ? "," : " (default ", list->value[i], i + 1 == list->n ? ")" : "");
}

static int print_help(const command *c, const option *options) {
    printf("%s\n\nUsage: pleat %s [options]%s%s\n\nOptions:\n", c->summary, c->name, *c->arguments ? " " : "",
           c->arguments);
    for (const option *o = options; o->name; o++) {
        char left[64];
        int n = o->letter ? snprintf(left, sizeof(left), "-%c, ", o->letter) : snprintf(left, sizeof(left), "    ");
        snprintf(left + n, sizeof(left) - (size_t)n, "--%s%s%s", o->name, o->kind == OPTION_FLAG ? "" : " ",
                 o->kind == OPTION_FLAG ? "" : o->value);
        printf("  %-28s %s", left, o->help);
        print_default(o);
        putchar('\n');
    }
    printf("  %-28s this text\n\nExample:\n", "-h, --help");
    for (const char *at = c->example; *at;) {
        int n = (int)strcspn(at, "\n");
        printf("  %.*s\n", n, at);
        at += n + (at[n] == '\n');
    }
    return EXIT_OK;
}

/* ---- parsing ---- */

const option *options_find(const option *options, const char *name, size_t n) {
    for (const option *o = options; o->name; o++)
        if ((strlen(o->name) == n && !memcmp(o->name, name, n)) || (n == 1 && o->letter == name[0]))
            return o;
    return NULL;
}

/* argv[*i] is an option; takes its value from itself or from the next word. */
static int parse_option(const command *c, const option *options, int argc, char **argv, int *i) {
    const char *word = argv[*i];
    bool is_long = word[1] == '-';
    const char *name = word + (is_long ? 2 : 1);
    size_t n = is_long ? strcspn(name, "=") : 1;
    if ((n == 4 && !memcmp(name, "help", 4)) || (!is_long && name[0] == 'h' && !name[1]))
        return print_help(c, options);
    const option *o = is_long && n == 1 ? NULL : options_find(options, name, n);
    if (!o)
        return unknown_option(c, options, name);
    const char *value = name[n] ? name + n + is_long : NULL;
    if (o->kind == OPTION_FLAG) {
        if (value)
            return bad_value(c, o, value, "it takes no value");
        *(bool *)o->to = true;
        return -1;
    }
    if (!value && ++*i < argc)
        value = argv[*i];
    if (!value)
        return usage_error(c, "a value is missing after --", o->name);
    return set_value(c, o, value);
}

int options_parse(const command *c, const option *options, int argc, char **argv, int *n_arguments) {
    int n = 0, i = 1;
    bool ended = false;
    for (; i < argc; i++) {
        if (!ended && !strcmp(argv[i], "--")) {
            ended = true;
        } else if (!ended && argv[i][0] == '-' && argv[i][1]) {
            int code = parse_option(c, options, argc, argv, &i);
            if (code >= 0)
                return code;
        } else {
            argv[1 + n++] = argv[i];
        }
    }
    if (n > c->most_arguments)
        return usage_error(c, "this is one argument too many: ", argv[1 + c->most_arguments]);
    if (n < c->least_arguments)
        return usage_error(c, "an argument is missing: ", c->arguments);
    *n_arguments = n;
    return -1;
}
