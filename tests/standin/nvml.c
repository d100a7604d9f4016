/*
 * A libnvidia-ml.so.1 that plays a script, so that the whole program can be tested on a machine without a card.
 *
 *     scenario file ──(read again whenever it is replaced)──▶ this library ◀── pynvml ◀── the program under test
 *
 * Power is a closed function of CLOCK_MONOTONIC and nothing is remembered between calls, so any process can compute
 * the same truth for the same instant. The file is written by nvml.py beside this one; a word in it that is not known
 * here ends the process, so that a typing error in a test is seen.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { GPUS = 16, PROCESSES = 32, RING = 120, TEXT = 96 };

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
    enum { NO_PROFILE, CONSTANT, SQUARE, SINE } shape;
    double low, high, period, duty, phase; /* a sine: low is the mean, high the amplitude */
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

typedef struct {
    char uuid[TEXT], name[TEXT], serial[TEXT], bus_id[TEXT], samples_clock[TEXT];
    Wide index, minor, architecture, module_id, mig_capable;
    Profile profile, module_profile;
    Wide counter, counter_start_mj, power_supported, persistence, pstate, clock_sm, clock_memory, clock_reasons;
    double counter_step, sensor_update, sensor_window, average_window, samples_period;
    double limit_watts, default_limit_watts, min_limit_watts, max_limit_watts;
    Wide utilization_gpu, utilization_memory, memory_total, memory_used, memory_reserved, temperature;
    Throttle throttles[4];
    Processes compute;
    double hang, counter_reset_at, counter_frozen_at, counter_scale;
    Wide error, handle_error, power_error, counter_error, counter_zero, counter_module;
} Gpu;

typedef struct {
    char driver[TEXT], nvml[TEXT];
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
    enum { A_TEXT, A_WHOLE, A_NUMBER, A_PROFILE, A_THROTTLE, SOME_PROCESSES } kind;
    size_t offset;
} Key;

#define OF_LIBRARY(kind, name) {#name, kind, offsetof(Library, name)}
#define OF_GPU(kind, name) {#name, kind, offsetof(Gpu, name)}
#define OF_THROTTLE(policy, name) {"throttle_" name, A_THROTTLE, offsetof(Gpu, throttles[policy])}

static const Key library_keys[] = {
    OF_LIBRARY(A_TEXT, driver),
    OF_LIBRARY(A_TEXT, nvml),
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

/* Power: long double, so that the counter cannot step back by a rounding error where the power is zero */

static long double joules_until(const Profile *profile, double at)
{
    long double periods, rest, high;
    if (profile->shape == CONSTANT)
        return (long double)profile->low * at;
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

static void decode(char *into, const char *text)
{
    size_t length = 0;
    unsigned byte;
    for (; *text; text++) {
        if (length + 1 == TEXT)
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
    Profile p = {NO_PROFILE, 0, 0, 1, 0, 0};
    int end = 0;
    if (sscanf(text, "constant:%lf%n", &p.low, &end) == 1)
        p.shape = CONSTANT;
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
    case A_TEXT: decode(field, value); break;
    case A_WHOLE: *(Wide *)field = whole(value); break;
    case A_NUMBER: *(double *)field = number(value); break;
    case A_PROFILE: *(Profile *)field = profile_of(value); break;
    case A_THROTTLE: *(Throttle *)field = throttle_of(value); break;
    case SOME_PROCESSES: *(Processes *)field = processes_of(value); break;
    }
}

static Gpu *next_gpu(Scenario *into)
{
    Gpu *gpu = &into->gpus[into->count];
    if (into->count++ == GPUS)
        fatal("more than %d GPUs", GPUS);
    gpu->counter_reset_at = gpu->counter_frozen_at = INFINITY;
    gpu->counter_scale = 1;
    return gpu;
}

static void check(const Gpu *gpu, unsigned position)
{
    if (gpu->index != position)
        fatal("GPU %llu stands in place %u", gpu->index, position);
    if (gpu->profile.shape == NO_PROFILE)
        fatal("GPU %u has no profile", position);
    if (gpu->counter_module && gpu->module_profile.shape == NO_PROFILE)
        fatal("GPU %u has no module to count", position);
    if (strcmp(gpu->samples_clock, "realtime") && strcmp(gpu->samples_clock, "boottime"))
        fatal("unknown samples_clock: %s", gpu->samples_clock);
}

static void parse(FILE *file, Scenario *into)
{
    char line[8192], *save, *word;
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
        } else if (strcmp(word, "library"))
            fatal("unknown line: %s", word);
        while ((word = strtok_r(NULL, " \n", &save)))
            set(keys, target, word);
        if (keys == gpu_keys)
            check(target, into->count - 1);
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
        now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec)
        return;
    file = fopen(path, "re");
    if (!file || fstat(fileno(file), &seen))
        fatal("cannot read %s", path);
    memset(&fresh, 0, sizeof fresh);
    parse(file, &fresh);
    fclose(file);
    scenario = fresh;
}

