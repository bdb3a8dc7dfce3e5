/* cmd_methods.c - `pleat methods`: what methods.def holds. */
#include "cli/commands.h"
#include "cli/print.h"
#include "kv/method.h"
#include <stdio.h>
#include <string.h>

static const command self = {
    .name = "methods",
    .summary =
        "Every format, policy, split and preset with its paper and parameters.\n"
        "A method joins them: FORMAT+POLICY+SPLIT, each NAME[:key=value,...]; or a preset; or both sides apart:\n"
        "k=NAME(key=value),v=NAME(key=value).",
    .arguments = "",
    .example = "pleat methods\npleat run -m smollm2-135m -p \"Hello\" --method "
               "kivi:bits=2,residual=64+h2o:heavy=64,recent=448",
};

/* The fallback of a parameter as a spec writes it. */
static void fallback_text(const kv_param *p, char *out, size_t cap) {
    if (!p->choices) {
        snprintf(out, cap, "%.9g", p->fallback);
        return;
    }
    const char *at = p->choices;
    for (int i = 0; i < (int)p->fallback; i++)
        at = strchr(at, '|') + 1;
    snprintf(out, cap, "%.*s", (int)strcspn(at, "|"), at);
}

static json_t *param_list(const kv_param *params) {
    json_t *list = json_array();
    for (int i = 0; params && params[i].name; i++) {
        char text[40];
        fallback_text(&params[i], text, sizeof(text));
        json_t *p = json_pack("{s:s,s:s,s:s}", "name", params[i].name, "default", text, "help", params[i].help);
        if (params[i].choices)
            json_object_set_new(p, "choices", json_string(params[i].choices));
        else
            json_object_update_new(p, json_pack("{s:f,s:f}", "low", params[i].low, "high", params[i].high));
        json_array_append_new(list, p);
    }
    return list;
}

static void add(json_t *list, const char *name, const char *paper, const char *summary, const kv_param *params) {
    json_array_append_new(list, json_pack("{s:s,s:s,s:s,s:o}", "name", name, "paper", paper, "summary", summary,
                                          "parameters", param_list(params)));
}

/* With the bytes that K and V of a token take in one KV head once they are sealed, by head size. */
static json_t *preset_json(const char *name, const char *spec) {
    static const int sizes[] = {64, 128, 256};
    json_t *bytes = json_object();
    pleat_method *m = NULL;
    if (!pleat_method_parse(name, NULL, &m, NULL))
        for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
            char d[8];
            snprintf(d, sizeof(d), "%d", sizes[i]);
            json_object_set_new(bytes, d, json_real(kv_method_token_bytes(m, sizes[i])));
        }
    pleat_method_free(m);
    return json_pack("{s:s,s:s,s:o}", "name", name, "spec", spec, "sealed_bytes", bytes);
}

static json_t *all_parts(void) {
    json_t *formats = json_array(), *policies = json_array(), *splits = json_array(), *presets = json_array();
    for (int i = 0; kv_formats[i]; i++)
        add(formats, kv_formats[i]->name, kv_formats[i]->paper, kv_formats[i]->summary, kv_formats[i]->params);
    for (int i = 0; kv_policies[i]; i++)
        add(policies, kv_policies[i]->name, kv_policies[i]->paper, kv_policies[i]->summary, kv_policies[i]->params);
    for (int i = 0; kv_splits[i]; i++)
        add(splits, kv_splits[i]->name, kv_splits[i]->paper, kv_splits[i]->summary, kv_splits[i]->params);
    for (int i = 0; kv_presets[i].name; i++)
        json_array_append_new(presets, preset_json(kv_presets[i].name, kv_presets[i].spec));
    return json_pack("{s:o,s:o,s:o,s:o}", "formats", formats, "policies", policies, "splits", splits, "presets",
                     presets);
}

static const char *text_of(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

static void print_parts(const json_t *all, const char *kind, const char *title) {
    size_t i, k;
    json_t *part, *param;
    printf("%s\n", title);
    json_array_foreach(json_object_get(all, kind), i, part) {
        const char *paper = text_of(part, "paper");
        printf("  %-10s %s%s%s%s\n", text_of(part, "name"), text_of(part, "summary"), *paper ? " (" : "", paper,
               *paper ? ")" : "");
        json_array_foreach(json_object_get(part, "parameters"), k, param) {
            const char *choices = text_of(param, "choices");
            printf("    %-9s = %-8s %s%s%s%s\n", text_of(param, "name"), text_of(param, "default"),
                   text_of(param, "help"), choices ? " (" : "", choices ? choices : "", choices ? ")" : "");
        }
    }
}

int cmd_methods(int argc, char **argv) {
    bool json = false;
    int n_arguments, n_threads = 0;
    const option options[] = {
        {"threads", 't', OPTION_INT, &n_threads, "N", "as in every command; one is all this takes", 0, 1024},
        {"json", 0, OPTION_FLAG, &json, NULL, "print one JSON object", 0, 0},
        {0}};
    int code = options_parse(&self, options, argc, argv, &n_arguments);
    if (code >= 0)
        return code;
    json_t *all = all_parts(), *preset;
    size_t i;
    if (json)
        return print_json(self.name, all);
    print_parts(all, "formats", "Formats: how keys and values are stored");
    print_parts(all, "policies", "\nPolicies: which tokens stay");
    print_parts(all, "splits", "\nSplits: how a budget is shared among layers and heads");
    printf(
        "\nModifiers\n  prefill:exact|bounded   a prompt stays fp16 until its end, or is compressed every 512 tokens\n"
        "  sinks:n=N               positions below N are never evicted\n\nPresets\n");
    json_array_foreach(json_object_get(all, "presets"), i, preset)
        printf("  %-14s %s\n", text_of(preset, "name"), text_of(preset, "spec"));
    json_decref(all);
    return EXIT_OK;
}
