/*
 * Puts a program's clocks off without touching the machine's, by LD_PRELOAD.
 *
 *     file of three doubles, seconds ──(mapped)──▶ added to CLOCK_REALTIME, CLOCK_BOOTTIME and CLOCK_MONOTONIC
 *
 * A wait until an absolute time of such a clock is cut into short ones, so that a clock that is set while somebody
 * waits ends that wait, or draws it out, as the kernel's does. A wait for a length of time is left alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { SLICE_NS = 20000000, BILLION = 1000000000 };

static const volatile double *offsets; /* realtime, boottime, monotonic */
static int (*real_clock)(clockid_t, struct timespec *);
static int (*real_wait)(sem_t *, clockid_t, const struct timespec *);
static int (*real_condition)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
static int (*real_timed)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*real_nap)(clockid_t, int, const struct timespec *, struct timespec *);

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("WATTGRAM_STANDIN_CLOCK");
    int file;
    if (real_clock)
        return;
    real_wait = dlsym(RTLD_NEXT, "sem_clockwait");
    real_condition = dlsym(RTLD_NEXT, "pthread_cond_clockwait");
    /* A search without a version may find the function of a condition's older layout. */
    real_timed = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!real_timed)
        real_timed = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    real_nap = dlsym(RTLD_NEXT, "clock_nanosleep");
    if (!path || (file = open(path, O_RDONLY | O_CLOEXEC)) < 0)
        abort();
    offsets = mmap(NULL, 3 * sizeof *offsets, PROT_READ, MAP_SHARED, file, 0);
    if (offsets == MAP_FAILED)
        abort();
    close(file);
    real_clock = dlsym(RTLD_NEXT, "clock_gettime");
}

static double offset_of(clockid_t clock)
{
    switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE: return offsets[0];
    case CLOCK_BOOTTIME: return offsets[1];
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_COARSE: return offsets[2];
    default: return 0;
    }
}

static struct timespec plus(struct timespec at, double seconds)
{
    double whole = floor(seconds);
    at.tv_sec += (time_t)whole;
    at.tv_nsec += (long)((seconds - whole) * BILLION);
    if (at.tv_nsec >= BILLION) {
        at.tv_nsec -= BILLION;
        at.tv_sec++;
    }
    return at;
}

static int is_before(struct timespec a, struct timespec b)
{
    return a.tv_sec < b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec < b.tv_nsec);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int refused;
    begin();
    refused = real_clock(clock, now);
    if (!refused)
        *now = plus(*now, offset_of(clock));
    return refused;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec at;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &at);
    now->tv_sec = at.tv_sec;
    now->tv_usec = at.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *into)
{
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    if (into)
        *into = at.tv_sec;
    return at.tv_sec;
}

/* The end of the next slice on the kernel's monotonic clock, or 0 if the deadline has come. */
static int slice(clockid_t clock, const struct timespec *deadline, struct timespec *end)
{
    struct timespec now;
    clock_gettime(clock, &now);
    if (!is_before(now, *deadline))
        return 0;
    real_clock(CLOCK_MONOTONIC, end);
    double left = (double)(deadline->tv_sec - now.tv_sec) + (double)(deadline->tv_nsec - now.tv_nsec) / BILLION;
    *end = plus(*end, fmin(left, (double)SLICE_NS / BILLION));
    return 1;
}

int sem_clockwait(sem_t *semaphore, clockid_t clock, const struct timespec *deadline)
{
    struct timespec end;
    begin();
    while (slice(clock, deadline, &end)) {
        if (!real_wait(semaphore, CLOCK_MONOTONIC, &end))
            return 0;
        if (errno != ETIMEDOUT)
            return -1;
    }
    if (!sem_trywait(semaphore))
        return 0;
    errno = ETIMEDOUT;
    return -1;
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict deadline)
{
    return sem_clockwait(semaphore, CLOCK_REALTIME, deadline);
}

int pthread_cond_clockwait(pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t clock,
                           const struct timespec *deadline)
{
    struct timespec end;
    int answer;
    begin();
    while (slice(clock, deadline, &end)) {
        answer = real_condition(condition, mutex, CLOCK_MONOTONIC, &end);
        if (answer != ETIMEDOUT)
            return answer;
    }
    return ETIMEDOUT;
}

/* The condition knows its clock and does not tell: it is the one that the deadline is nearer to. */
int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict deadline)
{
    struct timespec wall, monotonic, end;
    clock_gettime(CLOCK_REALTIME, &wall);
    clock_gettime(CLOCK_MONOTONIC, &monotonic);
    end = plus(*deadline, llabs(deadline->tv_sec - wall.tv_sec) < llabs(deadline->tv_sec - monotonic.tv_sec)
                              ? -offset_of(CLOCK_REALTIME)
                              : -offset_of(CLOCK_MONOTONIC));
    return real_timed(condition, mutex, &end);
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *wanted, struct timespec *left)
{
    struct timespec end;
    int answer;
    begin();
    if (!(flags & TIMER_ABSTIME))
        return real_nap(clock, flags, wanted, left);
    while (slice(clock, wanted, &end))
        if ((answer = real_nap(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL)))
            return answer;
    return 0;
}
