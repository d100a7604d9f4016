/*
 * A libnvidia-ml.so.1 that plays a script, so that the whole program can be tested on a machine without a card.
 *
 *     scenario file ──(read again whenever it is replaced)──▶ this library ◀── pynvml ◀── the program under test
 *
 * Power is a closed function of CLOCK_MONOTONIC and nothing is remembered between calls, so any process can compute
 * the same truth for the same instant. The file is written by nvml.py beside this one; a word in it that is not known
 * here ends the process, so that a typing error in a test is seen.
 *
 * The scenario may name a folder in which real processes say that they run on a card, and what they draw there; see
 * workload.py. Each has a file, written once; beside it, once its end is known, one with the end. Both moments are told
 * before they come, so whoever asks computes the same. A process that was killed ends when somebody finds it dead.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { GPUS = 16, SLOTS = 7, PROCESSES = 128, RING = 120, TEXT = 96, FOLDER = 512 };

/* Processes' utilisation is kept for so long. */
static const double UTILIZATION_SECONDS = 2;

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    ARGUMENT_VERSION_MISMATCH = 25,
};

enum { UNSIGNED_INT = 1, UNSIGNED_LONG_LONG = 3 };
enum { SCOPE_GPU = 0, SCOPE_MODULE = 1, SCOPES = 4 };

typedef unsigned long long Wide;

typedef struct {
    enum { NO_PROFILE, CONSTANT, SQUARE, SINE, LOAD } shape;
    double low, high, period, duty, phase; /* a sine: low is the mean, high the amplitude; a load: low is its idle */
    long gpu;                              /* a load's card */
} Profile;

/* Seconds throttled so far: `seconds` at `since`, growing by `before` until then and by `after` from then on. */
typedef struct {
    double seconds, before, since, after;
} Throttle;

typedef struct {
    unsigned pid;
    Wide bytes;
} Process;

typedef struct {
    unsigned count;
    Process list[PROCESSES];
} Processes;

/* What a process that is only in the scenario keeps busy, in per cent. */
typedef struct {
    unsigned pid, sm, encoder, decoder;
} Busy;

typedef struct {
    unsigned count;
    Busy list[PROCESSES];
} Busies;

/* One MIG instance; an empty slot has no UUID. `activity`, per cent, adds to that of its registered processes. */
typedef struct {
    char uuid[TEXT];
    Wide gpu, slot, gi, ci, sms, memory_mb;
    double activity;
    Processes compute;
} Instance;

typedef struct {
    char uuid[TEXT], name[TEXT], serial[TEXT], bus_id[TEXT], samples_clock[TEXT];
    Wide index, minor, architecture, module_id, mig_capable;
    Profile profile, module_profile;
    Wide counter, counter_start_mj, power_supported, persistence, pstate, clock_sm, clock_memory, clock_reasons;
    double counter_step, sensor_update, sensor_window, average_window, samples_period;
    double limit_watts, default_limit_watts, min_limit_watts, max_limit_watts;
    Wide utilization_gpu, utilization_memory, memory_total, memory_used, memory_reserved, temperature;
    Throttle throttles[4];
    Processes compute, graphics, mps;
    Busies busy;
    Instance instances[SLOTS];
    double util_period;
    Wide mig_enabled, gpm, gpm_error, hidden, processes_error, graphics_error;
    Wide util_supported, util_error, util_success_if_nobody, util_garbage, util_insufficient;
    double hang, counter_reset_at, counter_frozen_at, counter_scale;
    Wide error, handle_error, power_error, counter_error, counter_zero, counter_module;
} Gpu;

typedef struct {
    char driver[TEXT], nvml[TEXT], workloads[FOLDER];
    Wide cuda, init_error, error;
    double started, init_hang;
} Library;

typedef struct {
    Library library;
    unsigned count;
    Gpu gpus[GPUS];
} Scenario;

typedef struct {
    const char *name;
    enum { A_TEXT, A_WHOLE, A_NUMBER, A_PROFILE, A_THROTTLE, SOME_PROCESSES, SOME_BUSY, A_FOLDER } kind;
    size_t offset;
} Key;

#define OF_LIBRARY(kind, name) {#name, kind, offsetof(Library, name)}
#define OF_GPU(kind, name) {#name, kind, offsetof(Gpu, name)}
#define OF_INSTANCE(kind, name) {#name, kind, offsetof(Instance, name)}
#define OF_THROTTLE(policy, name) {"throttle_" name, A_THROTTLE, offsetof(Gpu, throttles[policy])}

static const Key library_keys[] = {
    OF_LIBRARY(A_TEXT, driver),
    OF_LIBRARY(A_TEXT, nvml),
    OF_LIBRARY(A_FOLDER, workloads),
    OF_LIBRARY(A_WHOLE, cuda),
    OF_LIBRARY(A_WHOLE, init_error),
    OF_LIBRARY(A_WHOLE, error),
    OF_LIBRARY(A_NUMBER, started),
    OF_LIBRARY(A_NUMBER, init_hang),
    {NULL, A_TEXT, 0},
};

static const Key gpu_keys[] = {
    OF_GPU(A_WHOLE, index),
    OF_GPU(A_TEXT, uuid),
    OF_GPU(A_TEXT, name),
    OF_GPU(A_TEXT, serial),
    OF_GPU(A_TEXT, bus_id),
    OF_GPU(A_WHOLE, minor),
    OF_GPU(A_WHOLE, architecture),
    OF_GPU(A_WHOLE, module_id),
    OF_GPU(A_WHOLE, mig_capable),
    OF_GPU(A_PROFILE, profile),
    OF_GPU(A_PROFILE, module_profile),
    OF_GPU(A_WHOLE, counter),
    OF_GPU(A_WHOLE, counter_start_mj),
    OF_GPU(A_NUMBER, counter_step),
    OF_GPU(A_WHOLE, power_supported),
    OF_GPU(A_NUMBER, sensor_update),
    OF_GPU(A_NUMBER, sensor_window),
    OF_GPU(A_NUMBER, average_window),
    OF_GPU(A_NUMBER, samples_period),
    OF_GPU(A_TEXT, samples_clock),
    OF_GPU(A_NUMBER, limit_watts),
    OF_GPU(A_NUMBER, default_limit_watts),
    OF_GPU(A_NUMBER, min_limit_watts),
    OF_GPU(A_NUMBER, max_limit_watts),
    OF_GPU(A_WHOLE, utilization_gpu),
    OF_GPU(A_WHOLE, utilization_memory),
    OF_GPU(A_WHOLE, memory_total),
    OF_GPU(A_WHOLE, memory_used),
    OF_GPU(A_WHOLE, memory_reserved),
    OF_GPU(A_WHOLE, temperature),
    OF_GPU(A_WHOLE, persistence),
    OF_GPU(A_WHOLE, pstate),
    OF_GPU(A_WHOLE, clock_sm),
    OF_GPU(A_WHOLE, clock_memory),
    OF_GPU(A_WHOLE, clock_reasons),
    OF_THROTTLE(0, "power"),
    OF_THROTTLE(1, "thermal"),
    OF_THROTTLE(2, "sync_boost"),
    OF_THROTTLE(3, "board_limit"),
    OF_GPU(SOME_PROCESSES, compute),
    OF_GPU(SOME_PROCESSES, graphics),
    OF_GPU(SOME_PROCESSES, mps),
    OF_GPU(SOME_BUSY, busy),
    OF_GPU(A_WHOLE, mig_enabled),
    OF_GPU(A_WHOLE, gpm),
    OF_GPU(A_WHOLE, gpm_error),
    OF_GPU(A_WHOLE, hidden),
    OF_GPU(A_WHOLE, processes_error),
    OF_GPU(A_WHOLE, graphics_error),
    OF_GPU(A_NUMBER, util_period),
    OF_GPU(A_WHOLE, util_supported),
    OF_GPU(A_WHOLE, util_error),
    OF_GPU(A_WHOLE, util_success_if_nobody),
    OF_GPU(A_WHOLE, util_garbage),
    OF_GPU(A_WHOLE, util_insufficient),
    OF_GPU(A_NUMBER, hang),
    OF_GPU(A_WHOLE, error),
    OF_GPU(A_WHOLE, handle_error),
    OF_GPU(A_WHOLE, power_error),
    OF_GPU(A_WHOLE, counter_error),
    OF_GPU(A_WHOLE, counter_zero),
    OF_GPU(A_NUMBER, counter_scale),
    OF_GPU(A_WHOLE, counter_module),
    OF_GPU(A_NUMBER, counter_reset_at),
    OF_GPU(A_NUMBER, counter_frozen_at),
    {NULL, A_TEXT, 0},
};

