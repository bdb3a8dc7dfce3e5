/* cmd_methods.c - `pleat methods`: what methods.def holds. */
#include "cli/commands.h"
#include "cli/print.h"
#include "kv/capability.h"
#include <stdio.h>
#include <string.h>

static const command self = {
    .name = "methods",
    .summary =
        "Every format, policy, split and preset with its paper and parameters, and what goes with what.\n"
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

/* ---- what goes with what ---- */

static json_t *combination_json(const kv_format *format, const kv_policy *policy, const kv_split *split, bool bounded) {
    static const char *const kinds[] = {
        [KV_REUSE_NONE] = "none", [KV_REUSE_F16] = "f16", [KV_REUSE_SEALED] = "sealed", [KV_REUSE_COPY] = "copy"};
    kv_capability c = kv_capability_of(format, policy, split, bounded, NULL);
    bool possible = !*c.refusal.text;
    return json_pack("{s:s,s:s,s:s,s:s,s:b,s:s?,s:s,s:i,s:b}", "format", format->name, "policy", policy->name, "split",
                     split->name, "prefill", bounded ? "bounded" : "exact", "possible", possible, "refusal",
                     possible ? NULL : c.refusal.text, "prefix", kinds[c.reuse], "prefix_tokens", c.grid_tokens,
                     "windowed", c.windowed);
}

static json_t *all_combinations(void) {
    json_t *list = json_array();
    for (int p = 0; kv_policies[p]; p++)
        for (int s = 0; kv_splits[s]; s++)
            for (int f = 0; kv_formats[f]; f++)
                for (int bounded = 0; bounded < 2; bounded++)
                    json_array_append_new(list, combination_json(kv_formats[f], kv_policies[p], kv_splits[s], bounded));
    return list;
}

/* The modifiers that a policy may refuse. */
static json_t *modified_policies(void) {
    static const char *const names[] = {"critical", "pin"};
    json_t *list = json_array();
    for (int p = 0; kv_policies[p]; p++)
        for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
            kv_capability c = kv_capability_of(kv_formats[0], kv_policies[p], kv_splits[0], false, names[i]);
            bool possible = !*c.refusal.text;
            json_array_append_new(list,
                                  json_pack("{s:s,s:s,s:b,s:s?}", "policy", kv_policies[p]->name, "modifier", names[i],
                                            "possible", possible, "refusal", possible ? NULL : c.refusal.text));
        }
    return list;
}

/* Modifiers are the parser's own; a spec has each at most once. */
static json_t *all_modifiers(void) {
    static const struct {
        const char *name, *paper, *summary;
        const kv_param *params;
    } list[] = {
        {"prefill", "", "prefill:exact: a prompt stays fp16 until its end; prefill:bounded: compressed at grid points",
         NULL},
        {"sinks", "", "sinks:n=N: positions below N are never evicted", NULL},
        {"pin", "", "spans of a sequence that the caller marks are never evicted", NULL},
        {"layers", "",
         "other formats for some layers: layers:first=N,last=N,format=NAME, layers:LAYERS=NAME or layers:file=PATH",
         NULL},
        {"critical", "arXiv 2502.03805", "attention is weighed by the values' norm inside each head's budget",
         kv_critical_params},
    };
    json_t *modifiers = json_array();
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++)
        add(modifiers, list[i].name, list[i].paper, list[i].summary, list[i].params);
    return modifiers;
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
    return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "formats", formats, "policies", policies, "splits", splits,
                     "modifiers", all_modifiers(), "presets", presets, "combinations", all_combinations(), "modified",
                     modified_policies());
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

/* "64/512": a prompt is taken over in multiples of so many tokens under exact and bounded prefill; "-": not at all;
 * "c": as a copy. */
static void print_cell(const kv_capability c[2]) {
    char cell[32] = "";
    size_t n = 0;
    for (int bounded = 0; bounded < 2; bounded++) {
        const char *slash = bounded ? "/" : "";
        if (*c[bounded].refusal.text)
            n += (size_t)snprintf(cell + n, sizeof(cell) - n, "%sno", slash);
        else if (c[bounded].grid_tokens)
            n += (size_t)snprintf(cell + n, sizeof(cell) - n, "%s%d%s", slash, c[bounded].grid_tokens,
                                  c[bounded].reuse == KV_REUSE_COPY ? "c" : "");
        else
            n += (size_t)snprintf(cell + n, sizeof(cell) - n, "%s-", slash);
    }
    printf(" %-7s", cell);
}

/* One line: the cells of every format, or the sentence with which the first one is refused. */
static void print_combination(const kv_policy *policy, const kv_split *split) {
    kv_capability first = kv_capability_of(kv_formats[0], policy, split, false, NULL);
    bool windowed = true;
    printf("  %-10s %-8s", policy->name, split->name);
    if (*first.refusal.text) {
        printf(" refused: %s\n", first.refusal.text);
        return;
    }
    for (int f = 0; kv_formats[f]; f++) {
        kv_capability c[2];
        for (int bounded = 0; bounded < 2; bounded++) {
            c[bounded] = kv_capability_of(kv_formats[f], policy, split, bounded, NULL);
            windowed = windowed && c[bounded].windowed;
        }
        print_cell(c);
    }
    printf(" %s\n", windowed ? "yes" : "no");
}

static void print_combinations(void) {
    printf("\nWhat goes with what\n"
           "  A cell: tokens of which an earlier prompt's pages are taken over a multiple, under prefill:exact and\n"
           "  prefill:bounded; c: not as shared pages, but as a copy of the cache at that point; -: nothing is taken\n"
           "  over. Sliding-window layers keep their window: formats act on them, policies do not.\n  %-10s %-8s",
           "policy", "split");
    for (int f = 0; kv_formats[f]; f++)
        printf(" %-7s", kv_formats[f]->name);
    printf(" windowed\n");
    for (int p = 0; kv_policies[p]; p++)
        for (int s = 0; kv_splits[s]; s++)
            print_combination(kv_policies[p], kv_splits[s]);
}

static void print_refused_modifiers(const json_t *all) {
    size_t i;
    json_t *m;
    json_array_foreach(json_object_get(all, "modified"), i, m) {
        if (text_of(m, "refusal"))
            printf("  refused: %s+%s: %s\n", text_of(m, "policy"), text_of(m, "modifier"), text_of(m, "refusal"));
    }
}

int cmd_methods(int argc, char **argv) {
    bool json = false;
    int n_arguments, n_threads = 0;
    const option options[] = {
        OPTION_ONE_THREAD(&n_threads), {"json", 0, OPTION_FLAG, &json, NULL, "print one JSON object", 0, 0}, {0}};
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
    print_parts(all, "modifiers", "\nModifiers: at most one of each");
    print_refused_modifiers(all);
    print_combinations();
    printf("\nPresets\n");
    json_array_foreach(json_object_get(all, "presets"), i, preset)
        printf("  %-14s %s\n", text_of(preset, "name"), text_of(preset, "spec"));
    json_decref(all);
    return EXIT_OK;
}
