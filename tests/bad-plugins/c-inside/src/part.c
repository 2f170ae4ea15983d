/* A C library as plugins link them: threads, keys with destructors, an exit handler, memory that is never freed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;

static void add_line(const char *path, long number) {
    FILE *file = fopen(path, "a");
    if (file) {
        fprintf(file, "%ld\n", number);
        fclose(file);
    }
}

static void tell(const char *path, const char *what) {
    char name[4096];
    snprintf(name, sizeof name, "%s.%s", path, what);
    add_line(name, 0);
}

static void wait_for(const char *path) {
    tell(path, "inside");
    while (access(path, F_OK) != 0)
        usleep(2000);
    tell(path, "ended");
}

/* Takes a second handle to its own library, if it is told where to say so. */
__attribute__((constructor)) static void hold(void) {
    const char *path = getenv("C_INSIDE_HOLDS_ITSELF");
    Dl_info self;
    if (path && dladdr((void *)hold, &self))
        add_line(path, (long)dlopen(self.dli_fname, RTLD_NOW));
}

static void destroy(void *path) {
    add_line(path, syscall(SYS_gettid));
    free(path);
}

static void make_key(void) {
    if (pthread_key_create(&key, destroy) != 0)
        abort();
}

static void *run(void *path) {
    wait_for(path);
    free(path);
    return NULL;
}

static void at_exit(void) {
    const char *path = getenv("C_INSIDE_AT_EXIT");
    if (path)
        wait_for(path);
}

static void never(void) {
    abort();
}

/* Starts a detached thread that runs until there is a file at the path. */
int c_part_thread(const char *path) {
    pthread_t thread;
    int error = pthread_create(&thread, NULL, run, strdup(path));
    return error ? error : pthread_detach(thread);
}

/* Has a line written to the path when this thread ends. */
int c_part_key(const char *path) {
    pthread_once(&once, make_key);
    if (pthread_getspecific(key))
        return 0;
    return pthread_setspecific(key, strdup(path));
}

int c_part_leak(const char *bytes) {
    size_t count = strtoul(bytes, NULL, 10);
    char *leaked = malloc(count);
    if (!leaked)
        return 1;
    memset(leaked, 1, count);
    return 0;
}

int c_part_at_exit(const char *nothing) {
    (void)nothing;
    return atexit(at_exit);
}

/* No process that ends the quick way ends well from now on. */
int c_part_at_quick_exit(const char *nothing) {
    (void)nothing;
    return at_quick_exit(never);
}

/* No process that is forked from now on comes to be. */
int c_part_at_fork(const char *nothing) {
    (void)nothing;
    return pthread_atfork(never, never, never);
}

__attribute__((constructor)) static void constructor(void) {
    const char *path = getenv("C_INSIDE_CONSTRUCTOR_THREAD");
    if (path)
        c_part_thread(path);
    path = getenv("C_INSIDE_CONSTRUCTOR_KEY");
    if (path)
        c_part_key(path);
}