static const Key instance_keys[] = {
    OF_INSTANCE(A_WHOLE, gpu),
    OF_INSTANCE(A_WHOLE, slot),
    OF_INSTANCE(A_TEXT, uuid),
    OF_INSTANCE(A_WHOLE, gi),
    OF_INSTANCE(A_WHOLE, ci),
    OF_INSTANCE(A_WHOLE, sms),
    OF_INSTANCE(A_WHOLE, memory_mb),
    OF_INSTANCE(A_NUMBER, activity),
    OF_INSTANCE(SOME_PROCESSES, compute),
    {NULL, A_TEXT, 0},
};

/* The lock is held for a look at the file and a copy, never while a call waits. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Scenario scenario;
static struct stat seen;
static unsigned references;
static int log_file = -1;
static long double realtime_offset, boottime_offset;

static void fatal(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("stand-in libnvidia-ml: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    abort();
}

/* Time */

static long double clock_seconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + now.tv_nsec * 1e-9L;
}

static double monotonic(void)
{
    return (double)clock_seconds(CLOCK_MONOTONIC);
}

static void nap(void)
{
    const struct timespec moment = {0, 3000000};
    nanosleep(&moment, NULL);
}

/* The last multiple of a step; a multiple itself may have been rounded to just below. */
static double stepped(double at, double step)
{
    return step > 0 ? floor(at / step + 1e-6) * step : at;
}

/* Once per process: a sample must carry the same timestamp in every answer. */
__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("WATTGRAM_STANDIN_NVML_LOG");
    realtime_offset = clock_seconds(CLOCK_REALTIME) - clock_seconds(CLOCK_MONOTONIC);
    boottime_offset = clock_seconds(CLOCK_BOOTTIME) - clock_seconds(CLOCK_MONOTONIC);
    if (path && *path && (log_file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)) < 0)
        fatal("cannot open the log %s", path);
}

static void note(const char *call, long index)
{
    char line[128];
    int length = snprintf(line, sizeof line, "%s %ld\n", call, index);
    if (log_file >= 0 && write(log_file, line, (size_t)length) != length)
        fatal("cannot write the log");
}

/* Registered processes: a file each in the folder, and one beside it once the end is known */

enum { COMPUTE, GRAPHICS, MPS };

typedef struct {
    char name[64];
    long gpu, slot; /* SLOTS: on no instance */
    unsigned pid, sm, encoder, decoder;
    int kind, has_end;
    Wide bytes, born; /* born: as /proc/PID/stat counts; 0: nobody looks whether it lives */
    double start, end, watts;
} Entry;

static Entry *entries;
static size_t entry_count, entry_room;

static int read_file(const char *folder, const char *name, const char *suffix, char *text, size_t size)
{
    char path[FOLDER + 128];
    int descriptor;
    ssize_t length;
    snprintf(path, sizeof path, "%s/%s%s", folder, name, suffix);
    if ((descriptor = open(path, O_RDONLY | O_CLOEXEC)) < 0)
        return 0;
    length = read(descriptor, text, size - 1);
    close(descriptor);
    text[length > 0 ? length : 0] = 0;
    return length > 0;
}

/* Files are written whole, by a link from another name: what can be seen can be read. */
static void read_end(const char *folder, Entry *e)
{
    char text[64];
    if (!e->has_end && read_file(folder, e->name, ".end", text, sizeof text)) {
        if (sscanf(text, "%lf", &e->end) != 1)
            fatal("not an end: %s", text);
        e->has_end = 1;
    }
}

static void take_entry(const char *folder, const char *name)
{
    char text[256], kind[16];
    Entry *e;
    for (size_t i = 0; i < entry_count; i++)
        if (!strcmp(entries[i].name, name))
            return;
    if (entry_count == entry_room && !(entries = realloc(entries, (entry_room = 2 * entry_room + 64) * sizeof *entries)))
        fatal("no memory");
    e = &entries[entry_count];
    memset(e, 0, sizeof *e);
    if (strlen(name) >= sizeof e->name)
        fatal("not a registered process: %s", name);
    strcpy(e->name, name);
    if (sscanf(name, "%ld-%u-%ld", &e->gpu, &e->pid, &e->slot) != 3 || !read_file(folder, name, "", text, sizeof text) ||
        sscanf(text, "%lf %llu %lf %llu %u %u %u %15s", &e->start, &e->born, &e->watts, &e->bytes, &e->sm, &e->encoder,
               &e->decoder, kind) != 8)
        fatal("not a registered process: %s", name);
    e->kind = !strcmp(kind, "graphics") ? GRAPHICS : !strcmp(kind, "mps") ? MPS : COMPUTE;
    e->end = INFINITY;
    read_end(folder, e);
    entry_count++;
}

/* A zombie holds no card, and a process that began at another time is another one; what cannot be seen is taken to live
 * unless the kernel says that it is not there. */
static int is_dead(const Entry *e)
{
    char path[64], text[1024], *after;
    Wide born;
    char state;
    if (kill((pid_t)e->pid, 0) && errno == ESRCH)
        return 1;
    snprintf(path, sizeof path, "/proc/%u", e->pid);
    if (!read_file(path, "stat", "", text, sizeof text) || !(after = strrchr(text, ')')))
        return 0;
    if (sscanf(after + 1, " %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu", &state,
               &born) != 2)
        return 0;
    return state == 'Z' || state == 'X' || born != e->born;
}

/* The first who finds it dead decides when it ended; another may have been quicker. */
static void bury(const char *folder, Entry *e)
{
    char temporary[FOLDER + 128], path[FOLDER + 128], text[64];
    int descriptor, length = snprintf(text, sizeof text, "%.9f\n", fmax(monotonic(), e->start));
    snprintf(temporary, sizeof temporary, "%s/.%s-%d", folder, e->name, (int)getpid());
    snprintf(path, sizeof path, "%s/%s.end", folder, e->name);
    descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (descriptor >= 0) {
        if (write(descriptor, text, (size_t)length) != length || (link(temporary, path) && errno != EEXIST))
            fatal("cannot write %s", path);
        close(descriptor);
        unlink(temporary);
        read_end(folder, e);
    }
    if (!e->has_end) { /* not our folder: known to this process alone */
        e->end = fmax(monotonic(), e->start);
        e->has_end = 1;
    }
}

