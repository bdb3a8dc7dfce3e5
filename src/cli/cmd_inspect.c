/* cmd_inspect.c - `pleat inspect`: a model's metadata, tensors, and what its cache will take. */
#include "cli/commands.h"
#include "cli/print.h"
#include "base/text.h"
#include "engine/engine.h"
#include <stdio.h>
#include <string.h>

static const command self = {
    .name = "inspect",
    .summary = "A model's metadata and its exact memory plan: weights, and KV cache by method and length.",
    .arguments = "M",
    .example = "pleat inspect smollm2-135m\npleat inspect model.gguf --tensors --json",
    .least_arguments = 1,
    .most_arguments = 1,
};

static json_t *metadata(const gguf *file) {
    json_t *all = json_object();
    char value[400];
    for (int i = 0; i < gguf_n_keys(file); i++) {
        gguf_string key = gguf_key_at(file, i, NULL);
        json_t *shown = json_string(gguf_value_text(file, i, value, sizeof(value)));
        json_object_setn_new(all, key.bytes, key.n, shown ? shown : json_string("(bytes that are not UTF-8)"));
    }
    return all;
}

static json_t *tensors(const gguf *file) {
    json_t *list = json_array();
    for (int i = 0; i < gguf_n_tensors(file); i++) {
        const gguf_tensor *t = gguf_tensor_at(file, i);
        json_t *shape = json_array();
        for (int k = 0; k < t->n_dims; k++)
            json_array_append_new(shape, json_integer(t->ne[k]));
        json_array_append_new(list,
                              json_pack("{s:s%,s:s,s:o,s:I}", "name", t->name.bytes, t->name.n, "type",
                                        block_traits_of(t->type)->name, "shape", shape, "bytes", (json_int_t)t->bytes));
    }
    return list;
}

enum { N_LENGTHS = 3, SHORT_TOKENS = 64 };

/* Pool bytes of one request of each preset at these lengths, the most at any time: when all of it is generated after a
 * short prompt (bytes), and when all but the end is prompt (prompt_bytes: an exact prefill holds it in fp16). */
static json_t *plans(const pleat_model *model, const int *lengths) {
    json_t *list = json_array();
    for (int i = 0; kv_presets[i].name; i++) {
        kv_method method;
        if (kv_method_parse(kv_presets[i].name, &model->kv, &method, NULL))
            continue;
        json_t *bytes = json_array(), *prompt_bytes = json_array();
        for (int k = 0; k < N_LENGTHS; k++) {
            int rest = lengths[k] - SHORT_TOKENS;
            size_t decode = engine_plan_bytes(model, &method, SHORT_TOKENS, rest),
                   prompt = engine_plan_bytes(model, &method, rest, SHORT_TOKENS);
            json_array_append_new(bytes, json_integer((json_int_t)decode));
            json_array_append_new(prompt_bytes, json_integer((json_int_t)prompt));
        }
        json_array_append_new(
            list, json_pack("{s:s,s:f,s:o,s:o}", "method", kv_presets[i].name, "sealed_token_bytes",
                            kv_method_token_bytes(&method, model->head_dim) * model->n_layer * model->n_head_kv,
                            "bytes", bytes, "prompt_bytes", prompt_bytes));
    }
    return list;
}

static void print_plans(const json_t *plans_list, const int *lengths) {
    size_t i;
    json_t *plan;
    char a[16];
    printf("KV pool that one request may need: generated after a short prompt | as a prompt\n  %-16s", "tokens");
    for (int k = 0; k < 2 * N_LENGTHS; k++)
        printf("%s %9d", k == N_LENGTHS ? " |" : "", lengths[k % N_LENGTHS]);
    printf("\n");
    json_array_foreach(plans_list, i, plan) {
        printf("  %-16s", json_string_value(json_object_get(plan, "method")));
        for (int k = 0; k < 2 * N_LENGTHS; k++) {
            const json_t *list = json_object_get(plan, k < N_LENGTHS ? "bytes" : "prompt_bytes");
            size_t bytes = (size_t)json_integer_value(json_array_get(list, (size_t)(k % N_LENGTHS)));
            printf("%s %9s", k == N_LENGTHS ? " |" : "", text_bytes(bytes, a));
        }
        printf("\n");
    }
}