/* The way into every call */

typedef struct Handle *Handle;

static char handles[GPUS];

static Handle handle_of(long index)
{
    return (Handle)(void *)&handles[index];
}

static long index_of(Handle handle)
{
    uintptr_t at = (uintptr_t)handle, first = (uintptr_t)handles;
    return at >= first && at < first + GPUS ? (long)(at - first) : -1;
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
    ASK(handle);
    return say(gpu.uuid, uuid, length);
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

int nvmlDeviceGetMigMode(Handle handle, unsigned *current, unsigned *pending)
{
    ASK(handle);
    *current = *pending = 0;
    return gpu.mig_capable ? SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetMaxMigDeviceCount(Handle handle, unsigned *count)
{
    ASK(handle);
    return give(0, count);
}

int nvmlDeviceGetMigDeviceHandleByIndex(Handle handle, unsigned index, Handle *instance)
{
    ASK(handle);
    (void)index;
    *instance = NULL;
    return gpu.mig_capable ? NOT_FOUND : NOT_SUPPORTED;
}

int nvmlDeviceIsMigDeviceHandle(Handle handle, unsigned *is_instance)
{
    ASK(handle);
    return give(0, is_instance);
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
    ASK(handle);
    give(gpu.utilization_gpu, &utilization->gpu);
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

static int list(const Processes *processes, unsigned *count, ProcessInfo *infos)
{
    unsigned room = *count;
    *count = processes->count;
    if (!processes->count)
        return SUCCESS;
    if (room < processes->count || !infos)
        return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < processes->count; i++)
        infos[i] = (ProcessInfo){processes->list[i].pid, processes->list[i].bytes, ~0U, ~0U};
    return SUCCESS;
}

static const Processes nobody;

int nvmlDeviceGetComputeRunningProcesses_v3(Handle handle, unsigned *count, ProcessInfo *infos)
{
    ASK(handle);
    return list(&gpu.compute, count, infos);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(Handle handle, unsigned *count, ProcessInfo *infos)
{
    ASK(handle);
    return list(&nobody, count, infos);
}

int nvmlDeviceGetMPSComputeRunningProcesses_v3(Handle handle, unsigned *count, ProcessInfo *infos)
{
    ASK(handle);
    return list(&nobody, count, infos);
}

int nvmlDeviceGetProcessUtilization(Handle handle, void *samples, unsigned *count, Wide last)
{
    ASK(handle);
    (void)samples;
    (void)last;
    *count = 0;
    return NOT_FOUND;
}

int nvmlDeviceGetProcessesUtilizationInfo(Handle handle, void *asked)
{
    ASK(handle);
    (void)asked;
    return NOT_FOUND;
}

_Static_assert(sizeof(FieldValue) == 40 && sizeof(RingSample) == 16 && sizeof(PciInfo) == 68, "as the driver has them");
_Static_assert(sizeof(Memory) == 24 && sizeof(Memory2) == 40 && sizeof(ProcessInfo) == 24, "as the driver has them");
_Static_assert(sizeof(Temperature) == 12 && sizeof(Violation) == 16 && sizeof(Utilization) == 8, "as the driver has them");