/* Called with the lock held. */
static void look_for_entries(const char *folder)
{
    static struct stat known;
    static double looked = -1, asked = -1;
    struct stat now;
    struct dirent *file;
    DIR *open_folder;
    size_t living = 0;
    double at = monotonic();
    if (stat(folder, &now))
        fatal("no such folder: %s", folder);
    /* The kernel's stamps are coarse: soon after a change there may be another with the same. */
    if (now.st_mtim.tv_nsec != known.st_mtim.tv_nsec || now.st_mtim.tv_sec != known.st_mtim.tv_sec || at < looked) {
        if (now.st_mtim.tv_nsec != known.st_mtim.tv_nsec || now.st_mtim.tv_sec != known.st_mtim.tv_sec)
            looked = at + 0.03;
        known = now;
        if (!(open_folder = opendir(folder)))
            fatal("cannot read %s", folder);
        while ((file = readdir(open_folder)))
            if (file->d_name[0] != '.' && !strchr(file->d_name, '.'))
                take_entry(folder, file->d_name);
        closedir(open_folder);
        for (size_t i = 0; i < entry_count; i++)
            read_end(folder, &entries[i]);
    }
    if (at < asked)
        return;
    for (size_t i = 0; i < entry_count; i++)
        if (!entries[i].has_end && entries[i].born && ++living && is_dead(&entries[i]))
            bury(folder, &entries[i]);
    asked = at + 0.02 + 0.001 * (double)living;
}

/* The part of the time between two moments, in seconds, for which a process was there. */
static double overlap(const Entry *e, double from, double to)
{
    return fmax(0, fmin(to, e->end) - fmax(from, e->start));
}

static int is_here(const Entry *e, long gpu, long slot, double at)
{
    return e->gpu == gpu && (slot < 0 || e->slot == slot) && e->start <= at && at < e->end;
}

/* What registered processes keep busy on a card, or on one instance, in per cent of the time between two moments. */
static double busy_between(long gpu, long slot, double from, double to)
{
    double sum = 0;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < entry_count; i++)
        if (entries[i].gpu == gpu && (slot < 0 || entries[i].slot == slot))
            sum += entries[i].sm * overlap(&entries[i], from, to) / (to - from);
    pthread_mutex_unlock(&lock);
    return fmin(100, sum);
}

static long double load_joules_until(const Profile *profile, double at)
{
    long double joules = (long double)profile->low * at;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < entry_count; i++)
        if (entries[i].gpu == profile->gpu)
            joules += (long double)entries[i].watts * overlap(&entries[i], -INFINITY, at);
    pthread_mutex_unlock(&lock);
    return joules;
}

static double load_watts_at(const Profile *profile, double at)
{
    double watts = profile->low;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < entry_count; i++)
        if (is_here(&entries[i], profile->gpu, -1, at))
            watts += entries[i].watts;
    pthread_mutex_unlock(&lock);
    return watts;
}

/* Power: long double, so that the counter cannot step back by a rounding error where the power is zero */

static long double joules_until(const Profile *profile, double at)
{
    long double periods, rest, high;
    if (profile->shape == CONSTANT)
        return (long double)profile->low * at;
    if (profile->shape == LOAD)
        return load_joules_until(profile, at);
    periods = floorl(((long double)at - profile->phase) / profile->period);
    rest = (long double)at - profile->phase - periods * profile->period;
    if (profile->shape == SINE)
        return profile->low * (periods * profile->period + rest) +
               profile->high * profile->period / (2 * M_PIl) * (1 - cosl(2 * M_PIl * rest / profile->period));
    high = (long double)profile->duty * profile->period;
    return periods * (profile->high * high + profile->low * (profile->period - high)) +
           profile->high * fminl(rest, high) + profile->low * fmaxl(0, rest - high);
}

static double watts_at(const Profile *profile, double at)
{
    double turn;
    if (profile->shape == CONSTANT)
        return profile->low;
    if (profile->shape == LOAD)
        return load_watts_at(profile, at);
    turn = (at - profile->phase) / profile->period;
    turn -= floor(turn);
    if (profile->shape == SINE)
        return profile->low + profile->high * sin(2 * M_PI * turn);
    return turn < profile->duty ? profile->high : profile->low;
}

static unsigned milliwatts(double watts)
{
    return (unsigned)llround(watts * 1000);
}

/* What a sensor that looks every `sensor_update` seconds, at the last `window` seconds, says at an instant. */
static unsigned sensed(const Gpu *gpu, const Profile *profile, double window, double at)
{
    at = stepped(at, gpu->sensor_update);
    if (window <= 0)
        return milliwatts(watts_at(profile, at));
    return milliwatts((double)((joules_until(profile, at) - joules_until(profile, at - window)) / window));
}

static Wide counted(const Gpu *gpu, double started, double at)
{
    const Profile *profile = gpu->counter_module ? &gpu->module_profile : &gpu->profile;
    int was_reset;
    double since;
    at = fmin(at, gpu->counter_frozen_at);
    was_reset = at >= gpu->counter_reset_at;
    since = was_reset ? gpu->counter_reset_at : started;
    at = fmax(stepped(at, gpu->counter_step), since);
    if (gpu->counter_zero)
        return 0;
    return (was_reset ? 0 : gpu->counter_start_mj) +
           (Wide)llroundl(gpu->counter_scale * 1000 * (joules_until(profile, at) - joules_until(profile, since)));
}

static Wide throttled_ns(const Throttle *throttle, double at)
{
    double speed = at < throttle->since ? throttle->before : throttle->after;
    return (Wide)llround(1e9 * fmax(0, throttle->seconds + speed * (at - throttle->since)));
}

/* The scenario file */

static double number(const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end)
        fatal("not a number: %s", text);
    return value;
}

static Wide whole(const char *text)
{
    char *end;
    Wide value = strtoull(text, &end, 10);
    if (end == text || *end || *text == '-')
        fatal("not a whole number: %s", text);
    return value;
}

static void decode(char *into, const char *text, size_t room)
{
    size_t length = 0;
    unsigned byte;
    for (; *text; text++) {
        if (length + 1 == room)
            fatal("too long: %s", text);
        if (*text == '%') {
            if (sscanf(text, "%%%2x", &byte) != 1)
                fatal("not percent-encoded: %s", text);
            into[length++] = (char)byte;
            text += 2;
        } else
            into[length++] = *text;
    }
    into[length] = 0;
}

static Profile profile_of(const char *text)
{
    Profile p = {NO_PROFILE, 0, 0, 1, 0, 0, 0};
    int end = 0;
    if (sscanf(text, "constant:%lf%n", &p.low, &end) == 1)
        p.shape = CONSTANT;
    else if (sscanf(text, "load:%lf%n", &p.low, &end) == 1)
        p.shape = LOAD;
    else if (sscanf(text, "square:%lf:%lf:%lf:%lf:%lf%n", &p.low, &p.high, &p.period, &p.duty, &p.phase, &end) == 5)
        p.shape = SQUARE;
    else if (sscanf(text, "sine:%lf:%lf:%lf:%lf%n", &p.low, &p.high, &p.period, &p.phase, &end) == 4)
        p.shape = SINE;
    if (p.shape == NO_PROFILE || text[end])
        fatal("not a profile: %s", text);
    return p;
}

static Throttle throttle_of(const char *text)
{
    Throttle t;
    int end = 0;
    if (sscanf(text, "%lf:%lf:%lf:%lf%n", &t.seconds, &t.before, &t.since, &t.after, &end) != 4 || text[end])
        fatal("not a throttle: %s", text);
    return t;
}

static Processes processes_of(const char *text)
{
    Processes processes = {0};
    int length;
    for (; *text; text += length) {
        Process *process = &processes.list[processes.count];
        if (processes.count++ == PROCESSES || sscanf(text, "%u:%llu%n", &process->pid, &process->bytes, &length) != 2)
            fatal("not processes: %s", text);
        length += text[length] == ',';
    }
    return processes;
}