static void print_plain(const pleat_model *model, const json_t *all, const int *lengths) {
    pleat_model_info info = pleat_model_describe(model);
    char a[16], b[16], c[16], d[16];
    const char *key;
    json_t *value;
    size_t i;
    printf("%s\n%s, %s: %d layers, %d query and %d KV heads of %d, width %d, vocabulary %d, context %d tokens\n\n",
           info.path, info.name, info.architecture, info.n_layer, info.n_head, info.n_head_kv, info.head_dim,
           info.n_embd, info.n_vocab, info.context_tokens);
    json_object_foreach(json_object_get(all, "metadata"), key, value)
        printf("  %-44s %.110s\n", key, json_string_value(value));
    json_array_foreach(json_object_get(all, "tensors"), i, value)
        printf("  %-44s %-5s %lld bytes\n", json_string_value(json_object_get(value, "name")),
               json_string_value(json_object_get(value, "type")),
               (long long)json_integer_value(json_object_get(value, "bytes")));
    printf("\nMemory: file %s (mapped, %s of its pages are read as weights), %s %s, fp16 KV cache %s per token\n\n",
           text_bytes(info.file_bytes, a), text_bytes(info.mapped_bytes, d),
           model->mapped ? "weights are not packed, their vectors take" : "packed weights",
           text_bytes(info.packed_bytes, b), text_bytes(info.f16_token_bytes, c));
    print_plans(json_object_get(all, "plans"), lengths);
}

int cmd_inspect(int argc, char **argv) {
    bool json = false, with_tensors = false, repack = true;
    int n_arguments, n_threads = 0;
    const option options[] = {{"tensors", 0, OPTION_FLAG, &with_tensors, NULL, "list the tensors too", 0, 0},
                              {"threads", 't', OPTION_INT, &n_threads, "N", "threads; 0: all cores", 0, 1024},
                              OPTION_REPACK(&repack),
                              {"json", 0, OPTION_FLAG, &json, NULL, "print one JSON object", 0, 0},
                              {0}};
    int code = options_parse(&self, options, argc, argv, &n_arguments);
    if (code >= 0)
        return code;
    pleat_error error;
    pleat_model *model;
    if (model_open(argv[1], n_threads, repack, &model, &error))
        return print_error(self.name, &error);
    pleat_model_info info = pleat_model_describe(model);
    int lengths[N_LENGTHS] = {1024, 4096, info.context_tokens};
    json_t *all = json_pack(
        "{s:s,s:s,s:s,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:I,s:I,s:I,s:I,s:[i,i,i],s:o,s:o}", "path", info.path, "name",
        info.name, "architecture", info.architecture, "layers", info.n_layer, "heads", info.n_head, "kv_heads",
        info.n_head_kv, "head_dim", info.head_dim, "width", info.n_embd, "vocabulary", info.n_vocab, "context_tokens",
        info.context_tokens, "file_bytes", (json_int_t)info.file_bytes, "packed_bytes", (json_int_t)info.packed_bytes,
        "mapped_bytes", (json_int_t)info.mapped_bytes, "f16_token_bytes", (json_int_t)info.f16_token_bytes, "lengths",
        lengths[0], lengths[1], lengths[2], "metadata", metadata(model->file), "plans", plans(model, lengths));
    if (with_tensors)
        json_object_set_new(all, "tensors", tensors(model->file));
    if (json) {
        code = print_json(self.name, all);
    } else {
        print_plain(model, all, lengths);
        json_decref(all);
        code = EXIT_OK;
    }
    pleat_model_close(model);
    return code;
}
