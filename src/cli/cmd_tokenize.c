/* cmd_tokenize.c - `pleat tokenize`: ids and pieces of a text. Opens a model's vocabulary alone, so a file without
 * weights does. */
#include "cli/commands.h"
#include "cli/print.h"
#include "base/status.h"
#include "text/tokenizer.h"
#include "text/utf8.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const command self = {
    .name = "tokenize",
    .summary = "Token ids and pieces of a text, byte for byte; ids equal llama.cpp's (no Unicode normalisation).",
    .arguments = "TEXT",
    .example = "pleat tokenize -m smollm2-135m \"Hello, world!\"\npleat tokenize -m smollm2-135m --special -f "
               "notes.txt --json",
    .least_arguments = 0,
    .most_arguments = 1,
};

/* A token's bytes as valid UTF-8. */
static json_t *piece(const tokenizer *tok, int32_t id) {
    size_t n;
    const char *bytes = tokenizer_bytes(tok, id, true, &n);
    char *repaired = malloc(3 * n + 1);
    json_t *s = repaired ? json_stringn(repaired, utf8_repair(bytes, n, repaired)) : NULL;
    free(repaired);
    return s;
}

static int print_ids(const tokenizer *tok, const int32_t *ids, int n_ids, bool json) {
    json_t *id_list = json_array(), *piece_list = json_array();
    for (int i = 0; i < n_ids; i++) {
        json_array_append_new(id_list, json_integer(ids[i]));
        json_array_append_new(piece_list, piece(tok, ids[i]));
    }
    if (json)
        return print_json(self.name, json_pack("{s:o,s:o}", "ids", id_list, "pieces", piece_list));
    for (int i = 0; i < n_ids; i++) {
        char *quoted = json_dumps(json_array_get(piece_list, (size_t)i), JSON_ENCODE_ANY);
        printf("%8d  %s\n", (int)ids[i], quoted ? quoted : "");
        free(quoted);
    }
    json_decref(id_list);
    json_decref(piece_list);
    return EXIT_OK;
}

static pleat_status open_tokenizer(const char *name, gguf **file, tokenizer **tok, pleat_error *error) {
    char path[4200];
    pleat_status status = model_path(name, path, sizeof(path), error);
    status = status ? status : gguf_open(path, file, error);
    return status ? status : tokenizer_open(*file, tok, error);
}

int cmd_tokenize(int argc, char **argv) {
    const char *model_name = NULL, *path = NULL;
    bool special = false, json = false;
    int n_arguments, n_ids, n_threads = 0;
    const option options[] = {
        {"model", 'm', OPTION_TEXT, &model_name, "M", "model by name or file", 0, 0},
        {"file", 'f', OPTION_TEXT, &path, "FILE", "the text of a file (- for standard input)", 0, 0},
        {"special", 0, OPTION_FLAG, &special, NULL, "parse special-token text; add BOS and EOS as the model says", 0,
         0},
        OPTION_ONE_THREAD(&n_threads),
        {"json", 0, OPTION_FLAG, &json, NULL, "print one JSON object", 0, 0},
        {0},
    };
    int code = options_parse(&self, options, argc, argv, &n_arguments);
    if (code >= 0)
        return code;
    pleat_error error;
    if (!model_name || (n_arguments == 1) == (path != NULL)) {
        err_set(&error, PLEAT_EINPUT, "%s",
                model_name ? "give the text as one argument or by -f FILE"
                           : "which model? give it with -m NAME or -m FILE.gguf");
        print_error(self.name, &error);
        return EXIT_USAGE;
    }
    gguf *file = NULL;
    tokenizer *tok = NULL;
    char *text = NULL;
    size_t n_bytes = 0;
    int32_t *ids = NULL;
    pleat_status status = path ? file_read(path, &text, &n_bytes, &error) : PLEAT_OK;
    if (!path)
        n_bytes = strlen(argv[1]);
    status = status ? status : open_tokenizer(model_name, &file, &tok, &error);
    if (!status)
        status = tokenizer_encode(tok, path ? text : argv[1], n_bytes, special ? TOKENIZER_SPECIAL : TOKENIZER_PLAIN,
                                  &ids, &n_ids, &error);
    code = status ? print_error(self.name, &error) : print_ids(tok, ids, n_ids, json);
    free(ids);
    free(text);
    tokenizer_close(tok);
    gguf_close(file);
    return code;
}