static Busies busy_of(const char *text)
{
    Busies busy = {0};
    int length;
    for (; *text; text += length) {
        Busy *b = &busy.list[busy.count];
        if (busy.count++ == PROCESSES ||
            sscanf(text, "%u:%u:%u:%u%n", &b->pid, &b->sm, &b->encoder, &b->decoder, &length) != 4)
            fatal("not processes that are busy: %s", text);
        length += text[length] == ',';
    }
    return busy;
}

static void set(const Key *keys, void *into, char *pair)
{
    char *value = strchr(pair, '=');
    void *field;
    if (!value)
        fatal("no value: %s", pair);
    *value++ = 0;
    while (keys->name && strcmp(keys->name, pair))
        keys++;
    if (!keys->name)
        fatal("unknown key: %s", pair);
    field = (char *)into + keys->offset;
    switch (keys->kind) {
    case A_TEXT: decode(field, value, TEXT); break;
    case A_FOLDER: decode(field, value, FOLDER); break;
    case A_WHOLE: *(Wide *)field = whole(value); break;
    case A_NUMBER: *(double *)field = number(value); break;
    case A_PROFILE: *(Profile *)field = profile_of(value); break;
    case A_THROTTLE: *(Throttle *)field = throttle_of(value); break;
    case SOME_PROCESSES: *(Processes *)field = processes_of(value); break;
    case SOME_BUSY: *(Busies *)field = busy_of(value); break;
    }
}

static Gpu *next_gpu(Scenario *into)
{
    Gpu *gpu = &into->gpus[into->count];
    if (into->count++ == GPUS)
        fatal("more than %d GPUs", GPUS);
    gpu->counter_reset_at = gpu->counter_frozen_at = INFINITY;
    gpu->counter_scale = 1;
    gpu->util_period = 0.25;
    return gpu;
}

static void check(Gpu *gpu, unsigned position)
{
    gpu->profile.gpu = (long)position;
    if (gpu->module_profile.shape == LOAD)
        fatal("GPU %u: a module's power is no load", position);
    if (!(gpu->util_period > 0))
        fatal("GPU %u: no util_period", position);
    if (gpu->index != position)
        fatal("GPU %llu stands in place %u", gpu->index, position);
    if (gpu->profile.shape == NO_PROFILE)
        fatal("GPU %u has no profile", position);
    if (gpu->counter_module && gpu->module_profile.shape == NO_PROFILE)
        fatal("GPU %u has no module to count", position);
    if (strcmp(gpu->samples_clock, "realtime") && strcmp(gpu->samples_clock, "boottime"))
        fatal("unknown samples_clock: %s", gpu->samples_clock);
}

static void place(const Instance *instance, Scenario *into)
{
    if (instance->gpu >= into->count || instance->slot >= SLOTS || !*instance->uuid)
        fatal("an instance of no GPU, in no slot, or without a UUID");
    into->gpus[instance->gpu].instances[instance->slot] = *instance;
}

static void parse(FILE *file, Scenario *into)
{
    static char line[1 << 16];
    static Instance instance;
    char *save, *word;
    while (fgets(line, sizeof line, file)) {
        const Key *keys = library_keys;
        void *target = &into->library;
        if (!strchr(line, '\n'))
            fatal("a line is too long or has no end");
        if (!(word = strtok_r(line, " \n", &save)))
            continue;
        if (!strcmp(word, "gpu")) {
            keys = gpu_keys;
            target = next_gpu(into);
        } else if (!strcmp(word, "mig")) {
            memset(&instance, 0, sizeof instance);
            keys = instance_keys;
            target = &instance;
        } else if (strcmp(word, "library"))
            fatal("unknown line: %s", word);
        while ((word = strtok_r(NULL, " \n", &save)))
            set(keys, target, word);
        if (keys == gpu_keys)
            check(target, into->count - 1);
        if (keys == instance_keys)
            place(&instance, into);
    }
}

/* Called with the lock held. The writer replaces the file by a rename, so it is always whole. */
static void refresh(void)
{
    const char *path = getenv("WATTGRAM_STANDIN_NVML");
    static Scenario fresh;
    struct stat now;
    FILE *file;
    if (!path || stat(path, &now))
        fatal("WATTGRAM_STANDIN_NVML names no scenario");
    if (now.st_ino == seen.st_ino && now.st_size == seen.st_size && now.st_mtim.tv_sec == seen.st_mtim.tv_sec &&
        now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec) {
        if (*scenario.library.workloads)
            look_for_entries(scenario.library.workloads);
        return;
    }
    file = fopen(path, "re");
    if (!file || fstat(fileno(file), &seen))
        fatal("cannot read %s", path);
    memset(&fresh, 0, sizeof fresh);
    parse(file, &fresh);
    fclose(file);
    scenario = fresh;
    if (*scenario.library.workloads)
        look_for_entries(scenario.library.workloads);
}

/* The way into every call */

typedef struct Handle *Handle;

static char handles[GPUS], instance_handles[GPUS * SLOTS];

static Handle handle_of(long index)
{
    return (Handle)(void *)&handles[index];
}

static long index_of(Handle handle)
{
    uintptr_t at = (uintptr_t)handle, first = (uintptr_t)handles;
    return at >= first && at < first + GPUS ? (long)(at - first) : -1;
}

static Handle instance_handle_of(long index, unsigned slot)
{
    return (Handle)(void *)&instance_handles[index * SLOTS + slot];
}

/* The place of an instance among all of all cards; -1: it is none. */
static long place_of(Handle handle)
{
    uintptr_t at = (uintptr_t)handle, first = (uintptr_t)instance_handles;
    return at >= first && at < first + sizeof instance_handles ? (long)(at - first) : -1;
}

/* A copy of the library's line, or the code that it refuses with. */
static int ask_library(const char *call, Library *library)
{
    int refused;
    note(call, -1);
    pthread_mutex_lock(&lock);
    refresh();
    *library = scenario.library;
    refused = references ? (int)library->error : UNINITIALIZED;
    pthread_mutex_unlock(&lock);
    return refused;
}

/* A copy of the card's line, or the code that it refuses with; waits here, without the lock, while the card hangs. */
static int ask(const char *call, long index, Gpu *gpu, double *started)
{
    double since = monotonic();
    int refused;
    note(call, index);
    for (;; nap()) {
        pthread_mutex_lock(&lock);
        refresh();
        refused = references ? (int)scenario.library.error : UNINITIALIZED;
        if (!refused && (index < 0 || index >= (long)scenario.count))
            refused = INVALID_ARGUMENT;
        if (!refused)
            *gpu = scenario.gpus[index];
        *started = scenario.library.started;
        pthread_mutex_unlock(&lock);
        if (refused)
            return refused;
        if (monotonic() - since >= gpu->hang)
            return (int)gpu->error;
    }
}

#define ASK_LIBRARY                                                                                                    \
    Library library;                                                                                                   \
    int refused = ask_library(__func__, &library);                                                                     \
    if (refused)                                                                                                       \
    return refused

#define ASK(handle)                                                                                                    \
    Gpu gpu;                                                                                                           \
    double started;                                                                                                    \
    int refused = ask(__func__, index_of(handle), &gpu, &started);                                                     \
    (void)started;                                                                                                     \
    if (refused)                                                                                                       \
    return refused

