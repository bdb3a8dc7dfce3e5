/* options.h - the options of a command as a table: parsing, range checks, --help. */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H
#include <stdbool.h>
#include <stddef.h>

typedef enum option_kind {
    OPTION_FLAG,
    OPTION_INT,
    OPTION_FLOAT,
    OPTION_TEXT,
    OPTION_INTS,
    OPTION_SEED,
    OPTION_SWITCH, /* on or off */
} option_kind;

enum { OPTION_MOST_INTS = 32 };
typedef struct option_ints { /* "1,4,8" */
    int value[OPTION_MOST_INTS], n;
} option_ints;

typedef struct option {
    const char *name; /* without dashes; NULL ends the table */
    char letter;      /* 0: none */
    option_kind kind;
    void *to;          /* bool, int, double, const char *, option_ints, uint64_t, bool; holds the default */
    const char *value; /* how --help names the value */
    const char *help;
    double low, high; /* of numbers */
} option;

/* -t of a command whose work is one thread's: taken as everywhere, and looked at by nobody. */
#define OPTION_ONE_THREAD(to)                                                                                          \
    { "threads", 't', OPTION_INT, to, "N", "as in every command; one is all this takes", 0, 1024 }

/* Of every command that computes with a model: how model_open takes its weights. */
#define OPTION_REPACK(to)                                                                                              \
    { "repack", 0, OPTION_SWITCH, to, "on|off", "off: weights stay in the mapped file; starts at once, slower", 0, 0 }

typedef struct command {
    const char *name, *summary;
    const char *arguments; /* of the usage line after the options, or "" */
    const char *example;   /* whole command lines, one to a line */
    int least_arguments, most_arguments;
} command;

/* Exit codes. */
enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

/* Parses argv[1..]; positional arguments are moved to argv[1..*n_arguments]. Returns -1 to go on, else the exit code:
 * after --help, or a usage error that has been told on stderr. "--" ends the options; "-" alone is an argument. */
int options_parse(const command *c, const option *options, int argc, char **argv, int *n_arguments);

/* The option whose name are the n bytes; of one letter: its letter. NULL: there is none. */
const option *options_find(const option *options, const char *name, size_t n);

/* The one among words (NULL-ended) that a misspelt word may have meant, or NULL. */
const char *options_guess(const char *word, const char *const *words);
#endif
