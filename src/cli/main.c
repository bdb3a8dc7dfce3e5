/* main.c - `pleat COMMAND ...`. */
#include "pleat.h"
#include "cli/commands.h"
#include "cli/options.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"fetch", "get a model or a data set", cmd_fetch},
    {"run", "one prompt, or a chat (-i), to the terminal", cmd_run},
    {"serve", "an OpenAI-compatible server over the compressed cache", cmd_serve},
    {"study", "measure whether compression pays here, and write a report", cmd_study},
    {"bench", "throughput over batch sizes, lengths and methods", cmd_bench},
    {"perplexity", "perplexity of a text, and what a method costs in KL", cmd_perplexity},
    {"quality", "perplexity, KL, bytes and retrieval of every method, in one table", cmd_quality},
    {"negatives", "which samples compression breaks", cmd_negatives},
    {"predict", "throughput of a method, batch and length, from a profile or a bench", cmd_predict},
    {"simulate", "the router's policies under a load, in simulated time", cmd_simulate},
    {"report", "the page of a stored study", cmd_report},
    {"methods", "formats, policies, splits and presets, with their papers", cmd_methods},
    {"inspect", "a model's metadata and its exact memory plan", cmd_inspect},
    {"tokenize", "token ids and pieces of a text", cmd_tokenize},
};
enum { N_COMMANDS = sizeof(commands) / sizeof(*commands) };

static void print_commands(FILE *to) {
    fprintf(to,
            "pleat %s: large language models on CPUs with a compressed KV cache\n\nUsage: pleat COMMAND [options]\n\n",
            PLEAT_VERSION);
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(to, "  %-12s %s\n", commands[i].name, commands[i].summary);
    fprintf(to, "\n`pleat COMMAND --help` says more.\n");
}

/* A mapped file that shrinks or whose disk fails raises SIGBUS where it is read. */
static void on_bus_error(int number) {
    static const char sentence[] = "pleat: a file that was being read has shrunk or cannot be read any more\n";
    (void)number;
    if (write(STDERR_FILENO, sentence, sizeof(sentence) - 1) < 0)
        _exit(EXIT_FAILED);
    _exit(EXIT_FAILED);
}

/* What a command has printed has to arrive. */
static int finish(const char *name, int code) {
    errno = 0;
    if (!fflush(stdout) && !ferror(stdout))
        return code;
    if (code == EXIT_OK)
        fprintf(stderr, "pleat %s: the result could not be written%s%s\n", name, errno ? ": " : "",
                errno ? strerror(errno) : "");
    return code == EXIT_OK ? EXIT_FAILED : code;
}

int main(int argc, char **argv) {
    signal(SIGBUS, on_bus_error);
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is a failed write, told in a sentence */
    signal(SIGXFSZ, SIG_IGN); /* so is a file that has met the system's limit */
    if (argc < 2) {
        print_commands(stderr);
        return EXIT_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        print_commands(stdout);
        return EXIT_OK;
    }
    if (!strcmp(argv[1], "--version")) {
        printf("pleat %s\n", PLEAT_VERSION);
        return EXIT_OK;
    }
    const char *names[N_COMMANDS + 1] = {NULL};
    for (int i = 0; i < N_COMMANDS; i++) {
        names[i] = commands[i].name;
        if (!strcmp(argv[1], names[i]))
            return finish(names[i], commands[i].run(argc - 1, argv + 1));
    }
    const char *guess = options_guess(argv[1], names);
    fprintf(stderr, "pleat: there is no command \"%.40s\"%s%s%s; `pleat --help` lists them\n", argv[1],
            guess ? " (did you mean " : "", guess ? guess : "", guess ? "?)" : "");
    return EXIT_USAGE;
}