/* As ASK, for a card (`instance` NULL) or a MIG instance; a handle of one that is gone is stale. */
#define ASK_ANY(handle)                                                                                                \
    Gpu gpu;                                                                                                           \
    double started;                                                                                                    \
    long at_place = place_of(handle), index = at_place < 0 ? index_of(handle) : at_place / SLOTS;                       \
    int refused = ask(__func__, index, &gpu, &started);                                                                \
    const Instance *instance = at_place < 0 ? NULL : &gpu.instances[at_place % SLOTS];                                  \
    (void)started;                                                                                                     \
    if (!refused && instance && (!gpu.mig_enabled || !*instance->uuid))                                                \
        refused = INVALID_ARGUMENT;                                                                                    \
    if (refused)                                                                                                       \
    return refused

static int say(const char *text, char *buffer, unsigned length)
{
    if (!*text)
        return NOT_SUPPORTED;
    if (strlen(text) >= length)
        return INSUFFICIENT_SIZE;
    strcpy(buffer, text);
    return SUCCESS;
}

static int give(Wide value, unsigned *into)
{
    *into = (unsigned)value;
    return SUCCESS;
}

/* Library */

int nvmlInitWithFlags(unsigned flags)
{
    double since = monotonic();
    Library library;
    unsigned count;
    note(__func__, -1);
    for (;; nap()) {
        pthread_mutex_lock(&lock);
        refresh();
        library = scenario.library;
        count = scenario.count;
        if (monotonic() - since >= library.init_hang)
            break;
        pthread_mutex_unlock(&lock);
    }
    if (!library.init_error && !count && !(flags & 1))
        library.init_error = DRIVER_NOT_LOADED;
    references += !library.init_error;
    pthread_mutex_unlock(&lock);
    return (int)library.init_error;
}

int nvmlShutdown(void)
{
    int answer;
    note(__func__, -1);
    pthread_mutex_lock(&lock);
    answer = references ? SUCCESS : UNINITIALIZED;
    references -= references > 0;
    pthread_mutex_unlock(&lock);
    return answer;
}

const char *nvmlErrorString(int code)
{
    static const char *const words[] = {
        "Success", "Uninitialized", "Invalid Argument", "Not Supported", "Insufficient Permissions",
        "Already Initialized", "Not Found", "Insufficient Size", "Insufficient External Power", "Driver Not Loaded",
        "Timeout", "Interrupt Request Issue", "NVML Shared Library Not Found", "Function Not Found",
        "Corrupted infoROM", "GPU is lost", "GPU requires reset", "Blocked by the operating system",
        "Driver/library version mismatch", "In use by another client", "Insufficient Memory", "No data",
        "ECC not available to vGPU", "Insufficient Resources", "Frequency not supported",
        "Argument version mismatch", "Deprecated", "Not Ready", "GPU not found", "Invalid State",
        "Reset type not supported",
    };
    return code >= 0 && code < (int)(sizeof words / sizeof *words) ? words[code] : "Unknown Error";
}

int nvmlSystemGetDriverVersion(char *version, unsigned length)
{
    ASK_LIBRARY;
    return say(library.driver, version, length);
}

int nvmlSystemGetNVMLVersion(char *version, unsigned length)
{
    ASK_LIBRARY;
    return say(library.nvml, version, length);
}

int nvmlSystemGetCudaDriverVersion(int *version)
{
    ASK_LIBRARY;
    *version = (int)library.cuda;
    return SUCCESS;
}

/* Finding a card */

typedef struct {
    unsigned domain, bus, device, function;
} Address;

static Address address_of(const char *text)
{
    Address a = {0, 0, 0, 0};
    if (sscanf(text, "%x:%x:%x.%x", &a.domain, &a.bus, &a.device, &a.function) != 4)
        a.domain = ~0U;
    return a;
}

static int has_uuid(const Gpu *gpu, const char *uuid)
{
    return !strcmp(gpu->uuid, uuid);
}

static int has_address(const Gpu *gpu, const char *text)
{
    Address mine = address_of(gpu->bus_id), asked = address_of(text);
    return !memcmp(&mine, &asked, sizeof mine);
}

static int look_up(const char *call, int (*is)(const Gpu *, const char *), const char *text, Handle *handle)
{
    Library library;
    Gpu gpu;
    double started;
    long index = 0;
    int refused = ask_library(call, &library);
    if (refused)
        return refused;
    pthread_mutex_lock(&lock);
    while (index < (long)scenario.count && !is(&scenario.gpus[index], text))
        index++;
    pthread_mutex_unlock(&lock);
    if (index == (long)scenario.count)
        return NOT_FOUND;
    refused = ask(call, index, &gpu, &started);
    *handle = handle_of(index);
    return refused ? refused : (int)gpu.handle_error;
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    ASK_LIBRARY;
    pthread_mutex_lock(&lock);
    *count = scenario.count;
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Handle *handle)
{
    Gpu gpu;
    double started;
    int refused = ask(__func__, index < GPUS ? (long)index : -1, &gpu, &started);
    if (refused || gpu.handle_error)
        return refused ? refused : (int)gpu.handle_error;
    *handle = handle_of(index);
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Handle *handle)
{
    return look_up(__func__, has_uuid, uuid, handle);
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, Handle *handle)
{
    return look_up(__func__, has_address, bus_id, handle);
}

/* Identity */

int nvmlDeviceGetUUID(Handle handle, char *uuid, unsigned length)
{
    ASK_ANY(handle);
    return say(instance ? instance->uuid : gpu.uuid, uuid, length);
}

int nvmlDeviceGetName(Handle handle, char *name, unsigned length)
{
    ASK(handle);
    return say(gpu.name, name, length);
}

int nvmlDeviceGetSerial(Handle handle, char *serial, unsigned length)
{
    ASK(handle);
    return say(gpu.serial, serial, length);
}

int nvmlDeviceGetIndex(Handle handle, unsigned *index)
{
    ASK(handle);
    return give(gpu.index, index);
}

int nvmlDeviceGetMinorNumber(Handle handle, unsigned *minor)
{
    ASK(handle);
    return give(gpu.minor, minor);
}

int nvmlDeviceGetModuleId(Handle handle, unsigned *module)
{
    ASK(handle);
    return give(gpu.module_id, module);
}

int nvmlDeviceGetArchitecture(Handle handle, unsigned *architecture)
{
    ASK(handle);
    return give(gpu.architecture, architecture);
}

typedef struct {
    char legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
} PciInfo;

int nvmlDeviceGetPciInfo_v3(Handle handle, PciInfo *pci)
{
    Address a;
    ASK(handle);
    a = address_of(gpu.bus_id);
    memset(pci, 0, sizeof *pci);
    snprintf(pci->legacy, sizeof pci->legacy, "%04X:%02X:%02X.%X", a.domain & 0xffff, a.bus & 0xff, a.device & 0xff,
             a.function & 0xf);
    pci->domain = a.domain;
    pci->bus = a.bus;
    pci->device = a.device;
    pci->device_id = 0x233010de;
    return say(gpu.bus_id, pci->bus_id, sizeof pci->bus_id);
}

int nvmlDeviceGetPersistenceMode(Handle handle, unsigned *mode)
{
    ASK(handle);
    return give(gpu.persistence, mode);
}

/* MIG */

int nvmlDeviceGetMigMode(Handle handle, unsigned *current, unsigned *pending)
{
    ASK(handle);
    *current = *pending = gpu.mig_enabled != 0;
    return gpu.mig_capable ? SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetMaxMigDeviceCount(Handle handle, unsigned *count)
{
    ASK(handle);
    return give(gpu.mig_enabled ? SLOTS : 0, count);
}

int nvmlDeviceGetMigDeviceHandleByIndex(Handle handle, unsigned slot, Handle *instance)
{
    ASK(handle);
    *instance = NULL;
    if (!gpu.mig_enabled)
        return gpu.mig_capable ? NOT_FOUND : NOT_SUPPORTED;
    if (slot >= SLOTS)
        return INVALID_ARGUMENT;
    *instance = instance_handle_of(index_of(handle), slot);
    return *gpu.instances[slot].uuid ? SUCCESS : NOT_FOUND;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Handle handle, Handle *parent)
{
    ASK_ANY(handle);
    *parent = handle_of(index);
    return instance ? SUCCESS : INVALID_ARGUMENT;
}

int nvmlDeviceIsMigDeviceHandle(Handle handle, unsigned *is_instance)
{
    ASK_ANY(handle);
    return give(instance != NULL, is_instance);
}

int nvmlDeviceGetGpuInstanceId(Handle handle, unsigned *id)
{
    ASK_ANY(handle);
    return instance ? give(instance->gi, id) : INVALID_ARGUMENT;
}

int nvmlDeviceGetComputeInstanceId(Handle handle, unsigned *id)
{
    ASK_ANY(handle);
    return instance ? give(instance->ci, id) : INVALID_ARGUMENT;
}

typedef struct {
    unsigned multiprocessors, copy_engines, decoders, encoders, jpegs, ofas, gpu_slices, compute_slices;
    Wide memory_mb;
} Attributes;

int nvmlDeviceGetAttributes_v2(Handle handle, Attributes *attributes)
{
    ASK_ANY(handle);
    if (!instance)
        return NOT_SUPPORTED;
    memset(attributes, 0, sizeof *attributes);
    attributes->multiprocessors = (unsigned)instance->sms;
    attributes->gpu_slices = attributes->compute_slices = 1;
    attributes->memory_mb = instance->memory_mb;
    return SUCCESS;
}

/* Power and energy */

static int power(const Gpu *gpu, const Profile *profile, double window, double at, unsigned *into)
{
    if (!gpu->power_supported || profile->shape == NO_PROFILE)
        return NOT_SUPPORTED;
    if (gpu->power_error)
        return (int)gpu->power_error;
    return give(sensed(gpu, profile, window, at), into);
}

static int energy(const Gpu *gpu, double started, double at, Wide *into)
{
    if (!gpu->counter)
        return NOT_SUPPORTED;
    *into = counted(gpu, started, at);
    return (int)gpu->counter_error;
}

int nvmlDeviceGetPowerUsage(Handle handle, unsigned *usage)
{
    ASK(handle);
    return power(&gpu, &gpu.profile, gpu.average_window > 0 ? gpu.average_window : gpu.sensor_window, monotonic(),
                 usage);
}

int nvmlDeviceGetTotalEnergyConsumption(Handle handle, Wide *millijoules)
{
    ASK(handle);
    return energy(&gpu, started, monotonic(), millijoules);
}

typedef union {
    double real;
    unsigned narrow;
    Wide wide;
} Value;

typedef struct {
    uint32_t field, scope;
    int64_t timestamp, latency;
    unsigned type;
    int answer;
    Value value;
} FieldValue;

static int limit(FieldValue *v, double watts)
{
    return v->scope == SCOPE_GPU ? give(milliwatts(watts), &v->value.narrow) : NOT_SUPPORTED;
}

static int field_power(const Gpu *gpu, double window, double at, FieldValue *v)
{
    if (v->scope >= SCOPES)
        return INVALID_ARGUMENT;
    if (v->scope > SCOPE_MODULE)
        return NOT_SUPPORTED;
    return power(gpu, v->scope == SCOPE_MODULE ? &gpu->module_profile : &gpu->profile, window, at, &v->value.narrow);
}

static int fill(const Gpu *gpu, double started, double at, FieldValue *v)
{
    v->type = UNSIGNED_LONG_LONG;
    switch (v->field) {
    case 74: case 75: case 76: case 77:
        v->value.wide = throttled_ns(&gpu->throttles[v->field - 74], at);
        return SUCCESS;
    case 83: return energy(gpu, started, at, &v->value.wide);
    case 191: return v->scope == SCOPE_GPU ? energy(gpu, started, at, &v->value.wide) : NOT_SUPPORTED;
    }
    v->type = UNSIGNED_INT;
    switch (v->field) {
    case 185: return gpu->average_window > 0 ? field_power(gpu, gpu->average_window, at, v) : NOT_SUPPORTED;
    case 186: return field_power(gpu, gpu->sensor_window, at, v);
    case 187: return limit(v, gpu->min_limit_watts);
    case 188: return limit(v, gpu->max_limit_watts);
    case 189: return limit(v, gpu->default_limit_watts);
    case 190: case 192: return limit(v, gpu->limit_watts);
    }
    return NOT_SUPPORTED;
}

int nvmlDeviceGetFieldValues(Handle handle, int count, FieldValue *values)
{
    double now;
    ASK(handle);
    now = monotonic();
    for (int i = 0; i < count; i++) {
        values[i].value.wide = 0;
        values[i].timestamp = (int64_t)(clock_seconds(CLOCK_REALTIME) * 1e6L);
        values[i].latency = 1;
        values[i].answer = fill(&gpu, started, now, &values[i]);
    }
    return SUCCESS;
}

typedef struct {
    Wide timestamp;
    Value value;
} RingSample;

int nvmlDeviceGetSamples(Handle handle, unsigned kind, Wide last, unsigned *type, unsigned *count, RingSample *samples)
{
    const Profile *profile;
    unsigned found = 0;
    long long newest;
    ASK(handle);
    profile = kind == 0 ? &gpu.profile : &gpu.module_profile;
    if ((kind != 0 && kind != 7) || !gpu.power_supported || gpu.samples_period <= 0 || profile->shape == NO_PROFILE)
        return kind > 9 ? INVALID_ARGUMENT : NOT_SUPPORTED;
    if (gpu.power_error)
        return (int)gpu.power_error;
    *type = UNSIGNED_INT;
    if (!samples)
        return give(RING, count);
    newest = (long long)floor(monotonic() / gpu.samples_period);
    for (long long k = newest - RING + 1; k <= newest; k++) {
        double at = (double)k * gpu.samples_period;
        long double offset = strcmp(gpu.samples_clock, "boottime") ? realtime_offset : boottime_offset;
        Wide timestamp = (Wide)llroundl((at + offset) * 1e6L);
        if (timestamp <= last)
            continue;
        if (found == *count)
            return INSUFFICIENT_SIZE;
        samples[found].timestamp = timestamp;
        samples[found].value.wide = 0;
        samples[found++].value.narrow = sensed(&gpu, profile, gpu.sensor_window, at);
    }
    *count = found;
    return found ? SUCCESS : NOT_FOUND;
}

/* Limits */

int nvmlDeviceGetPowerManagementMode(Handle handle, unsigned *mode)
{
    ASK(handle);
    return give(1, mode);
}

int nvmlDeviceGetEnforcedPowerLimit(Handle handle, unsigned *value)
{
    ASK(handle);
    return give(milliwatts(gpu.limit_watts), value);
}

int nvmlDeviceGetPowerManagementLimit(Handle handle, unsigned *value)
{
    ASK(handle);
    return give(milliwatts(gpu.limit_watts), value);
}

int nvmlDeviceGetPowerManagementDefaultLimit(Handle handle, unsigned *value)
{
    ASK(handle);
    return give(milliwatts(gpu.default_limit_watts), value);
}

int nvmlDeviceGetPowerManagementLimitConstraints(Handle handle, unsigned *least, unsigned *most)
{
    ASK(handle);
    give(milliwatts(gpu.min_limit_watts), least);
    return give(milliwatts(gpu.max_limit_watts), most);
}

/* State */

typedef struct {
    unsigned gpu, memory;
} Utilization;

int nvmlDeviceGetUtilizationRates(Handle handle, Utilization *utilization)
{
    double now, busy;
    ASK(handle);
    if (gpu.mig_enabled)
        return NOT_SUPPORTED;
    now = monotonic();
    busy = busy_between(index_of(handle), -1, now - gpu.util_period, now);
    give(busy > (double)gpu.utilization_gpu ? (Wide)llround(busy) : gpu.utilization_gpu, &utilization->gpu);
    return give(gpu.utilization_memory, &utilization->memory);
}

typedef struct {
    Wide total, free, used;
} Memory;

int nvmlDeviceGetMemoryInfo(Handle handle, Memory *memory)
{
    ASK(handle);
    memory->total = gpu.memory_total;
    memory->used = gpu.memory_used + gpu.memory_reserved;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

typedef struct {
    unsigned version;
    Wide total, reserved, free, used;
} Memory2;

int nvmlDeviceGetMemoryInfo_v2(Handle handle, Memory2 *memory)
{
    ASK(handle);
    if (memory->version != 0x02000028)
        return ARGUMENT_VERSION_MISMATCH;
    memory->total = gpu.memory_total;
    memory->reserved = gpu.memory_reserved;
    memory->used = gpu.memory_used;
    memory->free = memory->total - memory->used - memory->reserved;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(Handle handle, unsigned sensor, unsigned *celsius)
{
    ASK(handle);
    return sensor ? INVALID_ARGUMENT : give(gpu.temperature, celsius);
}

typedef struct {
    unsigned version, sensor;
    int celsius;
} Temperature;

int nvmlDeviceGetTemperatureV(Handle handle, Temperature *temperature)
{
    ASK(handle);
    if (temperature->version != 0x0100000C)
        return ARGUMENT_VERSION_MISMATCH;
    if (temperature->sensor)
        return INVALID_ARGUMENT;
    temperature->celsius = (int)gpu.temperature;
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(Handle handle, unsigned kind, unsigned *megahertz)
{
    ASK(handle);
    return kind > 3 ? INVALID_ARGUMENT : give(kind == 2 ? gpu.clock_memory : gpu.clock_sm, megahertz);
}

int nvmlDeviceGetPerformanceState(Handle handle, unsigned *state)
{
    ASK(handle);
    return give(gpu.pstate, state);
}

int nvmlDeviceGetCurrentClocksEventReasons(Handle handle, Wide *reasons)
{
    ASK(handle);
    *reasons = gpu.clock_reasons;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(Handle handle, Wide *reasons)
{
    ASK(handle);
    *reasons = gpu.clock_reasons;
    return SUCCESS;
}

typedef struct {
    Wide reference_us, violation_ns;
} Violation;

int nvmlDeviceGetViolationStatus(Handle handle, unsigned policy, Violation *violation)
{
    ASK(handle);
    if (policy > 3)
        return NOT_SUPPORTED;
    violation->reference_us = (Wide)(clock_seconds(CLOCK_REALTIME) * 1e6L);
    violation->violation_ns = throttled_ns(&gpu.throttles[policy], monotonic());
    return SUCCESS;
}

/* Processes */

typedef struct {
    unsigned pid;
    Wide bytes;
    unsigned gpu_instance, compute_instance;
} ProcessInfo;

typedef struct {
    unsigned count, room;
    ProcessInfo *into;
} List;

static void put(List *list, unsigned pid, Wide bytes, const Instance *instance)
{
    if (list->count < list->room && list->into)
        list->into[list->count] = (ProcessInfo){pid, bytes, instance ? (unsigned)instance->gi : ~0U,
                                                instance ? (unsigned)instance->ci : ~0U};
    list->count++;
}

static void put_all(List *list, const Processes *processes, const Instance *instance)
{
    for (unsigned i = 0; i < processes->count; i++)
        put(list, processes->list[i].pid, processes->list[i].bytes, instance);
}

static int list(const Gpu *gpu, const Instance *instance, int kind, unsigned *count, ProcessInfo *infos)
{
    List list = {0, *count, infos};
    double now = monotonic();
    if (gpu->processes_error)
        return (int)gpu->processes_error;
    if (kind == GRAPHICS && gpu->graphics_error)
        return (int)gpu->graphics_error;
    if (!gpu->hidden) {
        if (!instance)
            put_all(&list, kind == COMPUTE ? &gpu->compute : kind == GRAPHICS ? &gpu->graphics : &gpu->mps, NULL);
        for (unsigned slot = 0; gpu->mig_enabled && kind == COMPUTE && slot < SLOTS; slot++)
            if (!instance || instance == &gpu->instances[slot])
                put_all(&list, &gpu->instances[slot].compute, &gpu->instances[slot]);
        pthread_mutex_lock(&lock);
        for (size_t i = 0; i < entry_count; i++) {
            const Entry *e = &entries[i];
            long slot = instance ? instance - gpu->instances : -1;
            if (e->kind == kind && is_here(e, (long)gpu->index, slot, now))
                put(&list, e->pid, e->bytes, gpu->mig_enabled && e->slot < SLOTS ? &gpu->instances[e->slot] : NULL);
        }
        pthread_mutex_unlock(&lock);
    }
    *count = list.count;
    return list.count > list.room || (list.count && !infos) ? INSUFFICIENT_SIZE : SUCCESS;
}

#define A_LIST(name, kind)                                                                                             \
    int name(Handle handle, unsigned *count, ProcessInfo *infos)                                                       \
    {                                                                                                                  \
        ASK_ANY(handle);                                                                                               \
        return list(&gpu, instance, kind, count, infos);                                                               \
    }

A_LIST(nvmlDeviceGetComputeRunningProcesses_v2, COMPUTE)
A_LIST(nvmlDeviceGetComputeRunningProcesses_v3, COMPUTE)
A_LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, GRAPHICS)
A_LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, GRAPHICS)
A_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, MPS)
A_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, MPS)

/* How busy each process was: one entry for each period in which it was, of those still kept */

typedef struct {
    unsigned pid;
    Wide timestamp;
    unsigned sm, memory, encoder, decoder;
} ProcessSample;

typedef struct {
    unsigned count, room;
    ProcessSample *into;
} Samples;

static void add(Samples *samples, unsigned pid, Wide timestamp, unsigned sm, unsigned encoder, unsigned decoder)
{
    if (!sm && !encoder && !decoder)
        return;
    if (samples->count == samples->room &&
        !(samples->into = realloc(samples->into, (samples->room = 2 * samples->room + 64) * sizeof *samples->into)))
        fatal("no memory");
    samples->into[samples->count++] = (ProcessSample){pid, timestamp, sm, sm / 2, encoder, decoder};
}

static unsigned part_of(unsigned per_cent, double part)
{
    return (unsigned)llround(per_cent * part);
}

/* All that is newer than `last`; the caller frees it. */
static Samples samples_since(const Gpu *gpu, Wide last)
{
    Samples samples = {0, 0, NULL};
    long double offset = strcmp(gpu->samples_clock, "boottime") ? realtime_offset : boottime_offset;
    long long newest = (long long)floor(monotonic() / gpu->util_period);
    long long kept = (long long)ceil(UTILIZATION_SECONDS / gpu->util_period);
    for (long long k = newest - kept + 1; k <= newest; k++) {
        double to = (double)k * gpu->util_period, from = to - gpu->util_period;
        Wide timestamp = (Wide)llroundl((to + offset) * 1e6L);
        if (timestamp <= last)
            continue;
        for (unsigned i = 0; i < gpu->busy.count; i++)
            add(&samples, gpu->busy.list[i].pid, timestamp, gpu->busy.list[i].sm, gpu->busy.list[i].encoder,
                gpu->busy.list[i].decoder);
        pthread_mutex_lock(&lock);
        for (size_t i = 0; i < entry_count; i++) {
            const Entry *e = &entries[i];
            double part = overlap(e, from, to) / gpu->util_period;
            if (e->gpu == (long)gpu->index)
                add(&samples, e->pid, timestamp, part_of(e->sm, part), part_of(e->encoder, part),
                    part_of(e->decoder, part));
        }
        pthread_mutex_unlock(&lock);
    }
    /* What drivers leave in the memory that they give: numbers of anything, times of long ago, unknown processes. */
    if (gpu->util_garbage) {
        unsigned pid = samples.count ? samples.into[0].pid : 1;
        Wide now = (Wide)llroundl((monotonic() + offset) * 1e6L);
        add(&samples, pid, now, 3000000000U, 0, 0);
        add(&samples, pid, 17, 100, 100, 100);
        add(&samples, 4123456789U, now, 99, 0, 0);
        add(&samples, 0, now, 50, 0, 0);
    }
    return samples;
}

/* The code with which processes' utilisation is refused; a size that no longer fits is so once in a while. */
static int refuses_utilization(const Gpu *gpu, int is_fetch)
{
    static Wide fetches[GPUS];
    if (gpu->mig_enabled || !gpu->util_supported)
        return NOT_SUPPORTED;
    if (gpu->util_error)
        return (int)gpu->util_error;
    if (is_fetch && gpu->util_insufficient && fetches[gpu->index]++ % (gpu->util_insufficient + 1) < gpu->util_insufficient)
        return INSUFFICIENT_SIZE;
    return SUCCESS;
}

int nvmlDeviceGetProcessUtilization(Handle handle, ProcessSample *into, unsigned *count, Wide last)
{
    Samples found;
    unsigned room = *count;
    int answer;
    ASK(handle);
    if ((answer = refuses_utilization(&gpu, into != NULL)))
        return answer;
    found = samples_since(&gpu, last);
    *count = found.count;
    if (!found.count)
        answer = gpu.util_success_if_nobody ? SUCCESS : NOT_FOUND;
    else if (!into || room < found.count)
        answer = INSUFFICIENT_SIZE;
    else
        memcpy(into, found.into, found.count * sizeof *into);
    free(found.into);
    return answer;
}

typedef struct {
    Wide timestamp;
    unsigned pid, sm, memory, encoder, decoder, jpeg, ofa;
} ProcessUtilization;

typedef struct {
    unsigned version, count;
    Wide last;
    ProcessUtilization *into;
} ProcessesUtilization;

int nvmlDeviceGetProcessesUtilizationInfo(Handle handle, ProcessesUtilization *asked)
{
    Samples found;
    unsigned room = asked->count;
    int answer;
    ASK(handle);
    if (asked->version != 0x01000018)
        return ARGUMENT_VERSION_MISMATCH;
    if ((answer = refuses_utilization(&gpu, asked->into != NULL)))
        return answer;
    found = samples_since(&gpu, asked->last);
    asked->count = found.count;
    if (!found.count)
        answer = gpu.util_success_if_nobody ? SUCCESS : NOT_FOUND;
    else if (!asked->into || room < found.count)
        answer = INSUFFICIENT_SIZE;
    else
        for (unsigned i = 0; i < found.count; i++)
            asked->into[i] = (ProcessUtilization){found.into[i].timestamp, found.into[i].pid, found.into[i].sm,
                                                  found.into[i].memory, found.into[i].encoder, found.into[i].decoder,
                                                  0, 0};
    free(found.into);
    return answer;
}

/* GPM: a sample is a moment; what lies between two is computed when it is asked for */

typedef struct {
    long gpu;
    unsigned gi;
    double at;
} GpmSample;

typedef struct {
    unsigned metric;
    int answer;
    double value;
    const char *short_name, *long_name, *unit;
} GpmMetric;

typedef struct {
    unsigned version, count;
    GpmSample *first, *second;
    GpmMetric metrics[];
} GpmMetrics;

typedef struct {
    unsigned version, is_supported;
} GpmSupport;

int nvmlGpmQueryDeviceSupport(Handle handle, GpmSupport *support)
{
    ASK(handle);
    return give(gpu.gpm != 0, &support->is_supported);
}

int nvmlGpmSampleAlloc(GpmSample **sample)
{
    ASK_LIBRARY;
    if (!(*sample = calloc(1, sizeof **sample)))
        fatal("no memory");
    (*sample)->gpu = -1;
    return SUCCESS;
}

int nvmlGpmSampleFree(GpmSample *sample)
{
    ASK_LIBRARY;
    free(sample);
    return SUCCESS;
}

int nvmlGpmMigSampleGet(Handle handle, unsigned gi, GpmSample *sample)
{
    int is_there = 0;
    ASK(handle);
    if (gpu.gpm_error)
        return (int)gpu.gpm_error;
    if (!gpu.gpm || !gpu.mig_enabled)
        return NOT_SUPPORTED;
    for (unsigned slot = 0; slot < SLOTS; slot++)
        is_there |= *gpu.instances[slot].uuid && gpu.instances[slot].gi == gi;
    *sample = (GpmSample){index_of(handle), gi, monotonic()};
    return is_there ? SUCCESS : INVALID_ARGUMENT;
}

int nvmlGpmMetricsGet(GpmMetrics *asked)
{
    const GpmSample *first = asked->first, *second = asked->second;
    Gpu gpu;
    double started, busy = 0;
    int refused;
    if (asked->version != 1 || !first || !second || first->gpu < 0 || first->gpu != second->gpu ||
        first->gi != second->gi || second->at - first->at < 0.1)
        return INVALID_ARGUMENT;
    refused = ask(__func__, first->gpu, &gpu, &started);
    if (refused || gpu.gpm_error)
        return refused ? refused : (int)gpu.gpm_error;
    for (unsigned slot = 0; slot < SLOTS; slot++)
        if (*gpu.instances[slot].uuid && gpu.instances[slot].gi == first->gi)
            busy += gpu.instances[slot].activity + busy_between(first->gpu, slot, first->at, second->at);
    for (unsigned i = 0; i < asked->count; i++) {
        int is_known = asked->metrics[i].metric == 1 || asked->metrics[i].metric == 2;
        asked->metrics[i].answer = is_known ? SUCCESS : NOT_SUPPORTED;
        asked->metrics[i].value = is_known ? fmin(100, busy) : 0;
    }
    return SUCCESS;
}

_Static_assert(sizeof(FieldValue) == 40 && sizeof(RingSample) == 16 && sizeof(PciInfo) == 68, "as the driver has them");
_Static_assert(sizeof(Memory) == 24 && sizeof(Memory2) == 40 && sizeof(ProcessInfo) == 24, "as the driver has them");
_Static_assert(sizeof(Temperature) == 12 && sizeof(Violation) == 16 && sizeof(Utilization) == 8, "as the driver has them");
_Static_assert(sizeof(ProcessSample) == 32 && sizeof(ProcessUtilization) == 40, "as the driver has them");
_Static_assert(sizeof(ProcessesUtilization) == 24 && sizeof(Attributes) == 40, "as the driver has them");
_Static_assert(sizeof(GpmMetric) == 40 && offsetof(GpmMetrics, metrics) == 24, "as the driver has them");
